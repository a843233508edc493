//! From a tunnel to the applications: records are opened in place, and payload is written on from the same buffer.

use std::io::IoSlice;

use smallvec::SmallVec;
use weft_hbone::{ErrorCode, Event};
use weft_transport::Content;

use super::flow::{Link, WriteSide};
use super::record::Failure;
use super::socket::Outcome;
use super::table::Key;
use super::tunnel::State;
use super::worker::Worker;

/// One read from a tunnel takes at most so much, behind the beginning of a record that came before.
const READ: usize = 512 * 1024;
/// The largest TLS record, RFC 8446, 5.2.
const RECORD: usize = 5 + 16384 + 256;
pub(super) const BUFFER: usize = READ + RECORD;

/// Payload in the receive buffer for one flow, and what follows it.
#[derive(Debug)]
pub(super) struct Segment {
    flow: Key,
    start: usize,
    len: usize,
    then: Then,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    GoOn,
    End,
    Reset(ErrorCode),
}

impl Worker {
    /// Reads once from the tunnel and hands on what came.
    pub(super) fn receive(&mut self, key: Key) {
        let Some(tunnel) = self.tunnels.get_mut(key) else { return };
        tunnel.is_queued = false;
        if tunnel.is_dead || !tunnel.is_readable {
            return;
        }
        if tunnel.is_closing {
            return self.receive_the_end(key);
        }
        let mut buffer = std::mem::take(&mut self.receive_buffer);
        let result = self.receive_into(key, &mut buffer);
        // What was understood before an error is delivered all the same.
        self.deliver(key, &buffer);
        self.receive_buffer = buffer;
        match result {
            Ok(()) => {
                // The protocol itself may have had enough of the peer's new streams.
                if let Some(tunnel) = self.tunnels.get_mut(key) {
                    tunnel.is_draining |= tunnel.http.is_shut_down();
                }
                self.close_tunnel_if_unused(key);
                self.mark_dirty_if_output(key);
            }
            Err(failure) => {
                // The protocol's last word, a GOAWAY, goes out before the end.
                self.send(key);
                self.fail_tunnel(key, &failure);
            }
        }
    }

    /// Waits for the peer's end of a tunnel that was ended here. What else it says is about streams that are no more.
    fn receive_the_end(&mut self, key: Key) {
        let Some(tunnel) = self.tunnels.get_mut(key) else { return };
        match tunnel.socket.read(&mut self.receive_buffer) {
            Ok(Outcome::Blocked) => tunnel.is_readable = false,
            Ok(Outcome::Moved(0)) | Err(_) => self.discard_tunnel(key),
            Ok(Outcome::Moved(_)) => {
                tunnel.is_queued = true;
                self.queue_receive(key);
            }
        }
    }

    fn receive_into(&mut self, key: Key, buffer: &mut [u8]) -> Result<(), Failure> {
        let Some(tunnel) = self.tunnels.get_mut(key) else { return Ok(()) };
        let start = tunnel.partial.len();
        buffer[..start].copy_from_slice(&tunnel.partial);
        let end = match tunnel.socket.read(&mut buffer[start..]) {
            Ok(Outcome::Blocked | Outcome::Moved(0)) if tunnel.broken.is_some() => {
                tunnel.is_readable = false;
                return Err(tunnel.broken.as_deref().expect("it was just seen").clone());
            }
            Ok(Outcome::Blocked) => {
                tunnel.is_readable = false;
                // Bytes behind a handshake wait in `partial` without a further event.
                start
            }
            Ok(Outcome::Moved(0)) => {
                tunnel.is_readable = false;
                if tunnel.streams == 0 && tunnel.waiting.is_empty() {
                    self.discard_tunnel(key);
                    return Ok(());
                }
                return Err(Failure::unreachable(format!("the peer {} closed the tunnel", tunnel.remote())));
            }
            Ok(Outcome::Moved(moved)) => {
                if moved < buffer.len() - start && !tunnel.has_hangup {
                    tunnel.is_readable = false;
                }
                start + moved
            }
            Err(error) => {
                tunnel.is_readable = false;
                return Err(Failure::unreachable(format!("reading from the tunnel failed: {error}")));
            }
        };
        tunnel.partial.clear();
        tunnel.last_received = self.now;
        tunnel.ping_sent = None;
        if tunnel.is_readable {
            tunnel.is_queued = true;
            self.queue_receive(key);
        }
        let mut at = 0;
        while at < end {
            let Some(tunnel) = self.tunnels.get_mut(key) else { return Ok(()) };
            let State::Open { opener, sealer, .. } = &mut tunnel.state else { return Ok(()) };
            let opened = match opener.open(&mut buffer[at..end]) {
                Ok(Some(opened)) => opened,
                Ok(None) => break,
                Err(error) => {
                    let mut alert = Vec::new();
                    sealer.alert(&error, &mut alert);
                    let remote = tunnel.remote();
                    // The tunnel fails either way; the alert only tells the peer why.
                    let _ = tunnel.write_or_keep(&alert);
                    // Nothing can be sealed behind it.
                    tunnel.is_closing = true;
                    return Err(Failure::tls(format!("a TLS record from {remote} is not acceptable: {error}")));
                }
            };
            match opened.content {
                Content::Data(range) => {
                    let (from, to) = (at + range.start, at + range.end);
                    self.understand(key, buffer, from, to)?;
                }
                // A change of keys may have to be answered.
                Content::Control => self.mark_dirty(key),
                Content::Closed => {
                    if tunnel.streams == 0 && tunnel.waiting.is_empty() {
                        self.discard_tunnel(key);
                        return Ok(());
                    }
                    return Err(Failure::unreachable(format!("the peer {} closed the tunnel", tunnel.remote())));
                }
            }
            at += opened.consumed;
        }
        if let Some(tunnel) = self.tunnels.get_mut(key) {
            tunnel.partial.extend_from_slice(&buffer[at..end]);
            if tunnel.partial.is_empty() && tunnel.partial.capacity() > 4096 {
                tunnel.partial = Vec::new();
            }
        }
        Ok(())
    }

    /// Takes the events out of `buffer[from..to]`; payload is noted, not moved.
    fn understand(&mut self, key: Key, buffer: &[u8], from: usize, to: usize) -> Result<(), Failure> {
        let mut input = &buffer[from..to];
        loop {
            let Some(tunnel) = self.tunnels.get_mut(key) else { return Ok(()) };
            if tunnel.is_dead {
                return Ok(());
            }
            let event = match tunnel.http.receive(&mut input) {
                Ok(Some(event)) => event,
                Ok(None) => return Ok(()),
                Err(error) => {
                    let remote = tunnel.remote();
                    return Err(Failure::unreachable(format!("{remote} broke the HTTP/2 protocol: {error}")));
                }
            };
            match event {
                Event::Data { token, payload, end_stream, .. } => {
                    let start = payload.as_ptr().addr() - buffer.as_ptr().addr();
                    let then = if end_stream { Then::End } else { Then::GoOn };
                    self.segments.push(Segment { flow: Key::from_bits(token), start, len: payload.len(), then });
                }
                Event::EndStream { token, .. } => self.note(token, Then::End),
                Event::Reset { token, code, .. } => self.note(token, Then::Reset(code)),
                Event::Request { stream, request } => self.on_request(key, stream, &request),
                Event::Response { token, status, end_stream, .. } => {
                    self.on_response(key, Key::from_bits(token), status);
                    if end_stream {
                        self.note(token, Then::End);
                    }
                }
                Event::Writable { stream } => self.on_writable(key, stream.map(|(_, token)| Key::from_bits(token))),
                Event::GoAway { code, debug, .. } => self.on_go_away(key, code, &debug),
                Event::Pong { .. } | Event::Settings => {}
            }
        }
    }

    /// Notes that the peer has nothing to say on the stream of this flow.
    pub(super) fn note_end(&mut self, flow: Key) {
        self.note(flow.to_bits(), Then::End);
    }

    fn note(&mut self, token: u64, then: Then) {
        self.segments.push(Segment { flow: Key::from_bits(token), start: 0, len: 0, then });
    }

    /// Writes the noted payload to the applications, what belongs together in one call.
    fn deliver(&mut self, tunnel_key: Key, buffer: &[u8]) {
        let mut segments = std::mem::take(&mut self.segments);
        let mut rest = &segments[..];
        while let Some(first) = rest.first() {
            let flow = first.flow;
            let run = rest.iter().take_while(|segment| segment.flow == flow).count().min(64);
            let (now, later) = rest.split_at(run);
            rest = later;
            let parts: SmallVec<[IoSlice<'_>; 64]> = now
                .iter()
                .filter(|segment| segment.len > 0)
                .map(|segment| IoSlice::new(&buffer[segment.start..segment.start + segment.len]))
                .collect();
            if !parts.is_empty() {
                self.deliver_data(tunnel_key, flow, &parts);
            }
            for segment in now {
                match segment.then {
                    Then::GoOn => {}
                    Then::End => self.deliver_end(flow),
                    Then::Reset(code) => self.on_reset(flow, code),
                }
            }
        }
        segments.clear();
        self.segments = segments;
    }

    fn deliver_data(&mut self, tunnel_key: Key, key: Key, parts: &[IoSlice<'_>]) {
        let Some(flow) = self.flows.get_mut(key) else { return };
        let Link::Stream { tunnel, stream } = flow.link else { return };
        if flow.is_dead || tunnel != tunnel_key {
            return;
        }
        match flow.write_or_keep(parts) {
            Ok(taken) => {
                let connected = flow.is_connecting && taken > 0;
                if taken > 0
                    && let Some(tunnel) = self.tunnels.get_mut(tunnel_key)
                {
                    tunnel.http.released(stream, taken);
                }
                if connected {
                    self.application_connected(key);
                }
            }
            Err(error) if flow.is_connecting => self.application_refused(key, &error),
            Err(error) => self.socket_failed(key, &error),
        }
    }

    fn deliver_end(&mut self, key: Key) {
        let Some(flow) = self.flows.get_mut(key) else { return };
        if flow.is_dead || flow.write_side != WriteSide::Open {
            return;
        }
        flow.write_side = WriteSide::Finishing;
        self.finish_write_side(key);
        self.detach_if_over(key);
    }

    /// Sends a due FIN and closes a flow of which both directions have ended.
    pub(super) fn finish_write_side(&mut self, key: Key) {
        let Some(flow) = self.flows.get_mut(key) else { return };
        match flow.finish_if_due() {
            Ok(()) => self.close_if_complete(key),
            Err(error) => self.socket_failed(key, &error),
        }
    }

    /// A window opened: one stream's, or the connection's.
    fn on_writable(&mut self, key: Key, flow: Option<Key>) {
        match flow {
            Some(flow) => self.queue_flow(flow),
            None => {
                let Some(tunnel) = self.tunnels.get_mut(key) else { return };
                for key in std::mem::take(&mut tunnel.blocked) {
                    if let Some(flow) = self.flows.get_mut(key) {
                        flow.is_blocked = false;
                    }
                    self.queue_flow(key);
                }
            }
        }
    }

    /// Puts a flow into its tunnel's queue if it has something to say.
    pub(super) fn queue_flow(&mut self, key: Key) {
        let Some(flow) = self.flows.get_mut(key) else { return };
        let Link::Stream { tunnel: tunnel_key, .. } = flow.link else { return };
        if flow.is_queued || flow.is_dead || flow.is_connecting || !flow.wants_read() {
            return;
        }
        let Some(tunnel) = self.tunnels.get_mut(tunnel_key) else { return };
        flow.is_queued = true;
        tunnel.ready.push_back(key);
        self.mark_dirty(tunnel_key);
    }

    fn mark_dirty_if_output(&mut self, key: Key) {
        if let Some(tunnel) = self.tunnels.get_mut(key)
            && !tunnel.http.output().is_empty()
        {
            self.mark_dirty(key);
        }
    }
}
