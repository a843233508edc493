//! Changes of the cluster, and how soon all agents have heard of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::task::JoinSet;

use super::objects::{self, POPULAR, POPULAR_PODS, Pod};
use super::subscribers::{Mark, Subscribers};
use super::writer::Writer;
use crate::machine::cpu_time;

/// Those that change pods while it is measured how soon others are heard of.
const CHURNING: usize = 4;

/// What some changes came to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// From the request that changes an object to each agent that has heard of it.
    pub times: Vec<Duration>,
    /// The same until the last agent has, for each change.
    pub last: Vec<Duration>,
    /// How long the API server took to answer, for each change.
    pub written: Vec<Duration>,
    /// The controller's CPU time for each change.
    pub cpu: Duration,
    /// Changes a second, where they were not made one after the other.
    pub rate: f64,
}

/// Who changes what, and who hears it.
pub struct Changes<'a> {
    /// Writes.
    pub writer: &'a Writer,
    /// Hear.
    pub subscribers: &'a mut Subscribers,
    /// The controller's process.
    pub controller: u32,
    /// Nodes of the cluster.
    pub nodes: usize,
    /// Pods of the cluster.
    pub pods: usize,
}

impl Changes<'_> {
    /// Pods that become unready and ready again.
    pub async fn readiness(&mut self, count: usize) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        let cpu = cpu_time(self.controller)?;
        for number in 0..2 * count.div_ceil(2) {
            let is_ready = number % 2 == 1;
            let pod = Pod::popular(number / 2 % POPULAR_PODS, self.nodes);
            self.subscribers.expect(Mark::Readiness(pod.uid(), is_ready));
            let (object, writer) = (pod.object(is_ready), self.writer.clone());
            self.note(&mut outcome, async move { writer.put_status(&object).await }).await?;
        }
        outcome.cpu = (cpu_time(self.controller)? - cpu) / outcome.last.len() as u32;
        Ok(outcome)
    }

    /// New pods that become endpoints of a service that all agents know.
    pub async fn endpoints(&mut self, count: usize, first: usize) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        let mut pods: Vec<Pod> = (0..POPULAR_PODS).map(|number| Pod::popular(number, self.nodes)).collect();
        let mut cpu = Duration::ZERO;
        for number in first..first + count {
            let pod = Pod::popular(number, self.nodes);
            self.writer.create(&pod.object(true)).await?;
            // What the controller does for the pod alone is over then.
            tokio::time::sleep(Duration::from_millis(100)).await;
            let before = cpu_time(self.controller)?;
            self.subscribers.expect(Mark::Endpoint(pod.uid()));
            pods.push(pod);
            let (slice, writer) = (objects::slice_object(POPULAR, POPULAR, &pods), self.writer.clone());
            self.note(&mut outcome, async move { writer.put(&slice).await }).await?;
            cpu += cpu_time(self.controller)? - before;
        }
        outcome.cpu = cpu / count.max(1) as u32;
        Ok(outcome)
    }

    /// New policies of the whole mesh.
    pub async fn policies(&mut self, count: usize, first: usize) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        let cpu = cpu_time(self.controller)?;
        for number in first..first + count {
            let name = format!("bench-{number:05}");
            self.subscribers.expect(Mark::Policy(format!("{}/{name}", objects::ROOT)));
            let (object, writer) = (objects::policy_object(&name), self.writer.clone());
            self.note(&mut outcome, async move { writer.create(&object).await.map(drop) }).await?;
        }
        outcome.cpu = (cpu_time(self.controller)? - cpu) / count.max(1) as u32;
        Ok(outcome)
    }

    /// [`readiness`](Self::readiness), while `changes` other pods become unready and ready again as fast as the API
    /// server takes it.
    pub async fn churn(&mut self, changes: usize) -> Result<Outcome> {
        let (is_over, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut churning = JoinSet::new();
        for worker in 0..CHURNING {
            let (is_over, made, writer) = (Arc::clone(&is_over), Arc::clone(&made), self.writer.clone());
            let (nodes, pods) = (self.nodes, self.pods);
            churning.spawn(async move {
                for turn in 0.. {
                    if is_over.load(Ordering::Relaxed) {
                        break;
                    }
                    // Half of them changes back, so that what is there in the end is what was there before.
                    let step = (turn / 2 * CHURNING + worker) * 7919;
                    writer.put_status(&Pod::numbered(step % pods, nodes).object(turn % 2 == 1)).await?;
                    made.fetch_add(1, Ordering::Relaxed);
                }
                anyhow::Ok(())
            });
        }
        let (start, cpu) = (Instant::now(), cpu_time(self.controller)?);
        let mut outcome = Outcome::default();
        let mut own = 0;
        while made.load(Ordering::Relaxed) < changes {
            let one = self.readiness(2).await?;
            outcome.times.extend(one.times);
            outcome.last.extend(one.last);
            outcome.written.extend(one.written);
            own += 2;
        }
        let total = (made.load(Ordering::Relaxed) + own) as u32;
        outcome.cpu = (cpu_time(self.controller)? - cpu) / total;
        outcome.rate = f64::from(total) / start.elapsed().as_secs_f64();
        is_over.store(true, Ordering::Relaxed);
        while let Some(ended) = churning.join_next().await {
            ended.context("a writer panicked")??;
        }
        Ok(outcome)
    }

    /// Makes one change and waits until all have heard of it.
    async fn note(
        &mut self,
        outcome: &mut Outcome,
        change: impl Future<Output = Result<()>> + Send + 'static,
    ) -> Result<()> {
        let start = Instant::now();
        let change = tokio::spawn(async move { change.await.map(|()| start.elapsed()) });
        let times = self.subscribers.heard_since(start).await;
        outcome.written.push(change.await.context("a writer panicked")??);
        let times = times?;
        outcome.last.extend(times.iter().max());
        outcome.times.extend(times);
        Ok(())
    }
}

impl Outcome {
    /// The time that this share of all agents and changes was within.
    pub fn percentile(&self, share: f64) -> Result<Duration> {
        ensure!(!self.times.is_empty(), "nothing was heard of");
        let mut sorted = self.times.clone();
        sorted.sort_unstable();
        let at = (sorted.len() as f64 * share).ceil() as usize;
        Ok(sorted[at.clamp(1, sorted.len()) - 1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_what_was_heard() {
        let times = (1..=200).rev().map(Duration::from_millis).collect();
        let outcome = Outcome { times, ..Outcome::default() };
        for (share, expected) in [(0.5, 100), (0.99, 198), (1.0, 200), (0.0, 1)] {
            assert_eq!(outcome.percentile(share).expect("there are some"), Duration::from_millis(expected), "{share}");
        }
        assert!(Outcome::default().percentile(0.5).is_err());
    }
}
