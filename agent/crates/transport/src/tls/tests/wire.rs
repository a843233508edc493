//! What a handshake shows to whoever watches the wire.

use crate::testing::{TestRoot, identity};

/// Extensions of a ClientHello by type (RFC 8446, 4.1.2).
fn extensions(record: &[u8]) -> Vec<(u16, &[u8])> {
    let mut at = 5 + 4 + 2 + 32;
    at += 1 + usize::from(record[at]);
    let u16_at = |at: usize| usize::from(u16::from_be_bytes([record[at], record[at + 1]]));
    at += 2 + u16_at(at);
    at += 1 + usize::from(record[at]);
    let end = at + 2 + u16_at(at);
    at += 2;
    let mut extensions = Vec::new();
    while at < end {
        let length = u16_at(at + 2);
        extensions.push((u16_at(at) as u16, &record[at + 4..at + 4 + length]));
        at += 4 + length;
    }
    extensions
}

#[test]
fn a_client_offers_exactly_what_the_mesh_speaks() {
    let root = TestRoot::new("root");
    let mut hello = Vec::new();
    root.tls("web").connect(vec![identity("db")]).unwrap().advance(&mut Vec::new(), &mut hello).unwrap();
    let extensions = extensions(&hello);
    let find = |kind: u16| extensions.iter().find(|(k, _)| *k == kind).map(|(_, body)| *body);
    assert_eq!(find(0), None, "no server name");
    assert_eq!(find(16), Some(&b"\0\x03\x02h2"[..]), "ALPN is exactly h2");
    assert_eq!(find(43), Some(&[2, 3, 4][..]), "TLS 1.3 and nothing else");
    // X25519MLKEM768, X25519, secp256r1.
    assert_eq!(find(10), Some(&[0, 6, 0x11, 0xec, 0, 0x1d, 0, 0x17][..]));
    assert_eq!(find(41), None, "no pre-shared key");
    assert_eq!(find(35), None, "no ticket");
    assert_eq!(find(42), None, "no early data");
}
