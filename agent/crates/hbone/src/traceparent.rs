//! The `traceparent` header (W3C Trace Context, level 1, 3.2).

use std::{fmt, str::FromStr};

/// Which trace a connection belongs to, and who its caller is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceParent {
    /// The whole trace, never 0.
    pub trace_id: u128,
    /// The caller's span, never 0.
    pub parent_id: u64,
    /// Bit 0: the caller records this trace.
    pub flags: u8,
}

/// The header is not a `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a W3C traceparent")]
pub struct TraceParentError;

impl FromStr for TraceParent {
    type Err = TraceParentError;

    fn from_str(text: &str) -> Result<Self, TraceParentError> {
        let bytes = text.as_bytes();
        // 00-<32 hex>-<16 hex>-<2 hex>
        let head: &[u8; 55] = bytes.first_chunk().ok_or(TraceParentError)?;
        if head[2] != b'-' || head[35] != b'-' || head[52] != b'-' {
            return Err(TraceParentError);
        }
        match hex(&head[..2])? {
            0xff => return Err(TraceParentError),
            0 if bytes.len() != 55 => return Err(TraceParentError),
            // A later version may append fields, which are not for us.
            _ if bytes.len() > 55 && bytes[55] != b'-' => return Err(TraceParentError),
            _ => {}
        }
        let trace_id = hex(&head[3..35])?;
        let parent_id = hex(&head[36..52])? as u64;
        let flags = hex(&head[53..])? as u8;
        if trace_id == 0 || parent_id == 0 {
            return Err(TraceParentError);
        }
        Ok(Self { trace_id, parent_id, flags })
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Of the flags of version 00 only the lowest is defined; others must not be passed on.
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.parent_id, self.flags & 1)
    }
}

/// Lower case only, as the format demands.
fn hex(digits: &[u8]) -> Result<u128, TraceParentError> {
    digits.iter().try_fold(0, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return Err(TraceParentError),
        };
        Ok(number << 4 | u128::from(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_version_00() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let parent: TraceParent = text.parse().expect("the specification's own example");
        assert_eq!(parent.trace_id, 0x4bf92f3577b34da6a3ce929d0e0e4736);
        assert_eq!(parent.parent_id, 0x00f067aa0ba902b7);
        assert_eq!(parent.to_string(), text);
    }

    #[test]
    fn refuses_other_forms() {
        let cases = [
            ("", false),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0", false),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-011", false),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x", false),
            ("00-4BF92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", false),
            ("00-00000000000000000000000000000000-00f067aa0ba902b7-01", false),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", false),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7-01", false),
            ("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", false),
            ("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", true),
            ("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what", true),
            ("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.what", false),
            ("00-4bf92f3577b34da6a3ce929d0e0e473\u{e9}-0f067aa0ba902b7-01", false),
        ];
        for (text, is_valid) in cases {
            assert_eq!(text.parse::<TraceParent>().is_ok(), is_valid, "{text}");
        }
    }
}
