//! Tasks that belong to something, and end with it.

use std::sync::{Arc, Mutex, PoisonError};

use hyper::rt::Executor;
use tokio::task::JoinSet;

/// Owns tasks that come and go by the thousand: all are aborted when its last handle is dropped.
///
/// It has no bound of its own: whoever starts tasks in it does, by what each of them works for (a request, a connection,
/// a tunnel).
#[derive(Clone, Debug, Default)]
pub(crate) struct Group {
    tasks: Arc<Mutex<JoinSet<()>>>,
}

impl Group {
    /// Starts a task. Must be called from within a runtime.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        // What has ended is dropped here, so that the set is as large as what runs.
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }
}

impl<Task> Executor<Task> for Group
where
    Task: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: Task) {
        self.spawn(task);
    }
}
