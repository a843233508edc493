//! Capture: the eBPF programs, loaded, attached, pinned and taken over, and the state that they read.
//!
//! Programs, links and maps belong to the node, not to the process: they stay when the agent dies, and what they have
//! captured is refused until the next agent has taken them over. This module knows nothing of the proxy.

mod attach;
mod bpffs;
mod congestion;
mod features;
mod kernel;
mod load;
mod log;
mod map;
mod object;
mod older;
mod probes;

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use weft_common::{
    Address, Listener, ListenerKind, POD_ADDRESSES, Pod, Prefix, Published, Role, Settings, Socket, Tuple,
};

use self::bpffs::{NodeFolder, Pins};
use self::kernel::Context;
use self::log::CaptureLog;
use self::map::Map;
use self::object::Object;
use self::older::OlderLayout;
use crate::in_pod::InPodListeners;
use crate::netns::{self, Netns, NetnsCookie};

pub use self::attach::ForeignProgram;
pub use self::bpffs::has_pods;
pub use self::congestion::CongestionControl;
pub use self::features::missing_features;
pub use self::kernel::KernelError;

/// What capture is started with.
#[derive(Debug, Clone)]
pub struct CaptureOptions {
    /// The folder of this host's bpffs that holds the pins of all nodes; usually `/sys/fs/bpf/weft`.
    pub bpf_dir: PathBuf,
    /// The node's name: several nodes on one kernel have a folder each.
    pub node: String,
    /// The root of the cgroup v2 hierarchy; `None`: found in the mount table.
    pub cgroup_root: Option<PathBuf>,
    /// The cgroup whose processes reach the pods directly (the kubelet's); that one exactly, not those below it.
    pub probe_cgroup: Option<PathBuf>,
    /// The congestion control of connections between the applications and the agent, which never leave their pod;
    /// `None`: whatever the pod's namespace has.
    pub loopback_congestion_control: Option<CongestionControl>,
    /// The most detailed level that the programs write to their log.
    pub log: LogLevel,
}

/// How much the eBPF programs write to their log.
///
/// Each process loads the programs anew, and the kernel drops what is switched off while it does: it costs nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// Connections that had to be refused.
    #[default]
    Warn,
    /// Every connection that is captured.
    Debug,
}

/// A pod to be captured.
#[derive(Debug, Clone, Copy)]
pub struct CapturedPod<'a> {
    /// Its network namespace.
    pub netns: &'a Netns,
    /// Its addresses, at most [`POD_ADDRESSES`]. The first of a family is what captured connections show as their own.
    pub addresses: &'a [IpAddr],
    /// Where its connections are sent.
    pub listeners: &'a InPodListeners,
}

/// Why capture does not work.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The agent was built without the eBPF programs.
    #[error("this agent was built without the eBPF programs: run `cargo xtask setup`, and build it again")]
    NotBuiltIn,
    /// The kernel or the process's rights do not suffice.
    #[error("capture needs what is missing here: {}", .0.join("; "))]
    Missing(Vec<String>),
    /// The place for pins cannot be used.
    #[error("{0}")]
    Bpffs(String),
    /// Another program allows none beside it.
    #[error(
        "the program {others} at {hook} of the root cgroup allows none beside it: detach it, or attach it with BPF_F_ALLOW_MULTI"
    )]
    ForeignProgram {
        /// The hook.
        hook: &'static str,
        /// The programs there.
        others: String,
    },
    /// A pinned map is not what it should be.
    #[error("the pinned maps are not of this version: {0}; `weft uninstall` removes them")]
    Layout(String),
    /// The object cannot be read.
    #[error("reading the eBPF object: {0}")]
    Object(String),
    /// The verifier refused a program.
    #[error("loading the eBPF program {program}: {source}\n{log}")]
    Program {
        /// Its name.
        program: &'static str,
        /// What the kernel said.
        source: io::Error,
        /// What the verifier said, to its end.
        log: String,
    },
    /// A call of the kernel failed.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The pod's network namespace is the agent's own.
    #[error("the pod is in the agent's own network namespace: capturing it would capture the node")]
    HostNetwork,
    /// The pod has more addresses than capture can tell apart from the mesh's.
    #[error("a pod has {0} addresses, and capture handles at most {POD_ADDRESSES}")]
    TooManyAddresses(usize),
    /// The cgroup of the probes cannot be used.
    #[error("the cgroup {} of the probes: {problem}", path.display())]
    ProbeCgroup {
        /// As it was given.
        path: PathBuf,
        /// Why not.
        problem: String,
    },
}

/// What [`uninstall`] took away.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// Pods that were captured until now.
    pub pods: usize,
    /// Pinned links and maps.
    pub pins: usize,
}

/// How capture fares, for `weft status`.
#[derive(Debug, Clone)]
pub struct CaptureStatus {
    /// The folder of the pins.
    pub folder: PathBuf,
    /// Each hook of the root cgroup, and whether this node's program is in place there.
    pub hooks: Vec<(&'static str, bool)>,
    /// The pods that are captured.
    pub pods: Vec<NetnsCookie>,
    /// Programs of others at the same hooks: an exclusive one keeps capture from being attached, and any of them sees a
    /// connection before or after capture does.
    pub foreign: Vec<ForeignProgram>,
    /// The id of the cgroup whose processes reach the pods directly.
    pub probe_cgroup: Option<u64>,
    /// Layouts of other versions that still capture pods.
    pub older_layouts: usize,
}

/// How long after its last captured `connect` a pod's own program stays, so that this connection is still accepted.
const LINGER: Duration = Duration::from_millis(50);

/// The programs in place, and the state that they read. Shared by `Arc` among all that need it.
#[derive(Debug)]
pub struct Capture {
    folder: NodeFolder,
    pins: Pins,
    cgroup: File,
    cgroup_root: PathBuf,
    probe_cgroup: Mutex<Option<PathBuf>>,
    object: Object,
    log: Mutex<Option<CaptureLog>>,
    older: Mutex<Vec<OlderLayout>>,
    ranges_lock: Mutex<()>,
    pods: Map<u64, Pod>,
    pod_of_address: Map<Address, u64>,
    listeners: Map<Listener, u32>,
    ranges: Map<Prefix, u32>,
    outside: Map<Address, u32>,
    sockets: Map<i32, Socket>,
    settings: Map<u32, Settings>,
}

impl Capture {
    /// Loads and attaches the programs, or takes over those that an earlier agent of this node left pinned.
    ///
    /// Pods that were captured stay so; connections to them are refused until [`Capture::enrol`] names new listeners. In
    /// a new node everything but loopback counts as the mesh until [`Capture::set_ranges`] says otherwise.
    ///
    /// # Errors
    /// When the kernel lacks something, the bpffs is not the host's, or a program cannot be loaded or attached.
    pub fn start(options: CaptureOptions) -> Result<Self, CaptureError> {
        Self::try_start(options).map_err(|error| match error {
            CaptureError::Kernel(_) | CaptureError::Program { .. } | CaptureError::Bpffs(_) => {
                // Asked only now: where all is well it would cost more than all the rest.
                let missing = missing_features();
                if missing.is_empty() { error } else { CaptureError::Missing(missing) }
            }
            other => other,
        })
    }

    fn try_start(options: CaptureOptions) -> Result<Self, CaptureError> {
        let root = options.cgroup_root.or_else(features::cgroup_root).unwrap_or_else(|| "/sys/fs/cgroup".into());
        let cgroup = File::open(&root).on("open", root.display())?;
        let folder = NodeFolder::of(&options.bpf_dir, &options.node);
        let pins = folder.create(&options.bpf_dir)?;
        let _locked = folder.lock()?;

        let older = open_older(&folder)?;
        let object = Object::new(&pins.maps, options.log, options.loopback_congestion_control)?;
        let programs = object.hooks()?;
        let log = match options.log {
            LogLevel::Off => None,
            _ => Some(open_log(&programs[0])?),
        };
        let capture = Self {
            pods: Map::open(&pins.maps, "PODS")?,
            pod_of_address: Map::open(&pins.maps, "POD_OF_ADDRESS")?,
            listeners: Map::open(&pins.maps, "LISTENERS")?,
            ranges: Map::open(&pins.maps, "RANGES")?,
            outside: Map::open(&pins.maps, "OUTSIDE")?,
            sockets: Map::open(&pins.maps, "SOCKETS")?,
            settings: Map::open(&pins.maps, "SETTINGS")?,
            folder,
            pins,
            cgroup,
            cgroup_root: root,
            probe_cgroup: Mutex::new(options.probe_cgroup),
            object,
            log: Mutex::new(log),
            older: Mutex::new(older),
            ranges_lock: Mutex::new(()),
        };
        // Opened for its layout alone: the programs are its only users.
        let _: Map<Tuple, Published> = Map::open(&capture.pins.maps, "TUPLES")?;
        capture.forget_dead()?;
        capture.prepare()?;
        attach::attach_hooks(&programs, &capture.cgroup, &capture.pins.links)?;
        tracing::info!(folder = %capture.folder.path().display(), "capture is in place");
        Ok(capture)
    }

    /// Takes over again from an agent that had taken over from this one, and is dead: what it left is what an earlier one
    /// leaves, with its own programs at the hooks.
    ///
    /// # Errors
    /// As [`Capture::start`].
    pub fn resume(&self) -> Result<(), CaptureError> {
        let _locked = self.folder.lock()?;
        *self.older() = open_older(&self.folder)?;
        self.forget_dead()?;
        attach::attach_hooks(&self.object.hooks()?, &self.cgroup, &self.pins.links)
    }

    /// Takes every address for one that may be in the mesh, until [`Capture::set_ranges`] and [`Capture::put_outside`] say
    /// otherwise: nothing passes in clear because nobody keeps them in step.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn widen(&self) -> Result<(), CaptureError> {
        self.set_ranges(&[Ipv4Net::default().into(), Ipv6Net::default().into()])?;
        for address in self.outside.keys()? {
            self.outside.remove(&address)?;
        }
        Ok(())
    }

    fn older(&self) -> MutexGuard<'_, Vec<OlderLayout>> {
        self.older.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the state to where the programs may run on it.
    fn prepare(&self) -> Result<(), CaptureError> {
        if self.ranges.keys()?.is_empty() {
            // An empty map would mean that nothing is in the mesh, and let everything out in clear.
            self.ranges.put(&Prefix::default(), &1)?;
        }
        // What was outside when the last agent died may have joined the mesh since.
        for address in self.outside.keys()? {
            self.outside.remove(&address)?;
        }
        match self.refresh_probe_cgroup() {
            // It may come up later than the agent.
            Err(error @ CaptureError::ProbeCgroup { .. }) => {
                tracing::warn!(%error, "probes are judged like any plaintext connection until it is found");
                Ok(())
            }
            other => other,
        }
    }

    /// Captures a pod, or replaces its addresses and listeners.
    ///
    /// # Errors
    /// When the pod has too many addresses or uses the host's network, or the kernel refuses.
    pub fn enrol(&self, pod: &CapturedPod<'_>) -> Result<(), CaptureError> {
        let cookie = pod.netns.cookie();
        if cookie == netns::own_cookie().on("getsockopt(SO_NETNS_COOKIE)", "the agent")? {
            return Err(CaptureError::HostNetwork);
        }
        let value = pod_value(pod.addresses, &pod.netns.devices().on("getifaddrs", cookie)?)?;
        let before = self.pods.get(&cookie.0)?.unwrap_or_default();
        let workers = pod.listeners.per_worker.len() as u32;
        // The order never leaves a connection without somebody who takes it: listeners, who hands to them, and last the
        // hook that sends connections their way.
        for (worker, listeners) in pod.listeners.per_worker.iter().enumerate() {
            for (kind, sockets) in [
                (ListenerKind::Outbound, &listeners.outbound),
                (ListenerKind::Inbound, &listeners.inbound),
                (ListenerKind::Hbone, &listeners.hbone),
            ] {
                for socket in sockets {
                    let domain = socket2::SockRef::from(socket).domain().on("getsockopt(SO_DOMAIN)", cookie)?;
                    let is_ipv4 = domain == socket2::Domain::IPV4;
                    let key = Listener::new(cookie.0, kind, is_ipv4, worker as u32);
                    self.listeners.put(&key, &(socket.as_raw_fd() as u32))?;
                }
            }
        }
        let steer = self.object.steer(&object::Pod::new(cookie, workers, &value.addresses))?;
        attach::attach_steer(&steer, pod.netns, &self.pins.pod(cookie))?;
        self.remove_listeners(cookie, workers)?;
        for address in known(&value.addresses) {
            self.pod_of_address.put(address, &cookie.0)?;
        }
        self.pods.put(&cookie.0, &value)?;
        for address in known(&before.addresses).filter(|address| !value.owns(address)) {
            self.remove_address(cookie, address)?;
        }
        for older in &*self.older() {
            older.release(cookie)?;
        }
        Ok(())
    }

    /// Captures a pod no longer. Its connections stay as they are, and keep the names that they show.
    ///
    /// Takes some 50 ms, in which what was already on its way is still accepted. A pod that is not captured is no error.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn unenrol(&self, cookie: NetnsCookie) -> Result<(), CaptureError> {
        let pod = self.pods.get(&cookie.0)?;
        if self.pods.remove(&cookie.0)? {
            // A connection may be between its `connect`, which was captured, and its SYN.
            std::thread::sleep(LINGER);
        }
        for older in &*self.older() {
            older.release(cookie)?;
        }
        for address in known(&pod.unwrap_or_default().addresses) {
            self.remove_address(cookie, address)?;
        }
        attach::detach(&self.pins.pod(cookie))?;
        self.remove_listeners(cookie, 0)
    }

    /// The captured pods, those that an earlier agent left included.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn enrolled(&self) -> Result<Vec<NetnsCookie>, CaptureError> {
        let mut cookies: Vec<_> = self.pods.keys()?.into_iter().map(NetnsCookie).collect();
        cookies.extend(self.pins.pods().on("readdir", self.pins.pods.display())?);
        for older in &*self.older() {
            cookies.extend(older.pods()?);
        }
        cookies.sort_unstable();
        cookies.dedup();
        Ok(cookies)
    }

    /// Drops what is left of pods whose network namespace is gone.
    fn forget_dead(&self) -> Result<(), CaptureError> {
        for cookie in self.pins.pods().on("readdir", self.pins.pods.display())? {
            if !attach::is_alive(&self.pins.pod(cookie))? {
                self.unenrol(cookie)?;
            }
        }
        Ok(())
    }

    /// Says which ranges can hold destinations in the mesh; what is outside stays in the kernel, untouched.
    ///
    /// # Errors
    /// When there are more than 65,536 of them.
    pub fn set_ranges(&self, ranges: &[IpNet]) -> Result<(), CaptureError> {
        let _one_at_a_time = self.ranges_lock.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted: Vec<_> = ranges.iter().map(prefix).collect();
        let had = self.ranges.keys()?;
        // First those that come: what is in both must at no moment be in neither.
        for prefix in wanted.iter().filter(|prefix| !had.contains(prefix)) {
            self.ranges.put(prefix, &1)?;
        }
        for prefix in had.iter().filter(|prefix| !wanted.contains(prefix)) {
            self.ranges.remove(prefix)?;
        }
        Ok(())
    }

    /// Remembers that an address inside the ranges is not of the mesh. The oldest of many are forgotten.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn put_outside(&self, address: IpAddr) -> Result<(), CaptureError> {
        Ok(self.outside.put(&address.into(), &1)?)
    }

    /// Forgets that an address is outside: before a snapshot is published in which it is in the mesh.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove_outside(&self, address: IpAddr) -> Result<(), CaptureError> {
        self.outside.remove(&address.into())?;
        Ok(())
    }

    /// The destination that the application gave to `connect`, for a socket accepted by an outbound listener; `None`
    /// for one that was not captured.
    ///
    /// # Errors
    /// When it is not a socket.
    pub fn original_destination(&self, socket: BorrowedFd<'_>) -> io::Result<Option<SocketAddr>> {
        let value = self.sockets.get(&socket.as_raw_fd()).map_err(|error| error.source)?;
        Ok(value
            .filter(|value| value.role == Role::Accepted as u16)
            .map(|value| SocketAddr::new(value.address.into(), value.port)))
    }

    /// Marks a socket as the agent's own before it connects: it is not captured. The application at the other end, if it
    /// is in this pod, sees `client` as its peer, in `accept` and `getpeername`.
    ///
    /// Only who holds the pinned map can write such a mark: no capability inside a pod suffices.
    ///
    /// # Errors
    /// When it is not a socket, or there is no memory.
    pub fn tag_own(&self, socket: BorrowedFd<'_>, client: Option<SocketAddr>) -> io::Result<()> {
        let (address, port) = client.map_or((Address::UNSPECIFIED, 0), |client| (client.ip().into(), client.port()));
        let value = Socket::new(Role::Own, address, port, 0);
        self.sockets.put(&socket.as_raw_fd(), &value).map_err(|error| error.source)
    }

    /// True if the client of a socket with [`Capture::tag_own`] could be made known to the other end.
    ///
    /// It fails when the kernel has no memory. To be asked once `connect` has returned, and only for IPv6: by IPv4 such a
    /// connection is refused in the kernel. When false, the application would take loopback for its client, and the
    /// connection must be ended.
    ///
    /// # Errors
    /// When it is not a socket.
    pub fn is_client_known(&self, socket: BorrowedFd<'_>) -> io::Result<bool> {
        let value = self.sockets.get(&socket.as_raw_fd()).map_err(|error| error.source)?;
        Ok(value.is_some_and(|value| value.published != 0))
    }

    /// Carries the programs' log into `tracing`, under the target `weft::capture::kernel`: a task without end, to be
    /// run once, on a tokio runtime.
    pub fn forward_log(&self) -> impl Future<Output = ()> + Send + 'static {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner).take();
        async move {
            if let Some(log) = log
                && let Err(error) = log.forward().await
            {
                tracing::warn!(%error, "the eBPF programs' log cannot be read");
            }
        }
    }

    /// How capture fares.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn status(&self) -> Result<CaptureStatus, CaptureError> {
        let settings = self.settings.get(&0)?.unwrap_or_default();
        Ok(CaptureStatus {
            folder: self.folder.path().to_owned(),
            hooks: attach::attached(&self.pins.links)?,
            pods: self.enrolled()?,
            foreign: attach::foreign(&self.cgroup)?,
            probe_cgroup: (settings.probe_cgroup != 0).then_some(settings.probe_cgroup),
            older_layouts: self.older().len(),
        })
    }

    /// Removes the listeners of the workers from `first` on.
    fn remove_listeners(&self, cookie: NetnsCookie, first: u32) -> Result<(), CaptureError> {
        for worker in first.. {
            let mut was_there = false;
            for kind in [ListenerKind::Outbound, ListenerKind::Inbound, ListenerKind::Hbone] {
                for is_ipv4 in [true, false] {
                    was_there |= self.listeners.remove(&Listener::new(cookie.0, kind, is_ipv4, worker))?;
                }
            }
            if !was_there {
                break;
            }
        }
        Ok(())
    }

    /// Forgets an address, unless another pod has got it meanwhile.
    fn remove_address(&self, cookie: NetnsCookie, address: &Address) -> Result<(), CaptureError> {
        if self.pod_of_address.get(address)? == Some(cookie.0) {
            self.pod_of_address.remove(address)?;
        }
        Ok(())
    }
}

/// Removes every trace of a node's capture from the kernel. Established connections stay as they are.
///
/// # Errors
/// When the bpffs cannot be changed; what was removed until then stays removed.
pub fn uninstall(bpf_dir: &Path, node: &str) -> Result<Removed, CaptureError> {
    let folder = NodeFolder::of(bpf_dir, node);
    if !folder.path().exists() {
        return Ok(Removed::default());
    }
    let _locked = folder.lock()?;
    let mut removed = Removed::default();
    let mut layouts = folder.other_layouts().on("readdir", folder.path().display())?;
    layouts.push(folder.layout());
    for layout in layouts {
        removed.pods += Pins::at(&layout).pods().on("readdir", layout.display())?.len();
        removed.pins += older::remove_layout(&layout)?;
    }
    fs::remove_dir(folder.path()).on("rmdir", folder.path().display())?;
    // The folder of all nodes goes with the last of them.
    let _ = fs::remove_dir(bpf_dir);
    Ok(removed)
}

/// Opens the layouts of other versions, without those that capture nothing any more.
fn open_older(folder: &NodeFolder) -> Result<Vec<OlderLayout>, CaptureError> {
    let mut older = Vec::new();
    for path in folder.other_layouts().on("readdir", folder.path().display())? {
        let layout = OlderLayout::open(path)?;
        layout.forget_dead()?;
        if layout.pods()?.is_empty() {
            layout.remove()?;
        } else {
            older.push(layout);
        }
    }
    Ok(older)
}

fn open_log(program: &OwnedFd) -> Result<CaptureLog, CaptureError> {
    let id = kernel::program_id(program.as_fd()).on("OBJ_GET_INFO_BY_FD", "a program")?;
    CaptureLog::of(id).map_err(|error| CaptureError::Object(format!("its log: {error}")))
}

fn pod_value(addresses: &[IpAddr], devices: &[(IpAddr, u32)]) -> Result<Pod, CaptureError> {
    if addresses.len() > POD_ADDRESSES {
        return Err(CaptureError::TooManyAddresses(addresses.len()));
    }
    let first = |is_wanted: fn(&IpAddr) -> bool| addresses.iter().map(IpAddr::to_canonical).find(is_wanted);
    let device = |address: Option<IpAddr>| {
        devices.iter().find(|(known, _)| Some(*known) == address).map(|(_, index)| *index).unwrap_or_default()
    };
    let (ipv4, ipv6) = (first(IpAddr::is_ipv4), first(IpAddr::is_ipv6));
    let mut pod = Pod {
        ipv4: ipv4.map(Address::from).unwrap_or_default(),
        ipv6: ipv6.map(Address::from).unwrap_or_default(),
        ipv4_device: device(ipv4),
        ipv6_device: device(ipv6),
        ..Pod::default()
    };
    for (slot, address) in pod.addresses.iter_mut().zip(addresses) {
        *slot = (*address).into();
    }
    Ok(pod)
}

/// Those that are set.
fn known(addresses: &[Address; POD_ADDRESSES]) -> impl Iterator<Item = &Address> {
    addresses.iter().filter(|address| !address.is_unspecified())
}

fn prefix(range: &IpNet) -> Prefix {
    // IPv4 is kept as mapped IPv6: its prefixes begin 96 bits further on.
    let length = u32::from(range.prefix_len()) + if range.addr().is_ipv4() { 96 } else { 0 };
    Prefix { length, address: range.network().into() }
}
