//! References to waypoints.
//!
//! One that cannot be followed is an error and not ignored: without it connections would go past what judges them.

use std::sync::Arc;

use weft_model::{Waypoint, WaypointTarget};
use weft_proto::extension;
use weft_proto::workload as proto;
use weft_proto::workload::gateway_address::Destination;

use super::{ConversionError, Reading, octets, shared};

/// Where a waypoint takes tunnels when its reference does not say.
const HBONE_PORT: u16 = 15008;

pub(super) fn encode(waypoint: &Waypoint, network: &str) -> proto::GatewayAddress {
    let destination = match &waypoint.target {
        WaypointTarget::Service(key) => {
            let (namespace, hostname) = key.split_once('/').unwrap_or(("", key));
            let (namespace, hostname) = (namespace.to_owned(), hostname.to_owned());
            Destination::Hostname(proto::NamespacedHostname { namespace, hostname })
        }
        WaypointTarget::Address(address) => {
            Destination::Address(proto::NetworkAddress { network: network.to_owned(), address: octets(*address) })
        }
    };
    proto::GatewayAddress { destination: Some(destination), hbone_mtls_port: waypoint.port.into() }
}

pub(super) fn decode(
    message: Option<&proto::GatewayAddress>,
    is_optional: bool,
    network: &str,
    reading: Reading<'_>,
) -> Result<Option<Arc<Waypoint>>, ConversionError> {
    let Some(message) = message else {
        return Ok(None);
    };
    let target = match &message.destination {
        Some(Destination::Hostname(name)) if !name.hostname.is_empty() => {
            WaypointTarget::Service(shared(&format!("{}/{}", name.namespace, name.hostname)))
        }
        Some(Destination::Address(address)) if address.network == network => {
            WaypointTarget::Address(reading.address("waypoint.address", &address.address)?.to_canonical())
        }
        Some(Destination::Address(address)) => {
            let reason = format_args!("is on the network '{}', which cannot be reached from here", address.network);
            return Err(reading.fail("waypoint.address", reason));
        }
        Some(Destination::Hostname(_)) | None => return Err(reading.fail("waypoint", "names nobody")),
    };
    let port = match message.hbone_mtls_port {
        0 => HBONE_PORT,
        port => reading.port("waypoint.hbone_mtls_port", port)?,
    };
    Ok(Some(Arc::new(Waypoint { target, port, is_optional })))
}

pub(super) fn encode_own(waypoint: &Waypoint) -> extension::Waypoint {
    let (service, address) = match &waypoint.target {
        WaypointTarget::Service(key) => (key.to_string(), Vec::new()),
        WaypointTarget::Address(address) => (String::new(), octets(*address)),
    };
    extension::Waypoint { service, address, port: waypoint.port.into(), is_optional: waypoint.is_optional }
}

pub(super) fn decode_own(
    message: &extension::Waypoint,
    service: &str,
    reading: Reading<'_>,
) -> Result<Arc<Waypoint>, ConversionError> {
    let at = |field: &str| format!("extensions[weft.dev/Workload].waypoints[{service}].{field}");
    let target = match message.service.is_empty() {
        false => WaypointTarget::Service(shared(&message.service)),
        true => WaypointTarget::Address(reading.address(at("address"), &message.address)?.to_canonical()),
    };
    let port = reading.port(at("port"), message.port)?;
    Ok(Arc::new(Waypoint { target, port, is_optional: message.is_optional }))
}
