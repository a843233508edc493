//! Namespaces and service accounts.

use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use weft_model::Locality;

use super::metadata::{excerpt, identify_by};
use super::node::locality;
use super::waypoint::WaypointChoice;
use super::{Interner, Kind, Labels};
use crate::problem::Notes;

/// The label that enrols: `ambient`, or `none`.
pub(crate) const DATAPLANE_MODE: &str = "istio.io/dataplane-mode";

/// What the label `istio.io/dataplane-mode` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum DataplaneMode {
    /// Enrolled.
    Ambient,
    /// Not enrolled, whatever the namespace says.
    None,
}

impl DataplaneMode {
    /// Reads the label's value. Anything else than its two values says nothing.
    pub fn read(value: Option<&str>) -> Option<Self> {
        match value {
            Some("ambient") => Some(Self::Ambient),
            Some("none") => Some(Self::None),
            _ => None,
        }
    }

    /// Notes a value that is not one of the label's two.
    pub fn check(value: Option<&str>, notes: &mut Notes) {
        if let Some(value) = value.filter(|value| Self::read(Some(value)).is_none()) {
            notes.warning(
                format!("metadata.labels[{DATAPLANE_MODE}]"),
                format!("'{}' says nothing to Weft", excerpt(value)),
                "write 'ambient' to enrol or 'none' not to",
            );
        }
    }
}

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Namespace {
    pub name: Arc<str>,
    pub mode: Option<DataplaneMode>,
    /// Where its pods run when neither they nor their nodes say.
    pub locality: Locality,
    /// The waypoint of what does not say of its own.
    pub waypoint: WaypointChoice,
    /// By which listeners of Gateways select namespaces.
    pub labels: Labels,
}

impl Namespace {
    pub fn read(manifest: &core::Namespace, interner: &mut Interner, notes: &mut Notes) -> Option<Self> {
        let id = identify_by(Kind::Namespace, &manifest.metadata, interner, notes)?;
        let labels = Labels::new(manifest.metadata.labels.iter().flatten(), interner);
        let mode = labels.get(DATAPLANE_MODE).map(|value| &**value);
        DataplaneMode::check(mode, notes);
        let label = |key: &str| labels.get(key).map(|value| &**value);
        WaypointChoice::check(label, notes);
        Some(Self {
            name: id.name,
            mode: DataplaneMode::read(mode),
            locality: locality(&labels),
            waypoint: WaypointChoice::read(label, interner),
            labels,
        })
    }
}

/// A service account. Only that it exists counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceAccount {
    pub name: Arc<str>,
    pub namespace: Arc<str>,
}

impl ServiceAccount {
    pub fn read(manifest: &core::ServiceAccount, interner: &mut Interner, notes: &mut Notes) -> Option<Self> {
        let id = identify_by(Kind::ServiceAccount, &manifest.metadata, interner, notes)?;
        Some(Self { name: id.name, namespace: id.namespace })
    }
}
