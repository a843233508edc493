//! The buffers of one worker, lent while bytes are on their way and returned when they are not.

/// Sealed bytes that wait for a socket, in the very buffer in which they were sealed.
#[derive(Debug)]
pub(super) struct Unsent {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Unsent {
    /// Takes over `buffer`, of which `start..end` waits.
    pub(super) fn from_buffer(buffer: Vec<u8>, start: usize, end: usize) -> Self {
        Self { buffer, start, end }
    }

    pub(super) fn from_slice(bytes: &[u8]) -> Self {
        Self { buffer: bytes.to_vec(), start: 0, end: bytes.len() }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Notes that `count` bytes were written. True when none are left.
    pub(super) fn advance(&mut self, count: usize) -> bool {
        self.start += count;
        self.start >= self.end
    }

    pub(super) fn append(&mut self, bytes: &[u8]) {
        self.buffer.truncate(self.end);
        self.buffer.extend_from_slice(bytes);
        self.end = self.buffer.len();
    }

    pub(super) fn into_buffer(self) -> Vec<u8> {
        self.buffer
    }
}

/// Send buffers of one size. At most a few are kept idle.
#[derive(Debug)]
pub(super) struct BufferPool {
    idle: Vec<Vec<u8>>,
    size: usize,
}

impl BufferPool {
    const KEPT: usize = 4;

    pub(super) fn new(size: usize) -> Self {
        Self { idle: Vec::new(), size }
    }

    pub(super) fn take(&mut self) -> Vec<u8> {
        self.idle.pop().unwrap_or_else(|| vec![0; self.size])
    }

    pub(super) fn give_back(&mut self, buffer: Vec<u8>) {
        if buffer.len() == self.size && self.idle.len() < Self::KEPT {
            self.idle.push(buffer);
        }
    }
}
