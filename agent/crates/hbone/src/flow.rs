//! Receive windows: what the peer may send, and how much that ought to be (RFC 9113, 5.2 and 6.9).
//!
//! A window that is smaller than what a path holds in flight slows a stream down; one that is larger lets a stalled
//! reader hold more memory. So windows start small and grow when two things are true: the reader keeps up, and the
//! sender had to wait for the window. The second cannot be seen from arriving bytes alone, so an update of a window
//! is now and then followed by a PING. The peer handles both in order and whatever arrives before the PONG was sent
//! without the update; if that is all that the window still held, the sender had run out. It takes no clock and no
//! estimate.

/// The receive window of one stream.
///
/// `target` = what the peer may still send + what arrived and is not released + what is released and not yet announced.
pub(crate) struct ReceiveWindow {
    /// What the peer may still send.
    available: u32,
    /// What the reader was given and has not released.
    unreleased: u32,
    /// What can be given back to the peer.
    pending: u32,
    target: u32,
    /// Everything that ever arrived, modulo 2^32.
    received: u32,
    /// Updates to let pass before the next probe, and the number to start from after one that found no need to grow.
    probe_in: u8,
    probe_pause: u8,
}

/// The most updates between two probes of one stream.
const MAX_PROBE_PAUSE: u8 = 64;
/// Updates to let pass after a window could not grow for want of budget.
const DENIED_PAUSE: u8 = 8;

impl ReceiveWindow {
    pub(crate) fn new(size: u32) -> Self {
        Self { available: size, unreleased: 0, pending: 0, target: size, received: 0, probe_in: 0, probe_pause: 1 }
    }

    /// A frame of this length begins to arrive. `false`: the window does not allow it (RFC 9113, 6.9.1).
    #[must_use]
    pub(crate) fn charge(&mut self, length: u32) -> bool {
        match self.available.checked_sub(length) {
            Some(left) => self.available = left,
            None => return false,
        }
        self.received = self.received.wrapping_add(length);
        true
    }

    /// Payload is handed to the reader.
    pub(crate) fn delivered(&mut self, length: u32) {
        self.unreleased += length;
    }

    pub(crate) fn unreleased(&self) -> u32 {
        self.unreleased
    }

    /// The reader is done with payload. Returns how much that really was.
    pub(crate) fn release(&mut self, length: usize) -> u32 {
        let length = length.min(self.unreleased as usize) as u32;
        self.unreleased -= length;
        self.pending += length;
        length
    }

    /// Bytes arrived that no reader will see: padding (RFC 9113, 6.1).
    pub(crate) fn skip(&mut self, length: u32) {
        self.pending += length;
    }

    /// Whether an update is worth its bytes.
    pub(crate) fn is_update_due(&self) -> bool {
        self.pending >= self.target / 2
    }

    /// The increment to announce; the caller sends it.
    pub(crate) fn announce(&mut self) -> u32 {
        self.available += self.pending;
        std::mem::take(&mut self.pending)
    }

    /// The reader keeps up: it holds little of what the window allows.
    fn reader_keeps_up(&self) -> bool {
        self.unreleased <= self.target / 4
    }
}

/// All the windows of a connection: who may grow, and who was asked last.
pub(crate) struct Growth {
    initial: u32,
    max: u32,
    budget: u64,
    /// Sum over all streams of what their windows exceed `initial` by.
    granted: u64,
    /// Sum over all streams of what their readers hold.
    unreleased: u64,
    /// How many streams' windows exceed `initial`.
    grown: u64,
    /// A window could not grow as it should have for want of budget, so large ones make room for others.
    is_short: bool,
    probe: Option<Probe>,
    probes: u32,
}

struct Probe {
    stream: u32,
    number: u32,
    /// What the sender could send before it saw the update.
    allowance: u32,
    /// [`ReceiveWindow::received`] at that time.
    received: u32,
}

impl Growth {
    pub(crate) fn new(initial: u32, max: u32, budget: u32) -> Self {
        Self {
            initial,
            max,
            budget: u64::from(budget),
            granted: 0,
            grown: 0,
            unreleased: 0,
            is_short: false,
            probe: None,
            probes: 0,
        }
    }

    pub(crate) fn unreleased(&self) -> usize {
        self.unreleased as usize
    }

    pub(crate) fn granted(&self) -> u64 {
        self.granted
    }

    /// Payload is handed to a reader.
    pub(crate) fn delivered(&mut self, window: &mut ReceiveWindow, length: u32) {
        window.delivered(length);
        self.unreleased += u64::from(length);
    }

    /// A reader is done with payload.
    pub(crate) fn released(&mut self, window: &mut ReceiveWindow, length: usize) {
        self.unreleased -= u64::from(window.release(length));
    }

    /// A stream is closed: its share is free. What its reader still holds is no longer the connection's.
    pub(crate) fn closed(&mut self, window: &ReceiveWindow) {
        self.resize(window.target, self.initial);
        self.unreleased -= u64::from(window.unreleased);
    }

    /// Lets a large window give back what others could not get, before an update is announced. Only what was released
    /// can be kept, so that a window never shrinks below what the peer was promised (RFC 9113, 6.9.2).
    pub(crate) fn share(&mut self, window: &mut ReceiveWindow) {
        if !self.is_short {
            return;
        }
        let excess = u64::from(window.target - self.initial).saturating_sub(self.fair_share(window));
        let kept = excess.min(u64::from(window.pending)) as u32;
        self.resize(window.target, window.target - kept);
        window.pending -= kept;
        window.target -= kept;
    }

    /// What a window may exceed `initial` by when there is not enough for everyone.
    fn fair_share(&self, window: &ReceiveWindow) -> u64 {
        self.budget / (self.grown + u64::from(window.target == self.initial)).max(1)
    }

    fn resize(&mut self, before: u32, after: u32) {
        self.granted = self.granted + u64::from(after) - u64::from(before);
        self.grown = self.grown + u64::from(after > self.initial) - u64::from(before > self.initial);
        if self.granted <= self.budget / 2 {
            self.is_short = false;
        }
    }

    /// An update of `increment` was just announced for a stream: whether to follow it up with a PING, and its number.
    pub(crate) fn probe(&mut self, stream: u32, window: &mut ReceiveWindow, increment: u32) -> Option<u32> {
        if self.probe.is_some() || window.target >= self.max || !window.reader_keeps_up() {
            return None;
        }
        if window.probe_in > 0 {
            window.probe_in -= 1;
            return None;
        }
        self.probes = self.probes.wrapping_add(1);
        self.probe = Some(Probe {
            stream,
            number: self.probes,
            allowance: window.available - increment,
            received: window.received,
        });
        Some(self.probes)
    }

    /// The PONG for a probe came. Returns the stream that was probed, or `None` if this is not the probe under way.
    pub(crate) fn probed(&self, number: u32) -> Option<u32> {
        self.probe.as_ref().filter(|probe| probe.number == number).map(|probe| probe.stream)
    }

    /// Ends the probe of a stream: `true` if its window has grown, and the increment is pending.
    pub(crate) fn conclude(&mut self, window: Option<&mut ReceiveWindow>) -> bool {
        let (Some(probe), Some(window)) = (self.probe.take(), window) else { return false };
        let used = window.received.wrapping_sub(probe.received);
        // A sender may leave a rest that is too small for a frame of its liking.
        let has_waited = used.saturating_add(window.target / 16) >= probe.allowance;
        if !has_waited || !window.reader_keeps_up() {
            window.probe_in = window.probe_pause;
            window.probe_pause = (window.probe_pause * 2).min(MAX_PROBE_PAUSE);
            return false;
        }
        window.probe_pause = 1;
        let increment = self.increment(window);
        if increment == 0 {
            window.probe_in = DENIED_PAUSE;
            return false;
        }
        self.resize(window.target, window.target + increment);
        window.target += increment;
        window.pending += increment;
        true
    }

    /// By how much a window that is too small shall grow: to the double, as far as the budget has it.
    fn increment(&mut self, window: &ReceiveWindow) -> u32 {
        let wanted = window.target.min(self.max - window.target);
        if self.unreleased > self.budget {
            return 0;
        }
        let mut available = self.budget - self.granted;
        if available < u64::from(wanted) {
            self.is_short = true;
        }
        if self.is_short {
            let excess = u64::from(window.target - self.initial);
            available = available.min(self.fair_share(window).saturating_sub(excess));
        }
        let increment = u64::from(wanted).min(available) as u32;
        // A step that makes no difference is not worth its frame.
        if increment >= window.target / 8 { increment } else { 0 }
    }
}

/// The receive window of the connection. It is given back as bytes arrive: a stalled stream must not stop the others.
pub(crate) struct ConnectionWindow {
    available: u32,
    pending: u32,
    size: u32,
}

impl ConnectionWindow {
    /// `announced` of `size` are the peer's already.
    pub(crate) fn new(announced: u32, size: u32) -> Self {
        Self { available: announced, pending: size - announced, size }
    }

    /// A frame of this length begins to arrive. `false`: the window does not allow it (RFC 9113, 6.9.1).
    #[must_use]
    pub(crate) fn charge(&mut self, length: u32) -> bool {
        match self.available.checked_sub(length) {
            Some(left) => self.available = left,
            None => return false,
        }
        self.pending += length;
        true
    }

    pub(crate) fn is_update_due(&self) -> bool {
        self.pending >= self.size / 2
    }

    pub(crate) fn announce(&mut self) -> u32 {
        self.available += self.pending;
        std::mem::take(&mut self.pending)
    }
}
