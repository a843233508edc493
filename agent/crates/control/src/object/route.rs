//! Routes of the Gateway API, as their objects say them: what they refer to is looked up later.
//!
//! Each rule is judged by itself. One whose conditions cannot be understood is left out, since nobody knows which
//! requests it is about; one of which anything else cannot be done answers its requests with 500, as the specification
//! says. The other rules stay in force.

mod filters;
mod matches;
mod rules;
pub(crate) mod spec;

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use spec::{GrpcRuleSpec, HttpRuleSpec, ParentRefSpec, RouteManifest, RouteSpec, StreamRuleSpec};
use weft_route::{Filter, Hostname, RequestMatch, Retry, RouteKind, SessionPersistence, Timeouts};

use super::metadata::{excerpt, identify_by, is_dns_subdomain, port};
use super::{Interner, Kind, ObjectId};
use crate::problem::Notes;

/// The group of the kinds of the Gateway API.
pub(crate) const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";

/// An HTTPRoute, GRPCRoute, TLSRoute or TCPRoute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RouteObject {
    pub kind: RouteKind,
    pub name: Arc<str>,
    pub namespace: Arc<str>,
    /// In seconds since 1970; one that does not say counts as the newest.
    pub created: i64,
    pub generation: Option<i64>,
    pub parents: Box<[ParentRef]>,
    pub hostnames: Box<[Hostname]>,
    pub rules: Box<[RuleObject]>,
}

/// One of `parentRefs`, as it is written: its status repeats it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ParentRef {
    pub group: Option<Arc<str>>,
    pub kind: Option<Arc<str>>,
    pub namespace: Option<Arc<str>>,
    pub name: Arc<str>,
    pub section: Option<Arc<str>>,
    pub port: Option<u16>,
}

impl ParentRef {
    /// Group and kind of the parent.
    pub fn of(&self) -> (&str, &str) {
        (self.group.as_deref().unwrap_or(GATEWAY_GROUP), self.kind.as_deref().unwrap_or("Gateway"))
    }

    pub fn is_service(&self) -> bool {
        self.of() == ("", "Service")
    }

    pub fn is_gateway(&self) -> bool {
        self.of() == (GATEWAY_GROUP, "Gateway")
    }
}

/// One rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RuleObject {
    pub name: Option<Arc<str>>,
    pub matches: Vec<RequestMatch>,
    pub filters: Vec<FilterObject>,
    pub backends: Vec<BackendRef>,
    pub timeouts: Timeouts,
    pub retry: Option<Retry>,
    pub session: Option<SessionPersistence>,
    /// What of it cannot be done.
    pub fault: Option<Fault>,
}

/// Why a rule is not in force as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// It is left out; else its requests are answered with 500.
    pub is_dropped: bool,
    /// Reason of a condition.
    pub reason: &'static str,
    /// In words.
    pub message: Arc<str>,
}

/// A filter, with what it refers to as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FilterObject {
    /// It refers to nothing.
    Plain(Filter),
    Mirror {
        backend: BackendRef,
        share: (u32, u32),
    },
}

/// A reference to a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BackendRef {
    pub group: Arc<str>,
    pub kind: Arc<str>,
    /// `None`: the route's own.
    pub namespace: Option<Arc<str>>,
    pub name: Arc<str>,
    pub port: Option<u16>,
    pub weight: u32,
    pub filters: Vec<FilterObject>,
    /// Something in it cannot be done: its share is answered with 500.
    pub fault: Option<Arc<str>>,
}

/// One rule of a manifest.
pub(crate) trait RuleManifest: Default {
    /// Reads `spec.rules[index]`.
    fn read(&self, reader: &mut rules::Reader<'_>) -> RuleObject;
}

impl RouteObject {
    /// The object kind of a kind of routes.
    pub fn object_kind(kind: RouteKind) -> Kind {
        match kind {
            RouteKind::Http => Kind::HttpRoute,
            RouteKind::Grpc => Kind::GrpcRoute,
            RouteKind::Tls => Kind::TlsRoute,
            RouteKind::Tcp => Kind::TcpRoute,
        }
    }

    pub fn id(&self) -> ObjectId {
        ObjectId {
            kind: Self::object_kind(self.kind),
            namespace: Arc::clone(&self.namespace),
            name: Arc::clone(&self.name),
        }
    }

    pub fn read<R: RuleManifest>(
        kind: RouteKind,
        manifest: &RouteManifest<R>,
        interner: &mut Interner,
        notes: &mut Notes,
    ) -> Option<Self> {
        let ObjectMeta { creation_timestamp, generation, .. } = &manifest.metadata;
        let id = identify_by(Self::object_kind(kind), &manifest.metadata, interner, notes)?;
        let RouteSpec { parent_refs, hostnames, rules, .. } = &manifest.spec;
        if parent_refs.is_empty() {
            notes.warning(
                "spec.parentRefs",
                "is empty: the route is attached to nothing",
                "name a Service or a Gateway",
            );
        }
        let parents = parent_refs.iter().enumerate().filter_map(|(i, parent)| parent_ref(i, parent, interner, notes));
        let parents = parents.collect();
        match (kind, hostnames.is_empty()) {
            (RouteKind::Tcp, false) => {
                notes.warning("spec.hostnames", "is not a field of a TCPRoute, and has no effect", "write a TLSRoute");
            }
            (RouteKind::Tls, true) => {
                notes.warning(
                    "spec.hostnames",
                    "is missing: every server name is taken",
                    "write the names that clients ask for",
                );
            }
            _ => {}
        }
        let names = hostnames.iter().enumerate().filter(|_| kind != RouteKind::Tcp);
        let names = names.filter_map(|(i, name)| hostname(name, || format!("spec.hostnames[{i}]"), notes));
        let hostnames = names.collect();
        let key = format!("{}/{}/{}", Self::object_kind(kind), id.namespace, id.name);
        // By the defaults of the API a route of HTTP has one rule, for everything.
        let everything = [R::default()];
        let rules = if rules.is_empty() && kind == RouteKind::Http { &everything[..] } else { rules };
        let rules = rules.iter().enumerate().map(|(index, rule)| {
            // Fields that nobody knows were noted when the manifest was read. Unknown conditions must not be taken for
            // none, which would make the rule take more than it is meant to.
            let within = format!("spec.rules[{index}].matches");
            let has_unknown = notes.fields().any(|field| field.starts_with(&within));
            let mut reader = rules::Reader::new(&key, index, interner, notes);
            if has_unknown {
                reader.drop_rule(&within, "has conditions that are not known here", "remove them");
            }
            let mut read = rule.read(&mut reader);
            read.fault = reader.into_fault();
            read
        });
        let rules = rules.collect();
        Some(Self {
            kind,
            name: id.name,
            namespace: id.namespace,
            created: creation_timestamp.as_ref().map_or(i64::MAX, |time| time.0.as_second()),
            generation: *generation,
            parents,
            hostnames,
            rules,
        })
    }
}

/// `spec.parentRefs[index]`; `None`: nothing can be meant by it.
fn parent_ref(index: usize, spec: &ParentRefSpec, interner: &mut Interner, notes: &mut Notes) -> Option<ParentRef> {
    let field = format!("spec.parentRefs[{index}]");
    if !is_dns_subdomain(&spec.name) {
        notes.error(
            format!("{field}.name"),
            format!("'{}' is not a name", excerpt(&spec.name)),
            "name a Service or a Gateway",
        );
        return None;
    }
    let port = match spec.port {
        Some(number) => Some(port(number, || format!("{field}.port"), notes)?),
        None => None,
    };
    let mut text = |text: &Option<String>| text.as_deref().map(|text| interner.text(text));
    let (group, kind) = (text(&spec.group), text(&spec.kind));
    let (namespace, section) = (text(&spec.namespace), text(&spec.section_name));
    let parent = ParentRef { group, kind, namespace, name: interner.text(&spec.name), section, port };
    if !parent.is_service() && !parent.is_gateway() {
        let (group, kind) = parent.of();
        let hint = match (group, kind) {
            (GATEWAY_GROUP, "Service") => "write group: \"\" beside kind: Service",
            _ => "a route of the mesh has a Service or a Gateway as its parent",
        };
        notes.warning(field, format!("a {} of the group '{}' is left alone", excerpt(kind), excerpt(group)), hint);
    }
    Some(parent)
}

/// Reads a host name, which may begin with `*.`.
pub(crate) fn hostname(text: &str, field: impl FnOnce() -> String, notes: &mut Notes) -> Option<Hostname> {
    let lower = text.to_ascii_lowercase();
    let (name, is_wildcard) = match lower.strip_prefix("*.") {
        Some(rest) => (rest, true),
        None => (&*lower, false),
    };
    if !is_dns_subdomain(name) || name.parse::<std::net::IpAddr>().is_ok() {
        notes.error(
            field(),
            format!("'{}' is not the name of a host", excerpt(text)),
            "write a DNS name, which may begin with '*.'",
        );
        return None;
    }
    Some(if is_wildcard { Hostname::Below(name.into()) } else { Hostname::Exact(name.into()) })
}

/// A manifest of a kind of routes.
pub(crate) type HttpRouteManifest = RouteManifest<HttpRuleSpec>;
/// See [`HttpRouteManifest`].
pub(crate) type GrpcRouteManifest = RouteManifest<GrpcRuleSpec>;
/// See [`HttpRouteManifest`].
pub(crate) type StreamRouteManifest = RouteManifest<StreamRuleSpec>;

/// What a route's manifest says of itself.
pub(crate) trait Described: for<'de> Deserialize<'de> {
    /// `apiVersion` and `kind`.
    fn described(&self) -> (&str, &str);
}

impl<R: Default + for<'de> Deserialize<'de>> Described for RouteManifest<R> {
    fn described(&self) -> (&str, &str) {
        (&self.api_version, &self.kind)
    }
}

#[cfg(test)]
mod tests;
