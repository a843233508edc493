//! Key updates (RFC 8446, 4.6.3), ours and the peer's.

use super::{Alert, Content, Session, read_all, record, sessions};
use crate::tls::content_type;

/// Sends `count` records with an update whenever one is due, and returns how many updates that took.
fn send(from: &mut Session, to: &mut Session, count: usize) -> usize {
    let mut updates = 0;
    for number in 0..count {
        let data = number.to_be_bytes();
        let mut wire = Vec::new();
        from.sealer.maintain(&mut wire).unwrap();
        updates += usize::from(!wire.is_empty());
        wire.extend(record(from, &data));
        assert_eq!(read_all(to, &mut wire).unwrap().0, data);
    }
    updates
}

/// What a sender does behind its KeyUpdate.
fn switch_to_next_key(session: &mut Session) {
    session.sealer.key = session.sealer.schedule.next_sending().unwrap();
}

#[test]
fn a_key_is_updated_when_it_has_protected_enough_records() {
    let (mut client, mut server) = sessions();
    client.sealer.update_after = 10;
    server.sealer.update_after = 7;
    // Each update is protected with the old key and counts for it: 10 records a key, 100 before the tenth update.
    assert_eq!(send(&mut client, &mut server, 101), 10);
    assert_eq!(send(&mut server, &mut client, 71), 10);
    assert_eq!(send(&mut client, &mut server, 5), 0);
}

#[test]
fn a_key_without_maintenance_stops_before_its_limit_and_goes_on_after_an_update() {
    let (mut client, mut server) = sessions();
    client.sealer.key.sequence = 1 << 24;
    server.opener.key.sequence = 1 << 24;
    assert!(client.sealer.seal(&mut [0; 40]).is_err());
    assert_eq!(send(&mut client, &mut server, 3), 1);
}

#[test]
fn sequence_numbers_beyond_four_bytes_are_in_the_nonce() {
    let (mut client, mut server) = sessions();
    client.sealer.update_after = u64::MAX;
    client.sealer.key.sequence = (1 << 40) + 5;
    let mut wire = Vec::new();
    client.sealer.append(content_type::APPLICATION_DATA, b"far", &mut wire).unwrap();
    assert!(server.opener.open(&mut wire.clone()).is_err());
    server.opener.key.sequence = (1 << 40) + 5;
    assert_eq!(read_all(&mut server, &mut wire).unwrap().0, b"far");
}

#[test]
fn an_update_that_asks_for_ours_is_answered_once_before_the_next_data() {
    let (mut client, mut server) = sessions();
    let mut wire = Vec::new();
    for _ in 0..3 {
        client.sealer.append(content_type::HANDSHAKE, &[24, 0, 0, 1, 1], &mut wire).unwrap();
        switch_to_next_key(&mut client);
    }
    wire.extend(record(&mut client, b"under the fourth key"));
    assert_eq!(read_all(&mut server, &mut wire).unwrap().0, b"under the fourth key");
    let mut answer = Vec::new();
    server.sealer.maintain(&mut answer).unwrap();
    let length = answer.len();
    server.sealer.maintain(&mut answer).unwrap();
    assert_eq!(answer.len(), length, "three requests are answered by one update");
    answer.extend(record(&mut server, b"reply"));
    assert_eq!(read_all(&mut client, &mut answer).unwrap().0, b"reply");
    // The answer did not ask for another one.
    let mut nothing = Vec::new();
    client.sealer.maintain(&mut nothing).unwrap();
    assert!(nothing.is_empty());
}

#[test]
fn an_update_may_be_cut_into_records() {
    let (mut client, mut server) = sessions();
    let mut wire = Vec::new();
    for piece in [&[24, 0][..], &[0, 1], &[0]] {
        client.sealer.append(content_type::HANDSHAKE, piece, &mut wire).unwrap();
    }
    switch_to_next_key(&mut client);
    wire.extend(record(&mut client, b"new key"));
    assert_eq!(read_all(&mut server, &mut wire).unwrap().0, b"new key");
}

#[test]
fn a_flood_of_updates_ends_the_session() {
    let (mut client, mut server) = sessions();
    let mut wire = Vec::new();
    for _ in 0..40 {
        client.sealer.append(content_type::HANDSHAKE, &[24, 0, 0, 1, 1], &mut wire).unwrap();
        switch_to_next_key(&mut client);
    }
    let (mut at, mut updates) = (0, 0);
    let error = loop {
        match server.opener.open(&mut wire[at..]) {
            Ok(Some(opened)) => {
                assert_eq!(opened.content, Content::Control);
                (at, updates) = (at + opened.consumed, updates + 1);
            }
            Ok(None) => panic!("the flood passed"),
            Err(error) => break error,
        }
    };
    assert_eq!((updates, error.alert()), (32, Some(Alert::UNEXPECTED_MESSAGE)));
}

#[test]
fn no_update_follows_close_notify() {
    let (mut client, mut server) = sessions();
    let mut wire = Vec::new();
    client.sealer.append(content_type::HANDSHAKE, &[24, 0, 0, 1, 1], &mut wire).unwrap();
    read_all(&mut server, &mut wire).unwrap();
    let mut wire = Vec::new();
    server.sealer.close_notify(&mut wire);
    let length = wire.len();
    server.sealer.maintain(&mut wire).unwrap();
    assert_eq!(wire.len(), length);
}
