//! A flow: one socket to or from an application, and what it is joined with.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;

use weft_hbone::StreamId;

use super::pod::Pod;
use super::record::{Failure, Record};
use super::socket::{Outcome, Socket};
use super::table::Key;

/// Bytes of a new stream that are kept until the peer has accepted it, so that they can be sent again if the peer never saw them.
pub(super) const UNCONFIRMED_LIMIT: usize = 64 * 1024;

/// What the bytes of a flow are exchanged with.
#[derive(Debug)]
pub(super) enum Link {
    /// A stream of a tunnel.
    Stream { tunnel: Key, stream: StreamId },
    /// A tunnel that is not established yet; nothing is read meanwhile.
    Waiting { tunnel: Key },
    /// Another socket, in clear.
    Socket { other: Key },
    /// Nothing any more.
    None,
}

/// Why and how the write side of a flow's socket ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WriteSide {
    /// More may come.
    Open,
    /// FIN follows the pending bytes.
    Finishing,
    /// FIN was sent.
    Finished,
}

#[derive(Debug)]
pub(super) struct Flow {
    pub(super) socket: Socket,
    pub(super) pod: Arc<Pod>,
    pub(super) link: Link,
    /// The flow was dialled by the agent and is not established yet.
    pub(super) is_connecting: bool,
    pub(super) is_readable: bool,
    pub(super) is_writable: bool,
    /// The kernel reported FIN, an error or urgent data, at which a read ends early: reading goes on until nothing is left.
    pub(super) has_hangup: bool,
    /// FIN was read and passed on.
    pub(super) read_done: bool,
    pub(super) write_side: WriteSide,
    /// The flow stands in its tunnel's queue of flows with something to send.
    pub(super) is_queued: bool,
    /// The flow stands in its tunnel's list of those that met a closed window.
    pub(super) is_blocked: bool,
    /// Bytes that the socket had no room for.
    pub(super) pending: VecDeque<u8>,
    /// The first bytes of a stream that the peer has not accepted yet.
    pub(super) unconfirmed: Option<Unconfirmed>,
    /// The socket has failed, for this reason. It takes nothing any more; what it had to say before is still passed on,
    /// and then the reset.
    pub(super) failed: Option<Box<Failure>>,
    /// It had ended its side in order before it failed: the end is passed on ahead of the reset.
    pub(super) ended_before_failure: bool,
    /// How much to offer to the next read.
    pub(super) read_size: usize,
    pub(super) read_bytes: u64,
    pub(super) written_bytes: u64,
    /// What is logged and counted; the flow that was accepted carries it for a pair.
    pub(super) record: Option<Box<Record>>,
    /// Closed; its place is freed at the end of the turn.
    pub(super) is_dead: bool,
}

/// Bytes sent before the peer accepted the stream.
#[derive(Debug, Default)]
pub(super) struct Unconfirmed {
    pub(super) bytes: Vec<u8>,
    /// How many of them were sent on the present stream: fewer than all after the stream had to be opened anew.
    pub(super) sent: usize,
    /// The end of the stream was sent on the present stream as well.
    pub(super) end_sent: bool,
    /// How often a peer has refused the stream.
    pub(super) refusals: u32,
    /// The peer accepted the present stream: what is left to be said again goes out, and then nothing need be kept.
    pub(super) is_accepted: bool,
}

impl Unconfirmed {
    /// Something that was read has not been sent on the present stream.
    pub(super) fn is_due(&self, read_done: bool) -> bool {
        self.sent < self.bytes.len() || read_done && !self.end_sent
    }

    /// The stream was opened anew: everything is to be said again.
    pub(super) fn start_over(&mut self) {
        self.sent = 0;
        self.end_sent = false;
    }
}

impl Flow {
    pub(super) fn new(socket: Socket, pod: Arc<Pod>, record: Option<Box<Record>>) -> Self {
        Self {
            socket,
            pod,
            link: Link::None,
            is_connecting: false,
            is_readable: false,
            is_writable: true,
            has_hangup: false,
            read_done: false,
            write_side: WriteSide::Open,
            is_queued: false,
            is_blocked: false,
            pending: VecDeque::new(),
            unconfirmed: None,
            failed: None,
            ended_before_failure: false,
            read_size: 16 * 1024,
            read_bytes: 0,
            written_bytes: 0,
            record,
            is_dead: false,
        }
    }

    /// Whether a read could bring bytes or the end of the stream.
    pub(super) fn wants_read(&self) -> bool {
        let replays = self.unconfirmed.as_ref().is_some_and(|unconfirmed| unconfirmed.is_due(self.read_done));
        replays || self.is_readable && !self.read_done
    }

    /// Notes how a read of at most `offered` bytes went.
    ///
    /// A read that brings less than was offered has emptied the socket, unless the end of the stream waits behind:
    /// readiness is reported once for both.
    pub(super) fn note_read(&mut self, moved: usize, offered: usize) {
        self.read_bytes += moved as u64;
        if moved < offered && !self.has_hangup {
            self.is_readable = false;
        }
        self.read_size =
            if moved == offered { (offered * 4).min(super::BATCH) } else { (moved * 2).clamp(16 * 1024, super::BATCH) };
    }

    /// Writes `parts`, keeps what the socket does not take, and returns how many bytes the socket took.
    pub(super) fn write_or_keep(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let total: usize = parts.iter().map(|part| part.len()).sum();
        if self.failed.is_some() {
            // Nobody is there to take them.
            return Ok(total);
        }
        let mut taken = 0;
        if self.pending.is_empty() && self.is_writable {
            while taken < total {
                let outcome = if taken == 0 {
                    self.socket.write_vectored(parts)?
                } else {
                    // A short write means that the socket's buffer is full, as a rule; one more try tells.
                    let (index, offset) = position(parts, taken);
                    self.socket.write(&parts[index][offset..])?
                };
                match outcome {
                    Outcome::Moved(moved) => taken += moved,
                    Outcome::Blocked => {
                        self.is_writable = false;
                        break;
                    }
                }
            }
        }
        if taken < total {
            let (index, offset) = position(parts, taken);
            self.pending.extend(&parts[index][offset..]);
            for part in &parts[index + 1..] {
                self.pending.extend(&part[..]);
            }
        }
        self.written_bytes += taken as u64;
        Ok(taken)
    }

    /// Writes what was kept and returns how many bytes the socket took.
    pub(super) fn write_pending(&mut self) -> io::Result<usize> {
        let mut taken = 0;
        while !self.pending.is_empty() && self.is_writable {
            let (front, back) = self.pending.as_slices();
            match self.socket.write_vectored(&[IoSlice::new(front), IoSlice::new(back)])? {
                Outcome::Moved(moved) => {
                    self.pending.drain(..moved);
                    taken += moved;
                }
                Outcome::Blocked => self.is_writable = false,
            }
        }
        if self.pending.is_empty() && self.pending.capacity() > 0 {
            // Buffers are held only while they hold something: idle connections cost no memory.
            self.pending = VecDeque::new();
        }
        self.written_bytes += taken as u64;
        Ok(taken)
    }

    /// Sends the FIN that is due, once nothing is pending.
    pub(super) fn finish_if_due(&mut self) -> io::Result<()> {
        if self.failed.is_none()
            && self.write_side == WriteSide::Finishing
            && self.pending.is_empty()
            && !self.is_connecting
        {
            self.write_side = WriteSide::Finished;
            // When the other direction has ended as well the socket is closed right after this, which says the same.
            if !self.read_done {
                self.socket.finish()?;
            }
        }
        Ok(())
    }

    /// Both directions have ended in order.
    pub(super) fn is_complete(&self) -> bool {
        self.read_done && self.write_side == WriteSide::Finished
    }

    /// Its stream has ended both ways: what the application has not taken yet needs no tunnel.
    pub(super) fn is_stream_over(&self) -> bool {
        self.read_done && self.unconfirmed.is_none() && self.write_side != WriteSide::Open
    }
}

/// Where byte number `at` of `parts` is: the part's index and the offset in it.
fn position(parts: &[IoSlice<'_>], mut at: usize) -> (usize, usize) {
    for (index, part) in parts.iter().enumerate() {
        if at < part.len() {
            return (index, at);
        }
        at -= part.len();
    }
    (parts.len(), 0)
}
