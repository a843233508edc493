//! Sources of configuration, and their translation into the model.
//!
//! The one configuration language is that of Kubernetes' manifests. [`FileSource`] reads them from a folder and keeps
//! watching it, [`kubernetes`] watches a cluster; [`analyze()`] and [`analyze_cluster()`] look for mistakes. Whatever the source, the
//! same translator turns objects into changes of the model: it evaluates selectors, defaults and precedence, so that the
//! model needs to know none of them.
//!
//! A mesh of many nodes has a control plane: [`serve`] tells agents what one source says, and issues their
//! certificates, and [`cluster`] keeps what a cluster's controllers have in common; [`discovery`] is the source that follows one. Both speak Istio's protocols.
//!
//! This crate knows nothing of tunnels, capture or the pods' sockets.
#![forbid(unsafe_code)]

mod source;
mod manifest;
mod object;
mod translate;
mod analyze;
mod problem;
mod istio;
mod parallel;
pub mod serve;
pub mod cluster;
pub mod last_state;
pub mod discovery;
pub mod operator;
pub mod uninstall;

pub use analyze::{Report, analyze, analyze_cluster};
pub use manifest::{Format, check_manifest};
pub use object::{Kind, ObjectId};
pub use problem::{Problem, Severity};
pub use source::{FileSource, SourceError, SourceOptions, Update, kubernetes};
pub use translate::{LocalPod, Membership, MembershipError, ObjectCounts, StatusChange, TranslationOptions};
