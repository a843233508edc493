//! What an agent hears of its sources, in one order: the mesh from a control plane, this node's own pods from the folder;
//! or all from the folder.
//!
//! The control plane knows which pods run where, but not their network namespaces on this node.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::mpsc;
use weft_control::Update;
use weft_control::discovery::{Discovered, Wanted};

/// Answers that are passed on at once.
const ANSWERS_AT_ONCE: usize = 1024;

/// Something that was heard.
#[derive(Debug)]
pub enum Heard {
    /// The uids of the enrolled pods of this node. Told before the mesh has spoken: its word of them is asked for.
    Pods(HashSet<Arc<str>>),
    /// Changes, problems and pods.
    Update(Update),
    /// What was wanted, and is answered by the updates that came before.
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

/// Joins what a control plane says with what the folder says of the pods of this node, until either ends. Updates come
/// once both have spoken, and answers after the updates that they rest on.
pub async fn join(mesh: Discovered, mut folder: mpsc::Receiver<Update>, heard: mpsc::Sender<Heard>) {
    let Discovered { mut updates, mut answers } = mesh;
    let (mut from_mesh, mut from_folder): (Option<Update>, Option<Update>) = (None, None);
    let mut answered = Vec::new();
    let mut has_news = false;
    loop {
        tokio::select! {
            update = updates.recv() => {
                let Some(update) = update else { return };
                take_in(&mut from_mesh, update);
                has_news = true;
            }
            count = answers.recv_many(&mut answered, ANSWERS_AT_ONCE) => {
                if count == 0 {
                    return;
                }
                // What they rest on was sent before them, and may have come only after the look at the updates.
                while let Ok(update) = updates.try_recv() {
                    take_in(&mut from_mesh, update);
                    has_news = true;
                }
            }
            update = folder.recv() => {
                let Some(update) = update else { return };
                let enrolled = update.local_pods.iter().filter(|pod| pod.enrolled).map(|pod| pod.uid.clone());
                if heard.send(Heard::Pods(enrolled.collect())).await.is_err() {
                    return;
                }
                // Its workloads, services and policies are the control plane's to tell.
                from_folder = Some(Update { changes: Vec::new(), ..update });
                has_news = true;
            }
        }
        let (Some(mesh), Some(folder)) = (&mut from_mesh, &from_folder) else {
            continue;
        };
        if std::mem::take(&mut has_news) {
            let update = Update {
                changes: std::mem::take(&mut mesh.changes),
                local_pods: folder.local_pods.clone(),
                problems: mesh.problems.iter().chain(&folder.problems).cloned().collect(),
                objects: mesh.objects,
            };
            if heard.send(Heard::Update(update)).await.is_err() {
                return;
            }
        }
        if !answered.is_empty() && heard.send(Heard::Answers(std::mem::take(&mut answered))).await.is_err() {
            return;
        }
    }
}

/// What was not passed on yet comes first.
fn take_in(before: &mut Option<Update>, update: Update) {
    let mut changes = before.take().map(|before| before.changes).unwrap_or_default();
    changes.extend(update.changes);
    *before = Some(Update { changes, ..update });
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
                Heard::Answers(answers) => panic!("{answers:?} came first"),
            }
        }
    }

    #[tokio::test]
    async fn both_must_speak_and_the_folder_says_nothing_of_the_mesh() {
        let (to_mesh, updates) = mpsc::channel(4);
        let (_answers, answers) = mpsc::channel(1);
        let (to_folder, folder) = mpsc::channel(4);
        let (joined, mut heard) = mpsc::channel(4);
        let joining = tokio::spawn(join(Discovered { updates, answers }, folder, joined));
        to_mesh.send(update("mesh", 2)).await.expect("it listens");
        to_mesh.send(update("mesh", 1)).await.expect("it listens");
        while to_mesh.capacity() < 4 {
            tokio::task::yield_now().await;
        }
        assert!(heard.try_recv().is_err(), "the folder has not spoken");
        to_folder.send(update("folder", 5)).await.expect("it listens");
        assert_eq!(next_update(&mut heard).await, (3, 2), "all that the mesh said before, and nothing of the folder's");
        to_folder.send(update("folder", 1)).await.expect("it listens");
        assert_eq!(next_update(&mut heard).await, (0, 2), "nothing is said twice");
        drop(to_mesh);
        joining.await.expect("it ends with its sources");
    }

    #[tokio::test]
    async fn an_answer_comes_after_what_it_rests_on() {
        let wanted = |number: u8| Wanted::Address([10, 0, 0, number].into());
        let (to_mesh, updates) = mpsc::channel(4);
        let (to_answers, answers) = mpsc::channel(64);
        let (to_folder, folder) = mpsc::channel(4);
        let (joined, mut heard) = mpsc::channel(4);
        let joining = tokio::spawn(join(Discovered { updates, answers }, folder, joined));
        to_answers.send(wanted(0)).await.expect("it listens");
        to_folder.send(update("folder", 0)).await.expect("it listens");
        for number in 1..50 {
            to_mesh.send(update("mesh", 1)).await.expect("it listens");
            to_answers.send(wanted(number)).await.expect("it listens");
            let (mut changes, mut answers) = (0, Vec::new());
            while !answers.contains(&wanted(number)) {
                match heard.recv().await.expect("something") {
                    Heard::Pods(_) => {}
                    Heard::Update(update) => changes += update.changes.len(),
                    Heard::Answers(more) => answers.extend(more),
                }
            }
            assert_eq!(changes, 1, "the answer {number} came before its update");
        }
        drop(to_mesh);
        drop(to_answers);
        joining.await.expect("it ends with its sources");
    }
}
