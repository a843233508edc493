//! How a path is spelled before anything judges it.
//!
//! Routes and policies compare text. A path that can be spelled in two ways would be judged in one and served in the
//! other, so each is brought into one form first, by RFC 3986, section 6.2.2, and in that form it is matched, judged, and
//! **sent on**. What servers are known to read in different ways has no such form, and is refused with 400:
//!
//! | in the path | becomes |
//! |---|---|
//! | escaped unreserved character, `%41` | itself, `A` |
//! | other escape, `%3a` | in upper case, `%3A` |
//! | byte outside ASCII, or one that must be escaped (`"`, `<`, `>`, `^`, `` ` ``, `{`, `|`, `}`) | its escape |
//! | element `.`, `..`, also as `%2e` | resolved |
//! | `//` | kept, or one slash: [`Slashes`] |
//! | `..` above the root, or after an empty element | refused |
//! | `.;x`, `..;x` | refused: parameters that some servers drop before, others after they resolve |
//! | `\`, `%5c` | refused: a slash to some |
//! | `%2f` | refused: a slash to some |
//! | `%00` to `%1f`, `%7f`, and such bytes themselves, space, `#`, `?` | refused |
//! | `%` without two digits | refused |
//! | no slash at the beginning (but `*` of OPTIONS) | refused |

use std::borrow::Cow;

use crate::request::hex;

/// What becomes of slashes that follow each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Slashes {
    /// Each stands for itself, as RFC 3986 has it: `/a//b` is another path than `/a/b`.
    #[default]
    Keep,
    /// They are one, before dot segments are resolved.
    Merge,
}

/// Why a path has no one form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ambiguous {
    /// It does not begin with a slash.
    #[error("the path does not begin with a slash")]
    NotAbsolute,
    /// A `%` that two hexadecimal digits do not follow.
    #[error("the path has a percent sign that begins no escape")]
    BadEscape,
    /// An escaped slash.
    #[error("the path has an escaped slash")]
    EscapedSlash,
    /// A backslash, escaped or not.
    #[error("the path has a backslash")]
    Backslash,
    /// A byte that has no place in a path, escaped or not.
    #[error("the path has a control character, space or delimiter")]
    BadByte,
    /// Dot segments that lead above the root, or out of an empty element.
    #[error("the path's dot segments lead nowhere")]
    DotSegments,
    /// A dot segment with parameters.
    #[error("the path has a dot segment with parameters")]
    DotParameters,
}

/// Brings a path, without its query, into the one form; borrowed when it was in it already.
///
/// # Errors
/// When it has none: the request is answered with 400.
pub fn normalize(path: &str, slashes: Slashes) -> Result<Cow<'_, str>, Ambiguous> {
    if path == "*" {
        return Ok(Cow::Borrowed(path));
    }
    if !path.starts_with('/') {
        return Err(Ambiguous::NotAbsolute);
    }
    if is_normal(path.as_bytes(), slashes) {
        return Ok(Cow::Borrowed(path));
    }
    resolve(&respell(path.as_bytes())?, slashes).map(Cow::Owned)
}

/// Whether nothing at all is to be done: the usual case, decided in one pass.
fn is_normal(path: &[u8], slashes: Slashes) -> bool {
    let mut before = 0;
    path.iter().all(|&byte| {
        let is_fine = match byte {
            b'/' => before != b'/' || slashes == Slashes::Keep,
            // Begins a dot segment, perhaps.
            b'.' => before != b'/',
            _ => stands_for_itself(byte),
        };
        before = byte;
        is_fine
    })
}

/// Decodes, encodes and refuses bytes.
fn respell(path: &[u8]) -> Result<String, Ambiguous> {
    let mut spelled = String::with_capacity(path.len() + 8);
    let mut rest = path;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'%' => {
                let [high, low, after @ ..] = after else { return Err(Ambiguous::BadEscape) };
                let (Some(high), Some(low)) = (hex(*high), hex(*low)) else { return Err(Ambiguous::BadEscape) };
                rest = after;
                match high << 4 | low {
                    b'/' => return Err(Ambiguous::EscapedSlash),
                    b'\\' => return Err(Ambiguous::Backslash),
                    0..0x20 | 0x7f => return Err(Ambiguous::BadByte),
                    byte if is_unreserved(byte) => spelled.push(char::from(byte)),
                    byte => escape(&mut spelled, byte),
                }
            }
            b'\\' => return Err(Ambiguous::Backslash),
            0..=0x20 | 0x7f | b'#' | b'?' => return Err(Ambiguous::BadByte),
            byte if byte == b'/' || stands_for_itself(byte) => spelled.push(char::from(byte)),
            byte => escape(&mut spelled, byte),
        }
    }
    Ok(spelled)
}

/// Resolves dot segments, and merges slashes if they are to be.
fn resolve(path: &str, slashes: Slashes) -> Result<String, Ambiguous> {
    let mut elements: Vec<&str> = Vec::new();
    let mut is_directory = false;
    for element in path[1..].split('/') {
        is_directory = false;
        match element {
            "" if slashes == Slashes::Merge => is_directory = true,
            "." => is_directory = true,
            ".." => {
                // What an empty element is, servers do not agree upon; neither on what is above it.
                if elements.pop().is_none_or(str::is_empty) {
                    return Err(Ambiguous::DotSegments);
                }
                is_directory = true;
            }
            _ if element.starts_with(".;") || element.starts_with("..;") => return Err(Ambiguous::DotParameters),
            _ => elements.push(element),
        }
    }
    let mut resolved = String::with_capacity(path.len());
    for element in &elements {
        resolved.push('/');
        resolved.push_str(element);
    }
    if is_directory || elements.is_empty() {
        resolved.push('/');
    }
    Ok(resolved)
}

/// RFC 3986, section 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Whether a byte of an element is written as it is: `pchar` without escapes, and brackets, which many clients send.
pub(crate) fn stands_for_itself(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(
            byte,
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@' | b'[' | b']'
        )
}

/// Appends the escape of a byte.
pub(crate) fn escape(text: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    text.extend(['%', char::from(DIGITS[usize::from(byte >> 4)]), char::from(DIGITS[usize::from(byte & 15)])]);
}

#[cfg(test)]
mod tests;
