//! Nodes: where their pods run.

use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use weft_model::Locality;

use super::metadata::identify_by;
use super::{Interner, Kind, Labels};
use crate::problem::Notes;

/// A node. Its labels say where its pods run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub name: Arc<str>,
    pub locality: Locality,
}

impl Node {
    pub fn read(manifest: &core::Node, interner: &mut Interner, notes: &mut Notes) -> Option<Self> {
        let id = identify_by(Kind::Node, &manifest.metadata, interner, notes)?;
        let labels = Labels::new(manifest.metadata.labels.iter().flatten(), interner);
        Some(Self { name: id.name, locality: locality(&labels) })
    }
}

/// The locality that labels name, with Kubernetes' and Istio's keys.
pub(crate) fn locality(labels: &Labels) -> Locality {
    let get = |key| labels.get(key).cloned().unwrap_or_default();
    Locality {
        region: get("topology.kubernetes.io/region"),
        zone: get("topology.kubernetes.io/zone"),
        subzone: get("topology.istio.io/subzone"),
    }
}

/// Whether any part of a locality is known.
pub(crate) fn is_known(locality: &Locality) -> bool {
    !(locality.region.is_empty() && locality.zone.is_empty() && locality.subzone.is_empty())
}
