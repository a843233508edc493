//! Selection among so few endpoints that looking at each is the fastest way.

use super::selection::{Call, Nearness, Rules, Usable};
use super::{Endpoint, UNKNOWN_PLACE};

/// How many are few: one bit each.
pub(super) const MOST: usize = u32::BITS as usize;

/// The bits of the endpoints that may be had, 0 if none. `is_uniform` says that all endpoints have the port that is
/// dialled.
pub(super) fn select(endpoints: &[Endpoint], rules: Rules, call: Call, is_uniform: bool) -> u32 {
    let (mut ready, mut terminating) = (0, 0);
    let (mut same_node, mut same_zone, mut no_node, mut no_zone) = (0, 0, 0, 0);
    for (index, endpoint) in endpoints.iter().enumerate() {
        if !endpoint.has_family(call.ipv6) || !is_uniform && endpoint.target_port(call.port).is_none() {
            continue;
        }
        let bit = 1 << index;
        match rules.usable(endpoint) {
            Some(Usable::Ready) => ready |= bit,
            Some(Usable::Terminating) => terminating |= bit,
            None => continue,
        }
        match endpoint.node {
            UNKNOWN_PLACE => no_node |= bit,
            node if node == call.node => same_node |= bit,
            _ => {}
        }
        match endpoint.zone {
            UNKNOWN_PLACE => no_zone |= bit,
            zone if zone == call.zone => same_zone |= bit,
            _ => {}
        }
    }
    let first = |steps: [u32; 3]| steps.into_iter().find(|step| *step != 0).unwrap_or(0);
    // A preference is dropped as a whole when it cannot be judged for some ready endpoint: what is left would get all
    // the traffic.
    let preferred = |same, unknown| {
        if ready & unknown == 0 { ready & same } else { 0 }
    };
    match rules.nearness {
        Nearness::Local => first([ready & same_node, terminating & same_node, 0]),
        _ if ready == 0 => terminating,
        Nearness::Indifferent => ready,
        Nearness::Zone => first([preferred(same_zone, no_zone), ready, 0]),
        Nearness::Node => first([preferred(same_node, no_node), preferred(same_zone, no_zone), ready]),
    }
}
