//! The Kubernetes objects that Weft reads, reduced to what it needs of them.
//!
//! Every object is read once, checked, and kept as a lean record: no field that decides nothing is kept, strings that
//! repeat are shared, and all that pods of one template have in common is stored once.

mod authorization_policy;
mod endpoint_slice;
mod intern;
mod labels;
mod metadata;
mod namespace;
mod node;
mod peer_authentication;
mod pod;
mod service;

use std::fmt;
use std::sync::Arc;

pub(crate) use authorization_policy::{AuthorizationPolicy, PolicyTarget, spec::PolicyManifest};
pub(crate) use endpoint_slice::{Endpoint, EndpointSlice};
pub(crate) use intern::Interner;
pub(crate) use labels::{Labels, Selector};
pub(crate) use metadata::{excerpt, identify};
pub(crate) use namespace::{DATAPLANE_MODE, DataplaneMode, Namespace, ServiceAccount};
pub(crate) use node::{Node, is_known};
pub(crate) use peer_authentication::{MtlsMode, PeerAuthentication, PeerAuthenticationManifest};
pub(crate) use pod::view::{NETNS, PodView, REDIRECTION};
pub(crate) use pod::{Pod, PodPhase, PodTemplate, STATIC_POD, TemplateKey};
pub(crate) use service::{Service, ServiceKind, TargetPort};

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
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Namespace,
        Self::Node,
        Self::ServiceAccount,
        Self::Pod,
        Self::Service,
        Self::EndpointSlice,
        Self::AuthorizationPolicy,
        Self::PeerAuthentication,
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
        }
    }

    /// Whether objects of this kind live in a namespace.
    #[must_use]
    pub fn is_namespaced(self) -> bool {
        !matches!(self, Self::Namespace | Self::Node)
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
        };
        ObjectId { kind, namespace, name: Arc::clone(name) }
    }
}
