//! Gateways and their classes.

mod spec;

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
pub(crate) use spec::{GatewayClassManifest, GatewayManifest};
use weft_route::Hostname;

use super::metadata::{excerpt, identify_by, port};
use super::route::hostname;
use super::waypoint::{WAYPOINT_FOR, WaypointFor};
use super::{Interner, Kind, Labels};
use crate::problem::Notes;

/// What is written into `controllerName` of the classes whose Gateways are Weft's.
pub(crate) const CONTROLLER_NAME: &str = "weft.dev/gateway-controller";
/// The protocol of a waypoint's listener.
pub(crate) const HBONE: &str = "HBONE";
/// The port of a waypoint's listener.
pub(crate) const HBONE_PORT: u16 = 15008;

/// A Gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gateway {
    pub name: Arc<str>,
    pub namespace: Arc<str>,
    pub class: Arc<str>,
    pub generation: Option<i64>,
    pub waypoint_for: Option<WaypointFor>,
    pub listeners: Box<[Listener]>,
}

/// One of a Gateway's listeners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listener {
    pub name: Arc<str>,
    pub port: u16,
    pub protocol: Arc<str>,
    /// `None`: every host.
    pub hostname: Option<Hostname>,
    /// Of which namespaces objects may use it.
    pub from: AllowedNamespaces,
    /// Kinds of routes that it takes; `None`: all that its protocol allows.
    pub kinds: Option<Box<[GroupKind]>>,
}

/// A kind: its group and its name.
pub(crate) type GroupKind = (Arc<str>, Arc<str>);

/// `allowedRoutes.namespaces`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AllowedNamespaces {
    /// The Gateway's own.
    Same,
    /// All.
    All,
    /// None.
    None,
    /// Those with such labels.
    Selected(LabelSelector),
}

/// `matchLabels` and `matchExpressions`, all ANDed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LabelSelector(Box<[Requirement]>);

/// One condition on a label.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: Box<str>,
    /// `None`: that it is there.
    values: Option<BTreeSet<Box<str>>>,
    is_negated: bool,
}

impl LabelSelector {
    fn read(selector: &meta::LabelSelector, field: &str, notes: &mut Notes) -> Option<Self> {
        let mut requirements = Vec::new();
        for (key, value) in selector.match_labels.iter().flatten() {
            let values = Some(BTreeSet::from([value.as_str().into()]));
            requirements.push(Requirement { key: key.as_str().into(), values, is_negated: false });
        }
        for (i, found) in selector.match_expressions.iter().flatten().enumerate() {
            let values = || Some(found.values.iter().flatten().map(|value| value.as_str().into()).collect());
            let (values, is_negated) = match found.operator.as_str() {
                "In" => (values(), false),
                "NotIn" => (values(), true),
                "Exists" => (None, false),
                "DoesNotExist" => (None, true),
                other => {
                    notes.error(
                        format!("{field}.matchExpressions[{i}].operator"),
                        format!("'{}' is not an operator: no namespace is selected", excerpt(other)),
                        "write In, NotIn, Exists or DoesNotExist",
                    );
                    return None;
                }
            };
            requirements.push(Requirement { key: found.key.as_str().into(), values, is_negated });
        }
        Some(Self(requirements.into_boxed_slice()))
    }

    /// Whether these labels meet it.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|requirement| {
            let value = labels.get(&requirement.key);
            let is_met = match &requirement.values {
                Some(values) => value.is_some_and(|value| values.contains(&**value)),
                None => value.is_some(),
            };
            is_met != requirement.is_negated
        })
    }
}

impl Gateway {
    pub fn read(manifest: &GatewayManifest, interner: &mut Interner, notes: &mut Notes) -> Option<Self> {
        let id = identify_by(Kind::Gateway, &manifest.metadata, interner, notes)?;
        let spec = &manifest.spec;
        if spec.gateway_class_name.is_empty() {
            notes.error("spec.gatewayClassName", "is missing", "write weft-waypoint for a waypoint");
        }
        let mut listeners: Vec<Listener> = Vec::new();
        for (i, found) in spec.listeners.iter().enumerate() {
            let field = format!("spec.listeners[{i}]");
            let number = port(found.port, || format!("{field}.port"), notes);
            if found.name.is_empty() {
                notes.error(format!("{field}.name"), "is missing", "give each listener its own name");
            } else if listeners.iter().any(|other| *other.name == *found.name) {
                notes.error(
                    format!("{field}.name"),
                    format!("there is another listener '{}'", excerpt(&found.name)),
                    "give each listener its own name",
                );
            }
            let allowed = found.allowed_routes.as_ref();
            let kinds = allowed.and_then(|allowed| allowed.kinds.as_ref()).filter(|kinds| !kinds.is_empty());
            let kinds = kinds.map(|kinds| {
                let kinds = kinds.iter().map(|kind| {
                    let group = kind.group.as_deref().unwrap_or(super::GATEWAY_GROUP);
                    (interner.text(group), interner.text(&kind.kind))
                });
                kinds.collect()
            });
            let Some(number) = number else { continue };
            listeners.push(Listener {
                name: interner.text(&found.name),
                port: number,
                protocol: interner.text(&found.protocol),
                hostname: found
                    .hostname
                    .as_deref()
                    .filter(|name| !name.is_empty())
                    .and_then(|name| hostname(name, || format!("{field}.hostname"), notes)),
                from: namespaces(allowed.and_then(|allowed| allowed.namespaces.as_ref()), &field, notes),
                kinds,
            });
        }
        let labels = manifest.metadata.labels.as_ref();
        let waypoint_for = labels.and_then(|labels| labels.get(WAYPOINT_FOR)).map(String::as_str);
        Some(Self {
            name: id.name,
            namespace: id.namespace,
            class: interner.text(&spec.gateway_class_name),
            generation: manifest.metadata.generation,
            waypoint_for: WaypointFor::read(waypoint_for, notes),
            listeners: listeners.into_boxed_slice(),
        })
    }
}

fn namespaces(spec: Option<&spec::NamespacesSpec>, field: &str, notes: &mut Notes) -> AllowedNamespaces {
    let field = format!("{field}.allowedRoutes.namespaces");
    match spec.map(|spec| (spec.from.as_deref(), &spec.selector)) {
        None | Some((None | Some("Same"), _)) => AllowedNamespaces::Same,
        Some((Some("All"), _)) => AllowedNamespaces::All,
        Some((Some("None"), _)) => AllowedNamespaces::None,
        Some((Some("Selector"), Some(selector))) => {
            let selector = LabelSelector::read(selector, &format!("{field}.selector"), notes);
            selector.map_or(AllowedNamespaces::None, AllowedNamespaces::Selected)
        }
        Some((Some("Selector"), None)) => {
            notes.error(format!("{field}.selector"), "is missing: no namespace is allowed", "write matchLabels");
            AllowedNamespaces::None
        }
        Some((Some(other), _)) => {
            notes.error(
                format!("{field}.from"),
                format!("'{}' is not known: no namespace is allowed", excerpt(other)),
                "write Same, All, Selector or None",
            );
            AllowedNamespaces::None
        }
    }
}

/// A GatewayClass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GatewayClass {
    pub name: Arc<str>,
    pub controller: Arc<str>,
    pub generation: Option<i64>,
    pub waypoint_for: Option<WaypointFor>,
}

impl GatewayClass {
    pub fn read(manifest: &GatewayClassManifest, interner: &mut Interner, notes: &mut Notes) -> Option<Self> {
        let id = identify_by(Kind::GatewayClass, &manifest.metadata, interner, notes)?;
        if manifest.spec.controller_name.is_empty() {
            notes.error("spec.controllerName", "is missing", format!("write {CONTROLLER_NAME} for waypoints of Weft"));
        }
        let labels = manifest.metadata.labels.as_ref();
        let waypoint_for = labels.and_then(|labels| labels.get(WAYPOINT_FOR)).map(String::as_str);
        Some(Self {
            name: id.name,
            controller: interner.text(&manifest.spec.controller_name),
            generation: manifest.metadata.generation,
            waypoint_for: WaypointFor::read(waypoint_for, notes),
        })
    }
}

#[cfg(test)]
mod tests;
