//! Flow control, both ways.

use super::*;
use crate::config::DEFAULT_WINDOW;

const KB: u32 = 1024;

/// SETTINGS_INITIAL_WINDOW_SIZE.
fn initial_window(size: u32) -> Vec<u8> {
    let mut frame = Vec::new();
    frame::settings(&mut frame, &[(4, size)]);
    frame
}

#[test]
fn sending_charges_both_windows() {
    let mut client = client(Config::default(), &[(4, 1000)]);
    let first = client.open(&request(), 1).expect("a free stream");
    let second = client.open(&request(), 2).expect("a free stream");
    assert_eq!(client.send_window(first), 1000);
    client.data_header(first, 400, false);
    assert_eq!((client.send_window(first), client.send_window(second)), (600, 1000));
    assert_eq!(client.send_window, i64::from(DEFAULT_WINDOW) - 400);
    receive(&mut client, &initial_window(200_000)).expect("valid");
    // The connection's window is the limit now.
    assert_eq!((client.send_window(first), client.send_window(second)), (65_135, 65_135));
    let frames = sent(&mut client);
    assert_eq!(frames.last().map(|(head, _)| (head.kind, head.flags)), Some((kind::SETTINGS, flag::ACK)));
}

#[test]
fn an_opening_window_is_announced_once() {
    let mut client = client(Config::default(), &[(4, 10)]);
    let stream = client.open(&request(), 1).expect("a free stream");
    client.data_header(stream, 10, false);
    assert_eq!(client.send_window(stream), 0);
    let opened = Event::Writable { stream: Some((stream, 1)) };
    assert_eq!(receive(&mut client, &window_update(1, 5)), Ok(vec![opened.clone()]));
    assert_eq!(receive(&mut client, &window_update(1, 5)), Ok(vec![]));
    client.data_header(stream, 10, false);
    // Down to -20, back to 0, and only then open.
    let (smaller, same) = (initial_window(0), initial_window(10));
    assert_eq!(receive(&mut client, &smaller), Ok(vec![Event::Settings]));
    assert_eq!(client.send_window(stream), 0);
    assert_eq!(client.streams.get(1).map(|stream| stream.send_window), Some(-10));
    assert_eq!(receive(&mut client, &window_update(1, 10)), Ok(vec![]));
    assert_eq!(receive(&mut client, &same), Ok(vec![Event::Settings, opened]));
    assert_eq!(client.send_window(stream), 10);
    // The connection's own.
    let rest = client.send_window as usize;
    receive(&mut client, &window_update(1, 100_000)).expect("valid");
    client.data_header(stream, rest.min(16_384), false);
    while client.send_window(stream) > 0 {
        let length = client.send_window(stream).min(16_384);
        client.data_header(stream, length, false);
    }
    assert_eq!(receive(&mut client, &window_update(0, 1)), Ok(vec![Event::Writable { stream: None }]));
    assert_eq!(client.send_window(stream), 1);
}

#[test]
fn settings_that_overflow_a_window_end_the_connection() {
    let mut client = client(Config::default(), &[]);
    client.open(&request(), 1).expect("a free stream");
    receive(&mut client, &window_update(1, 1)).expect("valid");
    let error = receive(&mut client, &initial_window(MAX_STREAM)).expect_err("2^31");
    assert_eq!(error.code, ErrorCode::FLOW_CONTROL_ERROR);
}

#[test]
fn a_frame_beyond_the_window_is_an_error() {
    let config = Config { initial_stream_window: 65_535, connection_window: 100_000, ..Config::default() };
    let payload = vec![0; 40_000];
    let mut server = server(config);
    receive(&mut server, &[connect(1), data(1, 0, &payload)].concat()).expect("valid");
    // The stream's.
    let events = receive(&mut server, data(1, 0, &payload).leak()).expect("a stream's error");
    assert!(matches!(events[..], [Event::Reset { code: ErrorCode::FLOW_CONTROL_ERROR, by_peer: false, .. }]));
    assert_eq!(server.unreleased(), 0);
    // The connection's: as its update lags behind by half at most, a frame of the full size is too much.
    let error = receive(&mut server, &data(1, 0, &vec![0; 100_001])).expect_err("too much");
    assert_eq!(error.code, ErrorCode::FLOW_CONTROL_ERROR);
}

#[test]
fn padding_is_given_back() {
    let mut server = server(Config { initial_stream_window: 65_535, ..Config::default() });
    let padded = data(1, flag::PADDED, &[&[255][..], &[0; 255]].concat());
    receive(&mut server, &connect(1)).expect("valid");
    for _ in 0..128 {
        assert_eq!(receive(&mut server, &padded), Ok(vec![]));
    }
    assert_eq!(updates(&mut server), [(1, 128 * 256)]);
}

#[test]
fn the_connection_is_credited_on_receipt_and_a_stream_on_release() {
    let config = Config { connection_window: 200_000, growth_budget: 0, ..Config::default() };
    let mut server = server(config);
    let stalled = StreamId(1);
    receive(&mut server, &[connect(1), connect(3)].concat()).expect("valid");
    let payload = vec![0; 50_000];
    for _ in 0..2 {
        receive(&mut server, &data(1, 0, &payload)).expect("valid");
    }
    assert_eq!(updates(&mut server), [(0, 100_000)]);
    assert_eq!(server.unreleased(), 100_000);
    server.released(stalled, 100_000);
    assert!(updates(&mut server).is_empty(), "not yet half of 256 KiB");
    receive(&mut server, &data(1, 0, &payload)).expect("valid");
    server.released(stalled, 31_071);
    assert!(updates(&mut server).is_empty());
    server.released(stalled, 1);
    assert_eq!(updates(&mut server), [(1, 128 * KB)]);
    assert_eq!(server.unreleased(), 150_000 - 128 * 1024);
}

#[test]
fn stalled_streams_do_not_stop_another() {
    let config = Config { connection_window: 1024 * KB, ..Config::default() };
    let mut client = client(config.clone(), &[(4, 256 * KB), (5, 1024 * KB)]);
    let mut server = server(config);
    let streams: Vec<StreamId> = (0..5).map(|token| client.open(&request(), token).expect("free")).collect();
    // What a server with this configuration announces.
    client.send_window = 1024 * i64::from(KB);
    settle(&mut client, &mut server);
    let payload = vec![0; 256 * 1024];
    for stream in &streams[..4] {
        let mut wire = Vec::new();
        push_data(&mut client, *stream, &payload, false, &mut wire);
        receive(&mut server, &wire).expect("valid");
    }
    settle(&mut client, &mut server);
    let moving = streams[4];
    for _ in 0..1000 {
        let length = client.send_window(moving).min(50_000);
        assert!(length > 0, "four that are not read must not hold up the fifth");
        let mut wire = Vec::new();
        push_data(&mut client, moving, &payload[..length], false, &mut wire);
        receive(&mut server, &wire).expect("valid");
        server.released(moving, length);
        settle(&mut client, &mut server);
    }
    assert_eq!(server.unreleased(), 4 * 256 * 1024);
}

/// A sender and a reader with a path between them that holds things up.
struct Path {
    client: Connection,
    server: Connection,
    stream: StreamId,
    /// What is under way in each direction, oldest first, one entry a step.
    up: VecDeque<Vec<u8>>,
    down: VecDeque<Vec<u8>>,
    received: usize,
}

impl Path {
    fn new(config: Config, steps: usize) -> Self {
        let mut client = client(config.clone(), &[(4, config.initial_stream_window), (5, 1024 * KB)]);
        client.send_window = i64::from(config.connection_window);
        let mut server = server(config);
        let stream = client.open(&request(), 0).expect("free");
        settle(&mut client, &mut server);
        let empty = || VecDeque::from(vec![Vec::new(); steps]);
        Self { client, server, stream, up: empty(), down: empty(), received: 0 }
    }

    /// The client sends up to `rate` bytes, the server reads what arrives if `is_read`.
    fn step(&mut self, rate: usize, is_read: bool) -> usize {
        let mut wire = Vec::new();
        let length = self.client.send_window(self.stream).min(rate);
        if length > 0 {
            push_data(&mut self.client, self.stream, &vec![0; length], false, &mut wire);
        }
        wire.append(self.client.output());
        self.up.push_back(wire);
        let arrived = self.up.pop_front().expect("the path is never empty");
        for event in receive(&mut self.server, &arrived).expect("valid") {
            let Event::Data { payload, .. } = event else { continue };
            self.received += payload.len();
            if is_read {
                self.server.released(self.stream, payload.len());
            }
        }
        self.down.push_back(std::mem::take(self.server.output()));
        let arrived = self.down.pop_front().expect("the path is never empty");
        receive(&mut self.client, &arrived).expect("valid");
        length
    }

    fn run(&mut self, steps: usize, rate: usize) -> usize {
        (0..steps).map(|_| self.step(rate, true)).sum()
    }

    /// The size of the window: what the reader holds when it reads no more.
    fn window(&mut self) -> usize {
        while self.step(1 << 20, false) > 0 {}
        for _ in 0..100 {
            self.step(1 << 20, false);
        }
        self.server.unreleased()
    }
}

/// Of a window of so many KiB up to half may be released and not yet announced.
fn assert_is_window(unreleased: usize, kb: usize) {
    assert!(unreleased <= kb * 1024 && unreleased > kb * 1024 / 2, "{unreleased} of {kb} KiB");
}

#[test]
fn a_window_grows_until_the_path_is_full() {
    // 100 KB a step with ten steps each way want 2 MB under way; with half a window for updates, 4 MiB.
    let mut path = Path::new(Config::default(), 10);
    let slow = path.run(20, 100_000);
    assert!(slow < 300_000, "256 KiB a round trip at first, not {slow}");
    path.run(200, 100_000);
    assert_eq!(path.run(100, 100_000), 10_000_000);
    assert_is_window(path.window(), 4096);
}

#[test]
fn a_window_does_not_grow_where_it_is_not_the_limit() {
    // Updates come back at once.
    let mut path = Path::new(Config::default(), 0);
    assert_eq!(path.run(1000, 100_000), 100_000_000);
    // The application has little to say.
    let mut path = Path::new(Config::default(), 10);
    assert_eq!(path.run(1000, 5_000), 5_000_000);
    assert_is_window(path.window(), 256);
}

#[test]
fn a_window_does_not_grow_for_a_reader_that_lags() {
    let mut path = Path::new(Config::default(), 10);
    for _ in 0..1000 {
        path.step(100_000, false);
        // Always half a window behind.
        let excess = path.server.unreleased().saturating_sub(128 * 1024);
        path.server.released(path.stream, excess);
    }
    assert_is_window(path.window(), 256);
}

#[test]
fn windows_do_not_grow_past_the_budget() {
    for (budget, window) in [(0, 256), (300, 256 + 300), (1000, 256 + 1000), (100_000, 4096)] {
        let mut path = Path::new(Config { growth_budget: budget * KB, ..Config::default() }, 10);
        path.run(500, 1 << 20);
        assert_is_window(path.window(), window);
    }
}

#[test]
fn a_large_window_makes_room_for_another() {
    let config = Config { growth_budget: 4096 * KB, ..Config::default() };
    let mut path = Path::new(config, 10);
    path.run(500, 1 << 20);
    let first = path.stream;
    let second = path.client.open(&request(), 0).expect("free");
    let mut sums = [0, 0];
    for _ in 0..2000 {
        for (sum, stream) in sums.iter_mut().zip([first, second]) {
            path.stream = stream;
            // One path, so each has every other step.
            let length = path.client.send_window(stream).min(1 << 20);
            let mut wire = Vec::new();
            if length > 0 {
                push_data(&mut path.client, stream, &vec![0; length], false, &mut wire);
            }
            path.up.push_back(wire);
            *sum += length;
        }
        path.up.push_back(std::mem::take(path.client.output()));
        for _ in 0..3 {
            let arrived = path.up.pop_front().expect("the path is never empty");
            for event in receive(&mut path.server, &arrived).expect("valid") {
                if let Event::Data { stream, payload, .. } = event {
                    path.server.released(stream, payload.len());
                }
            }
        }
        path.down.push_back(std::mem::take(path.server.output()));
        let arrived = path.down.pop_front().expect("the path is never empty");
        receive(&mut path.client, &arrived).expect("valid");
    }
    assert!(sums[1] * 2 > sums[0], "the second stream gets its share: {sums:?}");
}

#[test]
fn a_closed_stream_frees_its_share() {
    let mut path = Path::new(Config { growth_budget: 4096 * KB, ..Config::default() }, 10);
    for _ in 0..5 {
        path.run(500, 1 << 20);
        path.server.reset(path.stream, ErrorCode::CANCEL);
        assert_eq!(path.server.growth.unreleased(), 0);
        while path.client.active_streams() > 0 {
            path.step(0, true);
        }
        path.stream = path.client.open(&request(), 0).expect("free");
        path.run(500, 1 << 20);
        path.run(100, 100_000);
        assert_eq!(path.run(100, 100_000), 10_000_000, "as fast as the one before");
    }
}

#[test]
fn a_small_window_moves_everything_all_the_same() {
    let mut client = client(Config::default(), &[(4, 1)]);
    let stream = client.open(&request(), 0).expect("free");
    client.output().clear();
    let mut sent = 0;
    while sent < 1000 {
        while client.send_window(stream) > 0 {
            let length = client.send_window(stream);
            assert_eq!(client.data_header(stream, length, false)[2], 1);
            sent += length;
        }
        let events = receive(&mut client, window_update(1, 1).leak()).expect("valid");
        assert_eq!(events.len(), 1);
    }
}
