//! What passes on a wire: a packet socket, and the TCP streams put together again.

use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Socket, Type};

use crate::netns::{Netns, enter_thread};

mod packet;
use packet::Segment;

mod stream;
pub use stream::Stream;

/// A recording that goes on until it is dropped or stopped.
#[derive(Debug)]
pub struct Tap {
    streams: Arc<Mutex<Streams>>,
    is_stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<u32>>>,
}

/// What was recorded: the two directions of every TCP connection, each by itself.
#[derive(Debug, Clone, Default)]
pub struct Recording {
    /// In the order of source and destination.
    pub streams: Vec<Stream>,
    /// Packets that the kernel could not keep for us: a statement about absence holds only if this is 0.
    pub lost: u32,
}

type Streams = BTreeMap<(SocketAddr, SocketAddr), Stream>;

impl Tap {
    pub(crate) fn start(netns: &Netns, interface: &str) -> Result<Self> {
        let socket =
            netns.enter(|| open(interface)).with_context(|| format!("recording {interface} in {}", netns.name()))?;
        Self::of(socket, interface)
    }

    fn of(socket: Socket, interface: &str) -> Result<Self> {
        let streams = Arc::<Mutex<Streams>>::default();
        let is_stopped = Arc::<AtomicBool>::default();
        let (kept, stopped) = (Arc::clone(&streams), Arc::clone(&is_stopped));
        let thread = std::thread::Builder::new().name(format!("tap {interface}")).spawn(move || {
            record(&socket, &kept, &stopped)?;
            lost_packets(&socket)
        })?;
        Ok(Self { streams, is_stopped, thread: Some(thread) })
    }

    /// The same in a namespace that is only known by its file.
    pub(crate) fn start_in(netns: std::fs::File, interface: &str) -> Result<Self> {
        let opened = std::thread::scope(|scope| {
            let opener = scope.spawn(|| {
                enter_thread(&netns)?;
                open(interface)
            });
            opener.join().expect("opening a socket does not panic")
        });
        Self::of(opened.with_context(|| format!("recording {interface}"))?, interface)
    }

    /// Ends the recording and returns it.
    ///
    /// # Errors
    /// The packet socket failed.
    pub fn stop(mut self) -> Result<Recording> {
        // What was sent just before this call may still be on its way to the packet socket.
        std::thread::sleep(Duration::from_millis(30));
        self.is_stopped.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("a tap is stopped once");
        let lost = thread.join().expect("recording does not panic")?;
        Ok(Recording { streams: self.recorded(), lost })
    }

    /// What was recorded so far.
    pub fn recorded(&self) -> Vec<Stream> {
        self.streams.lock().expect("recording does not panic").values().cloned().collect()
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.is_stopped.store(true, Ordering::Relaxed);
    }
}

impl Recording {
    /// Whether these bytes passed in clear, in any stream.
    pub fn contains(&self, bytes: &[u8]) -> bool {
        self.streams.iter().any(|stream| stream.contains(bytes))
    }

    /// The streams from or to a port.
    pub fn on_port(&self, port: u16) -> impl Iterator<Item = &Stream> {
        self.streams.iter().filter(move |stream| stream.from.port() == port || stream.to.port() == port)
    }

    /// The streams between two addresses, either way.
    pub fn between(&self, one: IpAddr, other: IpAddr) -> impl Iterator<Item = &Stream> {
        self.streams.iter().filter(move |stream| {
            let ends = (stream.from.ip(), stream.to.ip());
            ends == (one, other) || ends == (other, one)
        })
    }

    /// Checks that between two addresses nothing passed but TLS on `port`, and that something did.
    ///
    /// # Errors
    /// Names the stream that is something else, or says that nothing passed, or that packets were lost.
    pub fn is_only_tls(&self, one: IpAddr, other: IpAddr, port: u16) -> Result<()> {
        ensure!(self.lost == 0, "{} packets were not recorded, so nothing can be said about them", self.lost);
        let mut bytes = 0;
        for stream in self.between(one, other) {
            let name = format!("{} -> {}", stream.from, stream.to);
            ensure!(
                stream.from.port() == port || stream.to.port() == port || stream.is_empty(),
                "{name} carried {} bytes past port {port}",
                stream.len()
            );
            stream.is_tls().with_context(|| format!("{name} is not only TLS"))?;
            bytes += stream.len();
        }
        ensure!(bytes > 0, "nothing passed between {one} and {other}");
        Ok(())
    }
}

fn open(interface: &str) -> Result<Socket> {
    // Protocol 0 receives nothing: packets of other interfaces must not come in before the bind below.
    let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
    let index = if_index(interface).with_context(|| format!("no interface {interface}"))?;
    // SAFETY: all-zero bytes are a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = index;
    let size: libc::c_int = 256 << 20;
    // SAFETY: the option is an int, and its size is given.
    let _ = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            (&raw const size).cast(),
            size_of_val(&size) as libc::socklen_t,
        )
    };
    // SAFETY: the address is a sockaddr_ll and its size is given.
    let bound = unsafe {
        libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size_of_val(&address) as libc::socklen_t)
    };
    ensure!(bound == 0, "bind: {}", io::Error::last_os_error());
    socket.set_read_timeout(Some(Duration::from_millis(20)))?;
    Ok(socket)
}

fn if_index(name: &str) -> Result<i32> {
    let name = std::ffi::CString::new(name)?;
    // SAFETY: the name ends in NUL and outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    ensure!(index != 0, "if_nametoindex: {}", io::Error::last_os_error());
    Ok(i32::try_from(index)?)
}

fn record(socket: &Socket, streams: &Mutex<Streams>, is_stopped: &AtomicBool) -> io::Result<()> {
    let mut buffer = vec![MaybeUninit::uninit(); 128 * 1024];
    loop {
        let length = match socket.recv(&mut buffer) {
            Ok(length) => length,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                if is_stopped.load(Ordering::Relaxed) {
                    return Ok(());
                }
                continue;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // The interface went away with its pod: what was recorded stands.
            Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => return Ok(()),
            Err(error) => return Err(error),
        };
        // SAFETY: recv initialised the first `length` bytes.
        let frame = unsafe { std::slice::from_raw_parts(buffer.as_ptr().cast::<u8>(), length) };
        if let Some(segment) = Segment::parse(frame) {
            let mut streams = streams.lock().expect("recording does not panic");
            let stream =
                streams.entry((segment.from, segment.to)).or_insert_with(|| Stream::new(segment.from, segment.to));
            stream.push(&segment);
        }
    }
}

fn lost_packets(socket: &Socket) -> io::Result<u32> {
    let mut statistics = [0_u32; 2];
    let mut size = size_of_val(&statistics) as libc::socklen_t;
    const PACKET_STATISTICS: libc::c_int = 6;
    // SAFETY: tpacket_stats is two 32-bit counters; the buffer and its size are given.
    let asked = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            PACKET_STATISTICS,
            statistics.as_mut_ptr().cast(),
            &raw mut size,
        )
    };
    if asked == 0 { Ok(statistics[1]) } else { Err(io::Error::last_os_error()) }
}
