//! Sessions with peers that are plain rustls, record layer included.

use std::io::{Read, Write};
use std::sync::Arc;

use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection, SupportedProtocolVersion};

use super::{Alert, Handshake, Progress, Session, TlsError, read_all, record};
use crate::testing::{TestRoot, identity};
use crate::tls::{Opener, verify};

/// A plain client of the identity `web`, if `is_certified`.
fn plain_client(
    root: &TestRoot,
    alpn: &[&[u8]],
    version: &'static SupportedProtocolVersion,
    is_certified: bool,
) -> Connection {
    let config = plain_client_config(root, alpn, version, is_certified);
    ClientConnection::new(Arc::new(config), "db.shop".try_into().unwrap()).unwrap().into()
}

fn plain_client_config(
    root: &TestRoot,
    alpn: &[&[u8]],
    version: &'static SupportedProtocolVersion,
    is_certified: bool,
) -> ClientConfig {
    let leaf = root.leaf_of(&identity("web"));
    let verifier: Arc<dyn ServerCertVerifier> =
        Arc::new(verify::Server { bundle: root.bundle(), expected: Arc::new([identity("db")]) });
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = if is_certified {
        builder.with_client_auth_cert(leaf.chain, leaf.key).unwrap()
    } else {
        builder.with_no_client_auth()
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config
}

/// A plain server of the identity `db`, with its library's defaults: it sends tickets.
fn plain_server(root: &TestRoot, alpn: &[&[u8]]) -> Connection {
    ServerConnection::new(Arc::new(plain_server_config(root, alpn))).unwrap().into()
}

fn plain_server_config(root: &TestRoot, alpn: &[&[u8]]) -> ServerConfig {
    let leaf = root.leaf_of(&identity("db"));
    let verifier = verify::Clients { bundle: root.bundle(), trust_domains: Arc::new(["cluster.local".into()]) };
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(leaf.chain, leaf.key)
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config
}

fn our_client(root: &TestRoot) -> Handshake {
    root.tls("web").connect(vec![identity("db")]).unwrap()
}

/// Moves what `plain` has to send.
fn sent_by(plain: &mut Connection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while plain.wants_write() {
        plain.write_tls(&mut bytes).unwrap();
    }
    bytes
}

/// Lets `plain` read all of `bytes`.
fn receive(plain: &mut Connection, mut bytes: &[u8]) -> Result<Vec<u8>, rustls::Error> {
    let mut data = Vec::new();
    while !bytes.is_empty() {
        plain.read_tls(&mut bytes).unwrap();
        plain.process_new_packets()?;
        // Without data it would block, at the end it is closed: both mean that there is no more.
        let _ = plain.reader().read_to_end(&mut data);
    }
    Ok(data)
}

/// The session with `plain`, what came behind the handshake, and the plain side's error.
type Met = (Result<Session, TlsError>, Vec<u8>, Option<rustls::Error>);

fn meet(mut ours: Handshake, plain: &mut Connection) -> Met {
    let (mut incoming, mut outgoing) = (Vec::new(), Vec::new());
    let mut session = None;
    let mut error = None;
    for _ in 0..10 {
        if session.is_none() {
            match ours.advance(&mut incoming, &mut outgoing) {
                Ok(Progress::Continue) => {}
                Ok(Progress::Done(done)) => session = Some(Ok(done)),
                Err(failed) => session = Some(Err(failed)),
            }
        }
        if let Err(failed) = receive(plain, &std::mem::take(&mut outgoing)) {
            error = Some(failed);
        }
        incoming.extend(sent_by(plain));
    }
    (session.expect("an end"), incoming, error)
}

fn plain_write(plain: &mut Connection, data: &[u8]) -> Vec<u8> {
    plain.writer().write_all(data).unwrap();
    sent_by(plain)
}

#[test]
fn a_plain_server_with_tickets_is_understood() {
    let root = TestRoot::new("root");
    let mut plain = plain_server(&root, &[b"h2"]);
    let (session, mut rest, error) = meet(our_client(&root), &mut plain);
    let mut session = session.unwrap();
    assert!(error.is_none());
    assert!(!rest.is_empty(), "tickets were sent");
    rest.extend(plain_write(&mut plain, b"greeting"));
    assert_eq!(read_all(&mut session, &mut rest).unwrap(), (b"greeting".to_vec(), false));
    let question = record(&mut session, b"question");
    assert_eq!(receive(&mut plain, &question).unwrap(), b"question");
    plain.send_close_notify();
    assert_eq!(read_all(&mut session, &mut sent_by(&mut plain)).unwrap(), (Vec::new(), true));
}

#[test]
fn a_plain_client_is_understood() {
    let root = TestRoot::new("root");
    let mut plain = plain_client(&root, &[b"h2"], &TLS13, true);
    let (session, rest, error) = meet(root.tls("db").accept().unwrap(), &mut plain);
    let mut session = session.unwrap();
    assert!(error.is_none() && rest.is_empty());
    assert_eq!(session.peer, identity("web"));
    let data: Vec<u8> = (0..1_000_000).map(|number| number as u8).collect();
    let mut received = Vec::new();
    for piece in data.chunks(30_000) {
        received.extend(read_all(&mut session, &mut plain_write(&mut plain, piece)).unwrap().0);
    }
    assert_eq!(received, data);
    let mut end = record(&mut session, b"thanks");
    session.sealer.close_notify(&mut end);
    assert_eq!(receive(&mut plain, &end).unwrap(), b"thanks");
    assert!(plain.process_new_packets().unwrap().peer_has_closed());
}

#[test]
fn handshake_messages_may_be_cut_into_records() {
    let root = TestRoot::new("root");
    for size in [32, 33, 100, 1000] {
        let mut config = plain_client_config(&root, &[b"h2"], &TLS13, true);
        config.max_fragment_size = Some(size);
        let plain = ClientConnection::new(Arc::new(config), "db.shop".try_into().unwrap()).unwrap();
        let (session, _, error) = meet(root.tls("db").accept().unwrap(), &mut plain.into());
        assert!(error.is_none(), "{error:?} with {size}");
        assert_eq!(session.unwrap().peer, identity("web"));

        let mut config = plain_server_config(&root, &[b"h2"]);
        config.max_fragment_size = Some(size);
        let mut plain = ServerConnection::new(Arc::new(config)).unwrap().into();
        let (session, mut rest, error) = meet(our_client(&root), &mut plain);
        assert!(error.is_none(), "{error:?} with {size}");
        rest.extend(plain_write(&mut plain, b"in pieces"));
        assert_eq!(read_all(&mut session.unwrap(), &mut rest).unwrap().0, b"in pieces");
    }
}

#[test]
fn key_updates_of_either_side_are_understood_by_the_other() {
    let root = TestRoot::new("root");
    let mut plain = plain_server(&root, &[b"h2"]);
    let (session, mut rest, _) = meet(our_client(&root), &mut plain);
    let mut session = session.unwrap();
    read_all(&mut session, &mut rest).unwrap();
    session.sealer.update_after = 5;
    for round in 0..20u8 {
        // Theirs asks for ours in return.
        plain.refresh_traffic_keys().unwrap();
        let mut wire = plain_write(&mut plain, &[round; 100]);
        assert_eq!(read_all(&mut session, &mut wire).unwrap().0, [round; 100]);
        let mut wire = Vec::new();
        session.sealer.maintain(&mut wire).unwrap();
        assert!(!wire.is_empty());
        for _ in 0..7 {
            session.sealer.maintain(&mut wire).unwrap();
            wire.extend(record(&mut session, &[round; 50]));
        }
        assert_eq!(receive(&mut plain, &wire).unwrap(), [round; 350]);
    }
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    let root = TestRoot::new("root");
    let mut plain = plain_client(&root, &[b"h2"], &TLS13, false);
    let (session, _, told) = meet(root.tls("db").accept().unwrap(), &mut plain);
    assert!(matches!(session, Err(TlsError::NoCertificate)), "{session:?}");
    assert_eq!(told, Some(rustls::Error::AlertReceived(rustls::AlertDescription::CertificateRequired)));
}

#[test]
fn a_client_that_does_not_offer_h2_is_refused() {
    let root = TestRoot::new("root");
    for alpn in [&[][..], &[&b"http/1.1"[..]]] {
        let mut plain = plain_client(&root, alpn, &TLS13, true);
        let (session, _, told) = meet(root.tls("db").accept().unwrap(), &mut plain);
        assert!(matches!(session, Err(TlsError::NoApplicationProtocol)), "{session:?}");
        let expected = rustls::Error::AlertReceived(rustls::AlertDescription::NoApplicationProtocol);
        assert_eq!(told, Some(expected));
    }
}

#[test]
fn a_server_that_does_not_choose_h2_is_refused() {
    let root = TestRoot::new("root");
    let mut plain = plain_server(&root, &[]);
    let (session, _, told) = meet(our_client(&root), &mut plain);
    assert!(matches!(session, Err(TlsError::NoApplicationProtocol)), "{session:?}");
    let expected = rustls::Error::AlertReceived(rustls::AlertDescription::NoApplicationProtocol);
    assert_eq!(told, Some(expected));
}

#[test]
fn a_client_of_tls_1_2_is_refused() {
    let root = TestRoot::new("root");
    let mut plain = plain_client(&root, &[b"h2"], &TLS12, true);
    let (session, _, told) = meet(root.tls("db").accept().unwrap(), &mut plain);
    let error = session.unwrap_err();
    assert!(matches!(error, TlsError::Handshake(_)) && error.alert().is_none(), "{error:?}");
    assert_eq!(told, Some(rustls::Error::AlertReceived(rustls::AlertDescription::ProtocolVersion)));
}

#[test]
fn a_refused_certificate_shows_in_the_session_as_an_alert() {
    // The server refuses the client after the client is done.
    let (root, other) = (TestRoot::new("root"), TestRoot::new("other"));
    let client = other.leaf_of(&identity("web")).tls(&identity("web"), root.bundle());
    let mut plain = plain_server(&root, &[b"h2"]);
    let (session, mut rest, _) = meet(client.connect(vec![identity("db")]).unwrap(), &mut plain);
    let refused = read_all(&mut session.unwrap(), &mut rest).unwrap_err();
    assert!(matches!(refused, TlsError::PeerAlert(Alert(46))), "{refused:?}");
}

#[test]
fn what_is_no_tls_is_refused_at_once() {
    let root = TestRoot::new("root");
    for noise in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[0x16, 3, 1, 0xff, 0xff]] {
        let mut outgoing = Vec::new();
        let result = root.tls("db").accept().unwrap().advance(&mut noise.to_vec(), &mut outgoing);
        assert!(matches!(result, Err(TlsError::Handshake(_))), "{result:?}");
        assert_eq!(outgoing[0], 21, "an alert is sent");
    }
}

#[test]
fn a_handshake_with_any_byte_changed_fails_or_stays_the_same_and_never_panics() {
    let root = TestRoot::new("root");
    let (web, db) = (root.tls("web"), root.tls("db"));
    let mut hello = Vec::new();
    let mut client = web.connect(vec![identity("db")]).unwrap();
    client.advance(&mut Vec::new(), &mut hello).unwrap();
    // The share of ML-KEM is long, and all its bytes are alike.
    for at in (0..hello.len()).filter(|at| *at < 250 || at % 16 == 0 || *at > hello.len() - 250) {
        let mut changed = hello.clone();
        changed[at] ^= 1 << fastrand::u8(..8);
        let result = db.accept().unwrap().advance(&mut changed, &mut Vec::new());
        assert!(!matches!(result, Ok(Progress::Done(_))));
    }
    let mut flight = Vec::new();
    db.accept().unwrap().advance(&mut hello, &mut flight).unwrap();
    for at in (0..flight.len()).filter(|at| *at < 100 || at % 16 == 0) {
        let (mut hello, mut flight) = (Vec::new(), Vec::new());
        let mut client = web.connect(vec![identity("db")]).unwrap();
        client.advance(&mut Vec::new(), &mut hello).unwrap();
        db.accept().unwrap().advance(&mut hello, &mut flight).unwrap();
        if at >= flight.len() {
            continue;
        }
        // The version of a record is to be ignored (RFC 8446, 5.1).
        let mut start = 0;
        while let Some(length) = Opener::needed(&flight[start..]).filter(|length| start + length <= at) {
            start += length;
        }
        let is_version = matches!(at - start, 1 | 2);
        flight[at] ^= 1 << fastrand::u8(..8);
        let result = client.advance(&mut flight, &mut Vec::new());
        assert!(is_version || !matches!(result, Ok(Progress::Done(_))), "byte {at}");
    }
}

#[test]
fn a_handshake_fed_with_random_bytes_ends_without_panicking() {
    let root = TestRoot::new("root");
    let (web, db) = (root.tls("web"), root.tls("db"));
    for turn in 0..2000 {
        let mut handshake =
            if turn % 2 == 0 { db.accept().unwrap() } else { web.connect(vec![identity("db")]).unwrap() };
        let mut bytes: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(fastrand::usize(..300)).collect();
        if fastrand::bool() && bytes.len() > 9 {
            let length = u8::try_from(bytes.len().min(255) - 5).unwrap();
            bytes[..9].copy_from_slice(&[22, 3, 1, 0, length, fastrand::u8(..4), 0, 0, length - 4]);
        }
        match handshake.advance(&mut bytes, &mut Vec::new()) {
            Ok(Progress::Continue) | Err(_) => {}
            Ok(Progress::Done(session)) => panic!("{session:?} out of noise"),
        }
    }
}
