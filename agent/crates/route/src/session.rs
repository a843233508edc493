//! Sessions that stay with one endpoint: the token that names it, and how it travels.
//!
//! A token is base64url (RFC 4648, section 5, unpadded) of a version, a hash of the backend, when the session began and
//! when it was last seen (seconds since 1970), and the endpoint's uid. It is opaque to clients and neither encrypted nor
//! authenticated, on purpose: it grants nothing. A client that makes one up chooses among the endpoints of backends that
//! its request may go to anyway, the same policies judge the connection to that endpoint, and it extends nobody's session
//! but its own. A key would have to be the same in all replicas of a waypoint, and be kept and replaced, for no more than
//! that. What it does show to whoever decodes it is the endpoint's uid, that is the name of a pod.
//!
//! Until it was parsed it is hostile: it is bounded, and whatever is wrong with it makes it a session that begins anew.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{COOKIE, HeaderMap, HeaderName, HeaderValue, SET_COOKIE};

use crate::route::{BackendTarget, Rule, SessionCarrier, SessionPersistence};

const VERSION: u8 = 1;
/// The version, the backend, and two times.
const HEAD_BYTES: usize = 1 + 4 + 4 + 4;
/// A uid has a cluster, a namespace and a name in it.
const UID_BYTES: usize = 700;
/// The longest token as text.
const TOKEN_BYTES: usize = (HEAD_BYTES + UID_BYTES).div_ceil(3) * 4;
/// Clocks of a waypoint's replicas may be so many seconds apart.
const SKEW: u64 = 60;

/// What a session remembers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    uid: String,
    backend: u32,
    began: u32,
    seen: u32,
}

impl Token {
    /// The uid of the endpoint. It may be gone, or be none of the backend's: then another is chosen.
    #[must_use]
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// Which of the rule's backends the session is with; its weight, even 0, does not count (Gateway API, GEP-1619).
    /// `None`: it is there no longer.
    #[must_use]
    pub fn backend(&self, rule: &Rule) -> Option<usize> {
        rule.backends.iter().position(|backend| hash(&backend.target) == Some(self.backend))
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let bytes = (text.len() <= TOKEN_BYTES).then(|| URL_SAFE_NO_PAD.decode(text).ok())??;
        let (version, rest) = bytes.split_first()?;
        let (backend, rest) = rest.split_first_chunk()?;
        let (began, rest) = rest.split_first_chunk()?;
        let (seen, uid) = rest.split_first_chunk()?;
        let is_uid = (1..=UID_BYTES).contains(&uid.len()) && uid.iter().all(u8::is_ascii_graphic);
        (*version == VERSION && is_uid).then(|| Self {
            uid: uid.iter().copied().map(char::from).collect(),
            backend: u32::from_be_bytes(*backend),
            began: u32::from_be_bytes(*began),
            seen: u32::from_be_bytes(*seen),
        })
    }

    fn write(&self) -> String {
        let mut bytes = Vec::with_capacity(HEAD_BYTES + self.uid.len());
        bytes.push(VERSION);
        for number in [self.backend, self.began, self.seen] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        bytes.extend_from_slice(self.uid.as_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn is_alive(&self, persistence: &SessionPersistence, now: u64) -> bool {
        let since = |time: u32| now.saturating_sub(u64::from(time));
        let is_within = |time: u32, timeout: Option<std::time::Duration>| {
            u64::from(time) <= now.saturating_add(SKEW) && timeout.is_none_or(|timeout| since(time) < timeout.as_secs())
        };
        is_within(self.began, persistence.absolute_timeout) && is_within(self.seen, persistence.idle_timeout)
    }
}

/// The session that a request is of; `None`: it begins one. `now`: seconds since 1970.
#[must_use]
pub fn read(persistence: &SessionPersistence, headers: &HeaderMap, now: u64) -> Option<Token> {
    let text = match persistence.carrier {
        SessionCarrier::Header => {
            let mut values = headers.get_all(&*persistence.name).iter();
            // Of two, none is the right one.
            values.next().filter(|_| values.next().is_none())?.as_bytes()
        }
        SessionCarrier::SessionCookie | SessionCarrier::PermanentCookie => cookie(&persistence.name, headers)?,
    };
    Token::parse(text).filter(|token| token.is_alive(persistence, now))
}

/// The header that tells the client of its session with an endpoint, for the answer to its request; `None`: it knows, or
/// the session cannot be told. `before`: the session that the request was of; it goes on if the endpoint is the same.
/// `path`: the prefix that the rule matched, for cookies. `now`: seconds since 1970.
#[must_use]
pub fn tell(
    persistence: &SessionPersistence,
    before: Option<&Token>,
    target: &BackendTarget,
    uid: &str,
    path: Option<&str>,
    now: u64,
) -> Option<(HeaderName, HeaderValue)> {
    let (backend, seen) = (hash(target)?, u32::try_from(now).ok()?);
    if uid.is_empty() || uid.len() > UID_BYTES || !uid.bytes().all(|byte| byte.is_ascii_graphic()) {
        return None;
    }
    let before = before.filter(|before| before.uid == uid && before.backend == backend);
    let token = Token { uid: uid.to_owned(), backend, began: before.map_or(seen, |before| before.began), seen };
    if persistence.carrier == SessionCarrier::Header {
        let name = HeaderName::from_bytes(persistence.name.as_bytes()).ok()?;
        return Some((name, HeaderValue::try_from(token.write()).ok()?));
    }
    // The browser has it, and it need not be told that the session was seen.
    if before.is_some() && persistence.idle_timeout.is_none() {
        return None;
    }
    // A name is a token (RFC 9110, 5.6.2), as that of a header; what is none would be read as something else.
    HeaderName::from_bytes(persistence.name.as_bytes()).ok()?;
    let path = path.filter(|path| !path.contains(';')).unwrap_or("/");
    let mut cookie = format!("{}={}; Path={path}; HttpOnly; SameSite=Lax", persistence.name, token.write());
    if persistence.carrier == SessionCarrier::PermanentCookie
        && let Some(timeout) = persistence.absolute_timeout
    {
        let left = timeout.as_secs().saturating_sub(now.saturating_sub(u64::from(token.began)));
        cookie.push_str(&format!("; Max-Age={left}"));
    }
    Some((SET_COOKIE, HeaderValue::try_from(cookie).ok()?))
}

/// The value of the first cookie of a name.
fn cookie<'a>(name: &str, headers: &'a HeaderMap) -> Option<&'a [u8]> {
    let cookies = headers.get_all(COOKIE).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
    cookies.map(<[u8]>::trim_ascii).find_map(|cookie| cookie.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

/// FNV-1a of a backend: it names the backend in the same way in all replicas, whatever its place in the rule.
fn hash(target: &BackendTarget) -> Option<u32> {
    let BackendTarget::Service { key, port } = target else { return None };
    let bytes = key.bytes().chain(port.to_be_bytes());
    Some(bytes.fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)))
}

#[cfg(test)]
mod tests;
