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
use prometheus_client::registry::Registry;

/// How long the thread lets items gather after the first one. While it sleeps, senders need no system call to wake
/// it; the price is that a line appears this much later. It waits to be woken only after a time without any.
const GATHER: Duration = Duration::from_millis(20);

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

impl SinkCounters {
    /// Shows them as metrics of these names, about items that are called `what`.
    pub(super) fn register(&self, registry: &mut Registry, [written, dropped]: [&str; 2], what: &str) {
        registry.register(written, format!("{what} written"), self.written.clone());
        registry.register(dropped, format!("{what} lost"), self.dropped.clone());
    }
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
        while let Ok(Message::Item(first)) = self.receiver.recv() {
            (self.format)(first, &mut batch);
            let mut items = 1;
            loop {
                thread::sleep(GATHER);
                let is_last = self.gather(&mut batch, &mut items);
                if items == 0 && !is_last {
                    break;
                }
                self.write(&mut batch, &mut items);
                if is_last {
                    return;
                }
            }
            // A burst must not keep its memory for ever.
            batch.shrink_to(BATCH);
        }
    }

    /// Formats what is queued, writing full batches on the way. True when nothing comes any more.
    fn gather(&mut self, batch: &mut Vec<u8>, items: &mut u64) -> bool {
        loop {
            match self.receiver.try_recv() {
                Ok(Message::Item(item)) => {
                    (self.format)(item, batch);
                    *items += 1;
                }
                Ok(Message::Finish) | Err(TryRecvError::Disconnected) => return true,
                Err(TryRecvError::Empty) => return false,
            }
            if batch.len() >= BATCH {
                self.write(batch, items);
            }
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
pub(crate) mod tests;
