//! Frame headers and the frames that are sent (RFC 9113, 4.1 and 6).

use crate::ErrorCode;

/// RFC 9113, 3.4: what a client sends first.
pub(crate) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Length of a frame header.
pub(crate) const HEAD: usize = 9;

/// RFC 9113, 6 and 11.2: frame types.
pub(crate) mod kind {
    pub(crate) const DATA: u8 = 0x0;
    pub(crate) const HEADERS: u8 = 0x1;
    pub(crate) const PRIORITY: u8 = 0x2;
    pub(crate) const RST_STREAM: u8 = 0x3;
    pub(crate) const SETTINGS: u8 = 0x4;
    pub(crate) const PUSH_PROMISE: u8 = 0x5;
    pub(crate) const PING: u8 = 0x6;
    pub(crate) const GOAWAY: u8 = 0x7;
    pub(crate) const WINDOW_UPDATE: u8 = 0x8;
    pub(crate) const CONTINUATION: u8 = 0x9;
    /// Not assigned: receivers must ignore and discard it (RFC 9113, 4.1 and 5.5).
    pub(crate) const IGNORED: u8 = 0xfe;
}

/// Flags, each with the frame types it has a meaning for.
pub(crate) mod flag {
    /// DATA, HEADERS.
    pub(crate) const END_STREAM: u8 = 0x1;
    /// SETTINGS, PING.
    pub(crate) const ACK: u8 = 0x1;
    /// HEADERS, CONTINUATION.
    pub(crate) const END_HEADERS: u8 = 0x4;
    /// DATA, HEADERS.
    pub(crate) const PADDED: u8 = 0x8;
    /// HEADERS.
    pub(crate) const PRIORITY: u8 = 0x20;
}

/// A frame header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) length: u32,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
}

impl Head {
    pub(crate) fn parse(bytes: &[u8; HEAD]) -> Self {
        let [a, b, c, kind, flags, stream @ ..] = *bytes;
        Self {
            length: u32::from_be_bytes([0, a, b, c]),
            kind,
            flags,
            // RFC 9113, 4.1: the reserved bit must be ignored.
            stream: u32::from_be_bytes(stream) & 0x7fff_ffff,
        }
    }

    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    pub(crate) fn bytes(self) -> [u8; HEAD] {
        let [_, a, b, c] = self.length.to_be_bytes();
        let [d, e, f, g] = self.stream.to_be_bytes();
        [a, b, c, self.kind, self.flags, d, e, f, g]
    }
}

/// RFC 9113, 5.1.1: clients open streams with odd numbers. Others do not occur here, since nothing is pushed.
pub(crate) fn is_client_stream(stream: u32) -> bool {
    stream & 1 == 1
}

fn push(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let head = Head { length: payload.len() as u32, kind, flags, stream };
    out.extend_from_slice(&head.bytes());
    out.extend_from_slice(payload);
}

/// RFC 9113, 6.4.
pub(crate) fn rst_stream(out: &mut Vec<u8>, stream: u32, code: ErrorCode) {
    push(out, kind::RST_STREAM, 0, stream, &code.0.to_be_bytes());
}

/// RFC 9113, 6.5.
pub(crate) fn settings(out: &mut Vec<u8>, entries: &[(u16, u32)]) {
    let length = entries.len() as u32 * 6;
    out.extend_from_slice(&Head { length, kind: kind::SETTINGS, flags: 0, stream: 0 }.bytes());
    for (id, value) in entries {
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
}

/// RFC 9113, 6.5.3.
pub(crate) fn settings_ack(out: &mut Vec<u8>) {
    push(out, kind::SETTINGS, flag::ACK, 0, &[]);
}

/// RFC 9113, 6.7.
pub(crate) fn ping(out: &mut Vec<u8>, opaque: [u8; 8], is_ack: bool) {
    push(out, kind::PING, if is_ack { flag::ACK } else { 0 }, 0, &opaque);
}

/// RFC 9113, 6.8.
pub(crate) fn goaway(out: &mut Vec<u8>, last_stream: u32, code: ErrorCode, debug: &[u8]) {
    let length = 8 + debug.len() as u32;
    out.extend_from_slice(&Head { length, kind: kind::GOAWAY, flags: 0, stream: 0 }.bytes());
    out.extend_from_slice(&last_stream.to_be_bytes());
    out.extend_from_slice(&code.0.to_be_bytes());
    out.extend_from_slice(debug);
}

/// RFC 9113, 6.9.
pub(crate) fn window_update(out: &mut Vec<u8>, stream: u32, increment: u32) {
    push(out, kind::WINDOW_UPDATE, 0, stream, &increment.to_be_bytes());
}

/// RFC 9113, 4.3, 6.2 and 6.10: a field block as one HEADERS frame and as many CONTINUATION frames as it takes.
pub(crate) fn headers(out: &mut Vec<u8>, stream: u32, block: &[u8], end_stream: bool, max_frame_size: usize) {
    let mut kind = kind::HEADERS;
    let mut flags = if end_stream { flag::END_STREAM } else { 0 };
    let mut rest = block;
    loop {
        let (part, tail) = rest.split_at(rest.len().min(max_frame_size));
        rest = tail;
        if rest.is_empty() {
            flags |= flag::END_HEADERS;
        }
        push(out, kind, flags, stream, part);
        if rest.is_empty() {
            return;
        }
        (kind, flags) = (kind::CONTINUATION, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_a_header() {
        let head = Head { length: 0x012345, kind: 0x67, flags: 0x89, stream: 0x7abcdef0 };
        assert_eq!(head.bytes(), [0x01, 0x23, 0x45, 0x67, 0x89, 0x7a, 0xbc, 0xde, 0xf0]);
        assert_eq!(Head::parse(&head.bytes()), head);
    }

    #[test]
    fn ignores_the_reserved_bit() {
        let head = Head::parse(&[0, 0, 0, 0, 0, 0x80, 0, 0, 1]);
        assert_eq!(head.stream, 1);
    }

    #[test]
    fn cuts_a_large_block_into_continuations() {
        for (length, frames) in [(0, 1), (9, 1), (10, 1), (11, 2), (20, 2), (35, 4)] {
            let mut out = Vec::new();
            headers(&mut out, 1, &vec![7; length], true, 10);
            let mut rest = &out[..];
            let mut seen = 0;
            while let Some(head) = rest.first_chunk().map(Head::parse) {
                let first = seen == 0;
                assert_eq!(head.kind, if first { kind::HEADERS } else { kind::CONTINUATION });
                assert_eq!(head.has(flag::END_STREAM), first);
                rest = &rest[HEAD + head.length as usize..];
                assert_eq!(head.has(flag::END_HEADERS), rest.is_empty());
                seen += 1;
            }
            assert_eq!(seen, frames, "{length}");
        }
    }
}
