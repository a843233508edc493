//! ReferenceGrants: who may refer to what in another namespace.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

use super::metadata::identify_by;
use super::{Interner, Kind};
use crate::manifest::text::null_as_default;
use crate::problem::Notes;

/// A ReferenceGrant as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "a ReferenceGrant")]
pub(crate) struct ReferenceGrantManifest {
    pub api_version: String,
    pub kind: String,
    pub metadata: ObjectMeta,
    #[serde(deserialize_with = "null_as_default")]
    spec: GrantSpec,
}

/// `spec`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "a mapping")]
struct GrantSpec {
    #[serde(deserialize_with = "null_as_default")]
    from: Vec<FromSpec>,
    #[serde(deserialize_with = "null_as_default")]
    to: Vec<ToSpec>,
}

/// One of `spec.from`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "a mapping")]
struct FromSpec {
    #[serde(deserialize_with = "null_as_default")]
    group: String,
    kind: String,
    namespace: String,
}

/// One of `spec.to`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "a mapping")]
struct ToSpec {
    #[serde(deserialize_with = "null_as_default")]
    group: String,
    kind: String,
    name: Option<String>,
}

/// A ReferenceGrant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReferenceGrant {
    pub name: Arc<str>,
    pub namespace: Arc<str>,
    from: Box<[Origin]>,
    to: Box<[Target]>,
}

/// Group, kind and namespace.
type Origin = (Arc<str>, Arc<str>, Arc<str>);
/// Group, kind and name; without a name all of that kind.
type Target = (Arc<str>, Arc<str>, Option<Arc<str>>);

impl ReferenceGrant {
    pub fn read(manifest: &ReferenceGrantManifest, interner: &mut Interner, notes: &mut Notes) -> Option<Self> {
        let id = identify_by(Kind::ReferenceGrant, &manifest.metadata, interner, notes)?;
        let spec = &manifest.spec;
        if spec.from.is_empty() {
            notes.error("spec.from", "is empty: nothing is granted", "say who may refer");
        }
        if spec.to.is_empty() {
            notes.error("spec.to", "is empty: nothing is granted", "say what may be referred to");
        }
        // What is missing in an entry makes it match nothing.
        let from = spec.from.iter().enumerate().map(|(i, from)| {
            if from.kind.is_empty() || from.namespace.is_empty() {
                notes.error(format!("spec.from[{i}]"), "has no kind or no namespace", "write both");
            }
            (interner.text(&from.group), interner.text(&from.kind), interner.text(&from.namespace))
        });
        let from = from.collect();
        let to = spec.to.iter().enumerate().map(|(i, to)| {
            if to.kind.is_empty() {
                notes.error(format!("spec.to[{i}].kind"), "is missing", "write Service");
            }
            let name = to.name.as_deref().filter(|name| !name.is_empty());
            (interner.text(&to.group), interner.text(&to.kind), name.map(|name| interner.text(name)))
        });
        let to = to.collect();
        Some(Self { name: id.name, namespace: id.namespace, from, to })
    }

    /// Whether a route of this kind and namespace may refer to a service of the grant's namespace.
    pub fn lets(&self, route_kind: &str, route_namespace: &str, service: &str) -> bool {
        let is_from = |(group, kind, namespace): &(Arc<str>, Arc<str>, Arc<str>)| {
            **group == *super::GATEWAY_GROUP && **kind == *route_kind && **namespace == *route_namespace
        };
        let is_to = |(group, kind, name): &(Arc<str>, Arc<str>, Option<Arc<str>>)| {
            group.is_empty() && **kind == *"Service" && name.as_ref().is_none_or(|name| **name == *service)
        };
        self.from.iter().any(is_from) && self.to.iter().any(is_to)
    }
}
