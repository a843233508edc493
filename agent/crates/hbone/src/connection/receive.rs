//! Frames off the wire: where one ends and the next begins, and DATA (RFC 9113, 4 and 6.1).

use super::Connection;
use crate::{
    ConnectionError, ErrorCode, Event, StreamId,
    closed::Past,
    frame::{self, HEAD, Head, PREFACE, flag, kind},
    settings::{self, Role},
    streams::NO_CONTENT_LENGTH,
};

/// What the next byte is.
#[derive(Clone, Copy)]
pub(super) enum Reading {
    /// Of the client's connection preface.
    Preface { matched: usize },
    /// Of a frame header.
    Head,
    /// Of a payload that is handled as a whole; what there is of it is in `gathered`.
    Payload { head: Head },
    /// The pad length of a DATA frame.
    PadLength { head: Head },
    /// Of a DATA frame's payload.
    Data { stream: u32, left: u32, padding: u32, end_stream: bool },
    /// Of a DATA frame's padding.
    Padding { stream: u32, left: u32, end_stream: bool },
    /// Of something that is ignored.
    Skip { left: u32 },
}

/// Bytes of a GOAWAY that are looked at: the fixed part and some of the debug data.
const GOAWAY_LENGTH: u32 = 8 + super::MAX_DEBUG as u32;

/// What padding and priority can add to a block in a HEADERS frame (RFC 9113, 6.2).
const HEADERS_OVERHEAD: u32 = 1 + 255 + 5;

pub(super) fn error<T>(code: ErrorCode, reason: &'static str) -> Result<T, ConnectionError> {
    Err(ConnectionError { code, reason })
}

impl Connection {
    /// Consumes plaintext from the front of `input`, advancing it, up to the next event.
    ///
    /// `Ok(None)` means that everything was consumed. Input may be cut anywhere. The payload of DATA is a borrowed
    /// slice of it, possibly a part of a frame, and is never copied; only what has a meaning as a whole is, when it
    /// is cut.
    ///
    /// # Errors When the peer broke the protocol so that the connection cannot go on, nor its streams; there is no
    /// event for those that are open. A GOAWAY is in the output then; send it and close. Further calls return the
    /// same error.
    pub fn receive<'b>(&mut self, input: &mut &'b [u8]) -> Result<Option<Event<'b>>, ConnectionError> {
        let result = match self.failed {
            None => self.next_event(input),
            Some(error) => Err(error),
        };
        let Err(error) = result else { return result };
        if self.failed.is_none() {
            self.failed = Some(error);
            self.go_away(error.code, error.reason);
        }
        // What the last frame did before it turned out to be one too many.
        match self.events.pop_front() {
            Some(event) => Ok(Some(event)),
            None => Err(error),
        }
    }

    fn next_event<'b>(&mut self, input: &mut &'b [u8]) -> Result<Option<Event<'b>>, ConnectionError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            match self.reading {
                Reading::Head => {
                    let Some(head) = self.take_head(input) else { return Ok(None) };
                    self.begin_frame(head)?;
                }
                Reading::Data { stream, left: 0, padding, end_stream } => {
                    self.reading = Reading::Padding { stream, left: padding, end_stream };
                }
                Reading::Data { stream, left, padding, end_stream } => {
                    if input.is_empty() {
                        return Ok(None);
                    }
                    let payload = take(input, left);
                    let left = left - payload.len() as u32;
                    self.reading = match (left, padding) {
                        (0, 0) => Reading::Head,
                        _ => Reading::Data { stream, left, padding, end_stream },
                    };
                    if let Some(event) = self.data(stream, payload, end_stream && left == 0 && padding == 0)? {
                        return Ok(Some(event));
                    }
                }
                Reading::Padding { stream, left, end_stream } => {
                    // RFC 9113, 6.1: padding need not be checked to be zeros.
                    let left = left - take(input, left).len() as u32;
                    if left > 0 {
                        self.reading = Reading::Padding { stream, left, end_stream };
                        return Ok(None);
                    }
                    self.reading = Reading::Head;
                    if end_stream {
                        self.end_of_stream(stream)?;
                    }
                }
                Reading::PadLength { head } => {
                    let Some((length, rest)) = input.split_first() else { return Ok(None) };
                    *input = rest;
                    self.begin_data(head, Some(*length))?;
                }
                Reading::Payload { head } => {
                    let wanted = if head.kind == kind::GOAWAY { head.length.min(GOAWAY_LENGTH) } else { head.length };
                    if self.gathered.is_empty() && input.len() >= wanted as usize {
                        let payload = take(input, wanted);
                        self.reading = Reading::Skip { left: head.length - wanted };
                        self.frame(head, payload)?;
                    } else {
                        let missing = wanted - self.gathered.len() as u32;
                        self.gathered.extend_from_slice(take(input, missing));
                        if self.gathered.len() < wanted as usize {
                            return Ok(None);
                        }
                        self.reading = Reading::Skip { left: head.length - wanted };
                        let mut payload = std::mem::take(&mut self.gathered);
                        self.frame(head, &payload)?;
                        payload.clear();
                        self.gathered = payload;
                    }
                }
                Reading::Skip { left } => {
                    let left = left - take(input, left).len() as u32;
                    if left > 0 {
                        self.reading = Reading::Skip { left };
                        return Ok(None);
                    }
                    self.reading = Reading::Head;
                }
                Reading::Preface { matched } => {
                    // RFC 9113, 3.4.
                    let bytes = take(input, (PREFACE.len() - matched) as u32);
                    if !PREFACE[matched..].starts_with(bytes) {
                        return error(ErrorCode::PROTOCOL_ERROR, "the connection does not begin with HTTP/2's preface");
                    }
                    let matched = matched + bytes.len();
                    if matched < PREFACE.len() {
                        self.reading = Reading::Preface { matched };
                        return Ok(None);
                    }
                    self.reading = Reading::Head;
                }
            }
        }
    }

    fn take_head(&mut self, input: &mut &[u8]) -> Option<Head> {
        if self.head_len == 0
            && let Some((head, rest)) = input.split_first_chunk::<HEAD>()
        {
            *input = rest;
            return Some(Head::parse(head));
        }
        let bytes = take(input, (HEAD - self.head_len) as u32);
        self.head[self.head_len..][..bytes.len()].copy_from_slice(bytes);
        self.head_len += bytes.len();
        if self.head_len < HEAD {
            return None;
        }
        self.head_len = 0;
        Some(Head::parse(&self.head))
    }

    /// Judges a frame by its header and sets what comes next.
    fn begin_frame(&mut self, head: Head) -> Result<(), ConnectionError> {
        let Head { length, stream, .. } = head;
        // RFC 9113, 4.2.
        if length > self.config.max_frame_size {
            return error(ErrorCode::FRAME_SIZE_ERROR, "a frame is larger than SETTINGS_MAX_FRAME_SIZE");
        }
        if let Some(block) = &self.open_block {
            // RFC 9113, 4.3 and 6.10.
            if head.kind != kind::CONTINUATION || stream != block.stream {
                return error(ErrorCode::PROTOCOL_ERROR, "another frame came in the middle of a header block");
            }
        } else if head.kind == kind::DATA && self.has_peer_settings {
            return self.begin_data(head, None);
        }
        // RFC 9113, 3.4.
        if !self.has_peer_settings && (head.kind != kind::SETTINGS || head.has(flag::ACK)) {
            return error(ErrorCode::PROTOCOL_ERROR, "the first frame is not SETTINGS");
        }
        match head.kind {
            kind::HEADERS => {
                // RFC 9113, 5.1.1 and 6.2.
                if !frame::is_client_stream(stream) {
                    return error(ErrorCode::PROTOCOL_ERROR, "HEADERS on a stream that the client cannot open");
                }
                if length > self.config.max_header_list_size + HEADERS_OVERHEAD {
                    return error(ErrorCode::ENHANCE_YOUR_CALM, "a header block is too large");
                }
            }
            kind::CONTINUATION => self.begin_continuation(length)?,
            kind::SETTINGS => {
                if stream != 0 {
                    return error(ErrorCode::PROTOCOL_ERROR, "SETTINGS on a stream");
                }
                // RFC 9113, 6.5.
                if length % 6 != 0 || (head.has(flag::ACK) && length != 0) {
                    return error(ErrorCode::FRAME_SIZE_ERROR, "SETTINGS of a wrong size");
                }
                if length > 6 * settings::MAX_ENTRIES {
                    return error(ErrorCode::ENHANCE_YOUR_CALM, "too many settings");
                }
            }
            kind::PING => {
                // RFC 9113, 6.7.
                if stream != 0 {
                    return error(ErrorCode::PROTOCOL_ERROR, "PING on a stream");
                }
                if length != 8 {
                    return error(ErrorCode::FRAME_SIZE_ERROR, "PING of a wrong size");
                }
            }
            kind::GOAWAY => {
                // RFC 9113, 6.8.
                if stream != 0 {
                    return error(ErrorCode::PROTOCOL_ERROR, "GOAWAY on a stream");
                }
                if length < 8 {
                    return error(ErrorCode::FRAME_SIZE_ERROR, "GOAWAY of a wrong size");
                }
            }
            kind::WINDOW_UPDATE => {
                // RFC 9113, 6.9.
                if length != 4 {
                    return error(ErrorCode::FRAME_SIZE_ERROR, "WINDOW_UPDATE of a wrong size");
                }
            }
            kind::RST_STREAM => {
                // RFC 9113, 6.4.
                if stream == 0 {
                    return error(ErrorCode::PROTOCOL_ERROR, "RST_STREAM without a stream");
                }
                if length != 4 {
                    return error(ErrorCode::FRAME_SIZE_ERROR, "RST_STREAM of a wrong size");
                }
            }
            kind::PRIORITY => {
                // RFC 9113, 6.3.
                if stream == 0 {
                    return error(ErrorCode::PROTOCOL_ERROR, "PRIORITY without a stream");
                }
                if length != 5 {
                    self.idle_frame(1)?;
                    self.reading = Reading::Skip { left: length };
                    return self.stream_or_connection_error(
                        stream,
                        ErrorCode::FRAME_SIZE_ERROR,
                        "PRIORITY of a wrong size",
                    );
                }
            }
            // RFC 9113, 6.6 and 8.4: a client cannot push, and a server may not, since ENABLE_PUSH is 0.
            kind::PUSH_PROMISE => return error(ErrorCode::PROTOCOL_ERROR, "PUSH_PROMISE, which was not permitted"),
            // RFC 9113, 4.1 and 5.5.
            _ => {
                self.idle_frame(1)?;
                self.reading = Reading::Skip { left: length };
                return Ok(());
            }
        }
        self.reading = Reading::Payload { head };
        Ok(())
    }

    /// RFC 9113, 6.1. Called once, or once more with the pad length if there is one.
    fn begin_data(&mut self, head: Head, pad_length: Option<u8>) -> Result<(), ConnectionError> {
        let Head { length, stream, .. } = head;
        if head.has(flag::PADDED) && pad_length.is_none() {
            if length == 0 {
                return error(ErrorCode::FRAME_SIZE_ERROR, "padded DATA without a pad length");
            }
            self.reading = Reading::PadLength { head };
            return Ok(());
        }
        let padding = pad_length.map_or(0, u32::from);
        let overhead = padding + u32::from(pad_length.is_some());
        let Some(payload) = length.checked_sub(overhead) else {
            return error(ErrorCode::PROTOCOL_ERROR, "padding exceeds its frame");
        };
        // RFC 9113, 5.1: neither stream 0, nor the server's streams, nor those never opened.
        if !frame::is_client_stream(stream) || stream > self.closed.highest() {
            return error(ErrorCode::PROTOCOL_ERROR, "DATA on a stream that is not open");
        }
        // RFC 9113, 6.9.1: the whole payload counts, padding included, whatever becomes of it.
        if !self.receive_window.charge(length) {
            return error(ErrorCode::FLOW_CONTROL_ERROR, "DATA exceeds the connection's window");
        }
        if self.receive_window.is_update_due() {
            let increment = self.receive_window.announce();
            self.reply(|out| frame::window_update(out, 0, increment))?;
        }
        let end_stream = head.has(flag::END_STREAM);
        if payload > 0 {
            self.flood.data_frame(payload);
        } else if !end_stream {
            self.idle_frame(1)?;
        }

        self.reading = Reading::Skip { left: payload + padding };
        let Some(open) = self.streams.get_mut(stream) else {
            return match self.closed.past(stream) {
                Past::Discarded | Past::Forgotten => Ok(()),
                Past::Ended => error(ErrorCode::STREAM_CLOSED, "DATA on a stream that is closed"),
                Past::Skipped => error(ErrorCode::PROTOCOL_ERROR, "DATA on a stream that was never opened"),
            };
        };
        // RFC 9113, 5.1, "half-closed (remote)".
        if open.is_remote_closed {
            return self.stream_error(stream, ErrorCode::STREAM_CLOSED);
        }
        // RFC 9113, 8.1: a response begins with HEADERS.
        if self.role == Role::Client && !open.is_answered {
            return self.stream_error(stream, ErrorCode::PROTOCOL_ERROR);
        }
        if !open.receive.charge(length) {
            return self.stream_error(stream, ErrorCode::FLOW_CONTROL_ERROR);
        }
        self.reading = Reading::Data { stream, left: payload, padding, end_stream };
        if overhead > 0 {
            open.receive.skip(overhead);
            self.update_stream_window(stream);
        }
        Ok(())
    }

    /// A piece of payload, which is not empty.
    fn data<'b>(&mut self, id: u32, payload: &'b [u8], end_stream: bool) -> Result<Option<Event<'b>>, ConnectionError> {
        // It may have been reset since the frame began.
        let Some(stream) = self.streams.get_mut(id) else { return Ok(None) };
        let length = payload.len() as u32;
        if stream.content_left != NO_CONTENT_LENGTH {
            // RFC 9113, 8.1.1.
            match stream.content_left.checked_sub(u64::from(length)) {
                Some(left) if left == 0 || !end_stream => stream.content_left = left,
                _ => return self.stream_error(id, ErrorCode::PROTOCOL_ERROR).map(|()| None),
            }
        }
        self.growth.delivered(&mut stream.receive, length);
        let token = stream.token;
        if end_stream {
            stream.is_remote_closed = true;
            if stream.is_local_closed {
                self.end(id);
            }
        }
        Ok(Some(Event::Data { stream: StreamId(id), token, payload, end_stream }))
    }

    /// The peer ended its side of a stream without a payload.
    pub(super) fn end_of_stream(&mut self, id: u32) -> Result<(), ConnectionError> {
        let Some(stream) = self.streams.get_mut(id) else { return Ok(()) };
        // RFC 9113, 8.1.1.
        if !matches!(stream.content_left, 0 | NO_CONTENT_LENGTH) {
            return self.stream_error(id, ErrorCode::PROTOCOL_ERROR);
        }
        stream.is_remote_closed = true;
        let token = stream.token;
        if stream.is_local_closed {
            self.end(id);
        }
        self.events.push_back(Event::EndStream { stream: StreamId(id), token });
        Ok(())
    }

    /// Handles a frame that came whole.
    fn frame(&mut self, head: Head, payload: &[u8]) -> Result<(), ConnectionError> {
        match head.kind {
            kind::HEADERS => self.headers(head, payload),
            kind::CONTINUATION => self.continuation(head, payload),
            kind::SETTINGS => self.settings(head, payload),
            kind::PING => self.pinged(head, payload),
            kind::GOAWAY => self.goaway(payload),
            kind::WINDOW_UPDATE => self.window_update(head, payload),
            kind::RST_STREAM => self.rst_stream(head, payload),
            _ => self.priority(head, payload),
        }
    }

    /// Ends a stream for what the peer did on it (RFC 9113, 5.4.2).
    pub(super) fn stream_error(&mut self, id: u32, code: ErrorCode) -> Result<(), ConnectionError> {
        if let Some(stream) = self.remove(id) {
            self.events.push_back(Event::Reset { stream: StreamId(id), token: stream.token, code, by_peer: false });
        }
        self.closed.discarded(id);
        self.reply(|out| frame::rst_stream(out, id, code))?;
        if !self.flood.reset() {
            return error(ErrorCode::ENHANCE_YOUR_CALM, "too many streams that had to be reset");
        }
        Ok(())
    }

    /// For mistakes on a stream that may never have been opened: RST_STREAM is not for those (RFC 9113, 6.4).
    pub(super) fn stream_or_connection_error(
        &mut self,
        id: u32,
        code: ErrorCode,
        reason: &'static str,
    ) -> Result<(), ConnectionError> {
        match self.streams.get(id) {
            Some(_) => self.stream_error(id, code),
            None => error(code, reason),
        }
    }

    /// Counts a frame that moves nothing.
    pub(super) fn idle_frame(&mut self, cost: u32) -> Result<(), ConnectionError> {
        match self.flood.idle_frame(cost) {
            true => Ok(()),
            false => error(ErrorCode::ENHANCE_YOUR_CALM, "too many frames that move nothing"),
        }
    }

    /// Queues an answer to a frame. Answers that the peer does not read must not pile up.
    pub(super) fn reply(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), ConnectionError> {
        let before = self.output.len();
        write(&mut self.output);
        // What was taken away meanwhile no longer counts.
        self.replies = self.replies.min(before) + (self.output.len() - before);
        match self.replies <= self.config.flood.output {
            true => Ok(()),
            false => error(ErrorCode::ENHANCE_YOUR_CALM, "too many frames that want an answer at once"),
        }
    }
}

/// Takes up to `length` bytes off the front.
fn take<'b>(input: &mut &'b [u8], length: u32) -> &'b [u8] {
    let (taken, rest) = input.split_at(input.len().min(length as usize));
    *input = rest;
    taken
}
