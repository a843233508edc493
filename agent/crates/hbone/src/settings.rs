//! SETTINGS (RFC 9113, 6.5).

use crate::{
    Config, ConnectionError, ErrorCode,
    config::{DEFAULT_WINDOW, MAX_MAX_FRAME_SIZE, MAX_WINDOW, MIN_MAX_FRAME_SIZE},
};

/// RFC 9113, 6.5.2: identifiers.
mod id {
    pub(super) const HEADER_TABLE_SIZE: u16 = 0x1;
    pub(super) const ENABLE_PUSH: u16 = 0x2;
    pub(super) const MAX_CONCURRENT_STREAMS: u16 = 0x3;
    pub(super) const INITIAL_WINDOW_SIZE: u16 = 0x4;
    pub(super) const MAX_FRAME_SIZE: u16 = 0x5;
    pub(super) const MAX_HEADER_LIST_SIZE: u16 = 0x6;
}

/// Streams that a client opens before it has seen the server's SETTINGS. There is no limit until then
/// (RFC 9113, 5.1.2), but what lies beyond the server's would only be refused.
const STREAMS_BEFORE_SETTINGS: u32 = 100;

/// More settings than this in one frame serve no purpose.
pub(crate) const MAX_ENTRIES: u32 = 64;

/// Which end of the connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Client,
    Server,
}

/// What to announce.
pub(crate) fn announced(config: &Config, role: Role) -> Vec<(u16, u32)> {
    let mut entries = vec![
        (id::HEADER_TABLE_SIZE, config.header_table_size),
        (id::INITIAL_WINDOW_SIZE, config.initial_stream_window),
        (id::MAX_FRAME_SIZE, config.max_frame_size),
        (id::MAX_HEADER_LIST_SIZE, config.max_header_list_size),
    ];
    match role {
        // RFC 9113, 6.5.2: a server must not send another value than 0, and need not send it.
        Role::Client => entries.push((id::ENABLE_PUSH, 0)),
        Role::Server => entries.push((id::MAX_CONCURRENT_STREAMS, config.max_concurrent_streams)),
    }
    entries
}

/// The peer's settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PeerSettings {
    pub(crate) max_concurrent_streams: u32,
    pub(crate) initial_window: u32,
    pub(crate) max_frame_size: u32,
    pub(crate) max_header_list_size: u32,
}

impl Default for PeerSettings {
    fn default() -> Self {
        Self {
            max_concurrent_streams: STREAMS_BEFORE_SETTINGS,
            initial_window: DEFAULT_WINDOW,
            max_frame_size: MIN_MAX_FRAME_SIZE,
            max_header_list_size: u32::MAX,
        }
    }
}

impl PeerSettings {
    /// Applies a frame's entries in their order. `payload` is a multiple of six bytes.
    ///
    /// Every table size is reported, since an encoder must confirm the smallest as well as the last (RFC 7541, 4.2).
    pub(crate) fn apply(
        &mut self,
        payload: &[u8],
        peer: Role,
        mut table_size: impl FnMut(u32),
    ) -> Result<(), ConnectionError> {
        let error = |code, reason| Err(ConnectionError { code, reason });
        for &[i, d, a, b, c, e] in payload.as_chunks::<6>().0 {
            let value = u32::from_be_bytes([a, b, c, e]);
            match u16::from_be_bytes([i, d]) {
                id::HEADER_TABLE_SIZE => table_size(value),
                // A server must not announce 1 to a client.
                id::ENABLE_PUSH if value > 1 || (value == 1 && peer == Role::Server) => {
                    return error(ErrorCode::PROTOCOL_ERROR, "SETTINGS_ENABLE_PUSH has a value it must not have");
                }
                id::MAX_CONCURRENT_STREAMS => self.max_concurrent_streams = value,
                id::INITIAL_WINDOW_SIZE => {
                    if value > MAX_WINDOW {
                        return error(ErrorCode::FLOW_CONTROL_ERROR, "SETTINGS_INITIAL_WINDOW_SIZE is over 2^31-1");
                    }
                    self.initial_window = value;
                }
                id::MAX_FRAME_SIZE => {
                    if !(MIN_MAX_FRAME_SIZE..=MAX_MAX_FRAME_SIZE).contains(&value) {
                        return error(ErrorCode::PROTOCOL_ERROR, "SETTINGS_MAX_FRAME_SIZE is out of range");
                    }
                    self.max_frame_size = value;
                }
                id::MAX_HEADER_LIST_SIZE => self.max_header_list_size = value,
                // Unknown settings must be ignored; among them is SETTINGS_ENABLE_CONNECT_PROTOCOL (RFC 8441), which
                // permits what is never sent here.
                _ => {}
            }
        }
        Ok(())
    }
}
