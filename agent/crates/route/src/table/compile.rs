//! How routes become a table: precedence as an order of all alternatives, and the indexes over it.

use std::cmp::Reverse;
use std::sync::Arc;

use hashbrown::HashMap;

use super::hosts::{ByHost, Hosts, Servers};
use super::paths::{ByElements, Paths};
use super::{ByName, Entry, Table};
use crate::path::{Slashes, normalize};
use crate::route::{Hostname, PathMatch, Pattern, RequestMatch, Route, RouteKind};

/// What a path must be.
enum Place {
    Exact(Arc<str>),
    /// Without a slash at the end; empty: all.
    Prefix(Arc<str>),
    Pattern(Pattern),
}

/// Whether the names that routes give themselves count.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Names {
    /// They do: the routes are a Gateway's.
    Count,
    /// They do not: the routes are a service's, which has its names by itself.
    AreIgnored,
}

impl Table {
    /// Compiles routes, in whatever order; `None` when there are none.
    pub(crate) fn compile(routes: &[Arc<Route>], names: Names) -> Option<Self> {
        let mut routes: Vec<&Arc<Route>> = routes.iter().collect();
        routes.sort_by(|a, b| seniority(a).cmp(&seniority(b)));
        let of = |kind| routes.iter().copied().filter(move |route| route.kind == kind);
        if routes.is_empty() {
            return None;
        }
        let mut entries = Vec::new();
        let grpc = requests(of(RouteKind::Grpc), RouteKind::Grpc, names, &mut entries);
        let http = requests(of(RouteKind::Http), RouteKind::Http, names, &mut entries);
        let tcp = of(RouteKind::Tcp).find(|route| !route.rules.is_empty()).map(|route| (Arc::clone(route), 0));
        Some(Self { http, grpc, tls: servers(of(RouteKind::Tls)), tcp, entries: entries.into() })
    }
}

/// The oldest route first, then by namespace and name.
fn seniority(route: &Route) -> impl Ord + '_ {
    (route.created, &route.namespace, &route.name, &route.key)
}

/// Indexes the routes of one kind, and appends their alternatives to the table's.
fn requests<'a>(
    routes: impl Iterator<Item = &'a Arc<Route>>,
    kind: RouteKind,
    names: Names,
    entries: &mut Vec<Entry>,
) -> Option<Hosts> {
    let mut alternatives: Vec<(Place, Entry)> = Vec::new();
    let mut is_any = false;
    for route in routes {
        is_any = true;
        for (rule, content) in route.rules.iter().enumerate() {
            let count = content.matches.len();
            let all = (0..count).map(Some).chain((count == 0).then_some(None));
            alternatives.extend(all.map(|alternative| alternative_of(route, rule, alternative)));
        }
    }
    // What this leaves equal stays in the order of seniority, and within a route in that of the rules.
    alternatives.sort_by_cached_key(|(place, entry)| weight(place, entry, kind));
    let mut hosts: ByHost<Builder> = ByHost::default();
    for (place, entry) in alternatives {
        let index = u32::try_from(entries.len()).expect("there is no memory for so many rules");
        let hostnames = if names == Names::Count { entry.route.hostnames.as_slice() } else { &[] };
        if hostnames.is_empty() {
            hosts.any.get_or_insert_default().add(&place, index);
        }
        for hostname in hostnames {
            hosts.of(hostname).add(&place, index);
        }
        entries.push(entry);
    }
    is_any.then(|| Hosts {
        exact: hosts.exact.into_iter().map(|(name, builder)| (name, builder.finish(kind))).collect(),
        below: hosts.below.into_iter().map(|(name, builder)| (name, builder.finish(kind))).collect(),
        any: hosts.any.map(|builder| builder.finish(kind)),
    })
}

impl<T: Default> ByHost<T> {
    fn of(&mut self, name: &Hostname) -> &mut T {
        let (names, name): (&mut ByName<T>, _) = match name {
            Hostname::Exact(name) => (&mut self.exact, name),
            Hostname::Below(name) => (&mut self.below, name),
        };
        names.entry((&**name).into()).or_default()
    }
}

fn alternative_of(route: &Arc<Route>, rule: usize, alternative: Option<usize>) -> (Place, Entry) {
    let matched = alternative.map(|alternative| &route.rules[rule].matches[alternative]);
    // In the one form that requests come in; what has no such form stays, and matches nothing.
    let normal = |path: &Arc<str>| normalize(path, Slashes::Keep).map_or_else(|_| Arc::clone(path), Arc::from);
    let place = match matched.and_then(|matched| matched.path.as_ref()) {
        Some(PathMatch::Exact(path)) => Place::Exact(normal(path)),
        Some(PathMatch::Prefix(path)) => Place::Prefix(normal(path).trim_end_matches('/').into()),
        Some(PathMatch::Regex(pattern)) => Place::Pattern(pattern.clone()),
        None => Place::Prefix("".into()),
    };
    let prefix = match &place {
        Place::Prefix(prefix) if prefix.is_empty() => Some("/".into()),
        Place::Prefix(prefix) => Some(Arc::clone(prefix)),
        Place::Exact(_) | Place::Pattern(_) => None,
    };
    let asks =
        |matched: &&RequestMatch| matched.method.is_some() || !matched.headers.is_empty() || !matched.query.is_empty();
    let conditions = matched.filter(asks).map(|matched| {
        let RequestMatch { path: _, method, headers, query } = matched.clone();
        Box::new(RequestMatch { path: None, method, headers, query })
    });
    (place, Entry { route: Arc::clone(route), rule, conditions, prefix })
}

/// The least comes first.
///
/// gRPC has the length of the service before that of the method. Those that match one request have the same service,
/// and the same method, if they have them; so an exact path, a prefix, and none at all stand in this order.
fn weight(place: &Place, entry: &Entry, kind: RouteKind) -> impl Ord + use<> {
    let (is_grpc, any) = (kind == RouteKind::Grpc, RequestMatch::default());
    let (class, length) = match place {
        Place::Exact(path) => (0, path.len()),
        Place::Pattern(pattern) => (if is_grpc { 2 } else { 1 }, pattern.source().len()),
        Place::Prefix(prefix) if is_grpc => (if prefix.is_empty() { 3 } else { 1 }, prefix.len()),
        Place::Prefix(prefix) => (2, prefix.len()),
    };
    let conditions = entry.conditions.as_deref().unwrap_or(&any);
    let has_method = conditions.method.is_some() && !is_grpc;
    let parameters = if is_grpc { 0 } else { conditions.query.len() };
    (class, Reverse(length), Reverse(has_method), Reverse(conditions.headers.len()), Reverse(parameters))
}

/// [`Paths`] in the making.
#[derive(Default)]
struct Builder {
    exact: HashMap<Arc<str>, Vec<u32>>,
    prefixes: ByName<Vec<u32>>,
    patterns: ByName<Vec<(u32, Pattern)>>,
}

impl Builder {
    fn add(&mut self, place: &Place, index: u32) {
        match place {
            Place::Exact(path) => push(self.exact.entry(Arc::clone(path)).or_default(), index),
            Place::Prefix(prefix) => push(self.prefixes.entry((&**prefix).into()).or_default(), index),
            Place::Pattern(pattern) => {
                let patterns = self.patterns.entry(first_elements(pattern)).or_default();
                if patterns.last().is_none_or(|(last, _)| *last != index) {
                    patterns.push((index, pattern.clone()));
                }
            }
        }
    }

    fn finish(self, kind: RouteKind) -> Paths {
        Paths {
            exact: self.exact.into_iter().map(|(path, entries)| (path, entries.into())).collect(),
            prefixes: ByElements::new(self.prefixes.into_iter().map(|(path, entries)| (path, entries.into()))),
            patterns: ByElements::new(self.patterns.into_iter().map(|(path, patterns)| (path, patterns.into()))),
            are_patterns_first: kind == RouteKind::Http,
        }
    }
}

/// A route that has one name twice has its rules there once.
fn push(entries: &mut Vec<u32>, index: u32) {
    if entries.last() != Some(&index) {
        entries.push(index);
    }
}

/// The whole elements that every path which the pattern matches begins with: `/users/[0-9]+` has `/users`. Empty when it
/// has none.
fn first_elements(pattern: &Pattern) -> Box<str> {
    let beginning = pattern.beginning();
    match beginning.rfind('/') {
        Some(end) if beginning.starts_with('/') => beginning[..end].into(),
        _ => "".into(),
    }
}

/// Indexes TLS routes, the most senior first.
fn servers<'a>(routes: impl Iterator<Item = &'a Arc<Route>>) -> Option<Servers> {
    let mut servers: ByHost<Option<(Arc<Route>, usize)>> = ByHost::default();
    let mut is_any = false;
    for route in routes {
        is_any = true;
        for (rule, content) in route.rules.iter().enumerate() {
            let names = if content.server_names.is_empty() { &route.hostnames } else { &content.server_names };
            let here = || Some((Arc::clone(route), rule));
            if names.is_empty() && servers.any.is_none() {
                servers.any = Some(here());
            }
            for name in names {
                let server = servers.of(name);
                if server.is_none() {
                    *server = here();
                }
            }
        }
    }
    let known = |names: ByName<Option<_>>| names.into_iter().filter_map(|(name, rule)| Some((name, rule?))).collect();
    is_any.then(|| Servers { exact: known(servers.exact), below: known(servers.below), any: servers.any.flatten() })
}
