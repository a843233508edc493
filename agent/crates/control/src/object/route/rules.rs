//! Rules, and what of them cannot be done.

use std::hash::Hasher;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http::header::HeaderName;
use weft_route::{Retry, SessionCarrier, SessionPersistence, Timeouts};

use super::matches;
use super::spec::{
    BackendRefSpec, GrpcRuleSpec, HttpRuleSpec, ReferenceSpec, RetrySpec, SessionSpec, StreamRuleSpec, TimeoutsSpec,
};
use super::{BackendRef, Fault, RuleManifest, RuleObject};
use crate::object::Interner;
use crate::object::duration::duration;
use crate::object::metadata::{excerpt, is_dns_label, is_dns_subdomain};
use crate::problem::Notes;

/// Largest weight.
const MAX_WEIGHT: i32 = 1_000_000;
/// Most further attempts.
const MAX_ATTEMPTS: i64 = 100;

/// Reads one rule.
pub(crate) struct Reader<'a> {
    /// Of the route.
    key: &'a str,
    index: usize,
    pub interner: &'a mut Interner,
    notes: &'a mut Notes,
    fault: Option<Fault>,
    /// Faults are those of a backend, not of the rule.
    backend_fault: Option<Option<Arc<str>>>,
}

impl<'a> Reader<'a> {
    pub fn new(key: &'a str, index: usize, interner: &'a mut Interner, notes: &'a mut Notes) -> Self {
        Self { key, index, interner, notes, fault: None, backend_fault: None }
    }

    /// `spec.rules[index]`.
    pub fn path(&self) -> String {
        format!("spec.rules[{}]", self.index)
    }

    pub fn into_fault(self) -> Option<Fault> {
        self.fault
    }

    /// Notes something that cannot be done: requests of the rule, or of the backend that is being read, are answered with
    /// 500.
    pub fn break_rule(&mut self, field: impl Into<String>, message: impl Into<String>, suggestion: &str) {
        self.note(false, "UnsupportedValue", field.into(), message.into(), suggestion);
    }

    /// Notes filters that do not go together.
    pub fn incompatible(&mut self, field: impl Into<String>, message: impl Into<String>, suggestion: &str) {
        self.note(false, "IncompatibleFilters", field.into(), message.into(), suggestion);
    }

    /// Notes a condition that cannot be understood: the rule is left out.
    pub fn drop_rule(&mut self, field: impl Into<String>, message: impl Into<String>, suggestion: &str) {
        self.note(true, "UnsupportedValue", field.into(), message.into(), suggestion);
    }

    /// Notes something that has no effect.
    pub fn warn(&mut self, field: impl Into<String>, message: impl Into<String>, suggestion: &str) {
        self.notes.warning(field, message, suggestion);
    }

    fn note(&mut self, is_dropped: bool, reason: &'static str, field: String, message: String, suggestion: &str) {
        let effect = match is_dropped {
            true => "the rule is left out",
            false => "its requests are answered with 500",
        };
        let said: Arc<str> = format!("{field} {message}").into();
        self.notes.error(field, format!("{message}: {effect}"), suggestion);
        match &mut self.backend_fault {
            Some(fault) if !is_dropped => {
                fault.get_or_insert(said);
            }
            _ if self.fault.as_ref().is_none_or(|fault| is_dropped && !fault.is_dropped) => {
                self.fault = Some(Fault { is_dropped, reason, message: said });
            }
            _ => {}
        }
    }

    fn rule_name(&mut self, name: Option<&str>) -> Option<Arc<str>> {
        let name = name?;
        if !is_dns_subdomain(name) {
            let field = format!("{}.name", self.path());
            self.warn(field, format!("'{}' is not a name, and is left out", excerpt(name)), "use lower-case letters");
            return None;
        }
        Some(self.interner.text(name))
    }

    fn duration(&mut self, text: Option<&str>, field: &str) -> Option<Duration> {
        let text = text?;
        let found = duration(text);
        if found.is_none() {
            let message = format!("'{}' is not a duration", excerpt(text));
            self.break_rule(field, message, "write a number with a unit, as in 500ms, 10s or 1h30m");
        }
        found
    }

    fn timeouts(&mut self, spec: Option<&TimeoutsSpec>) -> Timeouts {
        let Some(spec) = spec else { return Timeouts::default() };
        let field = format!("{}.timeouts", self.path());
        // Zero switches a time-out off.
        let some = |found: Option<Duration>| found.filter(|time| !time.is_zero());
        let request = some(self.duration(spec.request.as_deref(), &format!("{field}.request")));
        let backend = some(self.duration(spec.backend_request.as_deref(), &format!("{field}.backendRequest")));
        if let (Some(all), Some(each)) = (request, backend)
            && each > all
        {
            let message = "is longer than the time-out of the whole request";
            self.break_rule(format!("{field}.backendRequest"), message, "write at most what request says");
        }
        Timeouts { request, backend }
    }

    fn retry(&mut self, spec: Option<&RetrySpec>) -> Option<Retry> {
        let spec = spec?;
        let field = format!("{}.retry", self.path());
        let mut codes = Vec::with_capacity(spec.codes.len());
        for (i, code) in spec.codes.iter().enumerate() {
            match StatusCode::from_u16(*code).ok().filter(|_| matches!(code, 400..=599)) {
                Some(code) => codes.push(code),
                None => {
                    let message = format!("{code} is not the status of a failure");
                    self.break_rule(format!("{field}.codes[{i}]"), message, "write a number from 400 to 599");
                }
            }
        }
        let attempts = match spec.attempts {
            None => 2,
            Some(attempts @ 0..=MAX_ATTEMPTS) => u32::try_from(attempts).unwrap_or_default(),
            Some(other) => {
                let message = format!("{other} is out of range");
                self.break_rule(format!("{field}.attempts"), message, "write a number from 0 to 100");
                0
            }
        };
        let backoff = self.duration(spec.backoff.as_deref(), &format!("{field}.backoff"));
        Some(Retry { codes, attempts, backoff })
    }

    fn session(&mut self, spec: Option<&SessionSpec>) -> Option<SessionPersistence> {
        let spec = spec?;
        let field = format!("{}.sessionPersistence", self.path());
        let absolute_timeout = self.duration(spec.absolute_timeout.as_deref(), &format!("{field}.absoluteTimeout"));
        let idle_timeout = self.duration(spec.idle_timeout.as_deref(), &format!("{field}.idleTimeout"));
        let lifetime = spec.cookie_config.as_ref().and_then(|cookie| cookie.lifetime_type.as_deref());
        let carrier = match (spec.kind.as_deref().unwrap_or("Cookie"), lifetime) {
            ("Cookie", None | Some("Session")) => SessionCarrier::SessionCookie,
            ("Cookie", Some("Permanent")) => {
                if spec.absolute_timeout.is_none() {
                    let message = "is missing, and a permanent cookie needs it";
                    self.break_rule(format!("{field}.absoluteTimeout"), message, "say how long the cookie lives");
                }
                SessionCarrier::PermanentCookie
            }
            ("Cookie", Some(other)) => {
                let message = format!("'{}' is not known", excerpt(other));
                let place = format!("{field}.cookieConfig.lifetimeType");
                self.break_rule(place, message, "write Session or Permanent");
                SessionCarrier::SessionCookie
            }
            ("Header", _) => SessionCarrier::Header,
            (other, _) => {
                let message = format!("'{}' is not known", excerpt(other));
                self.break_rule(format!("{field}.type"), message, "write Cookie or Header");
                SessionCarrier::SessionCookie
            }
        };
        let name = match spec.session_name.as_deref() {
            Some(name) => {
                // Names of cookies and headers are both tokens of RFC 9110.
                if HeaderName::from_bytes(name.as_bytes()).is_err() {
                    let message = format!("'{}' cannot be the name of a cookie or header", excerpt(name));
                    self.break_rule(format!("{field}.sessionName"), message, "use letters, digits, '-' and '_'");
                }
                name.into()
            }
            None => self.session_name(),
        };
        Some(SessionPersistence { name, carrier, absolute_timeout, idle_timeout })
    }

    /// A name that no other rule has and that stays when the controller is another: sessions of two rules must not meet.
    fn session_name(&self) -> Arc<str> {
        let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
        hasher.write(self.key.as_bytes());
        hasher.write(&[0]);
        hasher.write(&(self.index as u64).to_be_bytes());
        format!("weft-session-{:016x}", hasher.finish()).into()
    }

    /// A reference to a backend; what it lacks makes it one that answers with 500.
    pub fn reference(&mut self, spec: &ReferenceSpec, field: &str) -> BackendRef {
        let group = spec.group.as_deref().unwrap_or_default();
        let kind = spec.kind.as_deref().unwrap_or("Service");
        let port = spec.port.map(|port| u16::try_from(port).ok().filter(|port| *port != 0));
        if !is_dns_subdomain(&spec.name) {
            let message = format!("'{}' is not a name", excerpt(&spec.name));
            self.break_rule(format!("{field}.name"), message, "name a Service");
        }
        if spec.namespace.as_deref().is_some_and(|namespace| !is_dns_label(namespace)) {
            self.break_rule(format!("{field}.namespace"), "is not the name of a namespace", "correct it");
        }
        match port {
            Some(None) => {
                self.break_rule(format!("{field}.port"), "is not a port", "write a number from 1 to 65535");
            }
            None if (group, kind) == ("", "Service") => {
                self.break_rule(format!("{field}.port"), "is missing", "write the port of the Service");
            }
            _ => {}
        }
        BackendRef {
            group: self.interner.text(group),
            kind: self.interner.text(kind),
            namespace: spec.namespace.as_deref().map(|namespace| self.interner.text(namespace)),
            name: self.interner.text(&spec.name),
            port: port.flatten(),
            weight: 1,
            filters: Vec::new(),
            fault: None,
        }
    }

    fn backends(&mut self, specs: &[BackendRefSpec]) -> Vec<BackendRef> {
        let path = self.path();
        let read = |(i, spec): (usize, &BackendRefSpec)| {
            let field = format!("{path}.backendRefs[{i}]");
            self.backend_fault = Some(None);
            let reference = ReferenceSpec {
                group: spec.group.clone(),
                kind: spec.kind.clone(),
                namespace: spec.namespace.clone(),
                name: spec.name.clone(),
                port: spec.port,
            };
            let mut backend = self.reference(&reference, &field);
            let weight = spec.weight.unwrap_or(1);
            if !(0..=MAX_WEIGHT).contains(&weight) {
                self.break_rule(format!("{field}.weight"), "is out of range", "write a number from 0 to 1000000");
            }
            backend.weight = u32::try_from(weight.min(MAX_WEIGHT)).unwrap_or(1);
            backend.filters = self.filters(&spec.filters, &field, &[]);
            backend.fault = self.backend_fault.take().flatten();
            backend
        };
        specs.iter().enumerate().map(read).collect()
    }
}

impl RuleManifest for HttpRuleSpec {
    fn read(&self, reader: &mut Reader<'_>) -> RuleObject {
        let path = reader.path();
        let matches = matches::http(&self.matches, reader);
        RuleObject {
            name: reader.rule_name(self.name.as_deref()),
            filters: reader.filters(&self.filters, &path, &matches),
            backends: reader.backends(&self.backend_refs),
            timeouts: reader.timeouts(self.timeouts.as_ref()),
            retry: reader.retry(self.retry.as_ref()),
            session: reader.session(self.session_persistence.as_ref()),
            matches,
            fault: None,
        }
    }
}

impl RuleManifest for GrpcRuleSpec {
    fn read(&self, reader: &mut Reader<'_>) -> RuleObject {
        let path = reader.path();
        let matches = matches::grpc(&self.matches, reader);
        RuleObject {
            name: reader.rule_name(self.name.as_deref()),
            filters: reader.filters(&self.filters, &path, &matches),
            backends: reader.backends(&self.backend_refs),
            session: reader.session(self.session_persistence.as_ref()),
            matches,
            ..RuleObject::default()
        }
    }
}

impl RuleManifest for StreamRuleSpec {
    fn read(&self, reader: &mut Reader<'_>) -> RuleObject {
        let backends = reader.backends(&self.backend_refs);
        for (i, backend) in self.backend_refs.iter().enumerate() {
            if !backend.filters.is_empty() {
                let field = format!("{}.backendRefs[{i}].filters", reader.path());
                reader.break_rule(field, "cannot be applied to bytes", "remove them");
            }
        }
        RuleObject { name: reader.rule_name(self.name.as_deref()), backends, ..RuleObject::default() }
    }
}

/// FNV-1a: the same in every process.
struct Fnv(u64);

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
