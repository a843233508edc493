//! Configuration of an agent that follows a control plane: the mesh from there, this node's own pods from the folder.
//!
//! The control plane knows which pods run where, but not their network namespaces on this node.

use tokio::sync::mpsc;
use weft_control::Update;
use weft_control::discovery::Discovered;

/// Joins what a control plane says with what the folder says of the pods of this node, until either ends. Updates come
/// once both have spoken.
pub async fn join(mut mesh: Discovered, mut folder: mpsc::Receiver<Update>, joined: mpsc::Sender<Update>) {
    let (mut from_mesh, mut from_folder): (Option<Update>, Option<Update>) = (None, None);
    loop {
        tokio::select! {
            update = mesh.updates.recv() => {
                let Some(update) = update else { return };
                let mut changes = from_mesh.take().map(|before| before.changes).unwrap_or_default();
                // What was not passed on yet comes first.
                changes.extend(update.changes);
                from_mesh = Some(Update { changes, ..update });
            }
            update = folder.recv() => {
                let Some(update) = update else { return };
                // Its workloads, services and policies are the control plane's to tell.
                from_folder = Some(Update { changes: Vec::new(), ..update });
            }
        }
        let (Some(mesh), Some(folder)) = (&mut from_mesh, &from_folder) else {
            continue;
        };
        let problems = mesh.problems.iter().chain(&folder.problems).cloned().collect();
        let update = Update {
            changes: std::mem::take(&mut mesh.changes),
            local_pods: folder.local_pods.clone(),
            problems,
            objects: mesh.objects,
        };
        if joined.send(update).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use weft_control::{Problem, Severity};
    use weft_model::Change;

    use super::*;

    fn update(name: &str, changes: usize) -> Update {
        let problem = Problem {
            severity: Severity::Warning,
            file: None,
            line: None,
            object: None,
            field: None,
            message: name.to_owned(),
            suggestion: None,
        };
        let changes = (0..changes).map(|number| Change::RemovePolicy(number.to_string().into())).collect();
        Update { changes, problems: vec![problem], ..Update::default() }
    }

    #[tokio::test]
    async fn both_must_speak_and_the_folder_says_nothing_of_the_mesh() {
        let (to_mesh, updates) = mpsc::channel(4);
        let (_answers, answers) = mpsc::channel(1);
        let (to_folder, folder) = mpsc::channel(4);
        let (joined, mut received) = mpsc::channel(4);
        let joining = tokio::spawn(join(Discovered { updates, answers }, folder, joined));
        to_mesh.send(update("mesh", 2)).await.expect("it listens");
        to_mesh.send(update("mesh", 1)).await.expect("it listens");
        while to_mesh.capacity() < 4 {
            tokio::task::yield_now().await;
        }
        assert!(received.try_recv().is_err(), "the folder has not spoken");
        to_folder.send(update("folder", 5)).await.expect("it listens");
        let first = received.recv().await.expect("an update");
        assert_eq!(first.changes.len(), 3, "all that the mesh said before, and nothing of the folder's");
        assert_eq!(first.problems.len(), 2);
        to_folder.send(update("folder", 1)).await.expect("it listens");
        assert!(received.recv().await.expect("an update").changes.is_empty(), "nothing is said twice");
        drop(to_mesh);
        joining.await.expect("it ends with its sources");
    }
}
