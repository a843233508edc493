//! Conditions on requests.

use http::Method;
use http::header::HeaderName;
use weft_route::{HeaderMatch, PathMatch, Pattern, QueryMatch, RequestMatch, ValueMatch};

use super::rules::Reader;
use super::spec::{GrpcMatchSpec, GrpcMethodSpec, HttpMatchSpec, PathSpec, ValueSpec};
use crate::object::metadata::excerpt;

/// What matches one element of a path.
const ELEMENT: &str = "[^/]+";

/// The conditions of an HTTP rule. One without any takes every request, by the prefix `/` as the API's defaults say.
pub(super) fn http(specs: &[HttpMatchSpec], reader: &mut Reader<'_>) -> Vec<RequestMatch> {
    let everything = [HttpMatchSpec::default()];
    let specs = if specs.is_empty() { &everything[..] } else { specs };
    let mut matches = Vec::with_capacity(specs.len());
    for (i, spec) in specs.iter().enumerate() {
        let field = format!("{}.matches[{i}]", reader.path());
        let method = spec.method.as_deref().and_then(|method| {
            let known = Method::from_bytes(method.as_bytes()).ok().filter(|_| is_method(method));
            if known.is_none() {
                let message = format!("'{}' is not a method", excerpt(method));
                reader.drop_rule(format!("{field}.method"), message, "write a method in capitals, as in GET");
            }
            known
        });
        matches.push(RequestMatch {
            path: path(spec.path.as_ref(), &field, reader),
            method,
            headers: headers(&spec.headers, &field, reader),
            query: query(&spec.query_params, &field, reader),
        });
    }
    matches
}

/// The conditions of a gRPC rule: service and method are the two elements of the path.
pub(super) fn grpc(specs: &[GrpcMatchSpec], reader: &mut Reader<'_>) -> Vec<RequestMatch> {
    let mut matches = Vec::with_capacity(specs.len());
    for (i, spec) in specs.iter().enumerate() {
        let field = format!("{}.matches[{i}]", reader.path());
        matches.push(RequestMatch {
            path: spec.method.as_ref().and_then(|method| grpc_path(method, &field, reader)),
            headers: headers(&spec.headers, &field, reader),
            ..RequestMatch::default()
        });
    }
    matches
}

/// The methods that the API lets a rule name.
fn is_method(method: &str) -> bool {
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"].contains(&method)
}

fn path(spec: Option<&PathSpec>, field: &str, reader: &mut Reader<'_>) -> Option<PathMatch> {
    let kind = spec.and_then(|spec| spec.kind.as_deref()).unwrap_or("PathPrefix");
    let value = spec.and_then(|spec| spec.value.as_deref()).unwrap_or("/");
    let field = format!("{field}.path");
    match kind {
        "Exact" | "PathPrefix" => {
            if let Err(reason) = check_path(value) {
                let message = format!("'{}' {reason}", excerpt(value));
                reader.drop_rule(format!("{field}.value"), message, "write a path as requests have it");
                return None;
            }
            if kind == "Exact" {
                return Some(PathMatch::Exact(value.into()));
            }
            let trimmed = value.trim_end_matches('/');
            Some(PathMatch::Prefix(if trimmed.is_empty() { "/" } else { trimmed }.into()))
        }
        "RegularExpression" => pattern(value, format!("{field}.value"), reader).map(PathMatch::Regex),
        other => {
            let message = format!("'{}' is not a kind of match", excerpt(other));
            reader.drop_rule(format!("{field}.type"), message, "write Exact, PathPrefix or RegularExpression");
            None
        }
    }
}

/// Whether a path may be compared with those of requests, which are in their normal form.
fn check_path(path: &str) -> Result<(), &'static str> {
    let lower = path.to_ascii_lowercase();
    if !path.starts_with('/') {
        return Err("does not begin with '/'");
    }
    if path.len() > 1024 {
        return Err("is longer than 1024 bytes");
    }
    if ["//", "/./", "/../", "%2f", "#", "?"].iter().any(|part| lower.contains(part))
        || path.ends_with("/..")
        || path.ends_with("/.")
    {
        return Err("is not in normal form, so that no request could have it");
    }
    if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("has characters that a path cannot have");
    }
    Ok(())
}

fn pattern(source: &str, field: String, reader: &mut Reader<'_>) -> Option<Pattern> {
    match Pattern::new(source) {
        Ok(pattern) => Some(pattern),
        Err(error) => {
            // The parser draws the pattern over several lines.
            let reason = error.lines().last().unwrap_or_default().trim().to_owned();
            let message = format!("'{}' is not a regular expression ({reason})", excerpt(source));
            reader.drop_rule(field, message, "write it in RE2's syntax");
            None
        }
    }
}

fn value(spec: &ValueSpec, field: &str, reader: &mut Reader<'_>) -> Option<ValueMatch> {
    match spec.kind.as_deref() {
        None | Some("Exact") => Some(ValueMatch::Exact(spec.value.as_str().into())),
        Some("RegularExpression") => pattern(&spec.value, format!("{field}.value"), reader).map(ValueMatch::Regex),
        Some(other) => {
            let message = format!("'{}' is not a kind of match", excerpt(other));
            reader.drop_rule(format!("{field}.type"), message, "write Exact or RegularExpression");
            None
        }
    }
}

fn headers(specs: &[ValueSpec], field: &str, reader: &mut Reader<'_>) -> Vec<HeaderMatch> {
    let mut found: Vec<HeaderMatch> = Vec::with_capacity(specs.len());
    for (i, spec) in specs.iter().enumerate() {
        let field = format!("{field}.headers[{i}]");
        let Ok(name) = HeaderName::from_bytes(spec.name.as_bytes()) else {
            let message = format!("'{}' is not the name of a header", excerpt(&spec.name));
            reader.drop_rule(format!("{field}.name"), message, "correct the name");
            continue;
        };
        if found.iter().any(|other| other.name == name) {
            let message = format!("'{name}' is there before: this one has no effect");
            reader.warn(format!("{field}.name"), message, "write one condition for each header");
            continue;
        }
        if let Some(value) = value(spec, &field, reader) {
            found.push(HeaderMatch { name, value });
        }
    }
    found
}

fn query(specs: &[ValueSpec], field: &str, reader: &mut Reader<'_>) -> Vec<QueryMatch> {
    let mut found: Vec<QueryMatch> = Vec::with_capacity(specs.len());
    for (i, spec) in specs.iter().enumerate() {
        let field = format!("{field}.queryParams[{i}]");
        if spec.name.is_empty() {
            reader.drop_rule(format!("{field}.name"), "is missing", "name the parameter");
            continue;
        }
        if found.iter().any(|other| *other.name == *spec.name) {
            let message = format!("'{}' is there before: this one has no effect", excerpt(&spec.name));
            reader.warn(format!("{field}.name"), message, "write one condition for each parameter");
            continue;
        }
        if let Some(value) = value(spec, &field, reader) {
            found.push(QueryMatch { name: spec.name.as_str().into(), value });
        }
    }
    found
}

fn grpc_path(spec: &GrpcMethodSpec, field: &str, reader: &mut Reader<'_>) -> Option<PathMatch> {
    let field = format!("{field}.method");
    let filled = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let (service, method) = (filled(&spec.service), filled(&spec.method));
    match spec.kind.as_deref() {
        None | Some("Exact") => {
            let is_word = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.".contains(&byte));
            for (name, text) in [("service", &service), ("method", &method)] {
                if let Some(text) = text.as_ref().filter(|text| !is_word(text)) {
                    let message = format!("'{}' is not a name of gRPC", excerpt(text));
                    reader.drop_rule(format!("{field}.{name}"), message, "write it as in the .proto file");
                    return None;
                }
            }
            match (service, method) {
                (Some(service), Some(method)) => Some(PathMatch::Exact(format!("/{service}/{method}").into())),
                (Some(service), None) => Some(PathMatch::Prefix(format!("/{service}").into())),
                (None, Some(method)) => {
                    let method = method.replace('.', "\\.");
                    pattern(&format!("/{ELEMENT}/{method}"), field, reader).map(PathMatch::Regex)
                }
                (None, None) => {
                    reader.drop_rule(field, "has neither a service nor a method", "write one of them");
                    None
                }
            }
        }
        Some("RegularExpression") => {
            // Each has to be right by itself: `a)/(b` is not.
            let mut part = |text: Option<String>, name: &str| match text {
                None => Some(ELEMENT.to_owned()),
                Some(text) => {
                    pattern(&text, format!("{field}.{name}"), reader).map(|pattern| format!("(?:{})", pattern.source()))
                }
            };
            let (service, method) = (part(service, "service")?, part(method, "method")?);
            pattern(&format!("/{service}/{method}"), field, reader).map(PathMatch::Regex)
        }
        Some(other) => {
            let message = format!("'{}' is not a kind of match", excerpt(other));
            reader.drop_rule(format!("{field}.type"), message, "write Exact or RegularExpression");
            None
        }
    }
}
