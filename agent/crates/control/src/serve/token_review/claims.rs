//! What a token says of itself (RFC 7519), believed only after the API server has accepted it.

use std::time::{Duration, SystemTime};

use serde::Deserialize;

/// When a token ends, if it says so.
pub(super) fn expiry(token: &str) -> Option<SystemTime> {
    #[derive(Deserialize)]
    struct Claims {
        /// Seconds since 1970; a fraction is allowed.
        exp: f64,
    }
    let mut parts = token.split('.');
    let (_header, payload, _signature) = (parts.next()?, parts.next()?, parts.next()?);
    let claims: Claims = serde_json::from_slice(&decode(payload)?).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(claims.exp).ok()?)
}

/// Base64 in the alphabet for URLs, without padding (RFC 4648, 5).
fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    for group in text.as_bytes().chunks(4) {
        let mut bits = 0u32;
        for byte in group {
            let six = match byte {
                b'A'..=b'Z' => byte - b'A',
                b'a'..=b'z' => byte - b'a' + 26,
                b'0'..=b'9' => byte - b'0' + 52,
                b'-' => 62,
                b'_' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(six);
        }
        let whole = match group.len() {
            4 => 3,
            3 => 2,
            2 => 1,
            _ => return None,
        };
        bits <<= 6 * (4 - group.len());
        bytes.extend_from_slice(&bits.to_be_bytes()[1..=whole]);
    }
    Some(bytes)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A token of these claims, which nobody has signed.
    pub(in super::super) fn token(claims: &str) -> String {
        const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let mut text = String::new();
        for group in claims.as_bytes().chunks(3) {
            let bits = group.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
            for index in 0..=group.len() {
                text.push(char::from(ALPHABET[(bits >> (18 - 6 * index) & 63) as usize]));
            }
        }
        format!("e30.{text}.c2ln")
    }

    #[test]
    fn the_end_of_a_token_is_read_where_it_has_one() {
        let at = |seconds| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(expiry("eyJhbGciOiJub25lIn0.eyJleHAiOjE3MDAwMDAwMDB9."), at(1_700_000_000));
        for (claims, end) in [
            (r#"{"exp":1}"#, at(1)),
            (r#"{"exp":12,"sub":"system:serviceaccount:weft-system:weft-agent"}"#, at(12)),
            (r#"{"sub":"a"}"#, None),
            (r#"{"exp":"1"}"#, None),
            (r#"{"exp":-1}"#, None),
            (r#"{"exp":1e300}"#, None),
            ("", None),
        ] {
            assert_eq!(expiry(&token(claims)), end, "{claims}");
        }
        for text in ["", "a", "a.b", "..", "a.b.c", "e30.eyJleHAiOjF9", "e30.eyJleHAi+jF9.x"] {
            assert_eq!(expiry(text), None, "{text}");
        }
    }
}
