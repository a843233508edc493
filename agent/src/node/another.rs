//! Another ambient agent on this node, which is not to be fought over its pods: Istio's ztunnel.

use weft_control::{Kind, LocalPod, ObjectId, Problem, Severity};

/// What ztunnel's pods are labelled with, as `app`.
const APP: &str = "ztunnel";

/// The pod of another ambient agent among those of this node, believed only in `namespaces`: those that pods of the mesh are not
/// in. Elsewhere anybody who may make a pod could have a node's pods left out of the mesh by a label.
pub(super) fn agent<'a>(pods: &'a [LocalPod], namespaces: &[String]) -> Option<&'a LocalPod> {
    pods.iter().find(|pod| *pod.workload.app == *APP && namespaces.iter().any(|known| **known == *pod.namespace))
}

/// What an operator is told of it.
pub(super) fn problem(pod: &LocalPod, stands_aside: bool) -> Problem {
    let message = match stands_aside {
        true => "is another ambient agent on this node: Weft leaves the node's pods to it",
        false => {
            "is another ambient agent on this node, whose pods Weft has captured already: they contend for new ones"
        }
    };
    Problem {
        severity: Severity::Error,
        file: None,
        line: None,
        object: Some(ObjectId { kind: Kind::Pod, namespace: pod.namespace.clone(), name: pod.name.clone() }),
        field: None,
        message: message.to_owned(),
        suggestion: Some("run one of the two on each node, by their nodeSelector or affinity".to_owned()),
    }
}
