//! Changes of headers.

use http::header::{HOST, HeaderMap, HeaderValue};
use http::request::Parts;
use http::uri::{Authority, Uri};

use crate::route::HeaderEdits;

/// Changes headers: sets, then adds, then removes.
pub(super) fn edit(edits: &HeaderEdits, headers: &mut HeaderMap) {
    for (name, value) in &edits.set {
        headers.insert(name, value.clone());
    }
    for (name, value) in &edits.add {
        headers.append(name, value.clone());
    }
    for name in &edits.remove {
        headers.remove(name);
    }
}

/// Changes a request's headers. What is said about `host` goes for the `:authority`, too: a request whose names
/// disagree would be one for us and another for who comes after us. It is set, never added to nor removed.
pub(super) fn edit_request(edits: &HeaderEdits, parts: &mut Parts) {
    let hosts = || edits.set.iter().chain(&edits.add).filter(|(name, _)| name == HOST);
    if hosts().next().is_none() && !edits.remove.contains(&HOST) {
        return edit(edits, &mut parts.headers);
    }
    let (name, authority) = (parts.headers.get(HOST).cloned(), parts.uri.authority().cloned());
    edit(edits, &mut parts.headers);
    parts.headers.remove(HOST);
    if let Some(name) = name {
        parts.headers.insert(HOST, name);
    }
    if let Some((_, value)) = hosts().next()
        && set_host(parts, value).is_err()
        && let Some(authority) = authority
    {
        // No name at all: the request keeps its own.
        set_authority(parts, authority);
    }
}

/// A name that is none.
#[derive(Debug)]
pub(super) struct NotAHost;

/// Sets the name that a request asks for, wherever it says it.
pub(super) fn set_host(parts: &mut Parts, value: &HeaderValue) -> Result<(), NotAHost> {
    let authority = Authority::try_from(value.as_bytes()).map_err(|_| NotAHost)?;
    let has_authority = parts.uri.authority().is_some();
    if has_authority {
        set_authority(parts, authority);
    }
    if !has_authority || parts.headers.contains_key(HOST) {
        parts.headers.insert(HOST, value.clone());
    }
    Ok(())
}

fn set_authority(parts: &mut Parts, authority: Authority) {
    let mut uri = std::mem::take(&mut parts.uri).into_parts();
    uri.authority = Some(authority);
    parts.uri = Uri::from_parts(uri).expect("one authority took the place of another");
}
