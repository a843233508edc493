//! What an agent hears of its sources, in one order: the mesh from a control plane, this node's own pods from the folder;
//! or all from the folder.
//!
//! The control plane knows which pods run where, but not their network namespaces on this node.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::mpsc;
use weft_control::Update;
use weft_control::discovery::{Discovered, News, Wanted};

/// Something that was heard.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "updates are what there is most of, and a queue holds a few")]
pub enum Heard {
    /// The uids of the enrolled pods of this node. Told before the mesh has spoken: its word of them is asked for.
    Pods(HashSet<Arc<str>>),
    /// Addresses that were wanted and answered when what follows was written down, by an earlier agent.
    Remembered(Vec<IpAddr>),
    /// Changes, problems and pods.
    Update(Update),
    /// What was wanted, and is answered by the updates that came before, and by none that comes later.
    Answers(Vec<Wanted>),
}

/// Passes on what a folder says that describes the whole mesh, until it ends.
pub async fn alone(mut folder: mpsc::Receiver<Update>, heard: mpsc::Sender<Heard>) {
    while let Some(update) = folder.recv().await {
        if heard.send(Heard::Update(update)).await.is_err() {
            return;
        }
    }
}

/// Joins what a control plane says with what the folder says of the pods of this node, until either ends. Nothing is passed
/// on but the pods' names before both have spoken, and then everything in the order in which it came: an answer is true
/// at its own place alone.
pub async fn join(mesh: Discovered, mut folder: mpsc::Receiver<Update>, heard: mpsc::Sender<Heard>) {
    let Discovered { mut news } = mesh;
    let (mut from_mesh, mut from_folder): (Option<Update>, Option<Update>) = (None, None);
    loop {
        tokio::select! {
            told = news.recv(), if from_mesh.is_none() || from_folder.is_some() => match told {
                None => return,
                Some(News::Update(update)) => from_mesh = Some(update),
                Some(News::Remembered(addresses)) => {
                    if heard.send(Heard::Remembered(addresses)).await.is_err() {
                        return;
                    }
                    continue;
                }
                Some(News::Answers(answers)) => {
                    if heard.send(Heard::Answers(answers)).await.is_err() {
                        return;
                    }
                    continue;
                }
            },
            update = folder.recv() => {
                let Some(update) = update else { return };
                let enrolled = update.local_pods.iter().filter(|pod| pod.enrolled).map(|pod| pod.uid.clone());
                if heard.send(Heard::Pods(enrolled.collect())).await.is_err() {
                    return;
                }
                // Its workloads, services and policies are the control plane's to tell.
                from_folder = Some(Update { changes: Vec::new(), ..update });
            }
        }
        let (Some(mesh), Some(folder)) = (&mut from_mesh, &from_folder) else {
            continue;
        };
        let update = Update {
            changes: std::mem::take(&mut mesh.changes),
            local_pods: folder.local_pods.clone(),
            problems: mesh.problems.iter().chain(&folder.problems).cloned().collect(),
            objects: mesh.objects,
            ..Update::default()
        };
        if heard.send(Heard::Update(update)).await.is_err() {
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

    /// The number of changes and of problems in the next update; what is told of pods is passed over.
    async fn next_update(heard: &mut mpsc::Receiver<Heard>) -> (usize, usize) {
        loop {
            match heard.recv().await.expect("something") {
                Heard::Pods(_) => {}
                Heard::Update(update) => return (update.changes.len(), update.problems.len()),
                Heard::Remembered(addresses) => panic!("{addresses:?} came first"),
                Heard::Answers(answers) => panic!("{answers:?} came first"),
            }
        }
    }

    #[tokio::test]
    async fn both_must_speak_and_the_folder_says_nothing_of_the_mesh() {
        let (to_mesh, news) = mpsc::channel(4);
        let (to_folder, folder) = mpsc::channel(4);
        let (joined, mut heard) = mpsc::channel(4);
        let joining = tokio::spawn(join(Discovered { news }, folder, joined));
        for changes in [2, 1] {
            to_mesh.send(News::Update(update("mesh", changes))).await.expect("it listens");
        }
        while to_mesh.capacity() < 3 {
            tokio::task::yield_now().await;
        }
        assert!(heard.try_recv().is_err(), "the folder has not spoken");
        to_folder.send(update("folder", 5)).await.expect("it listens");
        assert_eq!(next_update(&mut heard).await, (2, 2), "what the mesh said before, and nothing of the folder's");
        assert_eq!(next_update(&mut heard).await, (1, 2), "what the mesh said next");
        to_folder.send(update("folder", 1)).await.expect("it listens");
        assert_eq!(next_update(&mut heard).await, (0, 2), "nothing is said twice");
        drop(to_mesh);
        joining.await.expect("it ends with its sources");
    }

    #[tokio::test]
    async fn an_answer_keeps_its_place_among_the_updates() {
        let (to_mesh, news) = mpsc::channel(16);
        let (to_folder, folder) = mpsc::channel(4);
        let (joined, mut heard) = mpsc::channel(16);
        for number in 0..3 {
            to_mesh.send(News::Update(update("mesh", 1))).await.expect("there is room");
            let wanted = Wanted::Address([10, 0, 0, number].into());
            to_mesh.send(News::Answers(vec![wanted])).await.expect("there is room");
        }
        let joining = tokio::spawn(join(Discovered { news }, folder, joined));
        to_folder.send(update("folder", 0)).await.expect("it listens");
        let mut order = String::new();
        while order.len() < 6 {
            match heard.recv().await.expect("something") {
                Heard::Update(update) if update.changes.is_empty() => {}
                Heard::Update(_) => order.push('u'),
                Heard::Answers(_) => order.push('a'),
                Heard::Pods(_) | Heard::Remembered(_) => {}
            }
        }
        assert_eq!(order, "uauaua");
        drop(to_mesh);
        joining.await.expect("it ends with its sources");
    }
}
