//! What is said of an object in its status, before it is one.

use std::sync::Arc;

use crate::object::{ObjectId, ParentRef};

/// A status that should be another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusChange {
    /// Whose.
    pub(crate) object: ObjectId,
    /// What it should say; `None`: the object is gone, or no longer this controller's.
    pub(crate) verdict: Option<Arc<Verdict>>,
}

/// What is to be said of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// The generation of the object that was judged.
    pub generation: Option<i64>,
    pub said: Said,
}

/// See [`Verdict`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// Of a route: one for each parent that this controller answers for.
    Route(Vec<ParentVerdict>),
    /// Of a Gateway.
    Gateway { conditions: Vec<Condition>, listeners: Vec<ListenerVerdict>, addresses: Vec<Arc<str>> },
    /// Of a GatewayClass.
    Class(Vec<Condition>),
}

/// What became of a route at one parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ParentVerdict {
    pub parent: ParentRef,
    /// It is attached, and nothing applies it there: the service has no waypoint.
    pub is_idle: bool,
    pub conditions: Vec<Condition>,
}

/// What became of one listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListenerVerdict {
    pub name: Arc<str>,
    /// Names of the kinds of routes that it takes.
    pub kinds: Vec<Arc<str>>,
    pub attached: usize,
    pub conditions: Vec<Condition>,
}

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Condition {
    pub kind: &'static str,
    pub is_true: bool,
    pub reason: &'static str,
    pub message: Arc<str>,
}

impl Condition {
    pub fn new(kind: &'static str, is_true: bool, reason: &'static str, message: impl Into<Arc<str>>) -> Self {
        Self { kind, is_true, reason, message: message.into() }
    }
}

impl Verdict {
    /// What became of a route, at each of the parents that this controller answers for.
    pub fn parents(&self) -> &[ParentVerdict] {
        match &self.said {
            Said::Route(parents) => parents,
            Said::Gateway { .. } | Said::Class(_) => &[],
        }
    }
}
