//! What the plug-in asks on the agent's admin socket. The paths are `/v1/cni/add`, `check` (a [`Sandbox`]), `remove`
//! ([`Going`]) and `retain` ([`Known`]).
//!
//! [`Sandbox`]: crate::sandbox::Sandbox

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// How large a question may be: the ids of some 900 containers, and far more than anything else takes.
pub(crate) const MAX_QUESTION: usize = 64 * 1024;

/// A sandbox that the runtime removes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Going {
    /// `metadata.uid` of its pod, or empty.
    #[serde(default)]
    pub(crate) uid: String,
    /// Its id.
    pub(crate) container: String,
}

/// The sandboxes that the runtime still knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Known {
    /// Their ids.
    pub(crate) containers: BTreeSet<String>,
}
