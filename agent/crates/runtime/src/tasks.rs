//! Tasks with an owner, a name and an orderly end.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::Instant;
use tracing::{Instrument, debug, error, warn};

/// Owns tasks of the tokio runtime: each has a name, all are told to end together, and their owner learns which of
/// them did not.
///
/// Cheap to clone; all clones are the same owner. Tasks that are still there when the last clone is dropped are
/// aborted, so that nothing outlives what it works for.
#[derive(Clone)]
pub struct Tasks {
    inner: Arc<Inner>,
}

struct Inner {
    shutdown: watch::Sender<bool>,
    running: Mutex<Vec<Running>>,
}

struct Running {
    name: Arc<str>,
    handle: JoinHandle<()>,
}

/// How a drain ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drained {
    /// Tasks that ended by themselves within the deadline.
    pub finished: usize,
    /// Names of the tasks that had to be aborted.
    pub aborted: Vec<Arc<str>>,
}

impl Default for Tasks {
    fn default() -> Self {
        Self::new()
    }
}

impl Tasks {
    /// An owner without tasks.
    pub fn new() -> Self {
        Self { inner: Arc::new(Inner { shutdown: watch::Sender::new(false), running: Mutex::default() }) }
    }

    /// Starts `task` under `name`, inside a tracing span that carries the name. Must be called from within a tokio
    /// runtime. A task that runs for as long as its owner should wait for [`Tasks::shutdown`] as well.
    pub fn spawn(&self, name: impl Into<Arc<str>>, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        let name = name.into();
        let span = tracing::debug_span!("task", name = &*name);
        let handle = tokio::spawn(task.instrument(span));
        let abort = handle.abort_handle();
        let mut running = self.inner.running();
        running.retain(|task| !task.handle.is_finished());
        running.push(Running { name, handle });
        abort
    }

    /// The signal that tells these tasks to end.
    pub fn shutdown(&self) -> Shutdown {
        Shutdown { receiver: self.inner.shutdown.subscribe() }
    }

    /// Tells all tasks to end, waits for them up to `deadline`, then aborts the rest.
    pub async fn drain(&self, deadline: Duration) -> Drained {
        let end = Instant::now() + deadline;
        self.inner.shutdown.send_replace(true);
        let mut drained = Drained { finished: 0, aborted: Vec::new() };
        // A task may have started another one before it saw the signal: look until none is left.
        loop {
            let running = std::mem::take(&mut *self.inner.running());
            if running.is_empty() {
                return drained;
            }
            for Running { name, mut handle } in running {
                match tokio::time::timeout_at(end, &mut handle).await {
                    Ok(Ok(())) => drained.finished += 1,
                    Ok(Err(failure)) if failure.is_panic() => {
                        error!(task = &*name, "a task panicked");
                        drained.finished += 1;
                    }
                    Ok(Err(_)) => drained.finished += 1,
                    Err(_) => {
                        warn!(task = &*name, "did not end within the deadline and was aborted");
                        handle.abort();
                        drained.aborted.push(name);
                    }
                }
            }
        }
    }
}

impl Inner {
    fn running(&self) -> std::sync::MutexGuard<'_, Vec<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        for task in self.running().drain(..) {
            if !task.handle.is_finished() {
                debug!(task = &*task.name, "aborted with its owner");
                task.handle.abort();
            }
        }
    }
}

/// Tells a task that its owner wants it to end.
#[derive(Clone)]
pub struct Shutdown {
    receiver: watch::Receiver<bool>,
}

impl Shutdown {
    /// Completes when the owner wants its tasks to end, or is gone. Cancel-safe.
    pub async fn requested(&mut self) {
        // An error means that the owner is gone, which asks for the same.
        let _ = self.receiver.wait_for(|requested| *requested).await;
    }

    /// Whether the owner wants its tasks to end.
    pub fn is_requested(&self) -> bool {
        *self.receiver.borrow()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_drain_waits_for_tasks_that_end_and_aborts_those_that_do_not() {
        let tasks = Tasks::new();
        let mut shutdown = tasks.shutdown();
        tasks.spawn("polite", async move {
            shutdown.requested().await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        });
        tasks.spawn("stubborn", std::future::pending());
        let drained = tasks.drain(Duration::from_secs(5)).await;
        assert_eq!(drained, Drained { finished: 1, aborted: vec!["stubborn".into()] });
    }

    #[tokio::test]
    async fn tasks_end_with_their_owner() {
        let tasks = Tasks::new();
        let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
        tasks.spawn("holder", async move {
            let _held = sender;
            std::future::pending::<()>().await;
        });
        drop(tasks);
        assert!(receiver.await.is_err(), "the task's values are dropped with it");
    }

    #[tokio::test]
    async fn a_task_started_by_a_task_is_drained_as_well() {
        let tasks = Tasks::new();
        let (owner, mut shutdown) = (tasks.clone(), tasks.shutdown());
        tasks.spawn("parent", async move {
            shutdown.requested().await;
            let mut shutdown = owner.shutdown();
            owner.spawn("child", async move { shutdown.requested().await });
        });
        let drained = tasks.drain(Duration::from_secs(5)).await;
        assert_eq!(drained.finished, 2);
        assert!(drained.aborted.is_empty());
    }
}
