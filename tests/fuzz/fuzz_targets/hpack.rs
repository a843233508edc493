//! Field blocks, one after the other on one connection, to a server of ours and one of the `h2` crate.
//!
//! Both agree on which block breaks the compression state, and on the fields of those that do not.

#![no_main]

use std::{
    cell::RefCell,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, Waker},
};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use weft_hbone::{Config, Connection, ErrorCode, Event};

#[derive(Arbitrary, Debug)]
struct Input {
    blocks: Vec<Block>,
}

#[derive(Arbitrary, Debug)]
struct Block {
    /// Bytes before the fields of a valid request.
    before: Vec<u8>,
    has_request: bool,
    after: Vec<Field>,
}

#[derive(Arbitrary, Debug)]
enum Field {
    Raw(Vec<u8>),
    Indexed(u8),
    /// With the first byte that says how it is kept.
    Baggage {
        kind: u8,
        is_huffman: bool,
        value: Vec<u8>,
    },
    Named {
        kind: u8,
        index: u8,
        value: Vec<u8>,
    },
    Resize(u8),
}

impl Field {
    fn append(&self, out: &mut Vec<u8>) {
        match self {
            Self::Raw(bytes) => out.extend_from_slice(&bytes[..bytes.len().min(100)]),
            Self::Indexed(index) => out.push(0x80 | index),
            Self::Baggage { kind, is_huffman, value } => {
                out.extend_from_slice(&[[0x00, 0x10, 0x40][usize::from(kind % 3)], 7]);
                out.extend_from_slice(b"baggage");
                string(out, *is_huffman, value);
            }
            Self::Named { kind, index, value } => {
                out.push([0x00, 0x10, 0x40][usize::from(kind % 3)] | index % 15);
                string(out, false, value);
            }
            Self::Resize(size) => out.push(0x20 | size % 31),
        }
    }
}

fn string(out: &mut Vec<u8>, is_huffman: bool, value: &[u8]) {
    let value = &value[..value.len().min(100)];
    out.push(value.len() as u8 | if is_huffman { 0x80 } else { 0 });
    out.extend_from_slice(value);
}

/// A peer that says what it is allowed to, and to whom everything may be said.
struct Pipe {
    input: Rc<RefCell<Vec<u8>>>,
}

impl AsyncRead for Pipe {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let mut input = self.input.borrow_mut();
        if input.is_empty() {
            return Poll::Pending;
        }
        let length = input.len().min(buffer.remaining());
        buffer.put_slice(&input[..length]);
        input.drain(..length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What a server made of a block.
#[derive(Debug, PartialEq)]
enum Outcome {
    /// A CONNECT with this baggage.
    Request(Vec<u8>),
    /// Nothing, or another request.
    Nothing,
    /// The compression state is lost, and with it the connection.
    Broken,
}

const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\0\x04\x01\0\0\0\0";

fn ours(blocks: &[Vec<u8>]) -> Vec<Outcome> {
    let config = Config { max_concurrent_streams: u32::MAX, ..Config::default() };
    let mut connection = Connection::server(config);
    let mut outcomes = Vec::new();
    let mut greeting = GREETING;
    assert_eq!(connection.receive(&mut greeting), Ok(Some(Event::Settings)));
    assert_eq!(connection.receive(&mut greeting), Ok(None));
    for block in blocks {
        outcomes.push(match connection.receive(&mut &block[..]) {
            Ok(Some(Event::Request { request, .. })) if request.is_connect() => {
                Outcome::Request(request.baggage.unwrap_or_default().into())
            }
            Ok(_) => Outcome::Nothing,
            Err(error) => {
                assert_eq!(error.code, ErrorCode::COMPRESSION_ERROR);
                outcomes.push(Outcome::Broken);
                return outcomes;
            }
        });
    }
    outcomes
}

fn theirs(blocks: &[Vec<u8>]) -> Vec<Outcome> {
    let input = Rc::new(RefCell::new(GREETING.to_vec()));
    let mut context = Context::from_waker(Waker::noop());
    let mut builder = h2::server::Builder::new();
    builder.max_local_error_reset_streams(None);
    let handshake = pin!(builder.handshake::<_, bytes::Bytes>(Pipe { input: input.clone() }));
    let Poll::Ready(Ok(mut connection)) = handshake.poll(&mut context) else { panic!("a valid greeting") };
    let mut outcomes = Vec::new();
    // Dropping a request would reset its stream, which is not the matter here.
    let mut held = Vec::new();
    for block in blocks {
        input.borrow_mut().extend_from_slice(block);
        outcomes.push(match connection.poll_accept(&mut context) {
            Poll::Ready(Some(Ok((request, respond)))) => {
                let lines: Vec<&[u8]> = request.headers().get_all("baggage").iter().map(|v| v.as_bytes()).collect();
                // What is not text is left out by us.
                let is_text = lines.iter().all(|line| std::str::from_utf8(line).is_ok());
                let baggage = if is_text { lines.join(&b", "[..]) } else { Vec::new() };
                let is_connect = request.method() == "CONNECT";
                held.push((request, respond));
                if is_connect { Outcome::Request(baggage) } else { Outcome::Nothing }
            }
            Poll::Ready(Some(Err(error))) => {
                // `h2` reports what it cannot decode as PROTOCOL_ERROR where RFC 9113, 4.3 wants COMPRESSION_ERROR.
                let reason = error.reason();
                assert!(matches!(reason, Some(h2::Reason::COMPRESSION_ERROR | h2::Reason::PROTOCOL_ERROR)), "{error}");
                outcomes.push(Outcome::Broken);
                return outcomes;
            }
            Poll::Ready(None) | Poll::Pending => Outcome::Nothing,
        });
    }
    outcomes
}

fuzz_target!(|input: Input| {
    let mut blocks = Vec::new();
    let mut stream = 1u32;
    for block in input.blocks.iter().take(20) {
        let mut bytes = block.before[..block.before.len().min(50)].to_vec();
        if block.has_request {
            bytes.extend_from_slice(b"\x02\x07CONNECT\x01\x0b10.0.0.1:80");
        }
        for field in block.after.iter().take(50) {
            field.append(&mut bytes);
        }
        let mut wire = (bytes.len() as u32).to_be_bytes()[1..].to_vec();
        wire.extend_from_slice(&[1, 5]);
        wire.extend_from_slice(&stream.to_be_bytes());
        wire.extend_from_slice(&bytes);
        blocks.push(wire);
        stream += 2;
    }
    for (ours, theirs) in ours(&blocks).into_iter().zip(theirs(&blocks)) {
        match (&ours, &theirs) {
            // `h2` cannot go on after some fields that are merely malformed here (RFC 9113, 8.1.1).
            (Outcome::Nothing, _) => {}
            _ => assert_eq!(ours, theirs),
        }
        if theirs == Outcome::Broken {
            break;
        }
    }
});
