//! What labels say of waypoints.

use std::sync::Arc;

use super::Interner;
use super::metadata::{excerpt, is_dns_label, is_dns_subdomain};
use crate::problem::Notes;

/// The label that names the waypoint of a service, a pod, or all of a namespace.
pub(crate) const USE_WAYPOINT: &str = "istio.io/use-waypoint";
/// The label that says in which namespace that waypoint is.
pub(crate) const USE_WAYPOINT_NAMESPACE: &str = "istio.io/use-waypoint-namespace";
/// The label by which a Gateway, or its class, says what it is a waypoint for.
pub(crate) const WAYPOINT_FOR: &str = "istio.io/waypoint-for";
/// The annotation by which an operator lets traffic pass by a waypoint, and its value then.
pub(crate) const WAYPOINT_BYPASS: (&str, &str) = ("weft.dev/waypoint-bypass", "allowed");
/// The label that a Gateway's pods carry: the Gateway's name.
pub(crate) const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
/// The label that a Gateway's pods carry: its class.
pub(crate) const GATEWAY_CLASS: &str = "gateway.networking.k8s.io/gateway-class-name";
/// The class of the Gateways that are waypoints of Weft.
pub(crate) const WAYPOINT_CLASS: &str = "weft-waypoint";

/// What one object says of its waypoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum WaypointChoice {
    /// Nothing.
    #[default]
    Unsaid,
    /// It has none, whatever its namespace says.
    None,
    /// This Gateway.
    Named {
        /// Its namespace; `None`: the object's own.
        namespace: Option<Arc<str>>,
        /// Its name.
        name: Arc<str>,
    },
}

impl WaypointChoice {
    /// Reads an object's labels. A name that no Gateway can have is kept: whoever wants a waypoint must not go without.
    pub fn read<'l>(label: impl Fn(&str) -> Option<&'l str>, interner: &mut Interner) -> Self {
        match label(USE_WAYPOINT) {
            None | Some("") => Self::Unsaid,
            Some("none") => Self::None,
            Some(name) => Self::Named {
                namespace: label(USE_WAYPOINT_NAMESPACE)
                    .filter(|name| !name.is_empty())
                    .map(|name| interner.text(name)),
                name: interner.text(name),
            },
        }
    }

    /// Notes labels that cannot mean anything.
    pub fn check<'l>(label: impl Fn(&str) -> Option<&'l str>, notes: &mut Notes) {
        let name = label(USE_WAYPOINT);
        if let Some(name) = name.filter(|name| !is_dns_subdomain(name)) {
            notes.warning(
                format!("metadata.labels[{USE_WAYPOINT}]"),
                format!("'{}' is not the name of a Gateway", excerpt(name)),
                "write the name of a Gateway, or 'none'",
            );
        }
        if let Some(namespace) = label(USE_WAYPOINT_NAMESPACE) {
            if !is_dns_label(namespace) {
                notes.warning(
                    format!("metadata.labels[{USE_WAYPOINT_NAMESPACE}]"),
                    format!("'{}' is not the name of a namespace", excerpt(namespace)),
                    "write the Gateway's namespace",
                );
            } else if name.is_none() {
                notes.warning(
                    format!("metadata.labels[{USE_WAYPOINT_NAMESPACE}]"),
                    format!("has no effect without the label {USE_WAYPOINT} beside it"),
                    "write both labels on the same object",
                );
            }
        }
    }
}

/// What a waypoint is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum WaypointFor {
    /// Connections to services.
    Service,
    /// Connections to pods by their own addresses.
    Workload,
    /// Both.
    All,
    /// Neither.
    None,
}

impl WaypointFor {
    /// Reads the label's value, and notes one that is not known.
    pub fn read(value: Option<&str>, notes: &mut Notes) -> Option<Self> {
        match value {
            None => None,
            Some("service") => Some(Self::Service),
            Some("workload") => Some(Self::Workload),
            Some("all") => Some(Self::All),
            Some("none") => Some(Self::None),
            Some(other) => {
                notes.warning(
                    format!("metadata.labels[{WAYPOINT_FOR}]"),
                    format!("'{}' is not known: it counts as 'service'", excerpt(other)),
                    "write service, workload, all or none",
                );
                None
            }
        }
    }

    /// Whether connections to services pass it.
    pub fn takes_services(self) -> bool {
        matches!(self, Self::Service | Self::All)
    }

    /// Whether connections to pods pass it.
    pub fn takes_workloads(self) -> bool {
        matches!(self, Self::Workload | Self::All)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_name_a_waypoint_or_say_that_there_is_none() {
        let named = |namespace: Option<&str>, name: &str| WaypointChoice::Named {
            namespace: namespace.map(Arc::from),
            name: name.into(),
        };
        let cases = [
            (None, None, WaypointChoice::Unsaid, 0),
            (Some(""), None, WaypointChoice::Unsaid, 1),
            (Some("none"), None, WaypointChoice::None, 0),
            (Some("edge"), None, named(None, "edge"), 0),
            (Some("edge"), Some("infra"), named(Some("infra"), "edge"), 0),
            // Nobody can have this name: connections are refused, and do not pass by.
            (Some("Edge"), None, named(None, "Edge"), 1),
            (None, Some("infra"), WaypointChoice::Unsaid, 1),
            (Some("edge"), Some("In.fra"), named(Some("In.fra"), "edge"), 1),
        ];
        for (name, namespace, expected, problems) in cases {
            let label = |key: &str| if key == USE_WAYPOINT { name } else { namespace };
            let mut notes = Notes::default();
            WaypointChoice::check(label, &mut notes);
            assert_eq!(WaypointChoice::read(label, &mut Interner::default()), expected, "{name:?} {namespace:?}");
            assert_eq!(notes.into_vec().len(), problems, "{name:?} {namespace:?}");
        }
    }
}
