//! Connections that a pod had before it was enrolled. They stay as they were, in clear, and are counted for the operator.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::netns::Netns;
use crate::proxy::{HBONE_PORT, INBOUND_PORT, OUTBOUND_PORT};

/// The two ends of a connection: the pod's, and the other one.
pub(super) type Ends = (SocketAddr, SocketAddr);

/// The state ESTABLISHED in `/proc/net/tcp`.
const ESTABLISHED: &str = "01";

/// The established connections of a namespace over the network, without the agent's own.
///
/// Asked for right after capture began, these are the older ones: what is captured goes to a loopback address.
pub(super) fn connections(netns: &Netns) -> io::Result<HashSet<Ends>> {
    // `/proc/net` would show the namespace of the process' first thread.
    let tables = netns.enter(|| {
        let four = std::fs::read_to_string("/proc/thread-self/net/tcp")?;
        // Absent where the kernel has no IPv6.
        let six = std::fs::read_to_string("/proc/thread-self/net/tcp6").unwrap_or_default();
        Ok([four, six])
    })?;
    Ok(tables.iter().flat_map(|table| table.lines().filter_map(established)).filter(is_over_the_network).collect())
}

fn is_over_the_network((local, remote): &Ends) -> bool {
    let is_agents = |port: u16| matches!(port, OUTBOUND_PORT | INBOUND_PORT | HBONE_PORT);
    !remote.ip().is_loopback()
        && !local.ip().is_loopback()
        && local.ip() != remote.ip()
        && !is_agents(local.port())
        && !is_agents(remote.port())
}

/// One line of `/proc/net/tcp` or `tcp6`, if it is an established connection.
fn established(line: &str) -> Option<Ends> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (local, remote, state) = (fields.next()?, fields.next()?, fields.next()?);
    (state == ESTABLISHED).then_some(())?;
    Some((end(local)?, end(remote)?))
}

/// `0100007F:1F90`: the address as words in the host's byte order, and the port, both in hexadecimal.
fn end(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| Some(u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    let address = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (index, chunk) in bytes.chunks_mut(4).enumerate() {
                chunk.copy_from_slice(&word(index * 8)?);
            }
            IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(address, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn established_connections_are_read_and_others_are_not() {
        let line = "   1: 0100090A:A2C4 0400090A:1F90 01 00000000:00000000 00:00000000 00000000     0        0 4242 1";
        let expected = ("10.9.0.1:41668".parse().expect("an address"), "10.9.0.4:8080".parse().expect("an address"));
        assert_eq!(established(line), Some(expected));
        assert_eq!(established(&line.replace(" 01 ", " 0A ")), None);
        assert_eq!(established("  sl  local_address rem_address   st tx_queue"), None);
        let six = "0: 000000000000000000000000FFFF0000:0050 0000000000000000FFFF00000400090A:1F90 01 0:0 0:0";
        assert!(established(six).is_some_and(|(_, remote)| remote == "10.9.0.4:8080".parse().expect("an address")));
    }
}
