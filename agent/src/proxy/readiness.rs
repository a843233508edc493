//! What the event loop reports about flows, handed to whoever waits for it.

use std::io;

use super::flow::Link;
use super::record::Failure;
use super::table::Key;
use super::worker::Worker;

impl Worker {
    pub(super) fn on_flow_event(&mut self, key: Key, event: &mio::event::Event) {
        let Some(flow) = self.flows.get_mut(key) else { return };
        if flow.is_dead {
            return;
        }
        flow.has_hangup |= event.is_read_closed() || event.is_error() || event.is_priority();
        flow.is_readable |= event.is_readable() || event.is_read_closed() || event.is_error();
        let is_writable = event.is_writable() || event.is_error();
        if is_writable {
            flow.is_writable = true;
        }
        if flow.is_connecting {
            if is_writable {
                self.dial_ended(key);
            }
            return;
        }
        if event.is_error()
            && let Some(error) = flow.socket.take_error()
        {
            return self.socket_failed(key, &error);
        }
        if is_writable {
            self.write_on(key);
        }
        self.read_on(key);
    }

    /// The application's socket is gone, by a reset as a rule. What came before that is passed on as far as the other
    /// side takes it now, as the kernel would do; then, or if it takes nothing, the reset follows.
    pub(super) fn socket_failed(&mut self, key: Key, error: &io::Error) {
        let Some(flow) = self.flows.get_mut(key) else { return };
        if flow.is_dead || flow.failed.is_some() {
            return;
        }
        let failure = Failure::application(error);
        let can_pass_on = !flow.read_done
            && match flow.link {
                Link::Stream { tunnel, stream } => {
                    self.tunnels.get(tunnel).is_some_and(|tunnel| tunnel.http.send_window(stream) > 0)
                }
                Link::Socket { .. } => true,
                Link::Waiting { .. } | Link::None => false,
            };
        if !can_pass_on {
            return self.abort_flow(key, failure);
        }
        flow.failed = Some(Box::new(failure));
        // To a reset that finds the other direction ended the kernel gives another name.
        flow.ended_before_failure = error.kind() == io::ErrorKind::BrokenPipe;
        flow.pending = Default::default();
        flow.is_readable = true;
        flow.has_hangup = true;
        self.read_on(key);
    }

    /// The socket that the agent dialled became established or failed.
    fn dial_ended(&mut self, key: Key) {
        let Some(flow) = self.flows.get_mut(key) else { return };
        let error = flow.socket.take_error();
        match (&flow.link, error) {
            (Link::Stream { .. }, None) => self.application_connected(key),
            (Link::Stream { .. }, Some(error)) => self.application_refused(key, &error),
            (_, None) => self.relay_connected(key),
            (_, Some(error)) => {
                let reason = format!("connecting to the destination failed: {error}");
                self.abort_flow(key, Failure::unreachable(reason));
            }
        }
    }

    /// Has the flow's bytes read by whoever sends them on.
    fn read_on(&mut self, key: Key) {
        let Some(flow) = self.flows.get(key) else { return };
        if flow.is_dead || !flow.wants_read() {
            return;
        }
        match flow.link {
            Link::Stream { .. } => self.queue_flow(key),
            Link::Socket { .. } => self.relays.push_back(key),
            Link::Waiting { .. } | Link::None => {}
        }
    }

    /// The flow's socket takes bytes again.
    pub(super) fn write_on(&mut self, key: Key) {
        let Some(flow) = self.flows.get_mut(key) else { return };
        let had_pending = !flow.pending.is_empty();
        let written = match flow.write_pending() {
            Ok(written) => written,
            Err(error) => return self.socket_failed(key, &error),
        };
        let is_drained = flow.pending.is_empty();
        match flow.link {
            Link::Stream { tunnel: tunnel_key, stream } => {
                if written > 0
                    && let Some(tunnel) = self.tunnels.get_mut(tunnel_key)
                {
                    tunnel.http.released(stream, written);
                    self.mark_dirty(tunnel_key);
                }
            }
            Link::Socket { other } => {
                if had_pending && is_drained {
                    self.relays.push_back(other);
                }
            }
            Link::Waiting { .. } | Link::None => {}
        }
        if is_drained {
            self.finish_write_side(key);
        }
    }
}
