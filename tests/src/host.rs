//! What a node and a pod have in common: a network namespace with a cgroup, in which processes and sockets live.

use std::io::{self, Write as _};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
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

    /// The addresses and ports on which TCP sockets listen here, whoever owns them; IPv6 wildcard listeners are `[::]`.
    ///
    /// # Errors
    /// `ss` is not there, or says what is no address.
    pub fn listening(&self) -> Result<Vec<SocketAddr>> {
        // `ss` asks the kernel for these alone. Whoever reads /proc/net/tcp while connections come and go reads for long.
        let listed = self.run(&["ss", "--no-header", "--numeric", "--tcp", "--listening"])?.success()?;
        listed
            .lines()
            .map(|line| {
                let local = line.split_whitespace().nth(3);
                local.and_then(parse_listener).with_context(|| format!("parsing {line:?}"))
            })
            .collect()
    }

    /// Whether something listens on `port` here.
    ///
    /// # Errors
    /// The kernel's table cannot be read.
    pub fn listens_on(&self, port: u16) -> Result<bool> {
        Ok(self.listening()?.iter().any(|address| address.port() == port))
    }
}

fn split<'a, 'b>(program_and_arguments: &'a [&'b str]) -> Result<(&'b str, &'a [&'b str])> {
    let (program, arguments) = program_and_arguments.split_first().context("no program was named")?;
    Ok((program, arguments))
}

/// Parses an address of `ss`: `127.0.0.1:80`, `[::1]:80`, `0.0.0.0%eth0:80`, `*:80`.
fn parse_listener(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.rsplit_once(':')?;
    let address = address.split('%').next()?.trim_matches(['[', ']']);
    let ip = if address == "*" { Ipv6Addr::UNSPECIFIED.into() } else { address.parse().ok()? };
    Some(SocketAddr::new(ip, port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_ss_writes_them() {
        for (text, address) in [
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("0.0.0.0%eth0:80", "0.0.0.0:80"),
            ("[::1]:80", "[::1]:80"),
            ("[fe80::1]%eth0:80", "[fe80::1]:80"),
            ("*:80", "[::]:80"),
        ] {
            assert_eq!(parse_listener(text), address.parse().ok(), "{text}");
        }
        assert_eq!(parse_listener("*:*"), None);
    }
}
