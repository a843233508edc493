//! The duty to change what others see: capture's maps, annotations, files. Of the agents of a node one has it.
//!
//! An agent that hands over gives its duties up before its successor takes them, and may get them back. What acts under a
//! duty begins each act with [`Duty::act`]; giving up waits for the acts that are under way.

use std::ops::Deref;
use std::sync::Arc;

use tokio::sync::{Notify, OwnedRwLockReadGuard, RwLock};

/// One duty. Clones are the same.
#[derive(Debug, Clone)]
pub struct Duty(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    tenure: Arc<RwLock<Tenure>>,
    taken_up: Notify,
}

/// Whether the duty is held, and how often it was taken up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tenure {
    is_held: bool,
    number: u64,
}

impl Tenure {
    /// Which time it is that the duty is held, from 1; `None` while it is not. After another number than before nothing
    /// is certain to be as it was left.
    #[must_use]
    pub fn number(self) -> Option<u64> {
        self.is_held.then_some(self.number)
    }
}

/// An act that is under way, if the duty is held: to be kept until it is done.
#[derive(Debug)]
pub struct Act(OwnedRwLockReadGuard<Tenure>);

impl Deref for Act {
    type Target = Tenure;

    fn deref(&self) -> &Tenure {
        &self.0
    }
}

impl Duty {
    /// One that nobody holds.
    #[must_use]
    pub fn vacant() -> Self {
        Self(Arc::new(Inner { tenure: Arc::default(), taken_up: Notify::new() }))
    }

    /// One that is held from the start.
    #[must_use]
    pub fn held() -> Self {
        let tenure = Tenure { is_held: true, number: 1 };
        Self(Arc::new(Inner { tenure: Arc::new(RwLock::new(tenure)), taken_up: Notify::new() }))
    }

    /// Begins an act, which is none while the duty is not held.
    pub async fn act(&self) -> Act {
        Act(self.0.tenure.clone().read_owned().await)
    }

    /// Waits for what is under way, and lets nothing begin any more.
    pub async fn give_up(&self) {
        self.0.tenure.write().await.is_held = false;
    }

    /// Takes it up, if it is not held.
    pub async fn take_up(&self) {
        let mut tenure = self.0.tenure.write().await;
        if !tenure.is_held {
            *tenure = Tenure { is_held: true, number: tenure.number + 1 };
            self.0.taken_up.notify_one();
        }
    }

    /// Completes when it was taken up, for one who waits.
    pub async fn taken_up(&self) {
        self.0.taken_up.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn giving_up_waits_for_what_is_under_way_and_nothing_begins_after_it() {
        let duty = Duty::held();
        let act = duty.act().await;
        assert_eq!(act.number(), Some(1));
        let giving_up = tokio::spawn({
            let duty = duty.clone();
            async move { duty.give_up().await }
        });
        tokio::task::yield_now().await;
        assert!(!giving_up.is_finished(), "an act is under way");
        drop(act);
        giving_up.await.expect("it ends");
        assert_eq!(duty.act().await.number(), None);
        duty.take_up().await;
        duty.take_up().await;
        assert_eq!(duty.act().await.number(), Some(2), "it was held before, and given up once");
        duty.taken_up().await;
    }

    #[tokio::test]
    async fn a_vacant_duty_is_taken_up_for_the_first_time() {
        let duty = Duty::vacant();
        assert_eq!(duty.act().await.number(), None);
        duty.take_up().await;
        assert_eq!(duty.act().await.number(), Some(1));
    }
}
