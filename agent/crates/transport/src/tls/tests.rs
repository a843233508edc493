//! The sessions against themselves and against plain rustls.

mod key_updates;
mod records;
mod refusals;
mod rustls_peer;
mod wire;

use std::time::SystemTime;

use super::{Alert, CertificateFault, Content, Handshake, Progress, Session, TlsError, verify_chain};
use crate::testing::{HOUR, TestRoot, identity};

/// What a handshake of two came to. Each side has sent all that it wanted to.
struct Outcome {
    client: Result<Session, TlsError>,
    server: Result<Session, TlsError>,
    /// What each side has received and not read: the beginning of the session.
    to_client: Vec<u8>,
    to_server: Vec<u8>,
}

/// Lets two handshakes speak to each other, `piece` bytes at a time.
fn shake(mut client: Handshake, mut server: Handshake, piece: usize) -> Outcome {
    let (mut to_client, mut to_server) = (Vec::new(), Vec::new());
    let (mut client_flight, mut server_flight) = (Vec::new(), Vec::new());
    let (mut client_result, mut server_result) = (None, None);
    advance(&mut client, &mut to_client, &mut client_flight, &mut client_result);
    while !(client_flight.is_empty() && server_flight.is_empty()) {
        for chunk in std::mem::take(&mut client_flight).chunks(piece) {
            to_server.extend_from_slice(chunk);
            advance(&mut server, &mut to_server, &mut server_flight, &mut server_result);
        }
        for chunk in std::mem::take(&mut server_flight).chunks(piece) {
            to_client.extend_from_slice(chunk);
            advance(&mut client, &mut to_client, &mut client_flight, &mut client_result);
        }
    }
    Outcome {
        client: client_result.unwrap_or(Err(TlsError::Misuse("the client is still waiting"))),
        server: server_result.unwrap_or(Err(TlsError::Misuse("the server is still waiting"))),
        to_client,
        to_server,
    }
}

fn advance(
    handshake: &mut Handshake,
    incoming: &mut Vec<u8>,
    outgoing: &mut Vec<u8>,
    result: &mut Option<Result<Session, TlsError>>,
) {
    if result.is_some() {
        return;
    }
    match handshake.advance(incoming, outgoing) {
        Ok(Progress::Continue) => {}
        Ok(Progress::Done(session)) => *result = Some(Ok(session)),
        Err(error) => *result = Some(Err(error)),
    }
}

/// The sessions of a client `web` and a server `db`.
fn sessions() -> (Session, Session) {
    let root = TestRoot::new("root");
    let client = root.tls("web").connect(vec![identity("db")]).unwrap();
    let outcome = shake(client, root.tls("db").accept().unwrap(), usize::MAX);
    (outcome.client.unwrap(), outcome.server.unwrap())
}

/// One record of `data`.
fn record(session: &mut Session, data: &[u8]) -> Vec<u8> {
    let mut record = vec![0; super::Sealer::HEADER];
    record.extend_from_slice(data);
    record.resize(record.len() + super::Sealer::TRAILER, 0);
    session.sealer.seal(&mut record).unwrap();
    record
}

/// Reads all records of `bytes`, and returns the data in them and whether the peer closed.
fn read_all(session: &mut Session, bytes: &mut [u8]) -> Result<(Vec<u8>, bool), TlsError> {
    let (mut data, mut closed, mut at) = (Vec::new(), false, 0);
    while let Some(opened) = session.opener.open(&mut bytes[at..])? {
        match opened.content {
            Content::Data(range) => data.extend_from_slice(&bytes[at..][range]),
            Content::Control => {}
            Content::Closed => closed = true,
        }
        at += opened.consumed;
    }
    assert_eq!(at, bytes.len(), "an incomplete record is left");
    Ok((data, closed))
}

#[test]
fn each_side_learns_the_others_identity_and_data_flows_both_ways() {
    let (mut client, mut server) = sessions();
    assert_eq!(client.peer, identity("db"));
    assert_eq!(server.peer, identity("web"));
    assert_eq!((client.group, client.suite), ("X25519MLKEM768", "TLS_AES_128_GCM_SHA256"));
    assert!(client.peer_not_after > SystemTime::now());
    let mut wire = record(&mut client, b"question");
    assert_eq!(read_all(&mut server, &mut wire).unwrap().0, b"question");
    let mut wire = record(&mut server, b"answer");
    assert_eq!(read_all(&mut client, &mut wire).unwrap().0, b"answer");
}

#[test]
fn handshakes_and_sessions_may_be_handed_to_another_thread() {
    fn assert_send<T: Send>() {}
    assert_send::<Handshake>();
    assert_send::<Session>();
}

#[test]
fn a_handshake_works_in_pieces_of_any_size() {
    let root = TestRoot::new("root");
    let (web, db) = (root.tls("web"), root.tls("db"));
    for piece in [1, 2, 5, 6, 100, 1000] {
        let outcome = shake(web.connect(vec![identity("db")]).unwrap(), db.accept().unwrap(), piece);
        let (mut client, mut server) = (outcome.client.unwrap(), outcome.server.unwrap());
        assert!(outcome.to_client.is_empty() && outcome.to_server.is_empty());
        let mut wire = record(&mut client, b"x");
        assert_eq!(read_all(&mut server, &mut wire).unwrap().0, b"x");
    }
}

#[test]
fn data_that_follows_the_last_handshake_record_is_left_for_the_session() {
    let root = TestRoot::new("root");
    let mut client = root.tls("web").connect(vec![identity("db")]).unwrap();
    let mut server = root.tls("db").accept().unwrap();
    let (mut to_client, mut to_server) = (Vec::new(), Vec::new());
    client.advance(&mut Vec::new(), &mut to_server).unwrap();
    server.advance(&mut to_server, &mut to_client).unwrap();
    let Progress::Done(mut client) = client.advance(&mut to_client, &mut to_server).unwrap() else {
        panic!("the client may send");
    };
    // The client's Finished, a whole record and half of another arrive together.
    to_server.extend(record(&mut client, b"first"));
    let second = record(&mut client, b"second");
    to_server.extend_from_slice(&second[..9]);
    let Progress::Done(mut server) = server.advance(&mut to_server, &mut to_client).unwrap() else {
        panic!("the server has all that it needs");
    };
    to_server.extend_from_slice(&second[9..]);
    assert_eq!(read_all(&mut server, &mut to_server).unwrap().0, b"firstsecond");
}

#[test]
fn a_chain_with_an_intermediate_is_verified() {
    let root = TestRoot::new("root");
    let intermediate = root.intermediate("intermediate");
    let mut leaf = intermediate.leaf_of(&identity("db"));
    leaf.chain.push(intermediate.der());
    let db = leaf.tls(&identity("db"), root.bundle());
    let client = root.tls("web").connect(vec![identity("db")]).unwrap();
    let outcome = shake(client, db.accept().unwrap(), usize::MAX);
    assert!(outcome.client.is_ok() && outcome.server.is_ok());
}

#[test]
fn several_roots_are_trusted_at_once() {
    let (old, new) = (TestRoot::new("root"), TestRoot::new("root"));
    let bundle = crate::TrustBundle::new(vec![old.der(), new.der()]).unwrap();
    let web = old.leaf_of(&identity("web")).tls(&identity("web"), bundle.clone());
    let db = new.leaf_of(&identity("db")).tls(&identity("db"), bundle.clone());
    let outcome = shake(web.connect(vec![identity("db")]).unwrap(), db.accept().unwrap(), usize::MAX);
    assert!(outcome.client.is_ok() && outcome.server.is_ok());
    // A root that is withdrawn is not trusted by the next handshake, with the same configurations.
    bundle.set_issued(vec![old.der()], "test").unwrap();
    let outcome = shake(web.connect(vec![identity("db")]).unwrap(), db.accept().unwrap(), usize::MAX);
    assert!(matches!(outcome.client, Err(TlsError::Certificate(_))), "{:?}", outcome.client);
}

#[test]
fn a_chain_that_was_verified_before_is_refused_when_its_time_is_over_or_its_root_is_gone() {
    let root = TestRoot::new("root");
    let intermediate = root.intermediate("intermediate");
    let bundle = root.bundle();
    let now = SystemTime::now();
    let mut chain = intermediate.leaf(&[identity("web").uri()], now - HOUR, now + HOUR).chain;
    chain.push(intermediate.der());
    for _ in 0..2 {
        verify_chain(&bundle, &chain, now).unwrap();
    }
    let later = verify_chain(&bundle, &chain, now + 2 * HOUR);
    assert!(matches!(later, Err(CertificateFault::Expired { .. })), "{later:?}");
    let sooner = verify_chain(&bundle, &chain, now - 2 * HOUR);
    assert!(matches!(sooner, Err(CertificateFault::NotYetValid { .. })), "{sooner:?}");
    // The chain counts, not the leaf alone.
    let without = verify_chain(&bundle, &chain[..1], now);
    assert!(matches!(without, Err(CertificateFault::Chain(_))), "{without:?}");
    bundle.set_revocation_lists(intermediate.revoking_list().as_bytes(), "revoked.pem".into()).unwrap();
    assert_eq!(verify_chain(&bundle, &chain, now), Err(CertificateFault::Revoked));
}

#[test]
fn close_notify_ends_each_direction_by_itself() {
    let (mut client, mut server) = sessions();
    let mut wire = record(&mut client, b"last words");
    client.sealer.close_notify(&mut wire);
    wire.extend_from_slice(b"anything at all");
    assert_eq!(read_all(&mut server, &mut wire).unwrap(), (b"last words".to_vec(), true));
    assert!(client.sealer.seal(&mut [0; 30]).is_err(), "nothing is sealed after close_notify");
    // The other direction goes on.
    let mut wire = record(&mut server, b"still here");
    assert_eq!(read_all(&mut client, &mut wire).unwrap(), (b"still here".to_vec(), false));
}

#[test]
fn an_alert_tells_the_peer_why() {
    let (mut client, mut server) = sessions();
    let mut tampered = record(&mut client, b"data");
    tampered[7] ^= 1;
    let error = server.opener.open(&mut tampered).unwrap_err();
    let mut wire = Vec::new();
    server.sealer.alert(&error, &mut wire);
    let told = read_all(&mut client, &mut wire).unwrap_err();
    assert!(matches!(told, TlsError::PeerAlert(Alert::BAD_RECORD_MAC)), "{told}");
    assert_eq!(told.to_string(), "the peer ended the session with the TLS alert bad_record_mac");
}
