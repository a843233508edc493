//! Pods' sandboxes, as a container runtime makes and removes them: what the CNI plug-in tells the agent, and what the
//! agent answers.
//!
//! The plug-in asks on the admin socket, the admin interface hands the question to whatever implements [`Sandboxes`],
//! and neither of them knows who that is.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::Pin;

use serde::{Deserialize, Serialize};

/// An answer that takes a while.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A pod's sandbox, as the container runtime has just made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// `metadata.uid` of the pod. Empty where a runtime does not tell it; containerd and CRI-O do.
    #[serde(default)]
    pub uid: String,
    /// The runtime's id of the sandbox: a pod whose sandbox is made anew keeps its uid and gets another one.
    pub container: String,
    /// The network namespace, as a path that holds in the host's mount namespace. Empty when the runtime has removed
    /// it already.
    #[serde(default)]
    pub netns: PathBuf,
    /// The addresses that the plug-ins before gave it, the primary one first. Empty where it has none.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
}

/// What becomes of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It is captured, and its listeners stand: its applications may start.
    Enrolled,
    /// It does not belong to the mesh: its applications may start.
    NotInMesh,
}

/// What a container runtime's sandboxes are told to.
///
/// Every future may be dropped at any of its waits: a runtime that gives up closes its connection.
pub trait Sandboxes: Send + Sync + 'static {
    /// Takes a new sandbox over. It resolves once the pod is captured and its listeners stand, or is known not to be in
    /// the mesh, within 20 seconds. To be told of a sandbox a second time is no error.
    ///
    /// # Errors
    /// Why neither came about, in words for the pod's event. The runtime tries again, with a new sandbox.
    fn add(&self, sandbox: Sandbox) -> BoxFuture<'_, Result<Verdict, String>>;

    /// Lets a sandbox go that the runtime removes. Unknown ones are no error: a runtime may ask any number of times. The
    /// uid may be empty. One that has been replaced by another of the same pod is told from it by `container`.
    fn remove<'a>(&'a self, uid: &'a str, container: &'a str) -> BoxFuture<'a, ()>;

    /// How a sandbox that [`Self::add`] has answered stands now.
    ///
    /// # Errors
    /// Why one that belongs to the mesh is not captured, in words.
    fn check(&self, sandbox: Sandbox) -> BoxFuture<'_, Result<Verdict, String>>;

    /// Lets every sandbox go that [`Self::add`] was told of and whose container is none of these. What is known from
    /// elsewhere stays.
    fn retain(&self, containers: BTreeSet<String>) -> BoxFuture<'_, ()>;
}
