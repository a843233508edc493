//! Rules by the host that is asked for.

use std::sync::Arc;

use super::paths::Paths;
use super::{ByName, Entry};
use crate::request::Request;
use crate::route::Route;

/// Something kept by host names.
#[derive(Debug)]
pub(super) struct ByHost<T> {
    pub(super) exact: ByName<T>,
    /// For all names below these.
    pub(super) below: ByName<T>,
    pub(super) any: Option<T>,
}

impl<T> Default for ByHost<T> {
    fn default() -> Self {
        Self { exact: ByName::default(), below: ByName::default(), any: None }
    }
}

/// Longer than any name of the DNS with its last dot.
const NAME_BYTES: usize = 255;

impl<T> ByHost<T> {
    /// What `pick` makes of the first thing kept for a host of which it makes something, the most specific name first.
    fn pick<'a, R>(&'a self, host: &str, mut pick: impl FnMut(&'a T) -> Option<R>) -> Option<R> {
        let mut name = [0; NAME_BYTES];
        let host = host.strip_suffix('.').unwrap_or(host);
        if !(self.exact.is_empty() && self.below.is_empty())
            && let Some(name) = name.get_mut(..host.len())
        {
            name.copy_from_slice(host.as_bytes());
            name.make_ascii_lowercase();
            let name = str::from_utf8(name).expect("letters of ASCII changed their case, nothing else");
            if let Some(found) = self.exact.get(name).and_then(&mut pick) {
                return Some(found);
            }
            if !self.below.is_empty() {
                // Not `.example.com`: some label comes before the suffix.
                for (dot, _) in name.match_indices('.').filter(|(dot, _)| *dot > 0) {
                    if let Some(found) = self.below.get(&name[dot + 1..]).and_then(&mut pick) {
                        return Some(found);
                    }
                }
            }
        }
        self.any.as_ref().and_then(pick)
    }
}

/// Rules by host, then by path.
pub(super) type Hosts = ByHost<Paths>;

impl Hosts {
    /// The entry of the highest precedence that matches.
    pub(super) fn find(&self, request: &Request<'_>, of: &[Entry]) -> Option<u32> {
        self.pick(request.host, |paths| paths.find(request, of))
    }
}

/// The rules of TLS routes by server name.
pub(super) type Servers = ByHost<(Arc<Route>, usize)>;

impl Servers {
    /// The rule of the most specific name.
    pub(super) fn find(&self, sni: Option<&str>) -> Option<&(Arc<Route>, usize)> {
        match sni {
            Some(sni) => self.pick(sni, Some),
            None => self.any.as_ref(),
        }
    }
}
