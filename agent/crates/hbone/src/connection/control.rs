//! Frames that manage the connection and its streams (RFC 9113, 6.3 to 6.9).

use super::{Connection, DRAIN, OWN_PING, Shutdown, receive::error};
use crate::{
    ConnectionError, ErrorCode, Event, StreamId,
    config::MAX_WINDOW,
    frame::{self, Head, flag},
    settings::Role,
};

impl Connection {
    /// RFC 9113, 6.5. The payload is a multiple of six bytes.
    pub(super) fn settings(&mut self, head: Head, payload: &[u8]) -> Result<(), ConnectionError> {
        if head.has(flag::ACK) {
            if self.are_settings_acknowledged {
                return self.idle_frame(1);
            }
            self.are_settings_acknowledged = true;
            self.decoder.acknowledged(self.config.header_table_size);
            return Ok(());
        }
        // Each is answered, and may touch every stream.
        self.idle_frame(2 + payload.len() as u32 / 6)?;
        let peer = match self.role {
            Role::Client => Role::Server,
            Role::Server => Role::Client,
        };
        if !self.has_peer_settings {
            // RFC 9113, 6.5.2: no limit unless one is announced.
            self.has_peer_settings = true;
            self.peer.max_concurrent_streams = u32::MAX;
        }
        let before = self.peer.initial_window;
        self.peer.apply(payload, peer, |size| self.encoder.set_peer_limit(size))?;
        self.events.push_back(Event::Settings);
        self.move_send_windows(i64::from(self.peer.initial_window) - i64::from(before))?;
        self.reply(frame::settings_ack)
    }

    /// RFC 9113, 6.9.2: a new initial window moves that of every stream, below zero if need be.
    fn move_send_windows(&mut self, difference: i64) -> Result<(), ConnectionError> {
        if difference == 0 {
            return Ok(());
        }
        for (id, stream) in self.streams.iter_mut() {
            let before = stream.send_window;
            stream.send_window += difference;
            if stream.send_window > i64::from(MAX_WINDOW) {
                return error(ErrorCode::FLOW_CONTROL_ERROR, "SETTINGS make a stream's window exceed 2^31-1");
            }
            if before <= 0 && stream.send_window > 0 && !stream.is_local_closed {
                self.events.push_back(Event::Writable { stream: Some((StreamId(id), stream.token)) });
            }
        }
        Ok(())
    }

    /// RFC 9113, 6.7.
    pub(super) fn pinged(&mut self, head: Head, payload: &[u8]) -> Result<(), ConnectionError> {
        let Some(opaque) = payload.first_chunk::<8>() else { return Ok(()) };
        if !head.has(flag::ACK) {
            self.idle_frame(1)?;
            return self.reply(|out| frame::ping(out, *opaque, true));
        }
        let [a, b, c, d, number @ ..] = *opaque;
        if [a, b, c, d] == OWN_PING {
            return self.own_ping_returned(u32::from_be_bytes(number));
        }
        if self.pings == 0 {
            return self.idle_frame(1);
        }
        self.pings -= 1;
        self.events.push_back(Event::Pong { opaque: *opaque });
        Ok(())
    }

    fn own_ping_returned(&mut self, number: u32) -> Result<(), ConnectionError> {
        if number == DRAIN && self.shutdown == Shutdown::Announced {
            // The client knows by now, so what it opened so far is all there will be.
            self.go_away(ErrorCode::NO_ERROR, "");
            return Ok(());
        }
        let Some(id) = self.growth.probed(number) else { return self.idle_frame(1) };
        let stream = self.streams.get_mut(id).filter(|stream| !stream.is_remote_closed);
        if let Some(stream) = stream {
            if self.growth.conclude(Some(&mut stream.receive)) {
                let increment = stream.receive.announce();
                frame::window_update(&mut self.output, id, increment);
            }
        } else {
            self.growth.conclude(None);
        }
        Ok(())
    }

    /// RFC 9113, 6.8. The payload has at least the fixed eight bytes.
    pub(super) fn goaway(&mut self, payload: &[u8]) -> Result<(), ConnectionError> {
        let Some((&[a, b, c, d, e, f, g, h], debug)) = payload.split_first_chunk::<8>() else { return Ok(()) };
        self.idle_frame(1)?;
        let announced = u32::from_be_bytes([a, b, c, d]) & 0x7fff_ffff;
        // It must not grow; a peer that lets it has still said that it will not look at those above.
        let last = announced.min(self.peer_last_stream.unwrap_or(u32::MAX));
        self.peer_last_stream = Some(last);
        let debug: String =
            String::from_utf8_lossy(debug).chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        let code = ErrorCode(u32::from_be_bytes([e, f, g, h]));
        self.events.push_back(Event::GoAway { last_stream: StreamId(last), code, debug });
        if self.role == Role::Client {
            let mut unprocessed: Vec<u32> = self.streams.ids().filter(|id| *id > last).collect();
            unprocessed.sort_unstable();
            for id in unprocessed {
                if let Some(stream) = self.remove(id) {
                    self.closed.discarded(id);
                    let code = ErrorCode::REFUSED_STREAM;
                    self.events.push_back(Event::Reset {
                        stream: StreamId(id),
                        token: stream.token,
                        code,
                        by_peer: true,
                    });
                }
            }
        }
        Ok(())
    }

    /// RFC 9113, 6.9.
    pub(super) fn window_update(&mut self, head: Head, payload: &[u8]) -> Result<(), ConnectionError> {
        let Some(increment) = payload.first_chunk::<4>() else { return Ok(()) };
        // RFC 9113, 6.9: the reserved bit is ignored.
        let increment = i64::from(u32::from_be_bytes(*increment) & MAX_WINDOW);
        self.idle_frame(1)?;
        if head.stream == 0 {
            if increment == 0 {
                return error(ErrorCode::PROTOCOL_ERROR, "WINDOW_UPDATE by 0");
            }
            let before = self.send_window;
            self.send_window += increment;
            // RFC 9113, 6.9.1.
            if self.send_window > i64::from(MAX_WINDOW) {
                return error(ErrorCode::FLOW_CONTROL_ERROR, "the connection's window exceeds 2^31-1");
            }
            if before <= 0 && self.send_window > 0 {
                self.events.push_back(Event::Writable { stream: None });
            }
            return Ok(());
        }
        let Some(stream) = self.streams.get_mut(head.stream) else {
            return match self.is_idle(head.stream) {
                true => error(ErrorCode::PROTOCOL_ERROR, "WINDOW_UPDATE on a stream that was never opened"),
                // RFC 9113, 5.1, "closed": it may have been sent before the peer knew.
                false => Ok(()),
            };
        };
        if increment == 0 {
            return self.stream_error(head.stream, ErrorCode::PROTOCOL_ERROR);
        }
        let before = stream.send_window;
        stream.send_window += increment;
        // RFC 9113, 6.9.1.
        if stream.send_window > i64::from(MAX_WINDOW) {
            return self.stream_error(head.stream, ErrorCode::FLOW_CONTROL_ERROR);
        }
        if before <= 0 && stream.send_window > 0 && !stream.is_local_closed {
            self.events.push_back(Event::Writable { stream: Some((StreamId(head.stream), stream.token)) });
        }
        Ok(())
    }

    /// RFC 9113, 6.4.
    pub(super) fn rst_stream(&mut self, head: Head, payload: &[u8]) -> Result<(), ConnectionError> {
        let Some(code) = payload.first_chunk::<4>() else { return Ok(()) };
        let code = ErrorCode(u32::from_be_bytes(*code));
        let Some(stream) = self.remove(head.stream) else {
            return match self.is_idle(head.stream) {
                true => error(ErrorCode::PROTOCOL_ERROR, "RST_STREAM on a stream that was never opened"),
                false => self.idle_frame(1),
            };
        };
        self.closed.ended(head.stream);
        let by_peer = true;
        self.events.push_back(Event::Reset { stream: StreamId(head.stream), token: stream.token, code, by_peer });
        // A request that is withdrawn before its answer frees its place at once, so that the limit on concurrent
        // streams does not bound the work that it made (CVE-2023-44487).
        if self.role == Role::Server && !stream.is_answered && !self.flood.reset() {
            // Streams that are open go on: their owners may have nothing to do with it. New ones need another connection.
            if !self.is_shut_down() {
                self.go_away(ErrorCode::ENHANCE_YOUR_CALM, "too many streams were reset before they were answered");
            }
        }
        Ok(())
    }

    /// RFC 9113, 5.3.2 and 6.3: priorities are deprecated, and have no effect here.
    pub(super) fn priority(&mut self, head: Head, payload: &[u8]) -> Result<(), ConnectionError> {
        let Some(priority) = payload.first_chunk::<5>() else { return Ok(()) };
        self.idle_frame(1)?;
        self.check_dependency(head.stream, priority)
    }

    /// RFC 7540, 5.3.1: a stream that depends on itself is an error. RFC 9113 no longer says so, but it costs nothing
    /// to be strict with a peer that sends nonsense.
    pub(super) fn check_dependency(&mut self, stream: u32, priority: &[u8; 5]) -> Result<(), ConnectionError> {
        let [a, b, c, d, _weight] = *priority;
        if u32::from_be_bytes([a, b, c, d]) & 0x7fff_ffff == stream {
            return error(ErrorCode::PROTOCOL_ERROR, "a stream depends on itself");
        }
        Ok(())
    }

    /// RFC 9113, 5.1, "idle": it is not the client's to open, or it was not opened yet.
    fn is_idle(&self, stream: u32) -> bool {
        !frame::is_client_stream(stream) || stream > self.closed.highest()
    }
}
