//! One direction of a TCP connection.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Result, bail, ensure};

use super::packet::Segment;

/// Bytes kept of one stream; of what comes after them only the number is.
const KEPT: usize = 16 << 20;

/// What one end sent to the other.
#[derive(Debug, Clone)]
pub struct Stream {
    /// The sender.
    pub from: SocketAddr,
    /// The receiver.
    pub to: SocketAddr,
    /// Whether a FIN was sent.
    pub has_fin: bool,
    /// Whether a reset was sent.
    pub has_reset: bool,
    /// Whether the connection was opened while the recording ran.
    pub has_start: bool,
    first: Option<u32>,
    pieces: BTreeMap<u32, Vec<u8>>,
    kept: usize,
    length: u64,
}

impl Stream {
    pub(crate) fn new(from: SocketAddr, to: SocketAddr) -> Self {
        Self {
            from,
            to,
            has_fin: false,
            has_reset: false,
            has_start: false,
            first: None,
            pieces: BTreeMap::new(),
            kept: 0,
            length: 0,
        }
    }

    pub(crate) fn push(&mut self, segment: &Segment<'_>) {
        self.has_fin |= segment.is_fin;
        self.has_reset |= segment.is_reset;
        if segment.is_syn {
            self.has_start = true;
            // A SYN takes a sequence number of its own; Fast Open data, if any, follows it.
            self.first = Some(segment.sequence.wrapping_add(1));
        }
        if segment.payload.is_empty() {
            return;
        }
        let sequence = segment.sequence.wrapping_add(u32::from(segment.is_syn));
        let first = *self.first.get_or_insert(sequence);
        let offset = sequence.wrapping_sub(first);
        self.length = self.length.max(u64::from(offset) + segment.payload.len() as u64);
        if self.kept < KEPT {
            let piece = self.pieces.entry(offset).or_default();
            if piece.len() < segment.payload.len() {
                self.kept += segment.payload.len() - piece.len();
                *piece = segment.payload.to_vec();
            }
        }
    }

    /// How many bytes were sent; wraps with the sequence number after 4 GB.
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Whether nothing was sent.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The bytes that were kept, in order, up to the first gap.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = Vec::with_capacity(self.kept);
        for (offset, piece) in &self.pieces {
            let offset = *offset as usize;
            if offset > bytes.len() {
                break;
            }
            // Bytes that were sent again are there already.
            if let Some(new) = piece.get(bytes.len() - offset..) {
                bytes.extend_from_slice(new);
            }
        }
        bytes
    }

    /// Whether the kept bytes contain these.
    pub fn contains(&self, needle: &[u8]) -> bool {
        self.bytes().windows(needle.len()).any(|window| window == needle)
    }

    /// Checks that the stream is a sequence of TLS records, which begins with a handshake if the recording ran when the
    /// connection was opened. Otherwise the first record may have begun before, so the sequence is looked for.
    ///
    /// # Errors
    /// Says at which byte something else begins.
    pub fn is_tls(&self) -> Result<()> {
        let bytes = self.bytes();
        if bytes.is_empty() {
            return Ok(());
        }
        if self.has_start {
            return records(&bytes, 0, &[HANDSHAKE, ALERT]);
        }
        let begins_in_reach = (0..bytes.len().min(LONGEST + HEADER)).any(|at| {
            // A few bytes look like a record by chance; a sequence up to the very end does not.
            bytes.len() >= at + HEADER && records(&bytes, at, &[APPLICATION_DATA]).is_ok()
        });
        ensure!(begins_in_reach, "no sequence of TLS records in a connection that was open before the recording began");
        Ok(())
    }
}

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;

/// RFC 8446, section 5.2: type, version, length, and at most so many bytes.
const HEADER: usize = 5;
const LONGEST: usize = 16_384 + 256;

/// Checks that nothing but TLS records follows, of which the first has one of these types.
fn records(bytes: &[u8], start: usize, first: &[u8]) -> Result<()> {
    let mut at = start;
    while let Some([kind, major, minor, high, low]) = bytes.get(at..at + HEADER) {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let is_record = matches!(kind, 20..=23) && *major == 3 && *minor <= 4 && (1..=LONGEST).contains(&length);
        if !is_record || (at == start && !first.contains(kind)) {
            let found = &bytes[at..bytes.len().min(at + 32)];
            bail!("no TLS record at byte {at}: {:?}", String::from_utf8_lossy(found));
        }
        at += HEADER + length;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(pieces: &[(u32, &[u8])]) -> Stream {
        recorded_from(true, pieces)
    }

    fn recorded_from(start: bool, pieces: &[(u32, &[u8])]) -> Stream {
        let (from, to) = ("10.0.0.1:1".parse().unwrap(), "10.0.0.2:2".parse().unwrap());
        let mut stream = Stream::new(from, to);
        let segment =
            |sequence, is_syn, payload| Segment { from, to, sequence, is_syn, is_fin: false, is_reset: false, payload };
        if start {
            stream.push(&segment(u32::MAX - 1, true, &[]));
        }
        for (offset, payload) in pieces {
            stream.push(&segment(u32::MAX.wrapping_add(*offset), false, payload));
        }
        stream
    }

    #[test]
    fn segments_out_of_order_and_sent_again_make_one_stream() {
        let stream = stream(&[(3, b"def"), (0, b"abc"), (2, b"cde"), (6, b"g")]);
        assert_eq!(stream.bytes(), b"abcdefg");
        assert_eq!(stream.len(), 7);
        assert!(stream.contains(b"cdef"));
    }

    #[test]
    fn text_is_not_tls_and_records_are() {
        assert!(stream(&[(0, b"GET / HTTP/1.1")]).is_tls().is_err());
        assert!(stream(&[(0, &[22, 3, 1, 0, 2, 9, 9, 23, 3, 3, 0, 1, 0])]).is_tls().is_ok());
        assert!(stream(&[(0, &[22, 3, 1, 0, 2, 9, 9, b'G', b'E', b'T', b' ', b'/'])]).is_tls().is_err());
    }

    #[test]
    fn a_recording_that_began_late_is_judged_from_the_first_whole_record() {
        assert!(recorded_from(false, &[(0, &[7, 7, 7, 23, 3, 3, 0, 2, 1, 1, 23, 3, 3, 0, 1, 9])]).is_tls().is_ok());
        assert!(recorded_from(false, &[(0, b"GET / HTTP/1.1\r\nhost: somewhere")]).is_tls().is_err());
    }
}
