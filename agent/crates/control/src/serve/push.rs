//! A push as bytes: one gRPC message, made of resources that were encoded before.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use weft_proto::discovery::DeltaDiscoveryResponse;

use super::catalog::Entry;
use super::subscription::Push;

/// Bytes that are handed over at once. More would be held for each reader that is slow.
const PIECE: usize = 32 * 1024;

/// Number of the field `resources` in a [`DeltaDiscoveryResponse`].
const RESOURCES: u32 = 2;

/// The pieces of one message. Resources are copied only when their piece is asked for.
#[derive(Debug)]
pub(crate) struct Pieces {
    piece: BytesMut,
    entries: std::vec::IntoIter<Arc<Entry>>,
    /// What is left of a resource that is larger than a piece.
    rest: Bytes,
}

impl Pieces {
    /// The message for a push of the type `type_url`.
    pub fn new(push: Push, type_url: &str, nonce: String) -> Self {
        let marker = if push.is_part { PART } else { "" };
        let head = DeltaDiscoveryResponse {
            system_version_info: format!("{}{marker}", push.place),
            type_url: type_url.to_owned(),
            nonce,
            removed_resources: push.removed.iter().map(|name| name.to_string()).collect(),
            resources: Vec::new(),
        };
        let length = |entry: &Arc<Entry>| {
            let length = bytes_of(entry).len();
            1 + encoded_len_varint(length as u64) + length
        };
        let length = head.encoded_len() + push.entries.iter().map(length).sum::<usize>();
        let mut piece = BytesMut::with_capacity(PIECE.min(length + 16));
        // Length-prefixed message of gRPC, not compressed.
        piece.put_u8(0);
        piece.put_u32(u32::try_from(length).expect("the budget of a push is far less than 4 GiB"));
        head.encode(&mut piece).expect("the buffer grows");
        Self { piece, entries: push.entries.into_iter(), rest: Bytes::new() }
    }
}

/// At the end of the version of a message that more belongs to.
pub(crate) const PART: &str = "+";

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        while self.piece.len() < PIECE {
            if !self.rest.is_empty() {
                let taken = self.rest.split_to(self.rest.len().min(PIECE - self.piece.len()));
                self.piece.extend_from_slice(&taken);
                continue;
            }
            let Some(entry) = self.entries.next() else { break };
            self.rest = bytes_of(&entry).clone();
            encode_key(RESOURCES, WireType::LengthDelimited, &mut self.piece);
            encode_varint(self.rest.len() as u64, &mut self.piece);
        }
        (!self.piece.is_empty()).then(|| self.piece.split().freeze())
    }
}

fn bytes_of(entry: &Entry) -> &Bytes {
    static NONE: Bytes = Bytes::new();
    entry.content.as_ref().map_or(&NONE, |content| &content.bytes)
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;
    use weft_proto::discovery::Resource;

    use super::*;
    use crate::istio::{self, arbitrary};
    use crate::serve::catalog::{Catalog, Encoded};

    #[test]
    fn the_pieces_of_a_push_are_one_message_with_all_of_it() {
        let mut rng = Rng::with_seed(5);
        for count in [0, 1, 7, 2000] {
            let mut catalog = Catalog::default();
            for number in 0..count {
                let mut workload = arbitrary::workload(&mut rng);
                workload.uid = format!("c//Pod/a/{number}").into();
                // Some are larger than a piece.
                workload.node = "n".repeat(if number % 100 == 3 { 100_000 } else { 10 }).into();
                catalog.put(Encoded::workload(&workload, ""));
            }
            let entries: Vec<_> = catalog.after(0).cloned().collect();
            let expected: Vec<Resource> =
                entries.iter().map(|entry| Resource::decode(&**bytes_of(entry)).expect("a resource")).collect();
            let push = Push { entries, removed: vec!["gone".into()], is_part: count == 7, place: 42 };
            let pieces: Vec<Bytes> = Pieces::new(push, istio::ADDRESS, "n1".to_owned()).collect();
            assert!(pieces.iter().all(|piece| piece.len() <= PIECE + 16), "pieces are bounded");
            let bytes = pieces.concat();
            assert_eq!(bytes[0], 0);
            assert_eq!(u32::from_be_bytes(bytes[1..5].try_into().expect("four bytes")) as usize, bytes.len() - 5);
            let message = DeltaDiscoveryResponse::decode(&bytes[5..]).expect("a message");
            assert_eq!(message.resources, expected);
            assert_eq!(message.removed_resources, ["gone"]);
            assert_eq!((&*message.type_url, &*message.nonce), (istio::ADDRESS, "n1"));
            assert_eq!(message.system_version_info, if count == 7 { "42+" } else { "42" });
        }
    }
}
