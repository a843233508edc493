//! Tells the mesh, by an annotation of the pod, that it is captured.

use std::fmt;
use std::time::Duration;

use tokio::task::JoinSet;
use weft_control::LocalPod;
use weft_control::kubernetes::{self, Client};

/// Pods whose objects are changed at one time.
const AT_ONCE: usize = 8;
/// How long the API server may take for one.
const WITHIN: Duration = Duration::from_secs(5);

/// Sets and removes the annotation.
#[derive(Clone)]
pub(super) struct Announcer {
    client: Client,
}

impl Announcer {
    pub(super) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Brings the annotations of these pods to where they should be. Returns whether that went well for all; what did not
    /// is to be tried again.
    pub(super) async fn tell(&self, pods: Vec<(LocalPod, bool)>) -> bool {
        let mut waiting = pods.into_iter();
        let mut telling = JoinSet::new();
        let mut all_went_well = true;
        loop {
            while telling.len() < AT_ONCE
                && let Some((pod, is_captured)) = waiting.next()
            {
                let announcer = self.clone();
                telling.spawn(async move {
                    let result = announcer.tell_one(&pod, is_captured).await;
                    (pod, result)
                });
            }
            match telling.join_next().await {
                Some(Ok((_, Ok(())))) => {}
                Some(Ok((pod, Err(error)))) => {
                    all_went_well = false;
                    tracing::warn!(pod = %pod.uid, error, "trying again");
                }
                Some(Err(_)) => all_went_well = false,
                None => return all_went_well,
            }
        }
    }

    /// Brings the annotation of one pod to where it should be. One that is no more is no error.
    ///
    /// # Errors
    /// Why the API server was told in vain, in words.
    pub(super) async fn tell_one(&self, pod: &LocalPod, is_captured: bool) -> Result<(), String> {
        let marking = kubernetes::mark(&self.client, pod, is_captured);
        let failed = |error: &dyn fmt::Display| format!("the pod cannot be announced to the mesh: {error}");
        match tokio::time::timeout(WITHIN, marking).await {
            Ok(result) => result.map_err(|error| failed(&error)),
            Err(_) => Err(failed(&"the API server does not answer")),
        }
    }
}

impl fmt::Debug for Announcer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Announcer").finish_non_exhaustive()
    }
}
