//! The Kubernetes objects that Weft reads, reduced to what it needs of them.
//!
//! Every object is read once, checked, and kept as a lean record: no field that decides nothing is kept, strings that
//! repeat are shared, and all that pods of one template have in common is stored once.

mod authorization_policy;
mod duration;
mod endpoint_slice;
mod gateway;
mod intern;
mod labels;
mod metadata;
mod namespace;
mod node;
mod peer_authentication;
mod pod;
mod reference_grant;
mod route;
mod service;
mod waypoint;

use std::fmt;
use std::sync::Arc;

pub(crate) use authorization_policy::{AuthorizationPolicy, PolicyTarget, spec::PolicyManifest};
pub(crate) use endpoint_slice::{Endpoint, EndpointSlice};
pub(crate) use gateway::{
    AllowedNamespaces, CONTROLLER_NAME, Gateway, GatewayClass, GatewayClassManifest, GatewayManifest, HBONE,
    HBONE_PORT, Listener,
};
pub(crate) use intern::Interner;
pub(crate) use labels::{Labels, Selector};
pub(crate) use metadata::{excerpt, identify};
pub(crate) use namespace::{DATAPLANE_MODE, DataplaneMode, Namespace, ServiceAccount};
pub(crate) use node::{Node, is_known};
pub(crate) use peer_authentication::{MtlsMode, PeerAuthentication, PeerAuthenticationManifest};
pub(crate) use pod::view::{NETNS, PodView, REDIRECTION};
pub(crate) use pod::{Pod, PodPhase, PodTemplate, STATIC_POD, TemplateKey};
pub(crate) use reference_grant::{ReferenceGrant, ReferenceGrantManifest};
pub(crate) use route::{
    BackendRef, Described, Fault, FilterObject, GATEWAY_GROUP, GrpcRouteManifest, HttpRouteManifest, ParentRef,
    RouteObject, RuleObject, StreamRouteManifest,
};
pub(crate) use service::{Service, ServiceKind, TargetPort};
pub(crate) use waypoint::{GATEWAY_NAME, WAYPOINT_CLASS, WaypointChoice, WaypointFor};

/// The kinds of objects that Weft reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `v1` Namespace.
    Namespace,
    /// `v1` Node.
    Node,
    /// `v1` ServiceAccount.
    ServiceAccount,
    /// `v1` Pod.
    Pod,
    /// `v1` Service.
    Service,
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice,
    /// `security.istio.io/v1` AuthorizationPolicy (`v1beta1` is the same).
    AuthorizationPolicy,
    /// `security.istio.io/v1` PeerAuthentication (`v1beta1` is the same).
    PeerAuthentication,
    /// `gateway.networking.k8s.io/v1` GatewayClass.
    GatewayClass,
    /// `gateway.networking.k8s.io/v1` Gateway.
    Gateway,
    /// `gateway.networking.k8s.io/v1` HTTPRoute.
    HttpRoute,
    /// `gateway.networking.k8s.io/v1` GRPCRoute.
    GrpcRoute,
    /// `gateway.networking.k8s.io/v1` TLSRoute, and its versions from before.
    TlsRoute,
    /// `gateway.networking.k8s.io/v1` TCPRoute, and its version from before.
    TcpRoute,
    /// `gateway.networking.k8s.io/v1` ReferenceGrant (`v1beta1` is the same).
    ReferenceGrant,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Namespace,
        Self::Node,
        Self::ServiceAccount,
        Self::Pod,
        Self::Service,
        Self::EndpointSlice,
        Self::AuthorizationPolicy,
        Self::PeerAuthentication,
        Self::GatewayClass,
        Self::Gateway,
        Self::HttpRoute,
        Self::GrpcRoute,
        Self::TlsRoute,
        Self::TcpRoute,
        Self::ReferenceGrant,
    ];

    /// The name that manifests use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::ServiceAccount => "ServiceAccount",
            Self::Pod => "Pod",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::PeerAuthentication => "PeerAuthentication",
            Self::GatewayClass => "GatewayClass",
            Self::Gateway => "Gateway",
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
            Self::TlsRoute => "TLSRoute",
            Self::TcpRoute => "TCPRoute",
            Self::ReferenceGrant => "ReferenceGrant",
        }
    }

    /// What its resources are called in paths of the API.
    #[must_use]
    pub fn plural(self) -> &'static str {
        match self {
            Self::Namespace => "namespaces",
            Self::Node => "nodes",
            Self::ServiceAccount => "serviceaccounts",
            Self::Pod => "pods",
            Self::Service => "services",
            Self::EndpointSlice => "endpointslices",
            Self::AuthorizationPolicy => "authorizationpolicies",
            Self::PeerAuthentication => "peerauthentications",
            Self::GatewayClass => "gatewayclasses",
            Self::Gateway => "gateways",
            Self::HttpRoute => "httproutes",
            Self::GrpcRoute => "grpcroutes",
            Self::TlsRoute => "tlsroutes",
            Self::TcpRoute => "tcproutes",
            Self::ReferenceGrant => "referencegrants",
        }
    }

    /// The versions of its API that are read, the current one first.
    #[must_use]
    pub fn api_versions(self) -> &'static [&'static str] {
        match self {
            Self::Namespace | Self::Node | Self::ServiceAccount | Self::Pod | Self::Service => &["v1"],
            Self::EndpointSlice => &["discovery.k8s.io/v1"],
            Self::AuthorizationPolicy | Self::PeerAuthentication => {
                &["security.istio.io/v1", "security.istio.io/v1beta1"]
            }
            Self::GatewayClass | Self::Gateway | Self::HttpRoute | Self::ReferenceGrant => {
                &["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1beta1"]
            }
            Self::GrpcRoute => &["gateway.networking.k8s.io/v1"],
            Self::TlsRoute => &[
                "gateway.networking.k8s.io/v1",
                "gateway.networking.k8s.io/v1alpha3",
                "gateway.networking.k8s.io/v1alpha2",
            ],
            Self::TcpRoute => &["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1alpha2"],
        }
    }

    /// Whether objects of this kind live in a namespace.
    #[must_use]
    pub fn is_namespaced(self) -> bool {
        !matches!(self, Self::Namespace | Self::Node | Self::GatewayClass)
    }

    /// Whether a mistake in one part of such an object leaves the others in force, as the object itself says of each.
    pub(crate) fn is_judged_by_parts(self) -> bool {
        matches!(self, Self::HttpRoute | Self::GrpcRoute | Self::TlsRoute | Self::TcpRoute | Self::Gateway)
    }

    /// The kind of this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which object. Displayed as `Kind namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; empty for kinds that are not namespaced.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// One object, read and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Object {
    Namespace(Namespace),
    Node(Node),
    ServiceAccount(ServiceAccount),
    Pod(Pod),
    Service(Service),
    EndpointSlice(EndpointSlice),
    AuthorizationPolicy(AuthorizationPolicy),
    PeerAuthentication(PeerAuthentication),
    GatewayClass(GatewayClass),
    Gateway(Gateway),
    Route(Box<RouteObject>),
    ReferenceGrant(ReferenceGrant),
}

impl Object {
    pub fn id(&self) -> ObjectId {
        let none: Arc<str> = Arc::default();
        let (kind, namespace, name) = match self {
            Self::Namespace(object) => (Kind::Namespace, none, &object.name),
            Self::Node(object) => (Kind::Node, none, &object.name),
            Self::ServiceAccount(object) => (Kind::ServiceAccount, Arc::clone(&object.namespace), &object.name),
            Self::Pod(object) => (Kind::Pod, Arc::clone(&object.namespace), &object.name),
            Self::Service(object) => (Kind::Service, Arc::clone(&object.namespace), &object.name),
            Self::EndpointSlice(object) => (Kind::EndpointSlice, Arc::clone(&object.namespace), &object.name),
            Self::AuthorizationPolicy(object) => {
                (Kind::AuthorizationPolicy, Arc::clone(&object.namespace), &object.name)
            }
            Self::PeerAuthentication(object) => (Kind::PeerAuthentication, Arc::clone(&object.namespace), &object.name),
            Self::GatewayClass(object) => (Kind::GatewayClass, none, &object.name),
            Self::Gateway(object) => (Kind::Gateway, Arc::clone(&object.namespace), &object.name),
            Self::Route(object) => return object.id(),
            Self::ReferenceGrant(object) => (Kind::ReferenceGrant, Arc::clone(&object.namespace), &object.name),
        };
        ObjectId { kind, namespace, name: Arc::clone(name) }
    }
}
