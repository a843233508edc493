//! EndpointSlices.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1 as discovery;
use weft_model::EndpointCondition;

use super::metadata::{address, excerpt, identify_by, port};
use super::{Interner, Kind};
use crate::problem::Notes;

/// The label that says whose endpoints these are.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Endpoints of one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EndpointSlice {
    pub name: Arc<str>,
    pub namespace: Arc<str>,
    /// Name of the service; `None` when the label is missing.
    pub service: Option<Arc<str>>,
    /// TCP ports.
    pub ports: Box<[EndpointPort]>,
    pub endpoints: Box<[Endpoint]>,
}

/// A port of all endpoints of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EndpointPort {
    /// Name of the service's port; empty when it has none.
    pub name: Arc<str>,
    pub port: u16,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub addresses: Box<[IpAddr]>,
    pub condition: EndpointCondition,
    /// Name of the pod behind it, in the slice's namespace, when the slice says so.
    pub pod: Option<Arc<str>>,
    pub node: Arc<str>,
    pub zone: Arc<str>,
}

impl EndpointSlice {
    pub fn read(manifest: &discovery::EndpointSlice, interner: &mut Interner, notes: &mut Notes) -> Option<Self> {
        let id = identify_by(Kind::EndpointSlice, &manifest.metadata, interner, notes)?;
        let service = manifest.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME));
        if service.is_none() {
            notes.warning(
                format!("metadata.labels[{SERVICE_NAME}]"),
                "is missing: these are the endpoints of no service",
                "write the service's name",
            );
        }
        let endpoints: &[discovery::Endpoint] = match manifest.address_type.as_str() {
            "IPv4" | "IPv6" => manifest.endpoints.as_deref().unwrap_or_default(),
            "FQDN" => {
                notes.info(
                    "addressType",
                    "endpoints that are names are left to DNS",
                    "use IPv4 or IPv6 to have them in the mesh",
                );
                &[]
            }
            other => {
                notes.error(
                    "addressType",
                    format!("'{}' is not a type of address", excerpt(other)),
                    "write IPv4 or IPv6",
                );
                &[]
            }
        };
        Some(Self {
            name: id.name,
            service: service.map(|service| interner.text(service)),
            ports: ports(manifest, interner, notes),
            endpoints: endpoints
                .iter()
                .enumerate()
                .map(|(i, found)| endpoint(i, found, &id.namespace, interner, notes))
                .collect(),
            namespace: id.namespace,
        })
    }
}

fn ports(manifest: &discovery::EndpointSlice, interner: &mut Interner, notes: &mut Notes) -> Box<[EndpointPort]> {
    let ports = manifest.ports.iter().flatten().enumerate();
    ports
        .filter(|(_, found)| found.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"))
        .filter_map(|(i, found)| {
            Some(EndpointPort {
                name: interner.text(found.name.as_deref().unwrap_or_default()),
                // A port without a number stands for all, which no service's port can lead to.
                port: port(found.port?, || format!("ports[{i}].port"), notes)?,
            })
        })
        .collect()
}

fn endpoint(
    index: usize,
    found: &discovery::Endpoint,
    namespace: &str,
    interner: &mut Interner,
    notes: &mut Notes,
) -> Endpoint {
    let addresses = found.addresses.iter().enumerate();
    // Absent is ready: see the API's documentation.
    let (ready, serving, terminating) = match &found.conditions {
        None => (true, true, false),
        Some(conditions) => {
            let ready = conditions.ready.unwrap_or(true);
            (ready, conditions.serving.unwrap_or(ready), conditions.terminating.unwrap_or(false))
        }
    };
    let pod = found.target_ref.as_ref().filter(|target| {
        target.kind.as_deref() == Some("Pod") && target.namespace.as_deref().is_none_or(|target| target == namespace)
    });
    Endpoint {
        addresses: addresses
            .filter_map(|(i, text)| address(text, || format!("endpoints[{index}].addresses[{i}]"), notes))
            .collect(),
        condition: match (ready, serving && terminating) {
            (true, _) => EndpointCondition::Ready,
            (false, true) => EndpointCondition::Terminating,
            (false, false) => EndpointCondition::NotReady,
        },
        pod: pod.and_then(|pod| pod.name.as_deref()).map(Arc::from),
        node: found.node_name.as_deref().map(|node| interner.text(node)).unwrap_or_default(),
        zone: found.zone.as_deref().map(|zone| interner.text(zone)).unwrap_or_default(),
    }
}
