//! Istio's descriptions of workloads, services and policies, and ours of routes, from and into the model.
//!
//! Both directions are pure. What the model has and Istio's types lack travels in extensions that only Weft reads
//! ([`weft_proto::extension`]); a foreign agent skips them and loses what it could not have used anyway. What arrives is
//! hostile until it is converted: every error names the resource and the field.
//!
//! Where Istio's types say what the model cannot express, the conversion goes on and lists the fields in
//! [`Decoded::ignored`], except where that would let more traffic in: see [`policy`].

mod policy;
mod route;
mod service;
mod waypoint;
mod workload;

use std::fmt::Display;
use std::net::IpAddr;
use std::sync::Arc;

use prost::Message;
pub(crate) use route::{ROUTE, decode_route, encode_route};
use thiserror::Error;
use weft_model::{Change, Policy, Service, Workload, intern};
use weft_proto::workload::address::Type;
use weft_proto::workload::{Address, Extension};

/// The type of workloads and services.
pub(crate) const ADDRESS: &str = "type.googleapis.com/istio.workload.Address";

/// The type of policies.
pub(crate) const AUTHORIZATION: &str = "type.googleapis.com/istio.security.Authorization";

/// Trust domain of a workload that names none.
const DEFAULT_TRUST_DOMAIN: &str = "cluster.local";

/// Service account of a workload that names none.
const DEFAULT_ACCOUNT: &str = "default";

/// Why a resource cannot be converted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{resource}: {field}: {reason}")]
pub struct ConversionError {
    /// Name of the resource.
    pub resource: String,
    /// Path of the field, as in `services[shop/cart.shop.svc.cluster.local].ports[0].target_port`.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

/// One resource as the model has it.
#[derive(Clone, Debug)]
pub(crate) struct Decoded {
    pub change: Change,
    /// Fields that ask for something that is not done.
    pub ignored: Vec<&'static str>,
}

/// The resource that is being read.
#[derive(Clone, Copy, Debug)]
struct Reading<'r> {
    resource: &'r str,
}

impl Reading<'_> {
    fn fail(&self, field: impl Display, reason: impl Display) -> ConversionError {
        let resource = self.resource.to_owned();
        ConversionError { resource, field: field.to_string(), reason: reason.to_string() }
    }

    fn address(&self, field: impl Display, bytes: &[u8]) -> Result<IpAddr, ConversionError> {
        address(bytes)
            .ok_or_else(|| self.fail(field, format_args!("an address has 4 or 16 bytes, and this one {}", bytes.len())))
    }

    fn port(&self, field: impl Display, number: u32) -> Result<u16, ConversionError> {
        u16::try_from(number)
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(|| self.fail(field, format_args!("{number} is no port")))
    }

    /// The value of an enumeration.
    fn value<T: TryFrom<i32>>(&self, field: impl Display, number: i32) -> Result<T, ConversionError> {
        T::try_from(number).map_err(|_| self.fail(field, format_args!("the value {number} is not known")))
    }

    /// Our extension of a resource, if there is one.
    fn extension<M: Message + Default>(&self, extensions: &[Extension], name: &str) -> Result<M, ConversionError> {
        let Some(found) = extensions.iter().find(|extension| extension.name == name) else {
            return Ok(M::default());
        };
        let bytes = found.config.as_ref().map_or(&[][..], |config| &config.value);
        M::decode(bytes).map_err(|error| self.fail(format_args!("extensions[{name}]"), error))
    }
}

/// An extension of ours, unless it says nothing.
fn extension<M: Message + Default + PartialEq>(message: &M, name: &str) -> Vec<Extension> {
    if *message == M::default() {
        return Vec::new();
    }
    let config = prost_types::Any {
        type_url: format!("type.googleapis.com/weft.discovery.v1.{}", name.trim_start_matches("weft.dev/")),
        value: message.encode_to_vec(),
    };
    vec![Extension { name: name.to_owned(), config: Some(config) }]
}

/// A workload as a resource's content.
pub(crate) fn encode_workload(workload: &Workload) -> Vec<u8> {
    Address { r#type: Some(Type::Workload(Box::new(workload::encode(workload)))) }.encode_to_vec()
}

/// A service as a resource's content. `network` is the one that its addresses belong to.
pub(crate) fn encode_service(service: &Service, network: &str) -> Vec<u8> {
    Address { r#type: Some(Type::Service(Box::new(service::encode(service, network)))) }.encode_to_vec()
}

/// A policy as a resource's content.
pub(crate) fn encode_policy(policy: &Policy) -> Vec<u8> {
    policy::encode(policy).encode_to_vec()
}

/// What a resource of the type `type_url` says. Of a service only the addresses in `network` are taken.
///
/// # Errors
/// When it cannot be read, or is not what its name says: a removal, which has only a name, would miss it.
pub(crate) fn decode(type_url: &str, name: &str, bytes: &[u8], network: &str) -> Result<Decoded, ConversionError> {
    let reading = Reading { resource: name };
    let unreadable = |error: prost::DecodeError| reading.fail("resource", error);
    let (key, field, decoded) = match type_url {
        ADDRESS => match Address::decode(bytes).map_err(unreadable)?.r#type {
            Some(Type::Workload(message)) => {
                let (workload, ignored) = workload::decode(*message, reading)?;
                (Arc::clone(&workload.uid), "uid", Decoded { change: Change::PutWorkload(workload), ignored })
            }
            Some(Type::Service(message)) => {
                let (service, ignored) = service::decode(&message, network, reading)?;
                (Arc::clone(&service.key), "hostname", Decoded { change: Change::PutService(service), ignored })
            }
            None => return Err(reading.fail("type", "neither a workload nor a service")),
        },
        AUTHORIZATION => {
            let message = weft_proto::security::Authorization::decode(bytes).map_err(unreadable)?;
            let (policy, ignored) = policy::decode(&message, reading)?;
            (Arc::clone(&policy.key), "name", Decoded { change: Change::PutPolicy(policy), ignored })
        }
        other => return Err(reading.fail("resource", format_args!("the type {other} was not asked for"))),
    };
    if *key != *name {
        return Err(reading.fail(field, format_args!("makes it {key}, which is not its name")));
    }
    Ok(decoded)
}

/// The name by which whatever has an address is asked for.
pub(crate) fn address_name(network: &str, address: IpAddr) -> String {
    format!("{network}/{}", address.to_canonical())
}

pub(crate) fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// A string that repeats among resources.
fn shared(text: &str) -> Arc<str> {
    if text.is_empty() { Arc::default() } else { intern(text) }
}

#[cfg(test)]
pub(crate) mod arbitrary;
#[cfg(test)]
mod tests;
