//! The routes for one port of one service, compiled: which rule takes a request.
//!
//! What a lookup costs does not depend on how many rules there are, but on the request and on how many rules differ in
//! nothing but headers, parameters, method, or a pattern: exact paths are found by one hash, prefixes by one for each
//! element (no deeper than the deepest prefix), hosts by one for each label. Patterns are looked for beside the elements
//! that all their matches begin with. Whatever is left stands in order of precedence, so the first that matches wins.
//! Nothing is allocated.
//!
//! Precedence is the Gateway API's. Between what it leaves open:
//! - A pattern comes after exact paths and before prefixes, the longest pattern first: below `/`, which most routes have
//!   somewhere, it would never be asked. Beside methods of gRPC services, it comes after them, as it says less.
//! - A host that has rules of its own, none of which matches, leaves the request to wider names: precedence is among the
//!   rules that match.
//! - Requests of gRPC that no GRPCRoute takes are left to HTTPRoutes.

use std::sync::Arc;

use hashbrown::HashMap;

use crate::request::Request;
use crate::route::{RequestMatch, Route, Rule};

mod compile;
mod hosts;
mod paths;

pub(crate) use compile::Names;
use hosts::{Hosts, Servers};

/// The routes for one port of one service.
#[derive(Debug, Default)]
pub struct Table {
    http: Option<Hosts>,
    grpc: Option<Hosts>,
    tls: Option<Servers>,
    tcp: Option<(Arc<Route>, usize)>,
    /// Each alternative of each rule, of HTTP and gRPC; those of one kind of condition on the path by precedence.
    entries: Box<[Entry]>,
}

/// One alternative of a rule.
#[derive(Debug)]
struct Entry {
    route: Arc<Route>,
    rule: usize,
    /// What it asks for beside the path. A copy of its own: on the way to the route's a search would wait for memory
    /// several times.
    conditions: Option<Box<RequestMatch>>,
    /// The prefix that its path has.
    prefix: Option<Arc<str>>,
}

impl Entry {
    fn meets(&self, request: &Request<'_>) -> bool {
        self.conditions.as_ref().is_none_or(|conditions| request.meets(conditions))
    }
}

/// A rule that takes a request or connection.
#[derive(Clone, Debug)]
pub struct Matched {
    /// The route.
    pub route: Arc<Route>,
    /// Which of its rules.
    pub rule: usize,
    /// The prefix of the path that it matched by, normalized and without a slash at the end, except for `/`.
    pub prefix: Option<Arc<str>>,
}

impl Matched {
    /// The rule.
    #[must_use]
    pub fn rule(&self) -> &Rule {
        &self.route.rules[self.rule]
    }
}

impl Table {
    /// Whether requests are routed at all: an HTTPRoute or GRPCRoute is here. Where none is, requests go to the service.
    #[must_use]
    pub fn has_requests(&self) -> bool {
        self.http.is_some() || self.grpc.is_some()
    }

    /// Whether a TLSRoute is here.
    #[must_use]
    pub fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// The rule for a request; `None`: none matches, the answer is 404 (of gRPC: `UNIMPLEMENTED`).
    #[must_use]
    pub fn find(&self, request: &Request<'_>) -> Option<Matched> {
        let grpc = self.grpc.as_ref().filter(|_| request.is_grpc());
        let found = grpc.and_then(|hosts| hosts.find(request, &self.entries));
        let found = found.or_else(|| self.http.as_ref().and_then(|hosts| hosts.find(request, &self.entries)))?;
        let entry = &self.entries[found as usize];
        Some(Matched { route: Arc::clone(&entry.route), rule: entry.rule, prefix: entry.prefix.clone() })
    }

    /// The rule for a connection whose TLS is passed through, by the server name that its client asked for. `None`: no
    /// TLSRoute has the name, the connection is refused.
    #[must_use]
    pub fn find_tls(&self, sni: Option<&str>) -> Option<Matched> {
        let (route, rule) = self.tls.as_ref()?.find(sni)?;
        Some(Matched { route: Arc::clone(route), rule: *rule, prefix: None })
    }

    /// The rule for a connection of which no more is known. `None`: there is no TCPRoute.
    #[must_use]
    pub fn find_tcp(&self) -> Option<Matched> {
        let (route, rule) = self.tcp.as_ref()?;
        Some(Matched { route: Arc::clone(route), rule: *rule, prefix: None })
    }
}

/// Indexes of entries, by precedence.
type Entries = Box<[u32]>;

/// The first of them that matches.
fn first(entries: &[u32], request: &Request<'_>, of: &[Entry]) -> Option<u32> {
    entries.iter().copied().find(|&entry| of[entry as usize].meets(request))
}

/// Looks something up by a borrowed key.
type ByName<T> = HashMap<Box<str>, T>;

#[cfg(test)]
mod tests;
