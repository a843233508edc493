//! Header blocks: requests, responses, trailers (RFC 9113, 4.3, 6.2, 6.10 and 8).

use super::{Connection, Shutdown, receive::error};
use crate::{
    ConnectionError, ErrorCode, Event, Request, StreamId,
    closed::Past,
    fields::{Expected, Fields, Refused},
    frame::{Head, flag},
    settings::Role,
    streams::NO_CONTENT_LENGTH,
};

/// Room for an answer with its baggage, in bytes.
const ANSWER: usize = 512;

/// A header block that CONTINUATION frames are to complete.
#[derive(Clone, Copy)]
pub(super) struct OpenBlock {
    pub(super) stream: u32,
    end_stream: bool,
    frames: u32,
}

impl Connection {
    /// RFC 9113, 6.2.
    pub(super) fn headers(&mut self, head: Head, payload: &[u8]) -> Result<(), ConnectionError> {
        let mut block = payload;
        let mut padding = 0;
        if head.has(flag::PADDED) {
            let Some((length, rest)) = block.split_first() else {
                return error(ErrorCode::FRAME_SIZE_ERROR, "padded HEADERS without a pad length");
            };
            (padding, block) = (usize::from(*length), rest);
        }
        if head.has(flag::PRIORITY) {
            let Some((priority, rest)) = block.split_first_chunk::<5>() else {
                return error(ErrorCode::FRAME_SIZE_ERROR, "HEADERS without the priority that they announce");
            };
            self.check_dependency(head.stream, priority)?;
            block = rest;
        }
        let Some(length) = block.len().checked_sub(padding) else {
            return error(ErrorCode::PROTOCOL_ERROR, "padding exceeds its frame");
        };
        block = &block[..length];
        let end_stream = head.has(flag::END_STREAM);
        if head.has(flag::END_HEADERS) {
            return self.block(head.stream, end_stream, block);
        }
        self.block.clear();
        self.block.extend_from_slice(block);
        self.open_block = Some(OpenBlock { stream: head.stream, end_stream, frames: 0 });
        Ok(())
    }

    /// A CONTINUATION frame is about to be read (RFC 9113, 6.10). Its block is kept in memory until it is complete, so
    /// it is bounded before it arrives.
    pub(super) fn begin_continuation(&mut self, length: u32) -> Result<(), ConnectionError> {
        let Some(open) = &mut self.open_block else {
            return error(ErrorCode::PROTOCOL_ERROR, "CONTINUATION without HEADERS");
        };
        open.frames += 1;
        if open.frames > self.config.flood.continuations {
            return error(ErrorCode::ENHANCE_YOUR_CALM, "a header block has too many CONTINUATION frames");
        }
        if self.block.len() + length as usize > self.config.max_header_list_size as usize {
            return error(ErrorCode::ENHANCE_YOUR_CALM, "a header block is too large");
        }
        Ok(())
    }

    pub(super) fn continuation(&mut self, head: Head, payload: &[u8]) -> Result<(), ConnectionError> {
        self.block.extend_from_slice(payload);
        if head.has(flag::END_HEADERS)
            && let Some(open) = self.open_block.take()
        {
            let mut block = std::mem::take(&mut self.block);
            self.block(open.stream, open.end_stream, &block)?;
            block.clear();
            self.block = block;
        }
        Ok(())
    }

    /// A complete block. What it has to be follows from its stream (RFC 9113, 5.1 and 8.1).
    fn block(&mut self, id: u32, end_stream: bool, block: &[u8]) -> Result<(), ConnectionError> {
        let Some(stream) = self.streams.get(id) else {
            if id > self.closed.highest() {
                return match self.role {
                    Role::Server => self.request(id, end_stream, block),
                    Role::Client => error(ErrorCode::PROTOCOL_ERROR, "HEADERS on a stream that was never opened"),
                };
            }
            return match self.closed.past(id) {
                Past::Discarded | Past::Forgotten => {
                    self.idle_frame(1)?;
                    self.decode(Expected::Discarded, block).map(drop)
                }
                Past::Ended => error(ErrorCode::STREAM_CLOSED, "HEADERS on a stream that is closed"),
                // RFC 9113, 5.1.1: the numbers of new streams increase.
                Past::Skipped => error(ErrorCode::PROTOCOL_ERROR, "a stream is opened out of order"),
            };
        };
        // RFC 9113, 5.1, "half-closed (remote)".
        if stream.is_remote_closed {
            let _ = self.decode(Expected::Discarded, block)?;
            return self.stream_error(id, ErrorCode::STREAM_CLOSED);
        }
        match self.role == Role::Client && !stream.is_answered {
            true => self.response(id, end_stream, block),
            false => {
                // RFC 9113, 8.5: only DATA and frames that manage the stream follow in a tunnel. RFC 9113, 8.1:
                // otherwise a second header block is the last thing on its stream.
                let is_expected = !stream.is_tunnel && end_stream;
                match self.decode(Expected::Trailers, block)? {
                    Ok(_) if is_expected => self.end_of_stream(id),
                    _ => self.stream_error(id, ErrorCode::PROTOCOL_ERROR),
                }
            }
        }
    }

    /// A client opens a stream.
    fn request(&mut self, id: u32, end_stream: bool, block: &[u8]) -> Result<(), ConnectionError> {
        self.closed.opened(id);
        // RFC 9113, 6.8: the client knows, or will, that this stream is not looked at.
        if matches!(self.shutdown, Shutdown::After(_)) {
            self.closed.discarded(id);
            self.idle_frame(1)?;
            return self.decode(Expected::Discarded, block).map(drop);
        }
        // Answers are not counted as replies are, and a stream that is refused is gone at once: a peer that does not read
        // them would make them pile up.
        let answers = self.config.max_concurrent_streams as usize * ANSWER;
        if self.output.len() > self.config.flood.output + answers {
            return error(ErrorCode::ENHANCE_YOUR_CALM, "requests are sent and their answers are not read");
        }
        let mut fields = match self.decode(Expected::Request, block)? {
            Ok(fields) => fields,
            Err(refused) => return self.stream_error(id, refused_code(refused)),
        };
        // RFC 9113, 5.1.2. The client may not have seen our limit yet, so it may try again.
        if self.streams.len() >= self.config.max_concurrent_streams as usize {
            return self.stream_error(id, ErrorCode::REFUSED_STREAM);
        }
        let request = Request {
            method: fields.method.take().unwrap_or_default(),
            authority: fields.authority.take().unwrap_or_default(),
            baggage: fields.baggage.take(),
            forwarded: fields.forwarded.take(),
            traceparent: fields.take_traceparent(),
            end_stream,
        };
        // RFC 9110, 9.3.6: what follows a CONNECT is not content, so it has no length.
        let is_tunnel = request.is_connect();
        let content_length = if is_tunnel { NO_CONTENT_LENGTH } else { fields.content_length };
        if end_stream && !matches!(content_length, 0 | NO_CONTENT_LENGTH) {
            return self.stream_error(id, ErrorCode::PROTOCOL_ERROR);
        }
        let stream = self.add_stream(id, 0);
        stream.is_remote_closed = end_stream;
        stream.is_tunnel = is_tunnel;
        stream.content_left = content_length;
        self.events.push_back(Event::Request { stream: StreamId(id), request });
        Ok(())
    }

    /// The server answers.
    fn response(&mut self, id: u32, end_stream: bool, block: &[u8]) -> Result<(), ConnectionError> {
        let mut fields = match self.decode(Expected::Response, block)? {
            Ok(fields) => fields,
            Err(refused) => return self.stream_error(id, refused_code(refused)),
        };
        let status = fields.status.unwrap_or_default();
        if status < 200 {
            // RFC 9113, 8.1: an informational response cannot be the end.
            if end_stream {
                return self.stream_error(id, ErrorCode::PROTOCOL_ERROR);
            }
            return self.idle_frame(1);
        }
        let Some(stream) = self.streams.get_mut(id) else { return Ok(()) };
        stream.is_answered = true;
        stream.is_tunnel = (200..300).contains(&status);
        stream.is_remote_closed = end_stream;
        let token = stream.token;
        if end_stream && stream.is_local_closed {
            self.end(id);
        }
        let baggage = fields.baggage.take();
        self.events.push_back(Event::Response { stream: StreamId(id), token, status, baggage, end_stream });
        Ok(())
    }

    fn decode(&mut self, expected: Expected, block: &[u8]) -> Result<Result<Fields, Refused>, ConnectionError> {
        let limit = self.config.max_header_list_size as usize;
        // RFC 9113, 4.3: without the same tables at both ends nothing can be decoded any more.
        Fields::decode(&mut self.decoder, block, expected, limit)
            .or_else(|broken| error(ErrorCode::COMPRESSION_ERROR, broken.reason()))
    }
}

fn refused_code(refused: Refused) -> ErrorCode {
    match refused {
        Refused::Malformed(_) => ErrorCode::PROTOCOL_ERROR,
        Refused::TooLarge => ErrorCode::ENHANCE_YOUR_CALM,
    }
}
