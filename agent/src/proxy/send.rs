//! From the applications into a tunnel: read straight behind the headers, seal in place, write in batches.
//!
//! The buffer of a batch is laid out as records. Each holds one DATA frame: the record's header, the frame's header,
//! payload as it was read from the application's socket, and room for the content type and the tag of the seal.

use std::io::{self, IoSliceMut};

use smallvec::SmallVec;
use weft_hbone::{Connection, StreamId};
use weft_transport::Sealer;

use super::BATCH;
use super::flow::{Flow, Link, UNCONFIRMED_LIMIT};
use super::record::Failure;
use super::socket::Outcome;
use super::table::{Key, Table};
use super::tunnel::{State, Tunnel};
use super::worker::Worker;

/// The header of a frame, RFC 9113, 4.1.
const FRAME_HEADER: usize = 9;
/// Payload of a full record.
const CHUNK: usize = Sealer::MAX_PLAINTEXT - FRAME_HEADER;
/// Bytes before the payload of a record, and after it.
const BEFORE: usize = Sealer::HEADER + FRAME_HEADER;
const AFTER: usize = Sealer::TRAILER;
/// From one full record to the next.
const STRIDE: usize = BEFORE + CHUNK + AFTER;
/// A batch of full records.
pub(super) const BUFFER: usize = BATCH.div_ceil(CHUNK) * STRIDE;
/// A record is not begun in less room than this.
const LEAST_ROOM: usize = BEFORE + AFTER + 2048;
/// What one of several flows may put into a batch before the next has its turn.
const SHARE: usize = 64 * 1024;
/// Batches of one tunnel in one turn of the worker.
const BATCHES_PER_TURN: usize = 4;

/// How a flow's contribution to a batch ended.
enum Filled {
    /// There may be more to read.
    More,
    /// The socket is empty, or what was read must be confirmed first.
    Empty,
    /// The flow-control window is closed.
    Blocked,
    /// The end of the stream was sent.
    Ended,
    /// The application's socket failed, and has nothing more to say that the peer would take now.
    Failed(Failure),
}

impl Worker {
    /// Writes what the tunnel's flows and its own protocol have to say.
    pub(super) fn send(&mut self, key: Key) {
        let Some(tunnel) = self.tunnels.get_mut(key) else { return };
        tunnel.is_dirty = false;
        if tunnel.is_dead || tunnel.broken.is_some() {
            return;
        }
        let mut ended: SmallVec<[(Key, Option<Failure>); 8]> = SmallVec::new();
        let result = Self::send_batches(tunnel, key, &mut self.flows, &mut self.send_buffers, &mut ended);
        let goes_on = match result {
            Ok(goes_on) => goes_on,
            Err(error) => {
                // What the peer had said before it went is still to be read, to its end.
                tunnel.broken = Some(Box::new(Failure::unreachable(format!("writing to the tunnel failed: {error}"))));
                tunnel.is_readable = true;
                tunnel.has_hangup = true;
                if !tunnel.is_queued {
                    tunnel.is_queued = true;
                    self.queue_receive(key);
                }
                false
            }
        };
        if goes_on {
            self.mark_dirty(key);
        }
        for (flow, failure) in ended {
            match failure {
                Some(failure) => self.abort_flow(flow, failure),
                None => {
                    self.close_if_complete(flow);
                    self.detach_if_over(flow);
                }
            }
        }
        self.finish_closing(key);
    }

    /// True when there is more to send and the socket may take it.
    fn send_batches(
        tunnel: &mut Tunnel,
        key: Key,
        flows: &mut Table<Flow>,
        buffers: &mut super::buffers::BufferPool,
        ended: &mut SmallVec<[(Key, Option<Failure>); 8]>,
    ) -> io::Result<bool> {
        if !tunnel.flush_unsent(buffers)? || !tunnel.is_open() {
            return Ok(false);
        }
        let mut buffer = buffers.take();
        for _ in 0..BATCHES_PER_TURN {
            let used = gather(tunnel, key, flows, &mut buffer, ended)?;
            if used == 0 {
                buffers.give_back(buffer);
                return Ok(false);
            }
            let mut written = 0;
            while written < used {
                match tunnel.socket.write(&buffer[written..used])? {
                    Outcome::Moved(moved) => written += moved,
                    Outcome::Blocked => {
                        tunnel.is_writable = false;
                        tunnel.unsent = Some(super::buffers::Unsent::from_buffer(buffer, written, used));
                        return Ok(false);
                    }
                }
            }
        }
        buffers.give_back(buffer);
        Ok(true)
    }
}

/// Fills `buffer` with sealed records: the protocol's own frames first, then the flows' data in turn.
fn gather(
    tunnel: &mut Tunnel,
    key: Key,
    flows: &mut Table<Flow>,
    buffer: &mut [u8],
    ended: &mut SmallVec<[(Key, Option<Failure>); 8]>,
) -> io::Result<usize> {
    let Tunnel { state: State::Open { sealer, .. }, http, ready, blocked, is_closing, .. } = tunnel else {
        return Ok(0);
    };
    if *is_closing {
        return Ok(0);
    }
    let mut used = seal_control(sealer, http, buffer)?;
    // Frames that the buffer had no room for must come before any data.
    if !http.output().is_empty() {
        return Ok(used);
    }
    while buffer.len() - used >= LEAST_ROOM {
        let Some(flow_key) = ready.pop_front() else { break };
        let Some(flow) = flows.get_mut(flow_key) else { continue };
        let Link::Stream { tunnel: of, stream } = flow.link else { continue };
        if of != key {
            continue;
        }
        flow.is_queued = false;
        let share = if ready.is_empty() { BATCH } else { SHARE };
        let (bytes, filled) = fill(flow, stream, sealer, http, &mut buffer[used..], share)?;
        used += bytes;
        match filled {
            Filled::More => {
                flow.is_queued = true;
                ready.push_back(flow_key);
            }
            Filled::Empty => {}
            Filled::Blocked => {
                // The stream's own window is announced for the stream; the connection's is for all that wait for it.
                if !flow.is_blocked && http.is_window_closed() {
                    flow.is_blocked = true;
                    blocked.push(flow_key);
                }
            }
            Filled::Ended => ended.push((flow_key, None)),
            // The reset goes out with the next batch, behind what this one has of the flow.
            Filled::Failed(failure) => ended.push((flow_key, Some(failure))),
        }
    }
    Ok(used)
}

/// Seals the frames that the protocol has queued, after the change of keys that may be due.
fn seal_control(sealer: &mut Sealer, http: &mut Connection, buffer: &mut [u8]) -> io::Result<usize> {
    let mut key_update = Vec::new();
    sealer.maintain(&mut key_update).map_err(io::Error::other)?;
    let mut used = key_update.len();
    buffer[..used].copy_from_slice(&key_update);
    let output = http.output();
    let mut taken = 0;
    while taken < output.len() {
        let room = (buffer.len() - used).saturating_sub(Sealer::HEADER + AFTER);
        let len = (output.len() - taken).min(Sealer::MAX_PLAINTEXT).min(room);
        if len == 0 {
            break;
        }
        let record = &mut buffer[used..used + Sealer::HEADER + len + AFTER];
        record[Sealer::HEADER..Sealer::HEADER + len].copy_from_slice(&output[taken..taken + len]);
        sealer.seal(record).map_err(io::Error::other)?;
        taken += len;
        used += Sealer::HEADER + len + AFTER;
    }
    output.drain(..taken);
    if output.is_empty() && output.capacity() > 64 * 1024 {
        *output = Vec::new();
    }
    Ok(used)
}

/// Moves what `flow` has to say into `buffer`, at most `share` bytes of it, as sealed DATA frames.
fn fill(
    flow: &mut Flow,
    stream: StreamId,
    sealer: &mut Sealer,
    http: &mut Connection,
    buffer: &mut [u8],
    share: usize,
) -> io::Result<(usize, Filled)> {
    if !flow.wants_read() {
        return Ok((0, if flow.is_complete() { Filled::Ended } else { Filled::Empty }));
    }
    let window = http.send_window(stream);
    if window == 0 {
        // The reset must reach the other side even while that side takes no bytes.
        return Ok((0, flow.failed.take().map_or(Filled::Blocked, |failure| Filled::Failed(*failure))));
    }
    let mut allowed = window.min(share);
    if let Some(unconfirmed) = &mut flow.unconfirmed {
        if unconfirmed.is_due(flow.read_done) {
            let replay = unconfirmed.bytes.len() - unconfirmed.sent;
            let len = replay.min(allowed).min(CHUNK).min(buffer.len() - BEFORE - AFTER);
            buffer[BEFORE..BEFORE + len].copy_from_slice(&unconfirmed.bytes[unconfirmed.sent..][..len]);
            unconfirmed.sent += len;
            let is_last = flow.read_done && unconfirmed.sent == unconfirmed.bytes.len();
            unconfirmed.end_sent = is_last;
            if unconfirmed.is_accepted && !unconfirmed.is_due(flow.read_done) {
                flow.unconfirmed = None;
            }
            let used = seal_data(sealer, http, stream, buffer, len, is_last)?;
            return Ok((used, if is_last { Filled::Ended } else { Filled::More }));
        }
        allowed = allowed.min(UNCONFIRMED_LIMIT - unconfirmed.bytes.len());
        if allowed == 0 {
            return Ok((0, flow.failed.take().map_or(Filled::Empty, |failure| Filled::Failed(*failure))));
        }
    }
    let offered = allowed.min(flow.read_size).min(payload_room(buffer.len()));
    let outcome = {
        let mut parts: SmallVec<[IoSliceMut<'_>; 17]> = SmallVec::new();
        let mut left = offered;
        for record in buffer.chunks_mut(STRIDE) {
            if left == 0 {
                break;
            }
            let len = left.min(CHUNK).min(record.len() - BEFORE - AFTER);
            parts.push(IoSliceMut::new(&mut record[BEFORE..BEFORE + len]));
            left -= len;
        }
        if let [part] = &mut parts[..] { flow.socket.read(part) } else { flow.socket.read_vectored(&mut parts) }
    };
    match outcome {
        Ok(Outcome::Blocked | Outcome::Moved(0)) if flow.failed.is_some() => {
            flow.is_readable = false;
            let mut used = 0;
            if flow.ended_before_failure {
                flow.read_done = true;
                used = seal_data(sealer, http, stream, buffer, 0, true)?;
            }
            Ok((used, flow.failed.take().map_or(Filled::Empty, |failure| Filled::Failed(*failure))))
        }
        Ok(Outcome::Blocked) => {
            flow.is_readable = false;
            Ok((0, Filled::Empty))
        }
        Ok(Outcome::Moved(0)) => {
            flow.read_done = true;
            flow.is_readable = false;
            if let Some(unconfirmed) = &mut flow.unconfirmed {
                unconfirmed.end_sent = true;
            }
            Ok((seal_data(sealer, http, stream, buffer, 0, true)?, Filled::Ended))
        }
        Ok(Outcome::Moved(moved)) => {
            flow.note_read(moved, offered);
            if let Some(unconfirmed) = &mut flow.unconfirmed {
                keep(&mut unconfirmed.bytes, buffer, moved);
                unconfirmed.sent = unconfirmed.bytes.len();
            }
            let mut used = 0;
            let mut left = moved;
            while left > 0 {
                let len = left.min(CHUNK);
                used += seal_data(sealer, http, stream, &mut buffer[used..], len, false)?;
                left -= len;
            }
            Ok((used, if flow.is_readable { Filled::More } else { Filled::Empty }))
        }
        Err(error) => {
            flow.is_readable = false;
            Ok((0, Filled::Failed(Failure::application(&error))))
        }
    }
}

/// How much payload fits into `room` bytes of records.
fn payload_room(room: usize) -> usize {
    let full = room / STRIDE;
    let rest = (room % STRIDE).saturating_sub(BEFORE + AFTER + 1);
    full * CHUNK + rest
}

/// Copies `count` bytes of payload out of the records' places.
fn keep(into: &mut Vec<u8>, buffer: &[u8], count: usize) {
    let mut left = count;
    for record in buffer.chunks(STRIDE) {
        let len = left.min(CHUNK);
        into.extend_from_slice(&record[BEFORE..BEFORE + len]);
        left -= len;
        if left == 0 {
            break;
        }
    }
}

/// Makes the record at the front of `buffer`, whose payload is in place, a sealed DATA frame. Returns the record's length.
fn seal_data(
    sealer: &mut Sealer,
    http: &mut Connection,
    stream: StreamId,
    buffer: &mut [u8],
    len: usize,
    end_stream: bool,
) -> io::Result<usize> {
    let record = &mut buffer[..BEFORE + len + AFTER];
    record[Sealer::HEADER..BEFORE].copy_from_slice(&http.data_header(stream, len, end_stream));
    sealer.seal(record).map_err(io::Error::other)?;
    Ok(record.len())
}
