//! What one connection announces to its peer and tolerates from it.

/// Settings of one connection.
///
/// The defaults suit a tunnel between two node agents: many streams of unequal speed over one TCP connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Bytes a peer may send on a new stream before the reader has released any. Default 256 KiB.
    ///
    /// It is announced as `SETTINGS_INITIAL_WINDOW_SIZE`. Values below 65,535 are raised to it: a peer may use the
    /// protocol's default until it has seen our SETTINGS.
    pub initial_stream_window: u32,
    /// Bytes to which the window of a stream may grow while its reader keeps up. Default 4 MiB.
    pub max_stream_window: u32,
    /// Bytes a peer may have under way on all streams together. Default 16 MiB.
    ///
    /// The connection's window is given back when bytes arrive, not when they are read, so that a stalled stream never
    /// holds up the others; what bounds memory is the windows of the streams.
    pub connection_window: u32,
    /// Bytes by which the windows of all streams together may exceed their initial size. Default 16 MiB.
    ///
    /// The most that a peer can make this side hold is `max_concurrent_streams * initial_stream_window +
    /// growth_budget`. No window grows either while readers owe more than this amount.
    pub growth_budget: u32,
    /// Payload of the largest frame accepted, 16,384 to 16,777,215. Default 1 MiB.
    ///
    /// A large value costs no memory: the payload of DATA is handed on as it arrives, never collected.
    pub max_frame_size: u32,
    /// Streams that the peer may have open at once (server only). Default 200; more are refused one by one.
    pub max_concurrent_streams: u32,
    /// Size of a decoded header list, counted as RFC 9113, 6.5.2 does; also bounds the bytes of an encoded one.
    /// Default 16 KiB.
    pub max_header_list_size: u32,
    /// Size of the dynamic table that the peer's HPACK encoder may use, in bytes. Default 4,096. (Ours uses what the
    /// peer allows, 4,096 at most.)
    pub header_table_size: u32,
    /// What is too much.
    pub flood: FloodLimits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            initial_stream_window: 256 * 1024,
            max_stream_window: 4 * 1024 * 1024,
            connection_window: 16 * 1024 * 1024,
            growth_budget: 16 * 1024 * 1024,
            max_frame_size: 1024 * 1024,
            max_concurrent_streams: 200,
            max_header_list_size: 16 * 1024,
            header_table_size: 4096,
            flood: FloodLimits::default(),
        }
    }
}

/// How much unproductive work a peer may cause before the connection ends with `ENHANCE_YOUR_CALM`.
///
/// The budgets are refilled by useful work and by the passing of time, which
/// [`Connection::replenish`](crate::Connection::replenish) tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FloodLimits {
    /// Frames without effect on any stream's data (PING, SETTINGS, WINDOW_UPDATE, PRIORITY, empty DATA, unknown
    /// types, …) beyond two for each DATA frame with a payload and one for each KiB of it. Default 2,000.
    pub idle_frames: u32,
    /// Idle frames that each second gives back. Default 200.
    pub idle_frames_per_second: u32,
    /// Streams that the peer resets before they were answered, or makes us reset or refuse, beyond one for each stream
    /// that was answered with success (CVE-2023-44487, CVE-2025-8671). Default 1,000. When its own resets use them up the
    /// connection takes no new streams, and those that are open go on.
    pub resets: u32,
    /// Such resets that each second gives back. Default 100.
    pub resets_per_second: u32,
    /// CONTINUATION frames of one header block. Default 16.
    pub continuations: u32,
    /// Bytes of control frames waiting in [`Connection::output`](crate::Connection::output) that the peer's frames may
    /// bring about. Default 64 KiB.
    pub output: usize,
}

impl Default for FloodLimits {
    fn default() -> Self {
        Self {
            idle_frames: 2000,
            idle_frames_per_second: 200,
            resets: 1000,
            resets_per_second: 100,
            continuations: 16,
            output: 64 * 1024,
        }
    }
}

/// RFC 9113, 6.5.2: what a peer may assume until it has seen our SETTINGS, and we until we have seen its.
pub(crate) const DEFAULT_WINDOW: u32 = 65_535;
/// RFC 9113, 4.2: the frame size that every endpoint must accept.
pub(crate) const MIN_MAX_FRAME_SIZE: u32 = 16_384;
/// RFC 9113, 4.2: the largest frame that can be expressed.
pub(crate) const MAX_MAX_FRAME_SIZE: u32 = (1 << 24) - 1;
/// RFC 9113, 6.9.1: no window may exceed this.
pub(crate) const MAX_WINDOW: u32 = (1 << 31) - 1;

impl Config {
    /// Brings every value into the range that the protocol allows.
    pub(crate) fn clamped(mut self) -> Self {
        self.initial_stream_window = self.initial_stream_window.clamp(DEFAULT_WINDOW, MAX_WINDOW);
        self.max_stream_window = self.max_stream_window.clamp(self.initial_stream_window, MAX_WINDOW);
        self.connection_window = self.connection_window.clamp(DEFAULT_WINDOW, MAX_WINDOW);
        self.max_frame_size = self.max_frame_size.clamp(MIN_MAX_FRAME_SIZE, MAX_MAX_FRAME_SIZE);
        self.max_header_list_size = self.max_header_list_size.min(MAX_MAX_FRAME_SIZE);
        self
    }
}
