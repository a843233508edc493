//! PeerAuthentications: whether plaintext is accepted.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};
use serde_json::Value;

use super::authorization_policy::spec::SelectorSpec;
use super::metadata::{excerpt, identify_by};
use super::{Interner, Kind, Labels, ObjectId, Selector};
use crate::manifest::text::null_as_default;
use crate::problem::Notes;

/// A PeerAuthentication as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "a PeerAuthentication")]
pub(crate) struct PeerAuthenticationManifest {
    pub api_version: String,
    pub kind: String,
    pub metadata: ObjectMeta,
    #[serde(deserialize_with = "null_as_default")]
    spec: PeerAuthenticationSpec,
    /// Written by a control plane.
    #[serde(rename = "status")]
    _status: Option<Value>,
}

/// `spec`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "a mapping")]
struct PeerAuthenticationSpec {
    selector: Option<SelectorSpec>,
    mtls: Option<MtlsSpec>,
    #[serde(deserialize_with = "null_as_default")]
    port_level_mtls: BTreeMap<PortKey, MtlsSpec>,
}

/// `mtls`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "a mapping")]
struct MtlsSpec {
    mode: Option<String>,
}

/// A port as the key of a mapping: JSON has it as a string, YAML mostly as a number.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct PortKey(String);

impl<'de> Deserialize<'de> for PortKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PortVisitor;

        impl Visitor<'_> for PortVisitor {
            type Value = PortKey;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port")
            }

            fn visit_u64<E: Error>(self, port: u64) -> Result<PortKey, E> {
                Ok(PortKey(port.to_string()))
            }

            fn visit_str<E: Error>(self, port: &str) -> Result<PortKey, E> {
                Ok(PortKey(port.to_owned()))
            }
        }

        deserializer.deserialize_any(PortVisitor)
    }
}

/// Whether plaintext is accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum MtlsMode {
    /// As the next wider level says.
    #[default]
    Unset,
    /// It is. `DISABLE` means the same here: an agent always accepts a tunnel.
    Permissive,
    /// It is not.
    Strict,
}

/// A PeerAuthentication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PeerAuthentication {
    pub name: Arc<str>,
    pub namespace: Arc<str>,
    /// `None`: all pods of its namespace, or of the mesh.
    pub selector: Option<Selector>,
    pub mode: MtlsMode,
    /// Exceptions for ports of the pod, sorted.
    pub ports: Box<[(u16, MtlsMode)]>,
    /// The oldest of several for the same pods holds; one that does not say counts as the newest.
    pub created: Option<Time>,
}

impl PeerAuthentication {
    /// Reads a policy. With errors in `notes` it is what it means at its strictest, for want of a better one.
    pub fn read(manifest: &PeerAuthenticationManifest, interner: &mut Interner, notes: &mut Notes) -> Option<Self> {
        let id = identify_by(Kind::PeerAuthentication, &manifest.metadata, interner, notes)?;
        let spec = &manifest.spec;
        let selector = spec.selector.as_ref().filter(|selector| !selector.match_labels.is_empty());
        if selector.is_none() && !spec.port_level_mtls.is_empty() {
            notes.error(
                "spec.portLevelMtls",
                "needs a selector, and has no effect without one",
                "add a selector for the pods whose ports these are",
            );
        }
        let mut ports = Vec::new();
        for (PortKey(text), mtls) in &spec.port_level_mtls {
            let path = format!("spec.portLevelMtls[{}]", excerpt(text));
            let mode = mode(Some(mtls), format!("{path}.mode"), notes);
            match text.parse::<u16>() {
                Ok(port) if port > 0 => ports.push((port, mode)),
                _ => notes.error(path, "is not a port", "write a number from 1 to 65535"),
            }
        }
        ports.sort_unstable_by_key(|(port, _)| *port);
        Some(Self {
            name: id.name,
            namespace: id.namespace,
            selector: selector.map(|selector| Selector::new(Labels::new(&selector.match_labels, interner))),
            mode: mode(spec.mtls.as_ref(), "spec.mtls.mode".to_owned(), notes),
            ports: if selector.is_some() { ports.into_boxed_slice() } else { Box::default() },
            created: manifest.metadata.creation_timestamp.clone(),
        })
    }

    /// What stands for one that cannot be read at all while no good version of it is known: plaintext is refused
    /// wherever it may be about. `selector` is what could be read of its selector.
    pub fn strictest(id: &ObjectId, selector: Option<&SelectorSpec>, interner: &mut Interner) -> Self {
        let selector = selector.filter(|selector| !selector.match_labels.is_empty());
        Self {
            name: Arc::clone(&id.name),
            namespace: Arc::clone(&id.namespace),
            selector: selector.map(|selector| Selector::new(Labels::new(&selector.match_labels, interner))),
            mode: MtlsMode::Strict,
            ports: Box::default(),
            created: None,
        }
    }

    /// The order in which several for the same pods are asked: oldest first, then by name.
    pub fn seniority(&self) -> (bool, Option<&Time>, &str) {
        (self.created.is_none(), self.created.as_ref(), &self.name)
    }
}

fn mode(mtls: Option<&MtlsSpec>, field: String, notes: &mut Notes) -> MtlsMode {
    match mtls.and_then(|mtls| mtls.mode.as_deref()) {
        None | Some("UNSET") => MtlsMode::Unset,
        Some("PERMISSIVE") => MtlsMode::Permissive,
        Some("STRICT") => MtlsMode::Strict,
        Some("DISABLE") => {
            notes.info(
                field,
                "DISABLE means PERMISSIVE here: plaintext is accepted, and tunnels are as well",
                "write PERMISSIVE to say so",
            );
            MtlsMode::Permissive
        }
        Some(other) => {
            notes.error(
                field,
                format!("'{}' is not a mode", excerpt(other)),
                "write STRICT, PERMISSIVE, DISABLE or UNSET",
            );
            MtlsMode::Strict
        }
    }
}

#[cfg(test)]
mod tests;
