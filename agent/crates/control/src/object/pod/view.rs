//! What is read of a Pod's manifest.
//!
//! Pods are the many: thousands of them are read before an agent is ready. Only the fields that decide something are
//! deserialized, borrowed from the text; it takes half the time of Kubernetes' full type and a fraction of its memory.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::manifest::text::{Text, null_as_default};
use crate::object::waypoint::WAYPOINT_BYPASS;

/// A Pod.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "a Pod")]
pub(crate) struct PodView<'a> {
    #[serde(borrow)]
    pub api_version: Text<'a>,
    #[serde(borrow)]
    pub kind: Text<'a>,
    #[serde(borrow, deserialize_with = "null_as_default")]
    pub metadata: MetadataView<'a>,
    #[serde(borrow, deserialize_with = "null_as_default")]
    pub spec: SpecView<'a>,
    #[serde(borrow, deserialize_with = "null_as_default")]
    pub status: StatusView<'a>,
}

/// `metadata`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "a mapping")]
pub(crate) struct MetadataView<'a> {
    #[serde(borrow)]
    pub name: Option<Text<'a>>,
    #[serde(borrow)]
    pub namespace: Option<Text<'a>>,
    #[serde(borrow)]
    pub uid: Option<Text<'a>>,
    #[serde(borrow, deserialize_with = "null_as_default")]
    pub labels: LabelsView<'a>,
    #[serde(borrow, deserialize_with = "null_as_default")]
    pub annotations: AnnotationsView<'a>,
    #[serde(borrow, deserialize_with = "null_as_default")]
    pub owner_references: Vec<OwnerView<'a>>,
    #[serde(borrow)]
    pub deletion_timestamp: Option<Text<'a>>,
}

/// `metadata.labels`, in the order of the file.
#[derive(Debug, Default)]
pub(crate) struct LabelsView<'a>(pub Vec<(Text<'a>, Text<'a>)>);

impl<'de: 'a, 'a> Deserialize<'de> for LabelsView<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct LabelsVisitor;

        impl<'de> Visitor<'de> for LabelsVisitor {
            type Value = LabelsView<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping of names to strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut labels = Vec::new();
                while let Some(label) = map.next_entry()? {
                    labels.push(label);
                }
                Ok(LabelsView(labels))
            }
        }

        deserializer.deserialize_map(LabelsVisitor)
    }
}

/// The annotations that say something to Weft.
#[derive(Debug, Default)]
pub(crate) struct AnnotationsView<'a> {
    /// `weft.dev/netns`.
    pub netns: Option<Text<'a>>,
    /// `sidecar.istio.io/status` is there.
    pub has_sidecar_status: bool,
    /// `ambient.istio.io/redirection` is `enabled`.
    pub is_redirected: bool,
    /// `kubernetes.io/config.mirror` is there.
    pub is_mirror: bool,
    /// `weft.dev/waypoint-bypass` is `allowed`.
    pub may_bypass_waypoint: bool,
}

/// The annotation that names a pod's network namespace.
pub(crate) const NETNS: &str = "weft.dev/netns";
/// The annotation by which a pod's agent says that it captures the pod, and its value then.
pub(crate) const REDIRECTION: (&str, &str) = ("ambient.istio.io/redirection", "enabled");
/// The annotation by which a kubelet says that it has the pod from a file, and that the object is no more than its mirror.
pub(crate) const MIRROR: &str = "kubernetes.io/config.mirror";
/// The annotation, or label, that a sidecar injector leaves.
pub(crate) const SIDECAR_STATUS: &str = "sidecar.istio.io/status";

impl<'de: 'a, 'a> Deserialize<'de> for AnnotationsView<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnnotationsVisitor;

        impl<'de> Visitor<'de> for AnnotationsVisitor {
            type Value = AnnotationsView<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping of names to strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut annotations = AnnotationsView::default();
                while let Some(key) = map.next_key::<Text<'de>>()? {
                    match &*key {
                        NETNS => annotations.netns = Some(map.next_value()?),
                        key if key == REDIRECTION.0 => {
                            annotations.is_redirected = *map.next_value::<Text<'de>>()? == *REDIRECTION.1;
                        }
                        key if key == WAYPOINT_BYPASS.0 => {
                            annotations.may_bypass_waypoint = *map.next_value::<Text<'de>>()? == *WAYPOINT_BYPASS.1;
                        }
                        SIDECAR_STATUS => {
                            map.next_value::<IgnoredAny>()?;
                            annotations.has_sidecar_status = true;
                        }
                        MIRROR => {
                            map.next_value::<IgnoredAny>()?;
                            annotations.is_mirror = true;
                        }
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(annotations)
            }
        }

        deserializer.deserialize_map(AnnotationsVisitor)
    }
}

/// One of `metadata.ownerReferences`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "a mapping")]
pub(crate) struct OwnerView<'a> {
    #[serde(borrow)]
    pub kind: Text<'a>,
    #[serde(borrow)]
    pub name: Text<'a>,
    #[serde(deserialize_with = "null_as_default")]
    pub controller: bool,
}

/// `spec`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "a mapping")]
pub(crate) struct SpecView<'a> {
    #[serde(borrow)]
    pub node_name: Option<Text<'a>>,
    #[serde(borrow)]
    pub service_account_name: Option<Text<'a>>,
    #[serde(deserialize_with = "null_as_default")]
    pub host_network: bool,
    #[serde(borrow, deserialize_with = "null_as_default")]
    pub containers: Vec<ContainerView<'a>>,
    #[serde(borrow, deserialize_with = "null_as_default")]
    pub init_containers: Vec<ContainerView<'a>>,
}

/// One of `spec.containers` or `spec.initContainers`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "a mapping")]
pub(crate) struct ContainerView<'a> {
    #[serde(borrow)]
    pub name: Option<Text<'a>>,
    #[serde(borrow)]
    pub restart_policy: Option<Text<'a>>,
    #[serde(borrow, deserialize_with = "null_as_default")]
    pub ports: Vec<PortView<'a>>,
}

/// One of a container's `ports`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "a mapping")]
pub(crate) struct PortView<'a> {
    #[serde(borrow)]
    pub name: Option<Text<'a>>,
    pub container_port: u16,
    #[serde(borrow)]
    pub protocol: Option<Text<'a>>,
}

/// `status`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", expecting = "a mapping")]
pub(crate) struct StatusView<'a> {
    #[serde(borrow)]
    pub phase: Option<Text<'a>>,
    #[serde(borrow, rename = "podIP")]
    pub pod_ip: Option<Text<'a>>,
    #[serde(borrow, rename = "podIPs", deserialize_with = "null_as_default")]
    pub pod_ips: Vec<AddressView<'a>>,
    #[serde(borrow, deserialize_with = "null_as_default")]
    pub conditions: Vec<ConditionView<'a>>,
}

/// One of `status.podIPs`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "a mapping")]
pub(crate) struct AddressView<'a> {
    #[serde(borrow)]
    pub ip: Text<'a>,
}

/// One of `status.conditions`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "a mapping")]
pub(crate) struct ConditionView<'a> {
    #[serde(borrow, rename = "type")]
    pub kind: Text<'a>,
    #[serde(borrow)]
    pub status: Text<'a>,
}
