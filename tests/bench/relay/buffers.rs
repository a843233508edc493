//! Buffers, lent while bytes are on their way.

use std::ops::Range;

/// The size of one: what a read takes at most.
pub const SIZE: usize = 256 * 1024;

/// How many are kept while nobody needs them.
const KEPT: usize = 8;

/// Idle buffers. A connection without bytes on their way holds none.
#[derive(Debug, Default)]
pub struct Buffers(Vec<Box<[u8]>>);

impl Buffers {
    /// One of [`SIZE`] bytes, with whatever was in it.
    pub fn take(&mut self) -> Box<[u8]> {
        self.0.pop().unwrap_or_else(|| vec![0; SIZE].into_boxed_slice())
    }

    /// Takes one back.
    pub fn give_back(&mut self, buffer: Box<[u8]>) {
        if self.0.len() < KEPT {
            self.0.push(buffer);
        }
    }
}

/// Bytes that wait for a socket to take them, where they were read.
#[derive(Debug)]
pub struct Chunk {
    /// The buffer.
    pub buffer: Box<[u8]>,
    /// The part of it that waits.
    pub waiting: Range<usize>,
}

impl Chunk {
    /// What waits.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.waiting.clone()]
    }
}
