//! Routes, in a type of ours: waypoints alone ask for them.
//!
//! What cannot be understood is refused as a whole. A route with a condition left out would take more requests than it
//! is meant to, and one with a filter left out would let through what the filter stops.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderName, HeaderValue};
use http::{Method, StatusCode};
use prost::Message;
use weft_proto::route as proto;
use weft_proto::route::{filter, parent, path_rewrite, request_match, target, value_match};
use weft_route::{
    Backend, BackendTarget, Cors, Filter, HeaderEdits, HeaderMatch, Hostname, Mirror, Parent, ParentTarget, PathMatch,
    PathRewrite, Pattern, QueryMatch, Redirect, RequestMatch, Retry, Rewrite, Route, RouteKind, Rule, SessionCarrier,
    SessionPersistence, Timeouts, ValueMatch,
};

use super::{ConversionError, Reading, shared};

/// The type of routes.
pub(crate) const ROUTE: &str = "type.googleapis.com/weft.route.v1.Route";

/// A route as a resource's content.
pub(crate) fn encode_route(route: &Route) -> Vec<u8> {
    let kind = match route.kind {
        RouteKind::Http => proto::Kind::Http,
        RouteKind::Grpc => proto::Kind::Grpc,
        RouteKind::Tls => proto::Kind::Tls,
        RouteKind::Tcp => proto::Kind::Tcp,
    };
    let parents = route.parents.iter().map(|parent| proto::Parent {
        target: Some(match &parent.target {
            ParentTarget::Service(key) => parent::Target::Service(key.to_string()),
            ParentTarget::Gateway(key) => parent::Target::Gateway(key.to_string()),
        }),
        port: parent.port.unwrap_or_default().into(),
        consumer: text(&parent.consumer).unwrap_or_default(),
    });
    proto::Route {
        kind: kind.into(),
        namespace: route.namespace.to_string(),
        name: route.name.to_string(),
        created: route.created,
        parents: parents.collect(),
        hostnames: route.hostnames.iter().map(encode_hostname).collect(),
        rules: route.rules.iter().map(encode_rule).collect(),
    }
    .encode_to_vec()
}

fn text(text: &Option<Arc<str>>) -> Option<String> {
    text.as_deref().map(str::to_owned)
}

fn encode_hostname(name: &Hostname) -> String {
    match name {
        Hostname::Exact(name) => name.to_string(),
        Hostname::Below(domain) => format!("*.{domain}"),
    }
}

fn encode_duration(time: Duration) -> Option<prost_types::Duration> {
    prost_types::Duration::try_from(time).ok()
}

fn encode_rule(rule: &Rule) -> proto::Rule {
    let session = rule.session.as_ref().map(|session| proto::SessionPersistence {
        name: session.name.to_string(),
        carrier: match session.carrier {
            SessionCarrier::SessionCookie => proto::Carrier::SessionCookie,
            SessionCarrier::PermanentCookie => proto::Carrier::PermanentCookie,
            SessionCarrier::Header => proto::Carrier::Header,
        }
        .into(),
        absolute_timeout: session.absolute_timeout.and_then(encode_duration),
        idle_timeout: session.idle_timeout.and_then(encode_duration),
    });
    let backends = rule.backends.iter().map(|backend| proto::Backend {
        target: Some(encode_target(&backend.target)),
        weight: backend.weight,
        filters: backend.filters.iter().map(encode_filter).collect(),
    });
    proto::Rule {
        name: text(&rule.name),
        matches: rule.matches.iter().map(encode_match).collect(),
        server_names: rule.server_names.iter().map(encode_hostname).collect(),
        filters: rule.filters.iter().map(encode_filter).collect(),
        backends: backends.collect(),
        request_timeout: rule.timeouts.request.and_then(encode_duration),
        backend_timeout: rule.timeouts.backend.and_then(encode_duration),
        retry: rule.retry.as_ref().map(|retry| proto::Retry {
            codes: retry.codes.iter().map(|code| code.as_u16().into()).collect(),
            attempts: retry.attempts,
            backoff: retry.backoff.and_then(encode_duration),
        }),
        session,
    }
}

fn encode_match(found: &RequestMatch) -> proto::RequestMatch {
    let value = |value: &ValueMatch| match value {
        ValueMatch::Exact(text) => value_match::Value::Exact(text.to_string()),
        ValueMatch::Regex(pattern) => value_match::Value::Regex(pattern.source().to_string()),
    };
    let headers = found.headers.iter().map(|header| (header.name.to_string(), value(&header.value)));
    let query = found.query.iter().map(|query| (query.name.to_string(), value(&query.value)));
    let named = |(name, value)| proto::ValueMatch { name, value: Some(value) };
    proto::RequestMatch {
        path: found.path.as_ref().map(|path| match path {
            PathMatch::Exact(path) => request_match::Path::Exact(path.to_string()),
            PathMatch::Prefix(path) => request_match::Path::Prefix(path.to_string()),
            PathMatch::Regex(pattern) => request_match::Path::Regex(pattern.source().to_string()),
        }),
        method: found.method.as_ref().map(ToString::to_string).unwrap_or_default(),
        headers: headers.map(named).collect(),
        query: query.map(named).collect(),
    }
}

fn encode_target(target: &BackendTarget) -> proto::Target {
    let target = match target {
        BackendTarget::Service { key, port } => {
            target::Target::Service(proto::Service { key: key.to_string(), port: (*port).into() })
        }
        BackendTarget::Invalid { reason } => target::Target::Invalid(reason.to_string()),
    };
    proto::Target { target: Some(target) }
}

fn encode_path(path: &PathRewrite) -> proto::PathRewrite {
    let path = match path {
        PathRewrite::Full(path) => path_rewrite::Path::Full(path.to_string()),
        PathRewrite::Prefix(prefix) => path_rewrite::Path::Prefix(prefix.to_string()),
    };
    proto::PathRewrite { path: Some(path) }
}

fn encode_edits(edits: &HeaderEdits) -> proto::HeaderEdits {
    let headers = |list: &[(HeaderName, HeaderValue)]| {
        let header = |(name, value): &(HeaderName, HeaderValue)| proto::Header {
            name: name.to_string(),
            value: value.as_bytes().to_vec(),
        };
        list.iter().map(header).collect()
    };
    proto::HeaderEdits {
        set: headers(&edits.set),
        add: headers(&edits.add),
        remove: edits.remove.iter().map(ToString::to_string).collect(),
    }
}

fn encode_filter(found: &Filter) -> proto::Filter {
    let texts = |list: &[Arc<str>]| list.iter().map(|text| text.to_string()).collect();
    let found = match found {
        Filter::RequestHeaders(edits) => filter::Filter::RequestHeaders(encode_edits(edits)),
        Filter::ResponseHeaders(edits) => filter::Filter::ResponseHeaders(encode_edits(edits)),
        Filter::Redirect(redirect) => filter::Filter::Redirect(proto::Redirect {
            scheme: text(&redirect.scheme),
            hostname: text(&redirect.hostname),
            path: redirect.path.as_ref().map(encode_path),
            port: redirect.port.unwrap_or_default().into(),
            status: redirect.status.as_u16().into(),
        }),
        Filter::Rewrite(rewrite) => filter::Filter::Rewrite(proto::Rewrite {
            hostname: text(&rewrite.hostname),
            path: rewrite.path.as_ref().map(encode_path),
        }),
        Filter::Mirror(mirror) => filter::Filter::Mirror(proto::Mirror {
            target: Some(encode_target(&mirror.backend)),
            numerator: mirror.share.0,
            denominator: mirror.share.1,
        }),
        Filter::Cors(cors) => filter::Filter::Cors(proto::Cors {
            allow_origins: texts(&cors.allow_origins),
            allow_credentials: cors.allow_credentials,
            allow_methods: texts(&cors.allow_methods),
            allow_headers: texts(&cors.allow_headers),
            expose_headers: texts(&cors.expose_headers),
            max_age: encode_duration(cors.max_age),
        }),
    };
    proto::Filter { filter: Some(found) }
}

/// What a resource of the type [`ROUTE`] says.
///
/// # Errors
/// When any of it cannot be understood, or it is not what its name says.
pub(crate) fn decode_route(name: &str, bytes: &[u8]) -> Result<Route, ConversionError> {
    let reading = Reading { resource: name };
    let message = proto::Route::decode(bytes).map_err(|error| reading.fail("resource", error))?;
    let (kind, prefix) = match reading.value("kind", message.kind)? {
        proto::Kind::Http => (RouteKind::Http, "HTTPRoute"),
        proto::Kind::Grpc => (RouteKind::Grpc, "GRPCRoute"),
        proto::Kind::Tls => (RouteKind::Tls, "TLSRoute"),
        proto::Kind::Tcp => (RouteKind::Tcp, "TCPRoute"),
        proto::Kind::Unspecified => return Err(reading.fail("kind", "is missing")),
    };
    let key = format!("{prefix}/{}/{}", message.namespace, message.name);
    if key != name {
        return Err(reading.fail("name", format_args!("makes it {key}, which is not its name")));
    }
    let parents = message.parents.into_iter().enumerate().map(|(i, found)| {
        let target = match found.target {
            Some(parent::Target::Service(key)) => ParentTarget::Service(shared(&key)),
            Some(parent::Target::Gateway(key)) => ParentTarget::Gateway(shared(&key)),
            None => return Err(reading.fail(format_args!("parents[{i}].target"), "is missing")),
        };
        let port = optional_port(reading, format_args!("parents[{i}].port"), found.port)?;
        let consumer = Some(found.consumer).filter(|consumer| !consumer.is_empty());
        Ok(Parent { target, port, consumer: consumer.map(|consumer| shared(&consumer)) })
    });
    let rules =
        message.rules.into_iter().enumerate().map(|(i, rule)| decode_rule(reading, &format!("rules[{i}]"), rule));
    Ok(Route {
        key: key.into(),
        kind,
        namespace: shared(&message.namespace),
        name: message.name.into(),
        created: message.created,
        parents: parents.collect::<Result<_, _>>()?,
        hostnames: hostnames(reading, "hostnames", message.hostnames)?,
        rules: rules.collect::<Result<_, _>>()?,
    })
}

fn optional_port(reading: Reading<'_>, field: impl Display, number: u32) -> Result<Option<u16>, ConversionError> {
    if number == 0 { Ok(None) } else { reading.port(field, number).map(Some) }
}

fn hostnames(reading: Reading<'_>, field: &str, names: Vec<String>) -> Result<Vec<Hostname>, ConversionError> {
    let names = names.into_iter().enumerate().map(|(i, name)| {
        let (rest, is_wildcard) = name.strip_prefix("*.").map_or((&*name, false), |rest| (rest, true));
        if rest.is_empty() || rest.contains('*') || rest.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(reading.fail(format_args!("{field}[{i}]"), "is not the name of a host"));
        }
        Ok(if is_wildcard { Hostname::Below(rest.into()) } else { Hostname::Exact(rest.into()) })
    });
    names.collect()
}

fn duration(
    reading: Reading<'_>,
    field: impl Display,
    time: Option<prost_types::Duration>,
) -> Result<Option<Duration>, ConversionError> {
    let converted = time.map(|time| Duration::try_from(time).map_err(|error| reading.fail(field, error)));
    converted.transpose()
}

fn decode_rule(reading: Reading<'_>, path: &str, rule: proto::Rule) -> Result<Rule, ConversionError> {
    let matches = rule.matches.into_iter().enumerate();
    let matches = matches.map(|(i, found)| decode_match(reading, &format!("{path}.matches[{i}]"), found));
    let backends = rule.backends.into_iter().enumerate().map(|(i, backend)| {
        let path = format!("{path}.backends[{i}]");
        Ok(Backend {
            target: decode_target(reading, &path, backend.target)?,
            weight: backend.weight,
            filters: filters(reading, &path, backend.filters)?,
        })
    });
    let retry = rule.retry.map(|retry| {
        let codes = retry.codes.into_iter().map(|code| status(reading, format_args!("{path}.retry.codes"), code));
        Ok(Retry {
            codes: codes.collect::<Result<_, _>>()?,
            attempts: retry.attempts,
            backoff: duration(reading, format_args!("{path}.retry.backoff"), retry.backoff)?,
        })
    });
    let session = rule.session.map(|session| {
        let path = format!("{path}.session");
        // It goes into headers.
        if HeaderName::from_bytes(session.name.as_bytes()).is_err() {
            return Err(reading.fail(format_args!("{path}.name"), "cannot be the name of a cookie or header"));
        }
        Ok(SessionPersistence {
            name: session.name.into(),
            carrier: match reading.value(format_args!("{path}.carrier"), session.carrier)? {
                proto::Carrier::SessionCookie => SessionCarrier::SessionCookie,
                proto::Carrier::PermanentCookie => SessionCarrier::PermanentCookie,
                proto::Carrier::Header => SessionCarrier::Header,
            },
            absolute_timeout: duration(reading, format_args!("{path}.absolute_timeout"), session.absolute_timeout)?,
            idle_timeout: duration(reading, format_args!("{path}.idle_timeout"), session.idle_timeout)?,
        })
    });
    Ok(Rule {
        name: rule.name.map(Arc::from),
        matches: matches.collect::<Result<_, _>>()?,
        server_names: hostnames(reading, &format!("{path}.server_names"), rule.server_names)?,
        filters: filters(reading, path, rule.filters)?,
        backends: backends.collect::<Result<_, _>>()?,
        timeouts: Timeouts {
            request: duration(reading, format_args!("{path}.request_timeout"), rule.request_timeout)?,
            backend: duration(reading, format_args!("{path}.backend_timeout"), rule.backend_timeout)?,
        },
        retry: retry.transpose()?,
        session: session.transpose()?,
    })
}

fn status(reading: Reading<'_>, field: impl Display, code: u32) -> Result<StatusCode, ConversionError> {
    let status = u16::try_from(code).ok().and_then(|code| StatusCode::from_u16(code).ok());
    status.ok_or_else(|| reading.fail(field, format_args!("{code} is no status")))
}

fn pattern(reading: Reading<'_>, field: impl Display, source: &str) -> Result<Pattern, ConversionError> {
    Pattern::new(source).map_err(|error| reading.fail(field, error))
}

fn decode_match(reading: Reading<'_>, path: &str, found: proto::RequestMatch) -> Result<RequestMatch, ConversionError> {
    let value = |field: &str, value: Option<value_match::Value>| match value {
        Some(value_match::Value::Exact(text)) => Ok(ValueMatch::Exact(text.into())),
        Some(value_match::Value::Regex(source)) => Ok(ValueMatch::Regex(pattern(reading, field, &source)?)),
        None => Err(reading.fail(field, "has no value that is known here")),
    };
    let headers = found.headers.into_iter().enumerate().map(|(i, header)| {
        let field = format!("{path}.headers[{i}]");
        let name = header_name(reading, &field, &header.name)?;
        Ok(HeaderMatch { name, value: value(&field, header.value)? })
    });
    let query = found.query.into_iter().enumerate().map(|(i, query)| {
        Ok(QueryMatch { name: query.name.into(), value: value(&format!("{path}.query[{i}]"), query.value)? })
    });
    let method = Some(found.method).filter(|method| !method.is_empty());
    Ok(RequestMatch {
        headers: headers.collect::<Result<_, _>>()?,
        query: query.collect::<Result<_, _>>()?,
        path: match found.path {
            None => None,
            Some(request_match::Path::Exact(text)) => Some(PathMatch::Exact(text.into())),
            Some(request_match::Path::Prefix(text)) => Some(PathMatch::Prefix(text.into())),
            Some(request_match::Path::Regex(source)) => {
                Some(PathMatch::Regex(pattern(reading, format_args!("{path}.path"), &source)?))
            }
        },
        method: match method {
            None => None,
            Some(method) => {
                let method = Method::from_bytes(method.as_bytes());
                Some(method.map_err(|error| reading.fail(format_args!("{path}.method"), error))?)
            }
        },
    })
}

fn header_name(reading: Reading<'_>, field: &str, name: &str) -> Result<HeaderName, ConversionError> {
    HeaderName::from_bytes(name.as_bytes()).map_err(|error| reading.fail(format_args!("{field}.name"), error))
}

fn decode_target(
    reading: Reading<'_>,
    path: &str,
    target: Option<proto::Target>,
) -> Result<BackendTarget, ConversionError> {
    match target.and_then(|target| target.target) {
        Some(target::Target::Service(service)) => Ok(BackendTarget::Service {
            key: shared(&service.key),
            port: reading.port(format_args!("{path}.target.port"), service.port)?,
        }),
        Some(target::Target::Invalid(reason)) => Ok(BackendTarget::Invalid { reason: reason.into() }),
        None => Err(reading.fail(format_args!("{path}.target"), "is missing")),
    }
}

fn filters(reading: Reading<'_>, path: &str, filters: Vec<proto::Filter>) -> Result<Vec<Filter>, ConversionError> {
    let filters = filters.into_iter().enumerate();
    filters.map(|(i, found)| decode_filter(reading, &format!("{path}.filters[{i}]"), found)).collect()
}

fn decode_filter(reading: Reading<'_>, path: &str, found: proto::Filter) -> Result<Filter, ConversionError> {
    let texts = |list: Vec<String>| list.into_iter().map(Arc::from).collect();
    Ok(match found.filter {
        Some(filter::Filter::RequestHeaders(edits)) => Filter::RequestHeaders(decode_edits(reading, path, edits)?),
        Some(filter::Filter::ResponseHeaders(edits)) => Filter::ResponseHeaders(decode_edits(reading, path, edits)?),
        Some(filter::Filter::Redirect(redirect)) => Filter::Redirect(Redirect {
            scheme: redirect.scheme.map(Arc::from),
            hostname: redirect.hostname.map(Arc::from),
            path: decode_path(reading, path, redirect.path)?,
            port: optional_port(reading, format_args!("{path}.redirect.port"), redirect.port)?,
            status: status(reading, format_args!("{path}.redirect.status"), redirect.status)?,
        }),
        Some(filter::Filter::Rewrite(rewrite)) => Filter::Rewrite(Rewrite {
            hostname: rewrite.hostname.map(Arc::from),
            path: decode_path(reading, path, rewrite.path)?,
        }),
        Some(filter::Filter::Mirror(mirror)) => {
            if mirror.denominator == 0 {
                return Err(reading.fail(format_args!("{path}.mirror.denominator"), "is 0"));
            }
            let backend = decode_target(reading, &format!("{path}.mirror"), mirror.target)?;
            Filter::Mirror(Mirror { backend, share: (mirror.numerator, mirror.denominator) })
        }
        Some(filter::Filter::Cors(cors)) => Filter::Cors(Cors {
            allow_origins: texts(cors.allow_origins),
            allow_credentials: cors.allow_credentials,
            allow_methods: texts(cors.allow_methods),
            allow_headers: texts(cors.allow_headers),
            expose_headers: texts(cors.expose_headers),
            max_age: duration(reading, format_args!("{path}.cors.max_age"), cors.max_age)?.unwrap_or_default(),
        }),
        None => return Err(reading.fail(path, "is of no kind that is known here")),
    })
}

fn decode_path(
    reading: Reading<'_>,
    path: &str,
    found: Option<proto::PathRewrite>,
) -> Result<Option<PathRewrite>, ConversionError> {
    match found.map(|found| found.path) {
        None => Ok(None),
        Some(Some(path_rewrite::Path::Full(text))) => Ok(Some(PathRewrite::Full(text.into()))),
        Some(Some(path_rewrite::Path::Prefix(text))) => Ok(Some(PathRewrite::Prefix(text.into()))),
        Some(None) => Err(reading.fail(format_args!("{path}.path"), "is of no kind that is known here")),
    }
}

fn decode_edits(reading: Reading<'_>, path: &str, edits: proto::HeaderEdits) -> Result<HeaderEdits, ConversionError> {
    let headers = |list: &str, headers: Vec<proto::Header>| {
        let headers = headers.into_iter().enumerate().map(|(i, header)| {
            let field = format!("{path}.{list}[{i}]");
            let name = header_name(reading, &field, &header.name)?;
            let value = HeaderValue::from_bytes(&header.value);
            Ok((name, value.map_err(|error| reading.fail(format_args!("{field}.value"), error))?))
        });
        headers.collect::<Result<Vec<_>, ConversionError>>()
    };
    let remove = edits.remove.iter().map(|name| header_name(reading, path, name));
    Ok(HeaderEdits {
        set: headers("set", edits.set)?,
        add: headers("add", edits.add)?,
        remove: remove.collect::<Result<_, _>>()?,
    })
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use super::*;
    use crate::istio::arbitrary;

    #[test]
    fn every_route_arrives_as_it_was_sent() {
        let mut rng = Rng::with_seed(11);
        for _ in 0..2000 {
            let route = arbitrary::route(&mut rng);
            let decoded = decode_route(&route.key, &encode_route(&route));
            assert_eq!(decoded, Ok(route));
        }
    }

    #[test]
    fn bytes_that_were_changed_on_the_way_are_refused_or_make_another_route_and_nothing_else() {
        let mut rng = Rng::with_seed(12);
        for _ in 0..2000 {
            let route = arbitrary::route(&mut rng);
            let mut bytes = encode_route(&route);
            for _ in 0..=rng.usize(..3) {
                let index = rng.usize(..bytes.len());
                bytes[index] = rng.u8(..);
            }
            bytes.truncate(rng.usize(bytes.len() / 2..=bytes.len()));
            if let Ok(other) = decode_route(&route.key, &bytes) {
                assert_eq!(other.key, route.key);
                assert_eq!(decode_route(&route.key, &encode_route(&other)), Ok(other));
            }
        }
    }

    #[test]
    fn what_is_not_understood_is_refused_with_its_place() {
        let rule = |rule: proto::Rule| proto::Route {
            kind: proto::Kind::Http.into(),
            namespace: "a".to_owned(),
            name: "r".to_owned(),
            rules: vec![rule],
            ..proto::Route::default()
        };
        let matching = |found: proto::RequestMatch| rule(proto::Rule { matches: vec![found], ..Default::default() });
        let filtering = |filter: Option<filter::Filter>| {
            rule(proto::Rule { filters: vec![proto::Filter { filter }], ..Default::default() })
        };
        let cases = [
            (proto::Route { kind: 9, ..rule(proto::Rule::default()) }, "kind"),
            (proto::Route { kind: 0, ..rule(proto::Rule::default()) }, "kind"),
            (proto::Route { name: "s".to_owned(), ..rule(proto::Rule::default()) }, "name"),
            (
                proto::Route { parents: vec![proto::Parent::default()], ..rule(proto::Rule::default()) },
                "parents[0].target",
            ),
            (
                matching(proto::RequestMatch { method: "a b".to_owned(), ..Default::default() }),
                "rules[0].matches[0].method",
            ),
            (
                matching(proto::RequestMatch {
                    path: Some(request_match::Path::Regex("(".to_owned())),
                    ..Default::default()
                }),
                "rules[0].matches[0].path",
            ),
            (
                matching(proto::RequestMatch {
                    headers: vec![proto::ValueMatch { name: "a".to_owned(), value: None }],
                    ..Default::default()
                }),
                "rules[0].matches[0].headers[0]",
            ),
            (filtering(None), "rules[0].filters[0]"),
            (
                filtering(Some(filter::Filter::Mirror(proto::Mirror::default()))),
                "rules[0].filters[0].mirror.denominator",
            ),
            (
                filtering(Some(filter::Filter::RequestHeaders(proto::HeaderEdits {
                    set: vec![proto::Header { name: "a".to_owned(), value: b"x\r\ny".to_vec() }],
                    ..Default::default()
                }))),
                "rules[0].filters[0].set[0].value",
            ),
            (
                rule(proto::Rule { backends: vec![proto::Backend::default()], ..Default::default() }),
                "rules[0].backends[0].target",
            ),
        ];
        for (message, field) in cases {
            let error = decode_route("HTTPRoute/a/r", &message.encode_to_vec()).expect_err(field);
            assert_eq!(error.field, field);
        }
    }
}
