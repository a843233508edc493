//! The congestion control of connections that never leave their pod.

use std::str::FromStr;

use weft_common::CONGESTION_CONTROL_NAME;

/// The name of a TCP congestion control, as in `net.ipv4.tcp_available_congestion_control`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CongestionControl(pub(super) [u8; CONGESTION_CONTROL_NAME]);

impl CongestionControl {
    /// Every kernel has it, and it costs the least: it neither paces nor measures.
    pub const RENO: Self = Self(*b"reno\0\0\0\0\0\0\0\0\0\0\0\0");

    /// Its name.
    pub fn name(&self) -> &str {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(self.0.len());
        str::from_utf8(&self.0[..end]).unwrap_or_default()
    }
}

impl FromStr for CongestionControl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if text.is_empty() || text.len() >= CONGESTION_CONTROL_NAME || !text.bytes().all(is_name) {
            return Err("a congestion control's name has 1 to 15 letters, digits, '_' and '-'");
        }
        let mut name = [0; CONGESTION_CONTROL_NAME];
        name[..text.len()].copy_from_slice(text.as_bytes());
        Ok(Self(name))
    }
}
