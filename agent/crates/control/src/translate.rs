//! From Kubernetes objects to the model.
//!
//! Sources put and remove objects; [`Translator::flush`] says what that changes in the model. Selectors are evaluated
//! once per template of pods, and every pod knows its template: a pod that changes costs no more than its own services
//! and policies, a service or policy no more than the templates of its namespace and the pods that it concerns.

pub(crate) mod endpoints;
pub(crate) mod enrolment;
pub(crate) mod gateways;
mod membership;
pub(crate) mod mtls;
pub(crate) mod namespaces;
mod policies;
pub(crate) mod pods;
pub(crate) mod routes;
pub(crate) mod services;
mod slab;
mod workloads;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use endpoints::Slices;
pub use enrolment::LocalPod;
use gateways::Gateways;
use hashbrown::{HashMap, HashSet};
pub use membership::{Membership, MembershipError};
use namespaces::{NamespaceId, Namespaces};
use pods::{PodId, Pods};
pub use routes::StatusChange;
use routes::{Routes, Verdict};
use services::ServiceId;
use slab::Slab;
use weft_model::Change;

use crate::object::{Interner, Kind, Node, Object, ObjectId};
use crate::translate::namespaces::TemplateId;

/// What translation needs to know of the mesh and of this agent's place in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TranslationOptions {
    /// Name of this node; its pods are the local ones. Empty: no pod is local.
    pub node: String,
    /// Name of this cluster, as telemetry shows it.
    pub cluster: String,
    /// Network of this cluster, for pods without the label `topology.istio.io/network`.
    pub network: String,
    /// Trust domain of the identities.
    pub trust_domain: String,
    /// What the names of services end in.
    pub cluster_domain: String,
    /// Namespace whose policies are mesh-wide.
    pub root_namespace: String,
    /// Namespaces whose pods are never enrolled.
    pub excluded_namespaces: Vec<String>,
    /// The objects are those of a cluster. A pod that is to be enrolled is announced as reached by tunnels only once its agent
    /// has said that it captures it, by the annotation `ambient.istio.io/redirection: enabled`; else its label alone
    /// decides. One that is scheduled is a workload before it has addresses, so that its node may have its certificate,
    /// and no manifest says where its network namespace is.
    pub on_kubernetes: bool,
}

impl Default for TranslationOptions {
    /// No node, and otherwise the values that Istio and Kubernetes have by default; `kube-system` is excluded.
    fn default() -> Self {
        Self {
            node: String::new(),
            cluster: "Kubernetes".to_owned(),
            network: String::new(),
            trust_domain: "cluster.local".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            root_namespace: "istio-system".to_owned(),
            excluded_namespaces: vec!["kube-system".to_owned()],
            on_kubernetes: false,
        }
    }
}

impl TranslationOptions {
    /// The same for objects of a cluster, in which Weft itself is in the namespace `own`.
    #[must_use]
    pub fn of_a_cluster(own: &str) -> Self {
        let mut options = Self { on_kubernetes: true, ..Self::default() };
        options.excluded_namespaces.push(own.to_owned());
        options
    }
}

/// How many objects of each kind are in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ObjectCounts {
    /// Namespaces.
    pub namespaces: usize,
    /// Nodes.
    pub nodes: usize,
    /// ServiceAccounts.
    pub service_accounts: usize,
    /// Pods.
    pub pods: usize,
    /// Services.
    pub services: usize,
    /// EndpointSlices.
    pub endpoint_slices: usize,
    /// AuthorizationPolicies.
    pub authorization_policies: usize,
    /// PeerAuthentications.
    pub peer_authentications: usize,
    /// GatewayClasses.
    pub gateway_classes: usize,
    /// Gateways.
    pub gateways: usize,
    /// HTTPRoutes.
    pub http_routes: usize,
    /// GRPCRoutes.
    pub grpc_routes: usize,
    /// TLSRoutes.
    pub tls_routes: usize,
    /// TCPRoutes.
    pub tcp_routes: usize,
    /// ReferenceGrants.
    pub reference_grants: usize,
}

impl ObjectCounts {
    /// How many there are of each kind, in the order of [`Kind::ALL`].
    #[must_use]
    pub fn by_kind(&self) -> [(Kind, usize); Kind::ALL.len()] {
        let Self {
            namespaces,
            nodes,
            service_accounts,
            pods,
            services,
            endpoint_slices,
            authorization_policies,
            peer_authentications,
            gateway_classes,
            gateways,
            http_routes,
            grpc_routes,
            tls_routes,
            tcp_routes,
            reference_grants,
        } = *self;
        [
            (Kind::Namespace, namespaces),
            (Kind::Node, nodes),
            (Kind::ServiceAccount, service_accounts),
            (Kind::Pod, pods),
            (Kind::Service, services),
            (Kind::EndpointSlice, endpoint_slices),
            (Kind::AuthorizationPolicy, authorization_policies),
            (Kind::PeerAuthentication, peer_authentications),
            (Kind::GatewayClass, gateway_classes),
            (Kind::Gateway, gateways),
            (Kind::HttpRoute, http_routes),
            (Kind::GrpcRoute, grpc_routes),
            (Kind::TlsRoute, tls_routes),
            (Kind::TcpRoute, tcp_routes),
            (Kind::ReferenceGrant, reference_grants),
        ]
    }

    /// How many objects there are.
    #[must_use]
    pub fn total(&self) -> usize {
        self.by_kind().into_iter().map(|(_, count)| count).sum()
    }
}

/// Translates objects into changes of the model.
#[derive(Debug)]
pub(crate) struct Translator {
    options: TranslationOptions,
    interner: Interner,
    cluster: Arc<str>,
    network: Arc<str>,
    /// The revision of a workload that names none.
    latest: Arc<str>,
    /// The type of a workload that is no pod.
    endpoint: Arc<str>,
    pub(crate) namespaces: Namespaces,
    nodes: HashMap<Arc<str>, Node>,
    pub(crate) pods: Pods,
    pub(crate) services: Slab<services::ServiceState>,
    pub(crate) slices: Slices,
    pub(crate) gateways: Gateways,
    pub(crate) routes: Routes,
    /// What was last said of Gateways and their classes.
    gateway_verdicts: BTreeMap<ObjectId, Arc<Verdict>>,
    /// It may be another by now.
    gateways_are_stale: bool,
    pending: Pending,
    /// Addresses, by namespace, that are endpoints and belong to no pod: workloads of their own.
    bare: HashSet<(NamespaceId, IpAddr)>,
    /// Keys of the converted policies that the model has.
    converted: HashSet<Arc<str>>,
    counts: ObjectCounts,
}

/// What the next flush has to look at.
#[derive(Debug, Default)]
struct Pending {
    /// Removals, which come first: what is put in the same batch may take over addresses.
    removals: Vec<Change>,
    /// Policies, ready made.
    policies: Vec<Change>,
    services: Vec<ServiceId>,
    pods: Vec<PodId>,
    templates: Vec<TemplateId>,
    bare: Vec<(NamespaceId, IpAddr)>,
    namespaces: Vec<NamespaceId>,
    /// Nodes that are others, whatever runs there.
    nodes: HashSet<Arc<str>>,
    /// Some PeerAuthentication is another.
    mtls: bool,
}

impl Translator {
    pub fn new(options: TranslationOptions) -> Self {
        let mut interner = Interner::default();
        Self {
            cluster: interner.text(&options.cluster),
            network: interner.text(&options.network),
            latest: interner.text("latest"),
            endpoint: interner.text("endpoint"),
            options,
            interner,
            namespaces: Namespaces::default(),
            nodes: HashMap::new(),
            pods: Pods::default(),
            services: Slab::default(),
            slices: Slices::default(),
            gateways: Gateways::default(),
            routes: Routes::default(),
            gateway_verdicts: BTreeMap::new(),
            gateways_are_stale: false,
            pending: Pending::default(),
            bare: HashSet::new(),
            converted: HashSet::new(),
            counts: ObjectCounts::default(),
        }
    }

    /// Adds an object, or replaces the one of the same name.
    pub fn put(&mut self, object: Object) {
        match object {
            Object::Namespace(namespace) => self.put_namespace(namespace),
            Object::Node(node) => self.put_node(node),
            Object::ServiceAccount(account) => {
                let namespace = self.namespace(&account.namespace);
                self.counts.service_accounts += usize::from(self.namespaces[namespace].accounts.insert(account.name));
            }
            Object::Pod(pod) => self.put_pod(pod),
            Object::Service(service) => self.put_service(service),
            Object::EndpointSlice(slice) => self.put_slice(slice),
            Object::AuthorizationPolicy(policy) => self.put_policy(policy),
            Object::PeerAuthentication(policy) => self.put_peer_authentication(policy),
            Object::GatewayClass(class) => self.put_gateway_class(class),
            Object::Gateway(gateway) => self.put_gateway(gateway),
            Object::Route(route) => self.put_route(*route),
            Object::ReferenceGrant(grant) => self.put_grant(grant),
        }
    }

    /// Removes an object, if it is there.
    pub fn remove(&mut self, id: &ObjectId) {
        match id.kind {
            Kind::Node => return self.remove_node(&id.name),
            Kind::GatewayClass => return self.remove_gateway_class(&id.name),
            Kind::Gateway => return self.remove_gateway(&id.namespace, &id.name),
            Kind::ReferenceGrant => return self.remove_grant(&id.namespace, &id.name),
            Kind::HttpRoute | Kind::GrpcRoute | Kind::TlsRoute | Kind::TcpRoute => return self.remove_route(id),
            _ => {}
        }
        let name = if id.kind == Kind::Namespace { &id.name } else { &id.namespace };
        let Some(namespace) = self.namespaces.find(name) else {
            return;
        };
        match id.kind {
            Kind::Namespace => self.remove_namespace(namespace),
            Kind::ServiceAccount => {
                self.counts.service_accounts -= usize::from(self.namespaces[namespace].accounts.remove(&id.name));
            }
            Kind::Pod => self.remove_pod(namespace, &id.name),
            Kind::Service => self.remove_service(namespace, &id.name),
            Kind::EndpointSlice => self.remove_slice(namespace, &id.name),
            Kind::AuthorizationPolicy => self.remove_policy(namespace, &id.name),
            Kind::PeerAuthentication => self.remove_peer_authentication(namespace, &id.name),
            // Not of a namespace's state.
            Kind::Node
            | Kind::GatewayClass
            | Kind::Gateway
            | Kind::HttpRoute
            | Kind::GrpcRoute
            | Kind::TlsRoute
            | Kind::TcpRoute
            | Kind::ReferenceGrant => {}
        }
        self.pending.namespaces.push(namespace);
    }

    /// What changed since the last time.
    pub fn flush(&mut self) -> Vec<Change> {
        self.touch_nodes();
        self.convert_peer_authentications();
        self.select_policies();
        let mut changes = std::mem::take(&mut self.pending.removals);
        changes.append(&mut self.pending.policies);
        self.publish_services(&mut changes);
        self.publish_pods(&mut changes);
        self.publish_bare(&mut changes);
        for namespace in std::mem::take(&mut self.pending.namespaces) {
            self.namespaces.forget_if_empty(namespace);
        }
        changes
    }

    /// Gives back memory that only a large batch needed.
    pub fn trim(&mut self) {
        self.interner.forget_unused();
        self.pods.shrink();
        self.pending = Pending::default();
    }

    pub fn options(&self) -> &TranslationOptions {
        &self.options
    }

    pub fn counts(&self) -> ObjectCounts {
        self.counts
    }

    /// The namespace of this name, whether or not there is an object of it.
    fn namespace(&mut self, name: &str) -> NamespaceId {
        let name = self.interner.text(name);
        self.namespaces.enter(&name)
    }

    fn put_node(&mut self, node: Node) {
        let name = Arc::clone(&node.name);
        match self.nodes.insert(name, node.clone()) {
            Some(old) if old == node => return,
            Some(_) => {}
            None => self.counts.nodes += 1,
        }
        self.pending.nodes.insert(node.name);
    }

    fn remove_node(&mut self, name: &str) {
        if let Some((name, _)) = self.nodes.remove_entry(name) {
            self.counts.nodes -= 1;
            self.pending.nodes.insert(name);
        }
    }

    /// What runs on nodes that changed is looked at again. That is so seldom that no index pays, but a start lists all of
    /// them: all pods are asked once, not once for each node.
    fn touch_nodes(&mut self) {
        let nodes = std::mem::take(&mut self.pending.nodes);
        if nodes.is_empty() {
            return;
        }
        let there = self.pods.iter().filter(|(_, state)| nodes.contains(&state.pod.node)).map(|(id, _)| id);
        let pods: Vec<PodId> = there.collect();
        pods.into_iter().for_each(|id| self.touch_pod(id));
        self.pending.bare.extend(self.slices.addresses_on(&nodes));
    }
}

#[cfg(test)]
mod tests;
