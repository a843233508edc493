//! Two sockets joined in clear: plaintext that came to the pod, and connections of the pod that leave the mesh.

use std::io::IoSlice;
use std::sync::Arc;

use super::BATCH;
use super::flow::{Flow, Link, WriteSide};
use super::inbound::APPLICATION_TIMEOUT;
use super::pod::Pod;
use super::record::{Failure, Record};
use super::socket::{Outcome, Socket};
use super::table::Key;
use super::timers::Timer;
use super::worker::Worker;

/// Reads of one side in one turn.
const READS_PER_TURN: usize = 4;

impl Worker {
    /// Joins an accepted socket with one that was dialled for it.
    pub(super) fn join_in_clear(&mut self, pod: &Arc<Pod>, accepted: Socket, record: Record, dialled: Socket) {
        let Some(near) = self.adopt(Flow::new(accepted, pod.clone(), Some(Box::new(record)))) else { return };
        let mut flow = Flow::new(dialled, pod.clone(), None);
        flow.is_connecting = true;
        flow.link = Link::Socket { other: near };
        let Some(far) = self.adopt(flow) else {
            return self.abort_flow(near, Failure::ours("watching the second socket failed".to_owned()));
        };
        if let Some(flow) = self.flows.get_mut(near) {
            flow.link = Link::Socket { other: far };
        }
        self.timers.set(self.now + APPLICATION_TIMEOUT, Timer::Flow(far));
    }

    /// The socket that was dialled for a plain pair is established.
    pub(super) fn relay_connected(&mut self, far: Key) {
        let Some(flow) = self.flows.get_mut(far) else { return };
        flow.is_connecting = false;
        flow.is_writable = true;
        flow.is_readable = true;
        let Link::Socket { other: near } = flow.link else { return };
        if let Some(flow) = self.flows.get_mut(near) {
            flow.is_readable = true;
        }
        self.opened(near);
        self.relays.push_back(near);
        self.relays.push_back(far);
    }

    /// Moves bytes from `key`'s socket to the other one, as long as that takes them.
    pub(super) fn relay(&mut self, key: Key) {
        let Some(flow) = self.flows.get(key) else { return };
        let Link::Socket { other } = flow.link else { return };
        if flow.is_dead || flow.is_connecting {
            return;
        }
        for _ in 0..READS_PER_TURN {
            let can_take = self.flows.get(other).is_some_and(|sink| {
                !sink.is_connecting && sink.pending.is_empty() && sink.write_side == WriteSide::Open
            });
            let Some(flow) = self.flows.get_mut(key) else { return };
            if flow.is_dead {
                return;
            }
            if !can_take || !flow.wants_read() {
                // The reset must reach the other side even while that side takes no bytes.
                if let Some(failure) = flow.failed.take() {
                    self.abort_flow(key, *failure);
                }
                return;
            }
            let offered = flow.read_size.min(BATCH);
            match flow.socket.read(&mut self.receive_buffer[..offered]) {
                Ok(Outcome::Blocked | Outcome::Moved(0)) if flow.failed.is_some() => {
                    if let Some(failure) = flow.failed.take() {
                        if flow.ended_before_failure {
                            flow.read_done = true;
                            self.end_other(other);
                        }
                        self.abort_flow(key, *failure);
                    }
                    return;
                }
                Ok(Outcome::Blocked) => {
                    flow.is_readable = false;
                    return;
                }
                Ok(Outcome::Moved(0)) => {
                    flow.read_done = true;
                    flow.is_readable = false;
                    self.end_other(other);
                    return self.close_if_complete(key);
                }
                Ok(Outcome::Moved(moved)) => {
                    flow.note_read(moved, offered);
                    let Some(sink) = self.flows.get_mut(other) else { return };
                    if let Err(error) = sink.write_or_keep(&[IoSlice::new(&self.receive_buffer[..moved])]) {
                        return self.socket_failed(other, &error);
                    }
                }
                Err(error) => return self.abort_flow(key, Failure::application(&error)),
            }
        }
        self.relays.push_back(key);
    }

    /// The other socket of a pair has ended its side: so does this one, behind what it has yet to write.
    fn end_other(&mut self, key: Key) {
        if let Some(flow) = self.flows.get_mut(key) {
            flow.write_side = WriteSide::Finishing;
        }
        self.finish_write_side(key);
    }
}
