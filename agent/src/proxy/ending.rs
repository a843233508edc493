//! How flows and tunnels end: in order, by a reset that is passed on, by a deadline, or with the agent.

use std::sync::Arc;
use std::time::Duration;

use weft_hbone::ErrorCode;

use super::flow::{Flow, Link, WriteSide};
use super::pod::Pod;
use super::record::{Failure, Record};
use super::table::Key;
use super::timers::Timer;
use super::tunnel::{CLOSING_TIMEOUT, IDLE_TIMEOUT, PING_INTERVAL, PING_TIMEOUT, Role, State};
use super::worker::Worker;
use super::{Connection, ConnectionState};

/// A stream that peers refuse is offered again so often; more would go on for ever with a peer that takes none.
const MAX_REFUSALS: u32 = 3;
/// A peer that has not answered a request for so long will not. Its own dial of the application takes 10 s at most.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

impl Worker {
    /// The connection is established on both sides.
    pub(super) fn opened(&mut self, key: Key) {
        let Some(record) = self.flows.get_mut(key).and_then(|flow| flow.record.as_deref_mut()) else { return };
        record.open(&mut self.series, &self.shared.metrics.agent);
    }

    /// The peer answered a request.
    pub(super) fn on_response(&mut self, tunnel: Key, key: Key, status: u16) {
        let Some(flow) = self.flows.get_mut(key) else { return };
        if status == 200 {
            // On a stream that was opened anew, some of what is to be said again may still wait for a window.
            match &mut flow.unconfirmed {
                Some(unconfirmed) if unconfirmed.is_due(flow.read_done) => unconfirmed.is_accepted = true,
                unconfirmed => *unconfirmed = None,
            }
            self.opened(key);
            return self.queue_flow(key);
        }
        let remote = self.tunnels.get(tunnel).map(|tunnel| tunnel.remote().to_string()).unwrap_or_default();
        let failure = match status {
            401 | 403 => Failure::denied(format!("{remote} answered {status}: a policy of the destination denies it")),
            503 => Failure::unreachable(format!("{remote} answered 503: the application does not accept connections")),
            _ => Failure::unreachable(format!("{remote} answered {status} to CONNECT")),
        };
        self.abort_flow(key, failure);
    }

    /// The peer reset a stream, or left it unprocessed when it went away.
    pub(super) fn on_reset(&mut self, key: Key, code: ErrorCode) {
        let Some(flow) = self.flows.get_mut(key) else { return };
        let Link::Stream { tunnel, .. } = flow.link else { return };
        if flow.is_dead {
            return;
        }
        // The peer did nothing with this stream, and all that was said on it is still here: another tunnel takes it.
        if code == ErrorCode::REFUSED_STREAM
            && let Some(unconfirmed) = &mut flow.unconfirmed
            && unconfirmed.refusals < MAX_REFUSALS
            && !unconfirmed.is_accepted
        {
            unconfirmed.refusals += 1;
            flow.is_queued = false;
            // It may wait for the window of the next tunnel as well.
            flow.is_blocked = false;
            self.release_stream(tunnel);
            return self.rejoin(key, tunnel);
        }
        flow.link = Link::None;
        self.release_stream(tunnel);
        let failure = if code == ErrorCode::NO_ERROR || code == ErrorCode::CANCEL {
            Failure::reset("the other side reset the connection".to_owned())
        } else {
            Failure::reset(format!("the other side reset the connection: {code}"))
        };
        self.abort_flow(key, failure);
    }

    /// The peer takes no new streams on this tunnel.
    pub(super) fn on_go_away(&mut self, key: Key, code: ErrorCode, said: &str) {
        let Some(tunnel) = self.tunnels.get_mut(key) else { return };
        tunnel.is_draining = true;
        if code != ErrorCode::NO_ERROR {
            tracing::warn!(remote = %tunnel.remote(), %code, said, "the peer ends the tunnel");
        }
    }

    /// Ends a flow of which both directions ended in order.
    pub(super) fn close_if_complete(&mut self, key: Key) {
        if self.flows.get(key).is_some_and(|flow| flow.is_complete() && !flow.is_dead) {
            self.end_flow(key, None);
        }
    }

    /// Lets go of the stream of a flow that needs it no more, so that the end of the tunnel is not the end of the flow.
    pub(super) fn detach_if_over(&mut self, key: Key) {
        let Some(flow) = self.flows.get_mut(key) else { return };
        if let Link::Stream { tunnel, .. } = flow.link
            && !flow.is_dead
            && flow.is_stream_over()
        {
            flow.link = Link::None;
            self.release_stream(tunnel);
        }
    }

    /// Ends flows whose peer has not answered their request in time.
    pub(super) fn give_up_unanswered(&mut self) {
        let now = self.now;
        let is_late = |flow: &Flow| {
            flow.unconfirmed.as_ref().is_some_and(|unconfirmed| !unconfirmed.is_accepted)
                && matches!(flow.link, Link::Stream { .. })
                && flow.record.as_ref().is_some_and(|record| now.duration_since(record.started) >= ANSWER_TIMEOUT)
        };
        for key in self.flows.keys_where(|flow| !flow.is_dead && is_late(flow)) {
            let reason = format!("the peer did not answer within {} s", ANSWER_TIMEOUT.as_secs());
            self.abort_flow(key, Failure::unreachable(reason));
        }
    }

    /// Ends a flow with a reset on either side, for the reason given.
    pub(super) fn abort_flow(&mut self, key: Key, failure: Failure) {
        let Some(flow) = self.flows.get(key) else { return };
        if flow.is_dead {
            return;
        }
        flow.socket.set_abort();
        let other = if let Link::Socket { other } = flow.link { Some(other) } else { None };
        // The accepted side of a plain pair carries the record, and with it the reason.
        if let Some(other) = other
            && self.flows.get(other).is_some_and(|other| !other.is_dead)
        {
            if let Some(flow) = self.flows.get(other) {
                flow.socket.set_abort();
            }
            self.end_flow(other, Some(failure.clone()));
        }
        self.end_flow(key, Some(failure));
    }

    fn end_flow(&mut self, key: Key, failure: Option<Failure>) {
        let Some(flow) = self.flows.get_mut(key) else { return };
        flow.is_dead = true;
        flow.pending = Default::default();
        flow.unconfirmed = None;
        self.dead_flows.push(key);
        let (read, written) = (flow.read_bytes, flow.written_bytes);
        let record = flow.record.take();
        match std::mem::replace(&mut flow.link, Link::None) {
            Link::Stream { tunnel: tunnel_key, stream } => {
                if let Some(tunnel) = self.tunnels.get_mut(tunnel_key)
                    && let Some(failure) = &failure
                {
                    tunnel.http.reset(stream, failure.error_code());
                    self.mark_dirty(tunnel_key);
                }
                self.release_stream(tunnel_key);
            }
            Link::Waiting { tunnel } => {
                if let Some(tunnel) = self.tunnels.get_mut(tunnel) {
                    tunnel.waiting.retain(|waiting| *waiting != key);
                }
            }
            Link::Socket { .. } | Link::None => {}
        }
        if let Some(mut record) = record {
            record.failure = record.failure.take().or(failure);
            self.finish_record(&mut record, read, written);
        }
    }

    /// One stream fewer is linked to a flow.
    pub(super) fn release_stream(&mut self, key: Key) {
        if let Some(tunnel) = self.tunnels.get_mut(key) {
            tunnel.streams = tunnel.streams.saturating_sub(1);
            if tunnel.streams == 0 {
                tunnel.idle_since = self.now;
            }
        }
        self.close_tunnel_if_unused(key);
    }

    /// Counts and logs a connection that is over.
    pub(super) fn finish_record(&mut self, record: &mut Record, read: u64, written: u64) {
        record.finish(read, written, self.now, &mut self.series, &self.shared.metrics.agent, &self.shared.access_log);
    }

    /// Ends a tunnel at once, and with it the flows on it.
    pub(super) fn fail_tunnel(&mut self, key: Key, failure: &Failure) {
        let Some(tunnel) = self.tunnels.get_mut(key) else { return };
        if tunnel.is_dead {
            return;
        }
        let waiting = std::mem::take(&mut tunnel.waiting);
        let has_flows = tunnel.streams > 0;
        if waiting.is_empty() && !has_flows {
            tracing::debug!(remote = %tunnel.remote(), pod = %tunnel.pod.uid, reason = %failure, "a tunnel failed");
        }
        let refused = tunnel.refused(self.now);
        self.discard_tunnel(key);
        // A peer that was not let in is on record like any connection that failed.
        if let Some(mut record) = refused {
            record.destination = self.snapshots.load().workload_by_address(record.destination_address.ip()).cloned();
            record.failure = Some(failure.clone());
            self.finish_record(&mut record, 0, 0);
        }
        for flow in waiting {
            self.abort_flow(flow, failure.clone());
        }
        if has_flows {
            let on_it = |flow: &Flow| matches!(flow.link, Link::Stream { tunnel, .. } if tunnel == key);
            for flow in self.flows.keys_where(on_it) {
                self.abort_flow(flow, failure.clone());
            }
        }
    }

    /// Takes a tunnel out of service and closes its socket at the end of the turn.
    pub(super) fn discard_tunnel(&mut self, key: Key) {
        let Some(tunnel) = self.tunnels.get_mut(key) else { return };
        if tunnel.is_dead {
            return;
        }
        tunnel.is_dead = true;
        match tunnel.state {
            State::Connecting => {}
            State::Handshaking { .. } => self.open_handshakes.ended(&tunnel.pod),
            State::Open { .. } => {
                tunnel.gauge(&self.shared.metrics.agent).dec();
            }
        }
        if let Role::Client { key: pool_key, .. } = &tunnel.role {
            let pool_key = pool_key.clone();
            self.pool.remove(&pool_key, key);
        }
        self.dead_tunnels.push(key);
    }

    /// Says goodbye on a tunnel that is going away and carries nothing any more.
    pub(super) fn close_tunnel_if_unused(&mut self, key: Key) {
        let Some(tunnel) = self.tunnels.get_mut(key) else { return };
        if tunnel.is_done() && tunnel.is_open() && !tunnel.is_dead {
            self.mark_dirty(key);
        }
    }

    /// After the last frames went out: close_notify and FIN on a tunnel that has nothing left to do. It is closed when
    /// the peer has said the same.
    pub(super) fn finish_closing(&mut self, key: Key) {
        let Some(tunnel) = self.tunnels.get_mut(key) else { return };
        if tunnel.is_dead || tunnel.unsent.is_some() || tunnel.broken.is_some() {
            return;
        }
        if !tunnel.is_closing {
            if !tunnel.is_done() || !tunnel.is_client() && !tunnel.http.output().is_empty() {
                return;
            }
            let State::Open { sealer, .. } = &mut tunnel.state else { return };
            let mut goodbye = Vec::new();
            sealer.close_notify(&mut goodbye);
            tunnel.is_closing = true;
            self.timers.set(self.now + CLOSING_TIMEOUT, Timer::Closing(key));
            // Nobody waits for the goodbye; that the socket ends says the same.
            let _ = tunnel.write_or_keep(&goodbye);
        }
        if tunnel.unsent.is_none() && !tunnel.is_finished {
            tunnel.is_finished = true;
            // It fails when the peer is gone already, which reading shows.
            let _ = tunnel.socket.finish();
        }
    }

    /// The peer has not ended the tunnel in time.
    pub(super) fn on_closing_timer(&mut self, key: Key) {
        if self.tunnels.get(key).is_some_and(|tunnel| tunnel.is_closing) {
            self.discard_tunnel(key);
        }
    }

    pub(super) fn on_tunnel_timer(&mut self, key: Key) {
        let now = self.now;
        let Some(tunnel) = self.tunnels.get_mut(key) else { return };
        if tunnel.is_dead || tunnel.is_closing {
            return;
        }
        if tunnel.awaits_redial {
            let reason = format!("connecting to {} was refused, again and again", tunnel.remote());
            return self.fail_tunnel(key, &Failure::unreachable(reason));
        }
        if !tunnel.is_open() {
            let remote = tunnel.remote();
            let reason = match tunnel.state {
                State::Connecting => {
                    format!("connecting to {remote} timed out: is a NetworkPolicy blocking port 15008?")
                }
                _ => format!("the TLS handshake with {remote} timed out"),
            };
            return self.fail_tunnel(key, &Failure::unreachable(reason));
        }
        tunnel.http.replenish(PING_INTERVAL);
        if let Some(sent) = tunnel.ping_sent
            && now.duration_since(sent) >= PING_TIMEOUT
        {
            let remote = tunnel.remote();
            let reason = format!("{remote} did not answer a PING within {} s", PING_TIMEOUT.as_secs());
            return self.fail_tunnel(key, &Failure::unreachable(reason));
        }
        if tunnel.is_client() && tunnel.streams == 0 && now.duration_since(tunnel.idle_since) >= IDLE_TIMEOUT {
            tunnel.drain(now);
        } else if tunnel.ping_sent.is_none() && now.duration_since(tunnel.last_received) >= PING_INTERVAL {
            tunnel.ping_sent = Some(now);
            tunnel.http.ping(*b"liveness");
        }
        // A tunnel that was made with a certificate that is renewed or has ended, on either side, takes no new streams
        // and ends with its last one.
        let current = self.shared.certificates.current(&tunnel.pod.identity);
        let is_renewed =
            tunnel.is_client() && current.is_some_and(|current| !Arc::ptr_eq(&current, &tunnel.certificate));
        if is_renewed || tunnel.is_peer_expired() {
            tunnel.drain(now);
        }
        tunnel.insist_on_drain(now);
        self.timers.set(now + PING_INTERVAL, Timer::Tunnel(key));
        self.mark_dirty(key);
    }

    pub(super) fn on_flow_timer(&mut self, key: Key) {
        let Some(flow) = self.flows.get(key) else { return };
        if !flow.is_connecting || flow.is_dead {
            return;
        }
        if matches!(flow.link, Link::Stream { .. }) {
            self.application_refused(key, &std::io::ErrorKind::TimedOut.into());
        } else {
            self.abort_flow(key, Failure::unreachable("connecting to the destination timed out".to_owned()));
        }
    }

    /// The pod is gone: nothing of it may stay, since its sockets keep its network namespace alive.
    pub(super) fn forget(&mut self, pod: &Arc<Pod>) {
        // Enrolled anew meanwhile, the same pod has had other sockets of the agent before.
        let is_its = |other: &Arc<Pod>| other.uid == pod.uid && other.instance == pod.instance;
        self.close_listeners(|listener| is_its(&listener.pod));
        let failure = Failure::reset("the pod is gone".to_owned());
        for key in self.tunnels.keys_where(|tunnel| is_its(&tunnel.pod)) {
            self.fail_tunnel(key, &failure);
        }
        for key in self.flows.keys_where(|flow| is_its(&flow.pod)) {
            self.abort_flow(key, failure.clone());
        }
        self.end_all_held(&failure, is_its);
    }

    /// The deadline of a drain has passed, or the agent ends otherwise: a reset is not mistaken for an end of stream.
    pub(super) fn abort_everything(&mut self) {
        self.close_listeners(|_| true);
        let failure = Failure::reset("the agent is stopping".to_owned());
        for key in self.flows.keys_where(|flow| !flow.is_dead) {
            self.abort_flow(key, failure.clone());
        }
        self.end_all_held(&failure, |_| true);
        for key in self.tunnels.keys_where(|tunnel| !tunnel.is_dead) {
            self.send(key);
            self.discard_tunnel(key);
        }
    }

    /// The live connections, for the operator.
    pub(super) fn connections(&self) -> Vec<Connection> {
        let describe = |flow: &Flow| {
            let record = flow.record.as_deref()?;
            let state = match (&flow.link, flow.write_side) {
                (Link::Waiting { .. }, _) => ConnectionState::Connecting,
                (_, _) if flow.is_connecting => ConnectionState::Connecting,
                (_, WriteSide::Open) if !flow.read_done => ConnectionState::Open,
                _ => ConnectionState::HalfClosed,
            };
            let age = self.now.saturating_duration_since(record.started);
            Some(record.describe(state, flow.read_bytes, flow.written_bytes, age))
        };
        self.flows.iter().filter(|(_, flow)| !flow.is_dead).filter_map(|(_, flow)| describe(flow)).collect()
    }
}
