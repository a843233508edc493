//! What a peer put on the wire, for tests that must know that a thing really happened there.

/// Lengths of the connection preface and of a frame header (RFC 9113, 3.4 and 4.1).
const PREFACE: usize = 24;
const HEAD: usize = 9;

/// RFC 9113, 6: the types and flags that tests look for.
pub mod kind {
    pub const DATA: u8 = 0x0;
    pub const HEADERS: u8 = 0x1;
    pub const SETTINGS: u8 = 0x4;
    pub const PING: u8 = 0x6;
    pub const CONTINUATION: u8 = 0x9;
    /// RFC 7838, 4 and RFC 8336, 2.1.
    pub const ALTSVC: u8 = 0xa;
    pub const ORIGIN: u8 = 0xc;
}
pub mod flag {
    pub const ACK: u8 = 0x1;
    pub const PADDED: u8 = 0x8;
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    pub length: usize,
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
}

/// The headers of all frames that passed, in order.
pub struct Frames {
    seen: Vec<Frame>,
    head: Vec<u8>,
    /// Bytes until the next header.
    skip: usize,
}

impl Frames {
    pub fn of_client() -> Self {
        Self { seen: Vec::new(), head: Vec::new(), skip: PREFACE }
    }

    pub fn of_server() -> Self {
        Self { skip: 0, ..Self::of_client() }
    }

    /// Takes the next bytes that passed.
    pub fn note(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            (self.skip, bytes) = (self.skip - skipped, &bytes[skipped..]);
            if self.skip > 0 {
                return;
            }
            let taken = (HEAD - self.head.len()).min(bytes.len());
            self.head.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if let [a, b, c, kind, flags, d, e, f, g] = self.head[..] {
                let length = u32::from_be_bytes([0, a, b, c]) as usize;
                let stream = u32::from_be_bytes([d, e, f, g]) & 0x7fff_ffff;
                self.seen.push(Frame { length, kind, flags, stream });
                self.head.clear();
                self.skip = length;
            }
        }
    }

    /// Those of a type that have all of these flags.
    pub fn with(&self, kind: u8, flags: u8) -> impl Iterator<Item = Frame> {
        self.seen.iter().copied().filter(move |frame| frame.kind == kind && frame.flags & flags == flags)
    }
}
