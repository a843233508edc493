//! Ethernet, IPv4, IPv6 and TCP headers, as far as needed to find a segment's payload.

use std::net::{IpAddr, SocketAddr};

/// One TCP segment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Segment<'a> {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) sequence: u32,
    pub(crate) is_syn: bool,
    pub(crate) is_fin: bool,
    pub(crate) is_reset: bool,
    pub(crate) payload: &'a [u8],
}

impl<'a> Segment<'a> {
    /// The TCP segment in an Ethernet frame; nothing if there is something else in it.
    pub(crate) fn parse(frame: &'a [u8]) -> Option<Self> {
        let packet = frame.get(14..)?;
        let (source, destination, tcp) = match frame.get(12..14)? {
            [0x08, 0x00] => parse_v4(packet)?,
            [0x86, 0xdd] => parse_v6(packet)?,
            _ => return None,
        };
        let port = |at| Some(u16::from_be_bytes([*tcp.get(at)?, *tcp.get(at + 1)?]));
        let header = usize::from(tcp.get(12)? >> 4) * 4;
        let flags = *tcp.get(13)?;
        Some(Self {
            from: SocketAddr::new(source, port(0)?),
            to: SocketAddr::new(destination, port(2)?),
            sequence: u32::from_be_bytes(tcp.get(4..8)?.try_into().ok()?),
            is_fin: flags & 0x01 != 0,
            is_syn: flags & 0x02 != 0,
            is_reset: flags & 0x04 != 0,
            payload: tcp.get(header..)?,
        })
    }
}

const TCP: u8 = 6;

fn parse_v4(packet: &[u8]) -> Option<(IpAddr, IpAddr, &[u8])> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    // Short frames are padded, so the length counts; a packet that segmentation offload made larger than 64 KB says 0.
    let total = match usize::from(u16::from_be_bytes(packet.get(2..4)?.try_into().ok()?)) {
        0 => packet.len(),
        total => total,
    };
    let address = |at: usize| Some(IpAddr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
    (*packet.get(9)? == TCP).then_some(())?;
    Some((address(12)?, address(16)?, packet.get(header..total)?))
}

/// Hop-by-hop options are not looked through: the kernel puts none in front of TCP on these links, but for the jumbo
/// option of packets beyond 64 KB, which the default limit of the interfaces excludes.
fn parse_v6(packet: &[u8]) -> Option<(IpAddr, IpAddr, &[u8])> {
    let length = usize::from(u16::from_be_bytes(packet.get(4..6)?.try_into().ok()?));
    let address = |at: usize| Some(IpAddr::from(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?));
    (*packet.get(6)? == TCP).then_some(())?;
    Some((address(8)?, address(24)?, packet.get(40..40 + length)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_found_behind_its_headers_and_padding_is_not_payload() {
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x00]);
        frame.extend([0x45, 0, 0, 42, 0, 0, 0, 0, 64, TCP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend([0x30, 0x39, 0, 80, 0, 0, 0, 7, 0, 0, 0, 0, 0x50, 0x18, 0, 0, 0, 0, 0, 0]);
        frame.extend(b"hi");
        frame.extend([0; 4]);
        let segment = Segment::parse(&frame).unwrap();
        assert_eq!(segment.from, "10.0.0.1:12345".parse().unwrap());
        assert_eq!(segment.to, "10.0.0.2:80".parse().unwrap());
        assert_eq!((segment.sequence, segment.payload), (7, &b"hi"[..]));
        for length in 0..56 {
            assert_eq!(Segment::parse(&frame[..length]), None, "cut to {length} bytes");
        }
    }
}
