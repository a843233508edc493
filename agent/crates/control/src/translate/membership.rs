//! Whether a pod belongs to the mesh: the one rule, for whoever enrols, announces, or starts a pod.

use k8s_openapi::api::core::v1 as core;
use serde::de::Error as _;
use thiserror::Error;

use crate::object::{DATAPLANE_MODE, DataplaneMode, PodTemplate, PodView, TemplateKey};

/// What one object, a pod or a namespace, says of belonging to the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Membership {
    /// It belongs to it.
    Member,
    /// It does not, whatever else is said.
    Outside,
    /// It says nothing.
    Unsaid,
}

/// An object that cannot be read.
#[derive(Debug, Error)]
#[error("the {kind} cannot be read: {error}")]
pub struct MembershipError {
    kind: &'static str,
    error: serde_json::Error,
}

impl Membership {
    /// What a Pod says, from the object in JSON. One on the host's network (it would capture the node), one that has a
    /// sidecar, a waypoint, which takes tunnels itself, and the mirror of a static pod (which has no identity) are outside; else
    /// its own label counts.
    ///
    /// # Errors
    /// It is no Pod.
    pub fn of_pod(json: &str) -> Result<Self, MembershipError> {
        let failed = |error| MembershipError { kind: "pod", error };
        // An array could stand for a structure as well.
        if !json.trim_start().starts_with('{') {
            return Err(failed(serde_json::Error::custom("it is not an object")));
        }
        let view: PodView<'_> = serde_json::from_str(json).map_err(failed)?;
        let key = TemplateKey::read(&view);
        let is_never_captured = key.is_host_network() || key.is_waypoint() || key.is_static();
        Ok(Self::of(is_never_captured, key.has_sidecar(), key.mode()))
    }

    /// What a Namespace says, from the object in JSON, by its label. Its metadata alone will do.
    ///
    /// # Errors
    /// It is no Namespace.
    pub fn of_namespace(json: &str) -> Result<Self, MembershipError> {
        let failed = |error| MembershipError { kind: "namespace", error };
        let namespace: core::Namespace = serde_json::from_str(json).map_err(failed)?;
        let mode = namespace.metadata.labels.as_ref().and_then(|labels| labels.get(DATAPLANE_MODE));
        Ok(Self::said(DataplaneMode::read(mode.map(String::as_str))))
    }

    pub(crate) fn of_template(template: &PodTemplate) -> Self {
        let is_never_captured = template.is_host_network || template.is_waypoint || template.is_static();
        Self::of(is_never_captured, template.has_sidecar, template.mode)
    }

    fn of(is_never_captured: bool, has_sidecar: bool, mode: Option<DataplaneMode>) -> Self {
        if is_never_captured || has_sidecar { Self::Outside } else { Self::said(mode) }
    }

    pub(super) fn said(mode: Option<DataplaneMode>) -> Self {
        match mode {
            Some(DataplaneMode::Ambient) => Self::Member,
            Some(DataplaneMode::None) => Self::Outside,
            None => Self::Unsaid,
        }
    }

    /// Whether a pod that says this, in a namespace that says that, belongs to the mesh: the pod's word beats the
    /// namespace's, and where neither says anything it does not.
    #[must_use]
    pub fn is_member(self, namespace: Self) -> bool {
        match self {
            Self::Member => true,
            Self::Outside => false,
            Self::Unsaid => namespace == Self::Member,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use Membership::{Member, Outside, Unsaid};

    #[test]
    fn a_pod_says_by_its_label_what_it_is_unless_it_can_never_be() {
        let cases = [
            (json!({}), Unsaid),
            (json!({"metadata": null}), Unsaid),
            (json!({"metadata": {"labels": null, "annotations": null}, "spec": {"containers": null}}), Unsaid),
            (json!({"metadata": {"labels": {"istio.io/dataplane-mode": "ambient"}}}), Member),
            (json!({"metadata": {"labels": {"istio.io/dataplane-mode": "none"}}}), Outside),
            (json!({"metadata": {"labels": {"istio.io/dataplane-mode": "Ambient"}}}), Unsaid),
            (json!({"metadata": {"annotations": {"istio.io/dataplane-mode": "ambient"}}}), Unsaid),
            (json!({"metadata": {"annotations": {"sidecar.istio.io/status": "{}"}}}), Outside),
            (json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "0c5f"}}}), Outside),
            (json!({"metadata": {"ownerReferences": [{"kind": "Node", "name": "n1", "controller": true}]}}), Outside),
            (json!({"spec": {"containers": [{"name": "istio-proxy"}]}}), Outside),
            (
                json!({"metadata": {"labels": {
                    "istio.io/dataplane-mode": "ambient",
                    "gateway.networking.k8s.io/gateway-class-name": "weft-waypoint",
                }}}),
                Outside,
            ),
            (json!({"spec": {"initContainers": [{"name": "istio-proxy", "restartPolicy": "Always"}]}}), Outside),
            (
                json!({"metadata": {"labels": {"istio.io/dataplane-mode": "ambient"}}, "spec": {"hostNetwork": true}}),
                Outside,
            ),
        ];
        for (pod, expected) in cases {
            assert_eq!(Membership::of_pod(&pod.to_string()).expect("a pod"), expected, "{pod}");
        }
        for text in ["", "[]", "1", "{\"metadata\": 1}"] {
            assert!(Membership::of_pod(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_pods_word_beats_the_namespaces() {
        let namespace = |labels| Membership::of_namespace(&json!({"metadata": {"labels": labels}}).to_string());
        let ambient = namespace(json!({"istio.io/dataplane-mode": "ambient"})).expect("a namespace");
        let plain = namespace(json!(null)).expect("a namespace");
        assert_eq!((ambient, plain), (Member, Unsaid));
        let cases = [
            (Member, plain, true),
            (Member, Outside, true),
            (Outside, ambient, false),
            (Unsaid, ambient, true),
            (Unsaid, plain, false),
            (Unsaid, Outside, false),
        ];
        for (pod, namespace, expected) in cases {
            assert_eq!(pod.is_member(namespace), expected, "{pod:?} in {namespace:?}");
        }
    }
}
