//! A tunnel's TLS handshake, a step at a time.

use std::collections::HashMap;
use std::sync::Arc;

use super::pod::Pod;
use super::record::Failure;
use super::socket::Outcome;
use super::table::Key;
use super::tunnel::{Role, State};
use super::worker::Worker;
use weft_transport::{Progress, Session};

/// A handshake is read in small pieces: its messages are a few kilobytes, and what follows belongs to the session.
const READ: usize = 16 * 1024;

/// Handshakes of one worker that are under way; more wait in the backlog.
const MAX_HANDSHAKES: usize = 1024;
/// Those of one pod: what strangers leave open there must not shut out the peers of others.
const MAX_HANDSHAKES_OF_A_POD: usize = MAX_HANDSHAKES / 4;

/// The handshakes that are under way, by the pod that they are for.
#[derive(Debug, Default)]
pub(super) struct OpenHandshakes {
    total: usize,
    by_pod: HashMap<Arc<str>, usize>,
}

impl OpenHandshakes {
    /// Whether one more may be begun for the pod at a stranger's wish.
    pub(super) fn has_room(&self, pod: &Pod) -> bool {
        let of_the_pod = self.by_pod.get(&pod.uid).copied().unwrap_or_default();
        self.total < MAX_HANDSHAKES && of_the_pod < MAX_HANDSHAKES_OF_A_POD
    }

    pub(super) fn began(&mut self, pod: &Pod) {
        self.total += 1;
        *self.by_pod.entry(pod.uid.clone()).or_default() += 1;
    }

    pub(super) fn ended(&mut self, pod: &Pod) {
        self.total -= 1;
        if let Some(count) = self.by_pod.get_mut(&pod.uid) {
            *count -= 1;
            if *count == 0 {
                self.by_pod.remove(&pod.uid);
            }
        }
    }
}

impl Worker {
    /// Reads what the peer said and answers it.
    pub(super) fn advance_handshake(&mut self, key: Key) {
        let Some(tunnel) = self.tunnels.get_mut(key) else { return };
        tunnel.is_queued = false;
        if tunnel.is_dead {
            return;
        }
        let remote = tunnel.remote();
        let State::Handshaking { handshake, incoming } = &mut tunnel.state else { return };
        let mut is_ended = false;
        if tunnel.is_readable {
            match tunnel.socket.read(&mut self.receive_buffer[..READ]) {
                Ok(Outcome::Blocked) => tunnel.is_readable = false,
                Ok(Outcome::Moved(0)) => is_ended = true,
                Ok(Outcome::Moved(moved)) => incoming.extend_from_slice(&self.receive_buffer[..moved]),
                Err(error) => {
                    let reason = format!("the connection with {remote} ended during the TLS handshake: {error}");
                    return self.fail_tunnel(key, &Failure::unreachable(reason));
                }
            }
        }
        let mut outgoing = Vec::new();
        let progress = handshake.advance(incoming, &mut outgoing);
        let left = std::mem::take(incoming);
        let written = tunnel.write_or_keep(&outgoing);
        let progress = match (progress, written) {
            (Ok(progress), Ok(())) => progress,
            (Err(error), _) => {
                let reason = format!("the TLS handshake with {remote} failed: {error}");
                return self.fail_tunnel(key, &Failure::tls(reason));
            }
            (_, Err(error)) => {
                let reason = format!("the connection with {remote} ended during the TLS handshake: {error}");
                return self.fail_tunnel(key, &Failure::unreachable(reason));
            }
        };
        match progress {
            Progress::Continue if is_ended => {
                let reason = format!("{remote} closed the connection during the TLS handshake");
                self.fail_tunnel(key, &Failure::tls(reason));
            }
            Progress::Continue => {
                if let State::Handshaking { incoming, .. } = &mut tunnel.state {
                    *incoming = left;
                }
                if tunnel.is_readable {
                    tunnel.is_queued = true;
                    self.handshakes.push_back(key);
                }
            }
            Progress::Done(session) => {
                let Session { sealer, opener, peer, peer_not_after, .. } = session;
                tunnel.state = State::Open { sealer, opener, peer, peer_not_after };
                tunnel.partial = left;
                tunnel.idle_since = self.now;
                // What came behind the handshake is looked at even if the socket has no more.
                tunnel.is_readable = true;
                tunnel.is_queued = true;
                tunnel.gauge(&self.shared.metrics.agent).inc();
                self.open_handshakes.ended(&tunnel.pod);
                if let Role::Server { peer_address, .. } = tunnel.role {
                    self.learn_of(peer_address.ip());
                }
                self.queue_receive(key);
                // Those who waited first: a tunnel that drains takes no new streams.
                self.open_waiting(key);
                if self.is_draining
                    && let Some(tunnel) = self.tunnels.get_mut(key)
                {
                    tunnel.drain(self.now);
                }
                self.mark_dirty(key);
            }
        }
    }

    /// Opens the streams of those who waited for the tunnel.
    fn open_waiting(&mut self, key: Key) {
        let Some(tunnel) = self.tunnels.get_mut(key) else { return };
        for flow in std::mem::take(&mut tunnel.waiting) {
            let is_waiting = self.flows.get(flow).is_some_and(|flow| !flow.is_dead);
            if is_waiting {
                self.open_stream(flow, key);
            }
        }
    }
}
