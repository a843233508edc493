//! What an agent last knew of the mesh, as bytes for a file: what it serves by when it starts and no control plane answers.
//!
//! Resources are in the form in which control planes send them, so that reading them is as careful as it is there. There is
//! no private key in it. The bytes begin with a mark, the version of the form, the length and the SHA-256 of what follows.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use prost::Message;
use thiserror::Error;
use weft_model::Snapshot;
use weft_proto::discovery::Resource;

use crate::istio::{self, ADDRESS, AUTHORIZATION, address_name};

/// What the bytes begin with.
const MARK: &[u8; 16] = b"weft last state\n";
/// The version of the form.
const VERSION: u32 = 1;
/// Mark, version, length, SHA-256.
const HEAD: usize = MARK.len() + 4 + 8 + 32;
/// More than that is none of ours: a mesh of 100,000 workloads takes some 40 MB.
pub const LONGEST: usize = 256 << 20;

/// What was known, and when.
#[derive(Debug, Clone)]
pub struct LastState {
    /// When it was written down.
    pub written: SystemTime,
    /// On demand: the addresses that were answered, so that what has none of the resources is outside the mesh.
    pub answered: Vec<IpAddr>,
    pub(crate) addresses: Vec<Resource>,
    pub(crate) policies: Vec<Resource>,
}

/// Why bytes are not a last state, or not one of this agent.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LastStateError {
    /// They are something else.
    #[error("it is not a last state")]
    Foreign,
    /// An agent of another version wrote them.
    #[error("it is of version {0}, and this agent reads version {VERSION}")]
    Version(u32),
    /// They are not whole, or were changed.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// They are of another control plane or network.
    #[error("it is what {0} said")]
    OfAnother(String),
}

#[derive(Clone, PartialEq, Message)]
struct Body {
    #[prost(string, tag = "1")]
    source: String,
    #[prost(uint64, tag = "2")]
    written_seconds: u64,
    #[prost(message, repeated, tag = "3")]
    addresses: Vec<Stored>,
    #[prost(message, repeated, tag = "4")]
    policies: Vec<Stored>,
    #[prost(bytes = "vec", repeated, tag = "5")]
    answered: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct Stored {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, repeated, tag = "2")]
    aliases: Vec<String>,
    #[prost(bytes = "vec", tag = "3")]
    content: Vec<u8>,
}

/// Writes down what a snapshot has. `source` says whose word it is, and `network` to which one unqualified addresses belong.
#[must_use]
pub fn encode(snapshot: &Snapshot, answered: &[IpAddr], source: &str, network: &str, written: SystemTime) -> Vec<u8> {
    let named = |addresses: &mut dyn Iterator<Item = IpAddr>| {
        addresses.map(|address| address_name(network, address)).collect::<Vec<_>>()
    };
    let workloads = snapshot.workloads().map(|workload| Stored {
        name: workload.uid.to_string(),
        aliases: named(&mut workload.addresses.iter().copied()),
        content: istio::encode_workload(workload),
    });
    let services = snapshot.services().map(|service| Stored {
        name: service.key.to_string(),
        aliases: named(&mut service.addresses.iter().copied()),
        content: istio::encode_service(service, network),
    });
    let policies = snapshot.policies().map(|policy| Stored {
        name: policy.key.to_string(),
        aliases: Vec::new(),
        content: istio::encode_policy(policy),
    });
    let body = Body {
        source: source.to_owned(),
        written_seconds: written.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs(),
        addresses: workloads.chain(services).collect(),
        policies: policies.collect(),
        answered: answered.iter().map(|address| istio::octets(*address)).collect(),
    }
    .encode_to_vec();
    let mut bytes = Vec::with_capacity(HEAD + body.len());
    bytes.extend_from_slice(MARK);
    bytes.extend_from_slice(&VERSION.to_be_bytes());
    bytes.extend_from_slice(&(body.len() as u64).to_be_bytes());
    bytes.extend_from_slice(digest(&SHA256, &body).as_ref());
    bytes.extend_from_slice(&body);
    bytes
}

/// Reads what [`encode`] has written of the same `source`. What single resources say is judged when they are taken in.
///
/// # Errors
/// When the bytes are something else, or not whole.
pub fn decode(bytes: &[u8], source: &str) -> Result<LastState, LastStateError> {
    let damaged = |what: &str| LastStateError::Damaged(what.to_owned());
    let (mark, rest) = bytes.split_at_checked(MARK.len()).ok_or(LastStateError::Foreign)?;
    if mark != MARK {
        return Err(LastStateError::Foreign);
    }
    let (version, rest) = rest.split_first_chunk::<4>().ok_or_else(|| damaged("it ends in the head"))?;
    match u32::from_be_bytes(*version) {
        VERSION => {}
        other => return Err(LastStateError::Version(other)),
    }
    let (length, rest) = rest.split_first_chunk::<8>().ok_or_else(|| damaged("it ends in the head"))?;
    let (hash, body) = rest.split_first_chunk::<32>().ok_or_else(|| damaged("it ends in the head"))?;
    if u64::from_be_bytes(*length) != body.len() as u64 || body.len() > LONGEST {
        return Err(damaged("its length is another one than it says"));
    }
    if digest(&SHA256, body).as_ref() != hash {
        return Err(damaged("its hash is another one than it says"));
    }
    let body = Body::decode(body).map_err(|error| LastStateError::Damaged(error.to_string()))?;
    if body.source != source {
        return Err(LastStateError::OfAnother(body.source));
    }
    let resources = |stored: Vec<Stored>, type_url: &str| -> Vec<Resource> {
        let resource = |Stored { name, aliases, content }| Resource {
            name,
            aliases,
            resource: Some(prost_types::Any { type_url: type_url.to_owned(), value: content }),
            ..Default::default()
        };
        stored.into_iter().map(resource).collect()
    };
    Ok(LastState {
        written: SystemTime::UNIX_EPOCH
            .checked_add(Duration::from_secs(body.written_seconds))
            .ok_or_else(|| damaged("its time is none"))?,
        answered: body.answered.iter().filter_map(|octets| istio::address(octets)).collect(),
        addresses: resources(body.addresses, ADDRESS),
        policies: resources(body.policies, AUTHORIZATION),
    })
}

#[cfg(test)]
mod tests;
