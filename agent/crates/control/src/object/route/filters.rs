//! Filters.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http::header::{HeaderName, HeaderValue};
use weft_route::{Cors, Filter, HeaderEdits, PathMatch, PathRewrite, Redirect, RequestMatch, Rewrite};

use super::FilterObject;
use super::rules::Reader;
use super::spec::{CorsSpec, FilterSpec, HeaderEditsSpec, HeaderSpec, MirrorSpec, PathRewriteSpec, RedirectSpec};
use crate::object::metadata::{excerpt, is_dns_subdomain};

/// Headers that say where a message ends: whoever could change them could make two of one.
const FRAMING: [&str; 4] = ["connection", "content-length", "transfer-encoding", "upgrade"];

impl Reader<'_> {
    /// The filters at `path`. `matches` are the conditions of the rule that they belong to; a backend has none.
    pub(super) fn filters(&mut self, specs: &[FilterSpec], path: &str, matches: &[RequestMatch]) -> Vec<FilterObject> {
        let mut found = Vec::with_capacity(specs.len());
        for (i, spec) in specs.iter().enumerate() {
            let field = format!("{path}.filters[{i}]");
            let is_again = specs[..i].iter().any(|other| other.kind == spec.kind);
            if is_again && !matches!(&*spec.kind, "RequestMirror" | "ExtensionRef") {
                let message = format!("is the second {} of its kind", excerpt(&spec.kind));
                self.incompatible(&field, message, "put both into one");
                continue;
            }
            found.extend(self.filter(spec, &field, matches));
        }
        let has = |kind| specs.iter().any(|spec| spec.kind == kind);
        if has("RequestRedirect") && has("URLRewrite") {
            let message = "has a redirection and a rewrite, of which only one could be done";
            self.incompatible(format!("{path}.filters"), message, "keep one of them");
        }
        found
    }

    fn filter(&mut self, spec: &FilterSpec, field: &str, matches: &[RequestMatch]) -> Option<FilterObject> {
        let missing = |reader: &mut Self, name: &str| {
            reader.break_rule(format!("{field}.{name}"), "is missing, and the filter's type asks for it", "write it");
            None
        };
        let filter = match &*spec.kind {
            "RequestHeaderModifier" => match &spec.request_header_modifier {
                Some(edits) => Filter::RequestHeaders(self.edits(edits, &format!("{field}.requestHeaderModifier"))),
                None => return missing(self, "requestHeaderModifier"),
            },
            "ResponseHeaderModifier" => match &spec.response_header_modifier {
                Some(edits) => Filter::ResponseHeaders(self.edits(edits, &format!("{field}.responseHeaderModifier"))),
                None => return missing(self, "responseHeaderModifier"),
            },
            "RequestMirror" => match &spec.request_mirror {
                Some(mirror) => return Some(self.mirror(mirror, &format!("{field}.requestMirror"))),
                None => return missing(self, "requestMirror"),
            },
            "RequestRedirect" => match &spec.request_redirect {
                Some(redirect) => self.redirect(redirect, &format!("{field}.requestRedirect"), matches)?,
                None => return missing(self, "requestRedirect"),
            },
            "URLRewrite" => match &spec.url_rewrite {
                Some(rewrite) => {
                    let field = format!("{field}.urlRewrite");
                    Filter::Rewrite(Rewrite {
                        hostname: self.host(rewrite.hostname.as_deref(), &field),
                        path: rewrite.path.as_ref().and_then(|path| self.path_rewrite(path, &field, matches)),
                    })
                }
                None => return missing(self, "urlRewrite"),
            },
            "CORS" => match &spec.cors {
                Some(cors) => self.cors(cors, &format!("{field}.cors"))?,
                None => return missing(self, "cors"),
            },
            "" => {
                self.break_rule(format!("{field}.type"), "is missing", "say what kind of filter it is");
                return None;
            }
            other => {
                let message = format!("'{}' is not served", excerpt(other));
                self.break_rule(format!("{field}.type"), message, "remove the filter");
                return None;
            }
        };
        Some(FilterObject::Plain(filter))
    }

    fn edits(&mut self, spec: &HeaderEditsSpec, field: &str) -> HeaderEdits {
        let mut edits = HeaderEdits::default();
        let lists = [("set", &spec.set, &mut edits.set), ("add", &spec.add, &mut edits.add)];
        for (list, specs, found) in lists {
            for (i, HeaderSpec { name, value }) in specs.iter().enumerate() {
                let field = format!("{field}.{list}[{i}]");
                let Some(name) = self.header(name, &format!("{field}.name")) else { continue };
                match HeaderValue::from_str(value) {
                    Ok(value) => found.push((name, value)),
                    Err(_) => {
                        let message = format!("'{}' cannot be the value of a header", excerpt(value));
                        self.break_rule(format!("{field}.value"), message, "write visible characters");
                    }
                }
            }
        }
        for (i, name) in spec.remove.iter().enumerate() {
            edits.remove.extend(self.header(name, &format!("{field}.remove[{i}]")));
        }
        edits
    }

    fn header(&mut self, name: &str, field: &str) -> Option<HeaderName> {
        let Ok(found) = HeaderName::from_bytes(name.as_bytes()) else {
            self.break_rule(field, format!("'{}' is not the name of a header", excerpt(name)), "correct the name");
            return None;
        };
        if FRAMING.contains(&found.as_str()) {
            self.break_rule(field, format!("'{found}' belongs to the connection, not to routes"), "remove it");
            return None;
        }
        Some(found)
    }

    fn mirror(&mut self, spec: &MirrorSpec, field: &str) -> FilterObject {
        let backend = self.reference(&spec.backend_ref, &format!("{field}.backendRef"));
        let share = match (spec.percent, &spec.fraction) {
            (Some(_), Some(_)) => {
                self.break_rule(field, "has both a percentage and a fraction", "keep one of them");
                (0, 1)
            }
            (Some(percent), None) => match u32::try_from(percent).ok().filter(|percent| *percent <= 100) {
                Some(percent) => (percent, 100),
                None => {
                    self.break_rule(format!("{field}.percent"), "is out of range", "write a number from 0 to 100");
                    (0, 1)
                }
            },
            (None, Some(fraction)) => {
                let numerator = u32::try_from(fraction.numerator).ok();
                let denominator = u32::try_from(fraction.denominator.unwrap_or(100)).ok();
                match numerator.zip(denominator).filter(|(n, d)| *d > 0 && n <= d) {
                    Some(share) => share,
                    None => {
                        let hint = "write a numerator that is at most the denominator";
                        self.break_rule(format!("{field}.fraction"), "is no part of the requests", hint);
                        (0, 1)
                    }
                }
            }
            (None, None) => (1, 1),
        };
        FilterObject::Mirror { backend, share }
    }

    fn redirect(&mut self, spec: &RedirectSpec, field: &str, matches: &[RequestMatch]) -> Option<Filter> {
        let scheme = match spec.scheme.as_deref() {
            None => None,
            Some(scheme @ ("http" | "https")) => Some(Arc::from(scheme)),
            Some(other) => {
                let message = format!("'{}' is not a scheme", excerpt(other));
                self.break_rule(format!("{field}.scheme"), message, "write http or https");
                return None;
            }
        };
        let port = match spec.port.map(|port| u16::try_from(port).ok().filter(|port| *port != 0)) {
            None => None,
            Some(Some(port)) => Some(port),
            Some(None) => {
                self.break_rule(format!("{field}.port"), "is not a port", "write a number from 1 to 65535");
                return None;
            }
        };
        let status = match spec.status_code.unwrap_or(302) {
            301 => StatusCode::MOVED_PERMANENTLY,
            302 => StatusCode::FOUND,
            303 => StatusCode::SEE_OTHER,
            307 => StatusCode::TEMPORARY_REDIRECT,
            308 => StatusCode::PERMANENT_REDIRECT,
            other => {
                let message = format!("{other} is no redirection");
                self.break_rule(format!("{field}.statusCode"), message, "write 301, 302, 303, 307 or 308");
                return None;
            }
        };
        let hostname = self.host(spec.hostname.as_deref(), field);
        let path = spec.path.as_ref().and_then(|path| self.path_rewrite(path, field, matches));
        Some(Filter::Redirect(Redirect { scheme, hostname, path, port, status }))
    }

    fn host(&mut self, name: Option<&str>, field: &str) -> Option<Arc<str>> {
        let lower = name?.to_ascii_lowercase();
        if !is_dns_subdomain(&lower) {
            let message = format!("'{}' is not the name of a host", excerpt(&lower));
            self.break_rule(format!("{field}.hostname"), message, "write a DNS name without '*'");
            return None;
        }
        Some(lower.into())
    }

    fn path_rewrite(&mut self, spec: &PathRewriteSpec, field: &str, matches: &[RequestMatch]) -> Option<PathRewrite> {
        let field = format!("{field}.path");
        let is_path = |path: &str| path.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#".contains(&byte));
        match (&*spec.kind, spec.replace_full_path.as_deref(), spec.replace_prefix_match.as_deref()) {
            ("ReplaceFullPath", Some(path), None) if is_path(path) => Some(PathRewrite::Full(path.into())),
            ("ReplacePrefixMatch", None, Some(prefix)) if is_path(prefix) => {
                let is_prefix = |found: &RequestMatch| matches!(found.path, Some(PathMatch::Prefix(_)));
                if matches.is_empty() || !matches.iter().all(is_prefix) {
                    let message = "replaces a prefix, and not every match of the rule is one by prefix";
                    self.break_rule(field, message, "match by PathPrefix, or replace the full path");
                    return None;
                }
                Some(PathRewrite::Prefix(prefix.into()))
            }
            ("ReplaceFullPath" | "ReplacePrefixMatch", ..) => {
                self.break_rule(field, "does not have the one path that its type asks for", "write it");
                None
            }
            (other, ..) => {
                let message = format!("'{}' is not known", excerpt(other));
                self.break_rule(format!("{field}.type"), message, "write ReplaceFullPath or ReplacePrefixMatch");
                None
            }
        }
    }

    fn cors(&mut self, spec: &CorsSpec, field: &str) -> Option<Filter> {
        for (i, origin) in spec.allow_origins.iter().enumerate() {
            let is_alone = origin == "*" && spec.allow_origins.len() == 1;
            if !is_alone && !is_origin(origin) {
                let message = format!("'{}' is not an origin", excerpt(origin));
                let hint = "write scheme://host or scheme://host:port, or '*' alone";
                self.break_rule(format!("{field}.allowOrigins[{i}]"), message, hint);
                return None;
            }
        }
        let lists = [
            ("allowMethods", &spec.allow_methods),
            ("allowHeaders", &spec.allow_headers),
            ("exposeHeaders", &spec.expose_headers),
        ];
        for (list, names) in lists {
            let is_word = |name: &String| HeaderName::from_bytes(name.as_bytes()).is_ok();
            let bad = names.iter().find(|name| !is_word(name) || (*name == "*" && names.len() > 1));
            if let Some(bad) = bad {
                let message = format!("'{}' is not a name", excerpt(bad));
                self.break_rule(format!("{field}.{list}"), message, "write names, or '*' alone");
                return None;
            }
        }
        let Ok(max_age) = u64::try_from(spec.max_age.unwrap_or(5)) else {
            self.break_rule(format!("{field}.maxAge"), "is negative", "write a number of seconds");
            return None;
        };
        let texts = |list: &[String]| list.iter().map(|text| Arc::from(&**text)).collect();
        Some(Filter::Cors(Cors {
            allow_origins: texts(&spec.allow_origins),
            allow_credentials: spec.allow_credentials,
            allow_methods: texts(&spec.allow_methods),
            allow_headers: texts(&spec.allow_headers),
            expose_headers: texts(&spec.expose_headers),
            max_age: Duration::from_secs(max_age),
        }))
    }
}

/// `scheme://host[:port]`, in which the host may begin with `*.`, or be `*`.
fn is_origin(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else { return false };
    let is_scheme = scheme.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    let (host, is_port) = match rest.rsplit_once(':') {
        Some((host, port)) => (host, port.parse::<u16>().is_ok_and(|port| port != 0) || port == "*"),
        None => (rest, true),
    };
    let name = host.strip_prefix("*.").unwrap_or(host);
    is_scheme && is_port && (host == "*" || is_dns_subdomain(&name.to_ascii_lowercase()))
}
