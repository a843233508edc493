//! A bounded queue to a thread that writes lines.
//!
//! Workers must never wait for a file, a pipe or a terminal. They hand an item over without waiting; the thread
//! turns items into bytes and writes them in large pieces. When the reader of the output is too slow the queue fills
//! up, and what does not fit is dropped and counted.

use std::io::{self, Write};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::mpsc::{self, Receiver, SyncSender, TryRecvError, TrySendError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;

/// How long the thread lets items gather after the first one. While it sleeps, senders need no system call to wake
/// it; the price is that a line appears this much later.
const GATHER: Duration = Duration::from_millis(5);

/// Bytes that are gathered before they are written.
const BATCH: usize = 64 * 1024;

/// What became of the items of a sink.
#[derive(Debug, Clone, Default)]
pub struct SinkCounters {
    /// Items written.
    pub written: Counter,
    /// Items lost, because the queue was full or the output failed.
    pub dropped: Counter,
}

/// The sending side, shared by all who log.
#[derive(Debug)]
pub(crate) struct Sink<T> {
    sender: SyncSender<Message<T>>,
    counters: SinkCounters,
    thread: Mutex<Option<JoinHandle<()>>>,
}

enum Message<T> {
    Item(T),
    /// Everything sent before is to be written; then the thread ends.
    Finish,
}

impl<T: Send + 'static> Sink<T> {
    /// Starts the thread.
    ///
    /// `capacity` items can wait; a slot is taken for each at once, so `T` should be small (a box). `format` appends
    /// an item's line to the buffer.
    pub(crate) fn start(
        name: &str,
        capacity: usize,
        counters: SinkCounters,
        output: impl Write + Send + 'static,
        format: impl FnMut(T, &mut Vec<u8>) + Send + 'static,
    ) -> io::Result<Self> {
        let (sender, receiver) = mpsc::sync_channel(capacity);
        let writer = Writer { receiver, output, format, counters: counters.clone() };
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || writer.run())?;
        Ok(Self { sender, counters, thread: Mutex::new(Some(thread)) })
    }

    /// Hands `item` over, or drops and counts it. Never waits.
    pub(crate) fn send(&self, item: T) {
        if self.sender.try_send(Message::Item(item)).is_err() {
            self.counters.dropped.inc();
        }
    }

    /// Writes what is queued and ends the thread, within `deadline`. What is sent afterwards is dropped. False when
    /// the output took too long: the thread is then left behind, and lines are lost.
    pub(crate) fn finish(&self, deadline: Duration) -> bool {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else {
            return true;
        };
        let end = Instant::now() + deadline;
        let mut asked = false;
        while !thread.is_finished() {
            if !asked {
                asked = !matches!(self.sender.try_send(Message::Finish), Err(TrySendError::Full(_)));
            }
            if Instant::now() >= end {
                return false;
            }
            thread::sleep(Duration::from_millis(1));
        }
        thread.join().is_ok()
    }
}

struct Writer<T, W, F> {
    receiver: Receiver<Message<T>>,
    output: W,
    format: F,
    counters: SinkCounters,
}

impl<T, W: Write, F: FnMut(T, &mut Vec<u8>)> Writer<T, W, F> {
    fn run(mut self) {
        let mut batch = Vec::new();
        // An error means that all senders are gone.
        while let Ok(first) = self.receiver.recv() {
            let Message::Item(first) = first else {
                return;
            };
            (self.format)(first, &mut batch);
            thread::sleep(GATHER);
            let mut items = 1;
            let mut is_last = false;
            loop {
                match self.receiver.try_recv() {
                    Ok(Message::Item(item)) => {
                        (self.format)(item, &mut batch);
                        items += 1;
                    }
                    Ok(Message::Finish) => is_last = true,
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => is_last = true,
                }
                if is_last {
                    break;
                }
                if batch.len() >= BATCH {
                    self.write(&mut batch, &mut items);
                }
            }
            self.write(&mut batch, &mut items);
            if is_last {
                return;
            }
            // A burst must not keep its memory for ever.
            batch.shrink_to(BATCH);
        }
    }

    fn write(&mut self, batch: &mut Vec<u8>, items: &mut u64) {
        match write_all(&mut self.output, batch) {
            Ok(()) => self.counters.written.inc_by(*items),
            Err(_) => self.counters.dropped.inc_by(*items),
        };
        batch.clear();
        *items = 0;
    }
}

/// `Write::write_all` for an output that may be in non-blocking mode, as a terminal or pipe is when the process on
/// its other end made it so: the mode belongs to the open file, which both share.
fn write_all(output: &mut impl Write, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match output.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(error),
        }
    }
    output.flush()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::{Arc, Condvar};

    use super::*;

    /// An output in memory whose writes can be held up.
    #[derive(Clone, Default)]
    pub(crate) struct Memory {
        state: Arc<(Mutex<MemoryState>, Condvar)>,
    }

    #[derive(Default)]
    struct MemoryState {
        bytes: Vec<u8>,
        is_held: bool,
    }

    impl Memory {
        pub(crate) fn text(&self) -> String {
            String::from_utf8(self.state.0.lock().unwrap().bytes.clone()).unwrap()
        }

        pub(crate) fn hold(&self, is_held: bool) {
            self.state.0.lock().unwrap().is_held = is_held;
            self.state.1.notify_all();
        }
    }

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let state = self.state.0.lock().unwrap();
            let mut state = self.state.1.wait_while(state, |state| state.is_held).unwrap();
            state.bytes.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn numbers(memory: &Memory, capacity: usize, counters: &SinkCounters) -> Sink<u64> {
        let format = |number: u64, out: &mut Vec<u8>| writeln!(out, "{number}").unwrap();
        Sink::start("test", capacity, counters.clone(), memory.clone(), format).unwrap()
    }

    #[test]
    fn what_was_sent_before_the_end_is_written_in_order() {
        let (memory, counters) = (Memory::default(), SinkCounters::default());
        let sink = numbers(&memory, 1000, &counters);
        for number in 0..1000 {
            sink.send(number);
        }
        assert!(sink.finish(Duration::from_secs(10)));
        let expected: String = (0..1000).map(|number| format!("{number}\n")).collect();
        assert_eq!(memory.text(), expected);
        assert_eq!(counters.written.get(), 1000);
        sink.send(1000);
        assert_eq!(counters.dropped.get(), 1, "nothing is taken after the end");
    }

    #[test]
    fn a_blocked_output_never_blocks_the_sender_and_what_is_lost_is_counted() {
        let (memory, counters) = (Memory::default(), SinkCounters::default());
        memory.hold(true);
        let sink = numbers(&memory, 10, &counters);
        for number in 0..10_000 {
            sink.send(number);
        }
        assert!(!sink.finish(Duration::from_millis(20)), "the output is still held up");
        memory.hold(false);
        drop(sink);
        let lost = counters.dropped.get();
        assert!((9_000..10_000).contains(&lost), "lost {lost}");
    }

    #[test]
    fn a_failing_output_counts_as_lost() {
        struct Broken;
        impl Write for Broken {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let counters = SinkCounters::default();
        let sink = Sink::start("test", 10, counters.clone(), Broken, |_: (), out| out.push(b'x')).unwrap();
        sink.send(());
        sink.send(());
        assert!(sink.finish(Duration::from_secs(10)));
        assert_eq!((counters.written.get(), counters.dropped.get()), (0, 2));
    }
}
