//! Two joined sockets: bytes, ends and resets pass from each to the other.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::Shutdown;
use std::time::Duration;

use mio::net::TcpStream;
use socket2::SockRef;

use crate::buffers::{Buffers, Chunk};
use crate::preamble::Preamble;

/// Reads of one side before it is another pair's turn.
const READS_PER_TURN: usize = 4;

/// One socket of a pair.
#[derive(Debug)]
pub struct Side {
    /// The socket.
    pub socket: TcpStream,
    /// A read may find something.
    pub is_readable: bool,
    /// Nothing more will come: a read that is not full does not mean that the socket is empty.
    pub has_hangup: bool,
    /// What the socket would not take.
    pub unsent: Option<Chunk>,
    /// Its end has been read.
    has_ended: bool,
    outgoing: Outgoing,
}

/// The direction towards a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outgoing {
    Open,
    /// FIN follows what is unsent.
    Ending,
    Ended,
}

/// What a turn left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Nothing to do until an event comes.
    Wait,
    /// There is more.
    GoOn,
    /// Both directions have ended.
    Complete,
}

impl Side {
    /// For a socket of which nothing is known yet.
    pub fn new(socket: TcpStream) -> Self {
        Self { socket, is_readable: false, has_hangup: false, unsent: None, has_ended: false, outgoing: Outgoing::Open }
    }

    /// Makes the close of this socket a reset.
    pub fn abort(&self) {
        // A failure means that it is gone already.
        let _ = SockRef::from(&self.socket).set_linger(Some(Duration::ZERO));
    }

    /// Reads once into `buffer`; `None` when there was nothing.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match self.socket.read(buffer) {
                Ok(length) => {
                    // The socket was emptied: the next byte is an event of its own, so the read that would fail is saved.
                    if length < buffer.len() && !self.has_hangup {
                        self.is_readable = false;
                    }
                    return Ok(Some(length));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.is_readable = false;
                    return Ok(None);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes a chunk; what the socket does not take is kept, in the same buffer, until it does.
    fn write(&mut self, mut chunk: Chunk, buffers: &mut Buffers) -> io::Result<()> {
        while !chunk.waiting.is_empty() {
            match self.socket.write(chunk.bytes()) {
                Ok(length) => chunk.waiting.start += length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.unsent = Some(chunk);
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        buffers.give_back(chunk.buffer);
        if self.outgoing == Outgoing::Ending {
            self.outgoing = Outgoing::Ended;
            self.socket.shutdown(Shutdown::Write)?;
        }
        Ok(())
    }

    /// The socket takes bytes again.
    pub fn flush(&mut self, buffers: &mut Buffers) -> io::Result<()> {
        self.unsent.take().map_or(Ok(()), |chunk| self.write(chunk, buffers))
    }

    /// Sends FIN behind whatever is unsent.
    fn end(&mut self) -> io::Result<()> {
        if self.unsent.is_some() {
            self.outgoing = Outgoing::Ending;
            return Ok(());
        }
        self.outgoing = Outgoing::Ended;
        self.socket.shutdown(Shutdown::Write)
    }
}

/// Moves bytes both ways for one turn. An error of either socket is the end of both.
pub fn turn(
    near: &mut Side,
    far: &mut Side,
    preamble: &mut Option<Preamble>,
    buffers: &mut Buffers,
) -> io::Result<Turn> {
    let outward = pump(near, far, preamble, buffers)?;
    let inward = pump(far, near, &mut None, buffers)?;
    let is_complete = [&*near, &*far].iter().all(|side| side.has_ended && side.outgoing == Outgoing::Ended);
    Ok(match (is_complete, outward || inward) {
        (true, _) => Turn::Complete,
        (false, true) => Turn::GoOn,
        (false, false) => Turn::Wait,
    })
}

/// Moves bytes one way. True when there may be more.
fn pump(from: &mut Side, to: &mut Side, preamble: &mut Option<Preamble>, buffers: &mut Buffers) -> io::Result<bool> {
    for _ in 0..READS_PER_TURN {
        if !from.is_readable || from.has_ended || to.unsent.is_some() {
            // A preamble does not wait for bytes behind which it could travel.
            if let Some(preamble) = preamble.take_if(|_| to.unsent.is_none()) {
                let mut buffer = buffers.take();
                buffer[..Preamble::LENGTH].copy_from_slice(&preamble.to_bytes());
                to.write(Chunk { buffer, waiting: 0..Preamble::LENGTH }, buffers)?;
            }
            return Ok(false);
        }
        let mut buffer = buffers.take();
        let start = if preamble.is_some() { Preamble::LENGTH } else { 0 };
        match from.read(&mut buffer[start..]) {
            Ok(None) => buffers.give_back(buffer),
            Ok(Some(length)) => {
                if let Some(preamble) = preamble.take() {
                    buffer[..start].copy_from_slice(&preamble.to_bytes());
                }
                to.write(Chunk { buffer, waiting: 0..start + length }, buffers)?;
                if length == 0 {
                    from.has_ended = true;
                    to.end()?;
                }
            }
            Err(error) => {
                buffers.give_back(buffer);
                return Err(error);
            }
        }
    }
    Ok(from.is_readable && !from.has_ended && to.unsent.is_none())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream as StdStream};

    use super::*;

    /// A client's socket and the relay's end of its connection.
    fn connection() -> (StdStream, Side) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let outer = StdStream::connect(listener.local_addr().expect("it is bound")).expect("it listens");
        outer.set_read_timeout(Some(Duration::from_secs(10))).expect("not zero");
        let (inner, _) = listener.accept().expect("a connection was made");
        inner.set_nonblocking(true).expect("a socket can be non-blocking");
        (outer, Side::new(TcpStream::from_std(inner)))
    }

    /// Gives turns as if an event had come for both sockets, until `done`.
    fn turns(near: &mut Side, far: &mut Side, mut done: impl FnMut(&io::Result<Turn>) -> bool) -> io::Result<Turn> {
        let mut buffers = Buffers::default();
        loop {
            for side in [&mut *near, &mut *far] {
                side.is_readable = true;
                side.flush(&mut buffers)?;
            }
            let result = turn(near, far, &mut None, &mut buffers);
            if done(&result) {
                return result;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn each_direction_ends_for_itself() {
        let ((mut client, mut near), (mut server, mut far)) = (connection(), connection());
        let talk = std::thread::spawn(move || {
            let mut received = String::new();
            client.write_all(b"ask").expect("open");
            client.shutdown(Shutdown::Write).expect("open");
            server.read_to_string(&mut received).expect("ends with the client's FIN");
            assert_eq!(received, "ask");
            server.write_all(b"answer").expect("this direction is still open");
            drop(server);
            received.clear();
            client.read_to_string(&mut received).expect("ends with the server's FIN");
            assert_eq!(received, "answer");
        });
        let end = turns(&mut near, &mut far, |result| !matches!(result, Ok(Turn::Wait | Turn::GoOn)));
        assert_eq!(end.expect("nothing failed"), Turn::Complete);
        talk.join().expect("both ends saw what they should");
    }

    #[test]
    fn what_a_slow_reader_does_not_take_stops_the_sender() {
        let ((mut client, mut near), (mut server, mut far)) = (connection(), connection());
        const TOTAL: usize = 64 << 20;
        let sender = std::thread::spawn(move || client.write_all(&vec![7; TOTAL]).expect("it is read in the end"));
        let mut waited = 0;
        let _ = turns(&mut near, &mut far, |_| {
            waited += 1;
            waited > 200
        });
        assert!(far.unsent.is_some(), "the relay holds one buffer");
        assert!(!sender.is_finished(), "the rest is with the sender");
        let reader = std::thread::spawn(move || {
            let mut received = Vec::new();
            server.read_to_end(&mut received).expect("ends with FIN");
            assert!(received.len() == TOTAL && received.iter().all(|byte| *byte == 7));
        });
        let _ = turns(&mut near, &mut far, |_| reader.is_finished());
        sender.join().expect("all was sent");
        reader.join().expect("all was received");
    }

    #[test]
    fn a_reset_is_an_error_of_the_pair() {
        let ((client, mut near), (server, mut far)) = (connection(), connection());
        SockRef::from(&client).set_linger(Some(Duration::ZERO)).expect("open");
        drop(client);
        let end = turns(&mut near, &mut far, |result| result.is_err());
        assert_eq!(end.expect_err("reset").kind(), ErrorKind::ConnectionReset);
        far.abort();
        drop(far);
        let error = (&server).read(&mut [0; 1]).expect_err("it was reset as well");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
}
