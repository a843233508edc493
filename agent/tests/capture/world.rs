//! A node in a network namespace, pods behind its bridge, applications in them, and an agent that answers each
//! connection with one line on what it knows of it.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use weft::capture::{Capture, CaptureOptions, CapturedPod, CongestionControl, LogLevel, uninstall};
use weft::in_pod::{self, PodSockets};
use weft::netns::Netns;

/// Longer than anything here takes, shorter than anybody waits.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Multipath TCP, in `socket`.
pub const MPTCP: i32 = 262;

pub fn address(text: &str) -> SocketAddr {
    text.parse().expect("the test gives an address and a port")
}

/// A node with its own pins and its own network. Nothing of it is left when it is dropped.
pub struct Node {
    pub name: String,
    pub netns: Netns,
}

impl Node {
    pub fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("wc{}n{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        run(&format!(
            "ip netns add {name} && ip -n {name} link set lo up && ip -n {name} link add br0 address 0a:58:0a:4d:00:fe type bridge \
             && ip -n {name} addr add 10.77.0.254/24 dev br0 && ip -n {name} addr add fd77::fe/64 dev br0 nodad \
             && ip -n {name} link set br0 up"
        ));
        let netns = Netns::open(&Path::new("/run/netns").join(&name)).expect("the namespace was just made");
        Self { name, netns }
    }

    pub fn options(&self) -> CaptureOptions {
        CaptureOptions {
            bpf_dir: bpf_dir(),
            node: self.name.clone(),
            cgroup_root: None,
            probe_cgroup: None,
            loopback_congestion_control: Some(CongestionControl::RENO),
            log: LogLevel::Warn,
        }
    }

    pub fn capture(&self) -> Arc<Capture> {
        Arc::new(Capture::start(self.options()).expect("capture starts: this test needs root and Linux 5.15"))
    }

    /// The folder of the pins.
    pub fn pins(&self) -> PathBuf {
        bpf_dir().join(&self.name)
    }

    /// A pod with the addresses 10.77.0.`number` and fd77::`number`.
    pub fn pod(&self, number: u8) -> Pod {
        let (node, name) = (&self.name, format!("{}p{number}", self.name));
        run(&format!(
            "ip netns add {name} && ip -n {name} link set lo up \
             && ip -n {node} link add v{number} type veth peer name eth0 netns {name} \
             && ip -n {node} link set v{number} master br0 up \
             && ip -n {name} addr add 10.77.0.{number}/24 dev eth0 \
             && ip -n {name} addr add fd77::{number}/64 dev eth0 nodad && ip -n {name} link set eth0 up \
             && ip -n {name} route add default via 10.77.0.254 \
             && ip -n {name} -6 route add default via fd77::fe"
        ));
        let netns = Netns::open(&Path::new("/run/netns").join(&name)).expect("the namespace was just made");
        let addresses =
            vec![address(&format!("10.77.0.{number}:0")).ip(), address(&format!("[fd77::{number}]:0")).ip()];
        Pod { name, netns: Arc::new(netns), addresses }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        uninstall(&bpf_dir(), &self.name).expect("pins are removed");
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

pub fn bpf_dir() -> PathBuf {
    PathBuf::from("/sys/fs/bpf/weft-capture-tests")
}

pub struct Pod {
    pub name: String,
    pub netns: Arc<Netns>,
    pub addresses: Vec<IpAddr>,
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

pub fn run(script: &str) {
    let output = Command::new("sh").args(["-c", script]).output().expect("sh runs");
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Connects from inside a namespace, with what `prepare` does to the socket before.
pub fn dial_with(
    from: &Netns,
    to: &str,
    protocol: i32,
    prepare: impl FnOnce(&Socket) -> io::Result<()>,
) -> io::Result<Socket> {
    let to = address(to);
    from.enter(|| {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::from(protocol)))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        prepare(&socket)?;
        socket.connect_timeout(&to.into(), PATIENCE)?;
        Ok(socket)
    })
}

pub fn dial(from: &Netns, to: &str) -> io::Result<Socket> {
    dial_with(from, to, libc::IPPROTO_TCP, |_| Ok(()))
}

/// The line that the other end sends.
pub fn line(socket: &Socket) -> String {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while let Ok(1) = (&*socket).read(&mut byte) {
        if byte == *b"\n" {
            break;
        }
        bytes.push(byte[0]);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Connects and reads the line.
pub fn ask(from: &Netns, to: &str) -> String {
    match dial(from, to) {
        Ok(socket) => line(&socket),
        Err(error) => error.to_string(),
    }
}

pub fn is_refused<T>(result: &io::Result<T>) -> bool {
    matches!(result, Err(error) if error.kind() == io::ErrorKind::ConnectionRefused)
}

pub fn peer(socket: &Socket) -> String {
    show(socket.peer_addr())
}

pub fn local(socket: &Socket) -> String {
    show(socket.local_addr())
}

fn show(address: io::Result<socket2::SockAddr>) -> String {
    address.ok().and_then(|address| address.as_socket()).map_or_else(|| "?".to_owned(), |address| address.to_string())
}

/// What is said on a connection, given whom `accept` took for its other end.
type Answer = Box<dyn Fn(&Socket, String) -> String + Send>;

/// Answers each connection to some listening sockets until it is dropped.
struct Answering {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Answering {
    fn start(listeners: Vec<(OwnedFd, Answer)>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = listeners
            .into_iter()
            .map(|(listener, answer)| {
                let (stop, listener) = (stop.clone(), Socket::from(listener));
                std::thread::spawn(move || {
                    listener.set_nonblocking(true).expect("a listener can be made non-blocking");
                    loop {
                        match listener.accept() {
                            Ok((socket, from)) => {
                                let from = show(Ok(from));
                                let _ = (&socket).write_all(format!("{}\n", answer(&socket, from)).as_bytes());
                            }
                            // What waits is answered before the end.
                            Err(_) if stop.load(Ordering::SeqCst) => return,
                            Err(_) => std::thread::sleep(Duration::from_millis(1)),
                        }
                    }
                })
            })
            .collect();
        Self { stop, threads }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// An application that tells its clients who it takes them for.
pub struct App {
    _answering: Answering,
}

impl App {
    pub fn start(netns: &Netns, listen: &str) -> Self {
        Self::with_protocol(netns, listen, libc::IPPROTO_TCP)
    }

    pub fn with_protocol(netns: &Netns, listen: &str, protocol: i32) -> Self {
        let listen = address(listen);
        let listener = netns.enter(|| {
            let socket = Socket::new(Domain::for_address(listen), Type::STREAM, Some(Protocol::from(protocol)))?;
            socket.set_reuse_address(true)?;
            if listen.is_ipv6() {
                socket.set_only_v6(false)?;
            }
            socket.bind(&listen.into())?;
            socket.listen(1024)?;
            Ok(OwnedFd::from(socket))
        });
        let listener = listener.expect("the application listens");
        let answer = |socket: &Socket, accepted: String| format!("app accept={accepted} getpeername={}", peer(socket));
        Self { _answering: Answering::start(vec![(listener, Box::new(answer))]) }
    }
}

/// What captures one pod.
pub struct Agent {
    pub capture: Arc<Capture>,
    pub sockets: PodSockets,
    pub per_worker: Arc<[AtomicUsize; 4]>,
    _answering: Answering,
}

impl Agent {
    pub fn enrol(capture: &Arc<Capture>, pod: &Pod, workers: usize) -> Self {
        let listeners = in_pod::listeners(&pod.netns, workers, &pod.addresses, true).expect("listeners are made");
        capture
            .enrol(&CapturedPod { netns: &pod.netns, addresses: &pod.addresses, listeners: &listeners })
            .expect("the pod is enrolled");
        let per_worker: Arc<[AtomicUsize; 4]> = Arc::default();
        let mut answering: Vec<(OwnedFd, Answer)> = Vec::new();
        for (worker, sockets) in listeners.per_worker.into_iter().enumerate() {
            let kinds = [("outbound", sockets.outbound), ("inbound", sockets.inbound), ("hbone", sockets.hbone)];
            for (kind, sockets) in kinds {
                for socket in sockets {
                    let (capture, per_worker) = (capture.clone(), per_worker.clone());
                    let answer = move |socket: &Socket, from: String| {
                        per_worker[worker].fetch_add(1, Ordering::SeqCst);
                        let mut line = format!("{kind} local={} from={from}", local(socket));
                        if let Ok(Some(destination)) = capture.original_destination(socket.as_fd()) {
                            write!(line, " to={destination}").expect("strings can be written to");
                        }
                        line
                    };
                    answering.push((socket, Box::new(answer)));
                }
            }
        }
        Self {
            capture: capture.clone(),
            sockets: PodSockets::new(pod.netns.clone()).expect("the namespace is there"),
            per_worker,
            _answering: Answering::start(answering),
        }
    }

    /// Connects as the agent does, to the pod's own application when `client` is given.
    pub fn dial(&self, to: &str, client: Option<&str>) -> io::Result<Socket> {
        let (to, client) = (address(to), client.map(address));
        let fd = self.sockets.stream(to.is_ipv6())?;
        self.capture.tag_own(fd.as_fd(), client)?;
        let socket = Socket::from(fd);
        if client.is_some() {
            set_option(&socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
            socket.bind(&SocketAddr::new(self.sockets.local_source(to), 0).into())?;
        }
        socket.set_nonblocking(false)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect_timeout(&to.into(), PATIENCE)?;
        if client.is_some() {
            assert!(self.capture.is_client_known(socket.as_fd())?);
        }
        Ok(socket)
    }
}

pub fn set_option(socket: &Socket, level: i32, name: i32, value: i32) -> io::Result<()> {
    // SAFETY: the option takes a pointer to an int and its size, and both outlive the call.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, std::ptr::from_ref(&value).cast(), size_of::<i32>() as u32)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
