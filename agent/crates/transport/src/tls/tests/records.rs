//! The record layer against what a peer may send, and against whoever is between.

use super::{Alert, Content, TlsError, read_all, record, sessions};
use crate::tls::{Opener, Sealer, content_type};

/// A record of an inner type and content of one's own choice, which may bring padding.
fn crafted(session: &mut super::Session, inner_type: u8, content: &[u8]) -> Vec<u8> {
    let mut record = Vec::new();
    session.sealer.append(inner_type, content, &mut record).unwrap();
    record
}

fn alert_of(result: Result<impl std::fmt::Debug, TlsError>) -> Option<Alert> {
    result.expect_err("an error").alert()
}

#[test]
fn a_record_is_opened_when_its_last_byte_is_there_and_not_before() {
    let (mut client, mut server) = sessions();
    let whole = record(&mut client, b"exactly");
    assert_eq!(Opener::needed(&whole[..4]), None);
    assert_eq!(Opener::needed(&whole), Some(whole.len()));
    for end in 0..whole.len() {
        assert_eq!(server.opener.open(&mut whole[..end].to_vec()).unwrap(), None, "{end} bytes");
    }
    let mut buffer = [whole.as_slice(), b"more"].concat();
    let opened = server.opener.open(&mut buffer).unwrap().unwrap();
    assert_eq!(opened.consumed, whole.len());
    let Content::Data(range) = opened.content else {
        panic!("{opened:?}");
    };
    assert_eq!(&buffer[range], b"exactly");
}

#[test]
fn every_tampered_byte_is_noticed() {
    let whole_length = record(&mut sessions().0, b"payload").len();
    for at in 0..whole_length {
        let (mut client, mut server) = sessions();
        let mut whole = record(&mut client, b"payload");
        whole[at] ^= 0x20;
        match server.opener.open(&mut whole) {
            // A length that is greater than what is there: noticed when the rest is.
            Ok(None) => {
                assert!(matches!(at, 3 | 4), "byte {at}");
                whole.resize(5 + usize::from(u16::from_be_bytes([whole[3], whole[4]])), 0);
                assert_eq!(alert_of(server.opener.open(&mut whole)), Some(Alert::BAD_RECORD_MAC));
            }
            Err(error) if at == 0 => assert_eq!(error.alert(), Some(Alert::UNEXPECTED_MESSAGE)),
            other => assert_eq!(alert_of(other), Some(Alert::BAD_RECORD_MAC), "byte {at}"),
        }
    }
}

#[test]
fn records_that_are_replayed_swapped_or_left_out_are_noticed() {
    for order in [&[0, 0][..], &[1], &[0, 2]] {
        let (mut client, mut server) = sessions();
        let records: Vec<_> = (0..3).map(|_| record(&mut client, b"same")).collect();
        let mut wire: Vec<u8> = order.iter().flat_map(|index| records[*index].clone()).collect();
        assert_eq!(alert_of(read_all(&mut server, &mut wire)), Some(Alert::BAD_RECORD_MAC), "{order:?}");
    }
}

#[test]
fn the_longest_record_passes_and_a_longer_one_does_not() {
    let (mut client, mut server) = sessions();
    let longest = vec![7; Sealer::MAX_PLAINTEXT];
    let mut wire = record(&mut client, &longest);
    assert_eq!(read_all(&mut server, &mut wire).unwrap().0, longest);
    let mut too_long = vec![0; Sealer::HEADER + Sealer::MAX_PLAINTEXT + 1 + Sealer::TRAILER];
    assert!(client.sealer.seal(&mut too_long).is_err());
    assert!(client.sealer.seal(&mut [0; Sealer::HEADER + Sealer::TRAILER - 1]).is_err());
    // Announced by its header alone: 2^14 + 257 bytes.
    let error = server.opener.open(&mut [23, 3, 3, 0x41, 0x01]);
    assert_eq!(alert_of(error), Some(Alert::RECORD_OVERFLOW));
}

#[test]
fn padding_is_accepted_and_counts_towards_the_length() {
    let (mut client, mut server) = sessions();
    let padded = |length: usize, zeros: usize| {
        let mut content = vec![1; length];
        content.push(content_type::APPLICATION_DATA);
        content.resize(content.len() + zeros, 0);
        content
    };
    // The inner type that is written behind is one more zero of padding.
    let mut wire = crafted(&mut client, 0, &padded(3, 100));
    assert_eq!(read_all(&mut server, &mut wire).unwrap().0, [1, 1, 1]);
    let mut wire = crafted(&mut client, 0, &padded(0, 100));
    assert_eq!(read_all(&mut server, &mut wire).unwrap().0, []);
    let mut wire = crafted(&mut client, 0, &padded(16_000, 16_384 - 16_000 - 1));
    assert_eq!(read_all(&mut server, &mut wire).unwrap().0.len(), 16_000);
    // Nothing but padding: there is no content type.
    let mut wire = crafted(&mut client, 0, &[0; 10]);
    assert_eq!(alert_of(read_all(&mut server, &mut wire)), Some(Alert::UNEXPECTED_MESSAGE));
}

#[test]
fn records_that_have_no_place_in_a_session_end_it() {
    let handshake = content_type::HANDSHAKE;
    let unexpected = Some(Alert::UNEXPECTED_MESSAGE);
    let cases: [(u8, &[u8], Option<Alert>); 12] = [
        (99, b"unknown type", unexpected),
        (20, &[1], unexpected),
        (handshake, &[], unexpected),
        (handshake, &[1, 0, 0, 1, 0], unexpected),
        (handshake, &[24, 0, 0, 2, 0, 0], Some(Alert::DECODE_ERROR)),
        (handshake, &[24, 0, 0, 1, 2], Some(Alert::ILLEGAL_PARAMETER)),
        // Behind a key update, under the same key.
        (handshake, &[24, 0, 0, 1, 0, 24, 0, 0, 1, 0], unexpected),
        (handshake, &[4, 0xff, 0xff, 0xff], Some(Alert::DECODE_ERROR)),
        (content_type::ALERT, &[], unexpected),
        (content_type::ALERT, &[2], Some(Alert::DECODE_ERROR)),
        (content_type::ALERT, &[1, 0, 0], Some(Alert::DECODE_ERROR)),
        // A fatal alert is not answered.
        (content_type::ALERT, &[2, 40], None),
    ];
    for (inner_type, content, alert) in cases {
        let (mut client, mut server) = sessions();
        let mut wire = crafted(&mut client, inner_type, content);
        assert_eq!(alert_of(read_all(&mut server, &mut wire)), alert, "{inner_type} {content:?}");
    }
    // Unprotected: an alert, a change_cipher_spec.
    for plain in [&[21, 3, 3, 0, 2, 2, 40][..], &[20, 3, 3, 0, 1, 1]] {
        let (_, mut server) = sessions();
        assert_eq!(alert_of(server.opener.open(&mut plain.to_vec())), unexpected);
    }
}

#[test]
fn tickets_are_ignored_however_they_are_cut() {
    let (mut server, mut client) = {
        let (client, server) = sessions();
        (server, client)
    };
    let mut ticket = vec![4, 0, 1, 0x2c];
    ticket.resize(4 + 300, 9);
    let two = [ticket.as_slice(), &ticket].concat();
    let mut wire = Vec::new();
    for piece in [&two[..1], &two[1..3], &two[3..200], &two[200..306], &two[306..]] {
        wire.extend(crafted(&mut server, content_type::HANDSHAKE, piece));
    }
    wire.extend(record(&mut server, b"data"));
    assert_eq!(read_all(&mut client, &mut wire).unwrap().0, b"data");
    // Data must not come within one.
    let mut wire = crafted(&mut server, content_type::HANDSHAKE, &ticket[..50]);
    wire.extend(record(&mut server, b"data"));
    assert_eq!(alert_of(read_all(&mut client, &mut wire)), Some(Alert::UNEXPECTED_MESSAGE));
}

#[test]
fn a_flood_of_records_without_data_ends_the_session() {
    let floods: [(u8, &[u8]); 3] = [
        (content_type::APPLICATION_DATA, &[]),
        (content_type::HANDSHAKE, &[4, 0, 0, 1, 0]),
        (content_type::ALERT, &[1, 90]),
    ];
    for (inner_type, content) in floods {
        let (mut client, mut server) = sessions();
        for round in 0..3 {
            let mut wire: Vec<u8> = (0..32).flat_map(|_| crafted(&mut client, inner_type, content)).collect();
            wire.extend(record(&mut client, b"data"));
            assert_eq!(read_all(&mut server, &mut wire).unwrap().0, b"data", "round {round}");
        }
        let mut wire: Vec<u8> = (0..33).flat_map(|_| crafted(&mut client, inner_type, content)).collect();
        assert_eq!(alert_of(read_all(&mut server, &mut wire)), Some(Alert::UNEXPECTED_MESSAGE));
    }
}

#[test]
fn user_canceled_is_followed_by_close_notify() {
    let (mut client, mut server) = sessions();
    let mut wire = crafted(&mut client, content_type::ALERT, &[1, 90]);
    client.sealer.close_notify(&mut wire);
    assert_eq!(read_all(&mut server, &mut wire).unwrap(), (Vec::new(), true));
}

#[test]
fn random_bytes_are_refused_and_never_panic() {
    // Noise does not advance the state of an opener, so that one serves.
    let (_, mut server) = sessions();
    for _ in 0..10_000 {
        let mut noise: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(fastrand::usize(..600)).collect();
        if fastrand::bool() && noise.len() > 5 {
            noise[..5].copy_from_slice(&[23, 3, 3, 0, fastrand::u8(..)]);
        }
        match server.opener.open(&mut noise) {
            Ok(None) | Err(_) => {}
            Ok(Some(opened)) => panic!("{opened:?} out of noise"),
        }
    }
}
