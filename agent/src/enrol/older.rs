//! Connections that a pod had before it was enrolled. No agent carries them: they stay in clear until they end, or are
//! ended, as the operator has chosen, and are listed meanwhile.
//!
//! A pod's connections are listed right after its capture began and before the agent has accepted or dialled anything
//! for it. What is captured goes to a loopback address; what the agent itself has in the pod from an earlier enrolment is
//! known by the inodes of the agent's own sockets. A connection that nobody has accepted yet may be either's: whose it is
//! shows when it is accepted.

mod inet_diag;
mod kept;

use std::collections::{HashSet, VecDeque};
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use self::inet_diag::{InetDiag, InetDiagError, TcpSocket};
use crate::netns::Netns;
use crate::proxy::{Direction, HBONE_PORT};

pub(super) use self::kept::{Kept, KeptFile};

/// The most sockets of a pod that are looked at, and hence the most older connections that it can have.
const MOST: usize = 65_536;

/// What becomes of the connections that a pod had before it was enrolled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OlderConnections {
    /// They stay as they are, in clear, until they end by themselves.
    Keep,
    /// They fail at both ends at once, so that they are made anew inside the mesh.
    End,
}

/// A connection from before its pod was enrolled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OlderConnection {
    /// Inbound if the pod listened on its local port when it was enrolled, else outbound.
    pub direction: Direction,
    /// The pod's end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// The kernel's number for the pod's socket.
    pub(super) cookie: u64,
}

/// What earlier agents of this node have left to know of a pod.
#[derive(Debug)]
pub(super) enum Past {
    /// Nothing: it was not captured until now.
    New,
    /// It was captured, and these were its older connections. What else it has came to be under capture, which leaves
    /// alone what goes elsewhere than to the mesh.
    Known(Kept),
    /// It was captured, and nothing is on record.
    Forgotten,
}

/// The older connections of one pod, as far as they live.
#[derive(Debug, Default)]
pub(super) struct Older {
    pod: Arc<str>,
    diag: Option<InetDiag>,
    /// In the order in which they are to be looked after.
    connections: VecDeque<(TcpSocket, Direction)>,
    /// In a queue of connections to be accepted, the application's or the agent's.
    unaccepted: VecDeque<TcpSocket>,
    /// Whether all of them are older for sure.
    is_certain: bool,
    cannot_end: bool,
    /// Why they are not listed, or not all of them.
    unlisted: Option<String>,
    /// Why they are not ended.
    not_ended: Option<String>,
    shown: Option<Arc<[OlderConnection]>>,
}

impl Older {
    /// Lists those of a pod that was captured just now and has these addresses.
    pub(super) fn list(pod: &Arc<str>, netns: &Netns, addresses: &[IpAddr], past: &Past) -> Self {
        let is_certain = !matches!(past, Past::Forgotten);
        let mut older = Self { pod: pod.clone(), is_certain, ..Self::default() };
        if let Err(error) = older.fill(netns, addresses) {
            complain(pod, &mut older.unlisted, format!("connections from before cannot be listed: {error}"));
        }
        older.restrict_to(past);
        older
    }

    /// Leaves out what came to be after the capture by an earlier agent.
    fn restrict_to(&mut self, past: &Past) {
        if let Past::Known(kept) = past {
            self.connections.retain(|(socket, _)| kept.contains(&(socket.local(), socket.remote(), socket.cookie())));
            self.unaccepted.clear();
        }
    }

    fn fill(&mut self, netns: &Netns, addresses: &[IpAddr]) -> Result<(), InetDiagError> {
        let mut diag = InetDiag::open(netns)?;
        let sockets = diag.list(MOST, |socket| socket.listens() || is_over_the_network(socket, addresses))?;
        if sockets.len() == MOST {
            let text = format!("only {MOST} of its sockets were looked at for connections from before");
            complain(&self.pod, &mut self.unlisted, text);
        }
        let (listening, connected): (Vec<_>, Vec<_>) = sockets.into_iter().partition(TcpSocket::listens);
        if connected.is_empty() {
            return Ok(());
        }
        let ports: HashSet<u16> = listening.iter().map(|socket| socket.local().port()).collect();
        let own = own_sockets()?;
        for socket in connected.into_iter().filter(|socket| !own.contains(&socket.inode)) {
            let direction =
                if ports.contains(&socket.local().port()) { Direction::Inbound } else { Direction::Outbound };
            match claim(&socket) {
                Claim::Application => self.connections.push_back((socket, direction)),
                Claim::Open => self.unaccepted.push_back(socket),
                Claim::Nobody => {}
            }
        }
        self.diag = Some(diag);
        Ok(())
    }

    /// What there is to say of them to the operator: why they are not listed, or not ended.
    pub(super) fn problem(&self) -> Option<&str> {
        self.not_ended.as_deref().or(self.unlisted.as_deref())
    }

    /// All of them, for the operator.
    pub(super) fn shown(&mut self) -> Arc<[OlderConnection]> {
        let connections = &self.connections;
        let shown = self.shown.get_or_insert_with(|| {
            let one = |(socket, direction): &(TcpSocket, Direction)| OlderConnection {
                direction: *direction,
                local: socket.local(),
                remote: socket.remote(),
                cookie: socket.cookie(),
            };
            connections.iter().map(one).collect()
        });
        shown.clone()
    }

    /// Whether there is anything to be looked after.
    pub(super) fn needs_care(&self) -> bool {
        self.diag.is_some() && !(self.connections.is_empty() && self.unaccepted.is_empty())
    }

    /// Looks after as many as `most`, until `deadline`: forgets those that have ended, and ends them if `choice` is that.
    /// Those that were not looked at are the first of the next time.
    pub(super) fn look_after(&mut self, choice: OlderConnections, most: usize, deadline: Instant) {
        let Some(mut diag) = self.diag.take() else { return };
        if let Err(error) = self.claim_accepted(&mut diag, most, deadline) {
            tracing::debug!(pod = %self.pod, %error, "whose a connection from before is cannot be told now");
        }
        let mut ended = 0_usize;
        for _ in 0..most.min(self.connections.len()) {
            if Instant::now() >= deadline {
                break;
            }
            let Some((socket, direction)) = self.connections.pop_front() else { break };
            let is_to_end = choice == OlderConnections::End && self.may_end();
            let lives = if is_to_end {
                diag.destroy(&socket).map(|was_there| {
                    ended += usize::from(was_there);
                    false
                })
            } else {
                diag.find(&socket).map(|found| found.is_some_and(|found| found.lives()))
            };
            match lives {
                Ok(false) => self.shown = None,
                Ok(true) => self.connections.push_back((socket, direction)),
                Err(error) => {
                    self.connections.push_back((socket, direction));
                    if is_to_end {
                        self.cannot_end |= matches!(error, InetDiagError::NoDestroy);
                        let text = format!("connections from before cannot be ended: {error}");
                        complain(&self.pod, &mut self.not_ended, text);
                    } else {
                        tracing::debug!(pod = %self.pod, %error, "whether a connection from before lives cannot be told");
                    }
                }
            }
        }
        if ended > 0 {
            tracing::info!(pod = %self.pod, connections = ended, "connections from before were ended");
        }
        if self.connections.is_empty() {
            self.not_ended = None;
        }
        self.diag = Some(diag);
        if !self.needs_care() {
            // It would keep the namespace.
            self.diag = None;
        }
    }

    /// Whether they can be ended. What capture may have left alone is not ended for being older.
    fn may_end(&mut self) -> bool {
        if !self.is_certain {
            let text = "connections from before are not ended: an earlier agent captured the pod and nothing is on \
                        record, so that they cannot be told from those that capture has left alone since";
            complain(&self.pod, &mut self.not_ended, text.to_owned());
        }
        self.is_certain && !self.cannot_end
    }

    /// Sorts those that somebody has accepted meanwhile.
    fn claim_accepted(&mut self, diag: &mut InetDiag, most: usize, deadline: Instant) -> Result<(), InetDiagError> {
        let mut own = None;
        for _ in 0..most.min(self.unaccepted.len()) {
            if Instant::now() >= deadline {
                break;
            }
            let Some(socket) = self.unaccepted.pop_front() else { break };
            let found = match diag.find(&socket) {
                Ok(found) => found.filter(TcpSocket::lives),
                Err(error) => {
                    self.unaccepted.push_back(socket);
                    return Err(error);
                }
            };
            match found.map(|socket| (claim(&socket), socket)) {
                None | Some((Claim::Nobody, _)) => {}
                Some((Claim::Open, socket)) => self.unaccepted.push_back(socket),
                Some((Claim::Application, socket)) => {
                    let own = match &mut own {
                        Some(own) => own,
                        none => none.insert(own_sockets()?),
                    };
                    if !own.contains(&socket.inode) {
                        self.connections.push_back((socket, Direction::Inbound));
                        self.shown = None;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Says what is wrong, once, and remembers it for the status.
fn complain(pod: &str, what: &mut Option<String>, text: String) {
    if what.as_ref() != Some(&text) {
        tracing::warn!(pod, "{text}");
        *what = Some(text);
    }
}

/// To whom a socket of the pod can belong, the agent's known ones aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claim {
    /// A program of the pod.
    Application,
    /// Whoever accepts it.
    Open,
    /// Nobody any more: it was closed and sends what is left.
    Nobody,
}

fn claim(socket: &TcpSocket) -> Claim {
    match socket.inode {
        0 if socket.is_closing() => Claim::Nobody,
        // Only the agent listens there.
        0 if socket.local().port() == HBONE_PORT => Claim::Nobody,
        0 => Claim::Open,
        _ => Claim::Application,
    }
}

/// Whether a socket is an end of a connection with somebody else than the pod itself.
fn is_over_the_network(socket: &TcpSocket, addresses: &[IpAddr]) -> bool {
    let (local, remote) = (socket.local().ip(), socket.remote().ip());
    let is_own = |address: IpAddr| address.is_loopback() || addresses.iter().any(|own| own.to_canonical() == address);
    socket.lives() && !local.is_loopback() && local != remote && !is_own(remote)
}

/// The inodes of this process' sockets.
fn own_sockets() -> Result<HashSet<u32>, InetDiagError> {
    let failed = |source: io::Error| InetDiagError::Call { call: "listing the agent's own sockets", source };
    let mut inodes = HashSet::new();
    for entry in fs::read_dir("/proc/self/fd").map_err(failed)? {
        // What is closed meanwhile is no socket of the agent's any more.
        if let Ok(metadata) = fs::metadata(entry.map_err(failed)?.path())
            && metadata.file_type().is_socket()
        {
            // The kernel gives inet_diag the lower half.
            inodes.insert(metadata.ino() as u32);
        }
    }
    Ok(inodes)
}

#[cfg(test)]
mod tests;
