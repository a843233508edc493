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
