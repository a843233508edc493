//! What a node and a pod have in common: a network namespace with a cgroup, in which processes and sockets live.

use std::fs;
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::cgroup::Cgroup;
use crate::netns::{Netns, enter_thread};
use crate::process::{Finished, Process};

/// Long enough for any client that a scenario runs to its end.
const RUN_LIMIT: Duration = Duration::from_secs(60);

/// How long a connect may take before it counts as failed: the kernel's own limit is two minutes.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// A network namespace and a cgroup.
#[derive(Debug)]
pub struct Host {
    // Processes die with the cgroup, so it is dropped before the namespace that they hold.
    cgroup: Cgroup,
    netns: Netns,
}

impl Host {
    pub(crate) fn create(netns: &str, cgroup: &str) -> Result<Self> {
        Ok(Self { netns: Netns::create(netns)?, cgroup: Cgroup::create(cgroup)? })
    }

    /// The network namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The cgroup that [`command`](Self::command) starts processes in.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// A command that will run in this network namespace and cgroup, in a process group of its own so that Ctrl-C in a
    /// terminal reaches the caller alone.
    ///
    /// # Errors
    /// The namespace or the cgroup is gone.
    pub fn command(&self, program: &str) -> Result<Command> {
        self.command_in(&self.cgroup, program)
    }

    /// [`command`](Self::command) in another cgroup: a kubelet, say, that is in the node's namespace but no pod.
    ///
    /// # Errors
    /// The namespace or the cgroup is gone.
    pub fn command_in(&self, cgroup: &Cgroup, program: &str) -> Result<Command> {
        let mut cgroup = cgroup.entrance().with_context(|| format!("entering {}", cgroup.path().display()))?;
        let netns = self.netns.descriptor()?;
        let mut command = Command::new(program);
        command.process_group(0);
        // SAFETY: between fork and exec the closure only makes system calls, on descriptors that it owns.
        unsafe {
            command.pre_exec(move || {
                cgroup.write_all(b"0")?;
                enter_thread(&netns)
            })
        };
        Ok(command)
    }

    /// Starts a program and leaves it running; it is killed when the returned value is dropped.
    ///
    /// # Errors
    /// The program is not there.
    pub fn spawn(&self, program_and_arguments: &[&str]) -> Result<Process> {
        let (program, arguments) = split(program_and_arguments)?;
        let mut command = self.command(program)?;
        command.args(arguments);
        Process::spawn(command)
    }

    /// Runs a program to its end, at most a minute.
    ///
    /// # Errors
    /// The program is not there, or it did not end in time. A failure of the program itself is in the returned status.
    pub fn run(&self, program_and_arguments: &[&str]) -> Result<Finished> {
        self.run_within(program_and_arguments, RUN_LIMIT)
    }

    /// [`run`](Self::run) with a limit of the caller's.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_within(&self, program_and_arguments: &[&str], limit: Duration) -> Result<Finished> {
        self.spawn(program_and_arguments)?.finish_within(limit)
    }

    /// Runs `work` on a thread inside this network namespace; see [`Netns::enter`]. The thread stays in the caller's
    /// cgroup: version 2 moves whole processes.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.netns.enter(work)
    }

    /// Opens a TCP connection from here.
    ///
    /// # Errors
    /// What `connect` says.
    pub fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        self.enter(|| TcpStream::connect_timeout(&to, CONNECT_LIMIT))
    }

    /// Listens on TCP here; port 0 picks one.
    ///
    /// # Errors
    /// What `bind` says.
    pub fn listen(&self, on: SocketAddr) -> io::Result<TcpListener> {
        self.enter(|| TcpListener::bind(on))
    }

    /// Binds a UDP socket here.
    ///
    /// # Errors
    /// What `bind` says.
    pub fn bind_udp(&self, on: SocketAddr) -> io::Result<UdpSocket> {
        self.enter(|| UdpSocket::bind(on))
    }

    /// The addresses and ports on which sockets listen here, whoever owns them; IPv6 wildcard listeners are `[::]`.
    ///
    /// # Errors
    /// The kernel's table cannot be read.
    pub fn listening(&self) -> Result<Vec<SocketAddr>> {
        self.sockets_in_state("0A")
    }

    /// The local addresses and ports of the established TCP sockets here.
    ///
    /// # Errors
    /// The kernel's table cannot be read.
    pub fn established(&self) -> Result<Vec<SocketAddr>> {
        self.sockets_in_state("01")
    }

    /// Whether something listens on `port` here.
    ///
    /// # Errors
    /// The kernel's table cannot be read.
    pub fn listens_on(&self, port: u16) -> Result<bool> {
        Ok(self.listening()?.iter().any(|address| address.port() == port))
    }

    fn sockets_in_state(&self, state: &str) -> Result<Vec<SocketAddr>> {
        let table = self.enter(|| -> io::Result<String> {
            let mut table = fs::read_to_string("/proc/thread-self/net/tcp")?;
            table += &fs::read_to_string("/proc/thread-self/net/tcp6")?;
            Ok(table)
        })?;
        table
            .lines()
            .filter_map(|line| {
                let mut fields = line.split_whitespace().skip(1);
                let local = fields.next()?;
                let is_wanted = fields.nth(1)? == state;
                is_wanted.then(|| parse_proc_address(local).with_context(|| format!("parsing {line:?}")))
            })
            .collect()
    }
}

fn split<'a, 'b>(program_and_arguments: &'a [&'b str]) -> Result<(&'b str, &'a [&'b str])> {
    let (program, arguments) = program_and_arguments.split_first().context("no program was named")?;
    Ok((program, arguments))
}

/// Parses `0100007F:3A98`: the address as 32-bit words in host byte order, the port in hexadecimal.
fn parse_proc_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = Vec::with_capacity(16);
    for word in address.as_bytes().chunks(8) {
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    let ip = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        16 => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}
