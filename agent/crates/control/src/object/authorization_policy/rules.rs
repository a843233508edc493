//! Rules, at layer 4.
//!
//! What cannot be judged here, be it a field of layer 7, a field that is not known or a value that is malformed, never
//! makes a policy less strict: it drops the rule of an ALLOW policy, and only the condition of a DENY policy.

use weft_model::{Action, Clause, Match, Rule};

use super::spec::{ConditionSpec, OperationSpec, RuleSpec, SourceSpec};
use super::values::{self, Mistake};
use crate::problem::Notes;

/// Conditions of `when` that need the contents of requests.
const LAYER_7_KEYS: [&str; 7] = [
    "remote.ip",
    "request.auth.audiences",
    "request.auth.presenter",
    "request.auth.principal",
    "connection.sni",
    "request.headers[",
    "request.auth.claims[",
];

/// Reads the rules of one policy.
pub(super) struct Rules<'a> {
    pub action: Action,
    pub namespace: &'a str,
    pub notes: &'a mut Notes,
    /// Something in the current rule cannot be judged.
    is_incomplete: bool,
}

impl<'a> Rules<'a> {
    pub fn new(action: Action, namespace: &'a str, notes: &'a mut Notes) -> Self {
        Self { action, namespace, notes, is_incomplete: false }
    }

    /// Reads `spec.rules[index]`. `None` is the rule of an ALLOW policy that is dropped.
    pub fn rule(&mut self, index: usize, spec: &RuleSpec) -> Option<Rule> {
        let path = format!("spec.rules[{index}]");
        // Fields that nobody knows were noted when the manifest was read.
        let within = format!("{path}.");
        self.is_incomplete = self.notes.fields().any(|field| field.starts_with(&within));
        let mut clauses = Vec::new();
        if let Some(from) = &spec.from {
            clauses.extend(self.clause(format!("{path}.from"), from.len(), |rules, i, path| {
                let path = format!("{path}.source");
                match &from[i].source {
                    Some(source) => rules.source(&path, source),
                    None => rules.missing(path),
                }
            }));
        }
        if let Some(to) = &spec.to {
            clauses.extend(self.clause(format!("{path}.to"), to.len(), |rules, i, path| {
                let path = format!("{path}.operation");
                match &to[i].operation {
                    Some(operation) => rules.operation(&path, operation),
                    None => rules.missing(path),
                }
            }));
        }
        for (i, condition) in spec.when.iter().flatten().enumerate() {
            let found = self.condition(&format!("{path}.when[{i}]"), condition);
            clauses.extend(found.map(|found| Clause { matches: vec![found] }));
        }
        // A clause that accepts everything says nothing.
        clauses.retain(|clause| !clause.matches.contains(&Match::default()));
        match (self.action, self.is_incomplete) {
            (Action::Allow, true) => None,
            _ => Some(Rule { clauses }),
        }
    }

    fn clause(
        &mut self,
        path: String,
        entries: usize,
        mut read: impl FnMut(&mut Self, usize, String) -> Match,
    ) -> Option<Clause> {
        if entries == 0 {
            self.mistake(path, ("is empty".to_owned(), "leave it out to match everything, or write an entry"));
            return None;
        }
        let matches = (0..entries).map(|i| read(self, i, format!("{path}[{i}]"))).collect();
        Some(Clause { matches })
    }

    fn source(&mut self, path: &str, spec: &SourceSpec) -> Match {
        let namespace = self.namespace;
        let account = |text: &str| values::service_account(text, namespace);
        let found = Match {
            principals: self.list(path, "principals", &spec.principals, values::principal),
            not_principals: self.list(path, "notPrincipals", &spec.not_principals, values::principal),
            namespaces: self.list(path, "namespaces", &spec.namespaces, values::string),
            not_namespaces: self.list(path, "notNamespaces", &spec.not_namespaces, values::string),
            service_accounts: self.list(path, "serviceAccounts", &spec.service_accounts, account),
            not_service_accounts: self.list(path, "notServiceAccounts", &spec.not_service_accounts, account),
            source_ips: self.list(path, "ipBlocks", &spec.ip_blocks, values::network),
            not_source_ips: self.list(path, "notIpBlocks", &spec.not_ip_blocks, values::network),
            ..Match::default()
        };
        let layer_7 = [
            ("requestPrincipals", &spec.request_principals),
            ("notRequestPrincipals", &spec.not_request_principals),
            ("remoteIpBlocks", &spec.remote_ip_blocks),
            ("notRemoteIpBlocks", &spec.not_remote_ip_blocks),
        ];
        self.layer_7_fields(path, &layer_7);
        self.require_condition(path, &found, &layer_7);
        found
    }

    fn operation(&mut self, path: &str, spec: &OperationSpec) -> Match {
        let found = Match {
            destination_ports: self.list(path, "ports", &spec.ports, values::port),
            not_destination_ports: self.list(path, "notPorts", &spec.not_ports, values::port),
            ..Match::default()
        };
        let layer_7 = [
            ("hosts", &spec.hosts),
            ("notHosts", &spec.not_hosts),
            ("methods", &spec.methods),
            ("notMethods", &spec.not_methods),
            ("paths", &spec.paths),
            ("notPaths", &spec.not_paths),
        ];
        self.layer_7_fields(path, &layer_7);
        self.require_condition(path, &found, &layer_7);
        found
    }

    /// One of `when`, or `None` if it cannot be judged.
    fn condition(&mut self, path: &str, spec: &ConditionSpec) -> Option<Match> {
        let is_layer_7 = LAYER_7_KEYS.iter().any(|key| match key.strip_suffix('[') {
            Some(_) => spec.key.starts_with(key) && spec.key.ends_with(']'),
            None => spec.key == *key,
        });
        if is_layer_7 {
            self.layer_7(format!("{path}.key"), format!("'{}'", spec.key));
            return None;
        }
        let (values, not_values) = (&spec.values, &spec.not_values);
        if values.iter().chain(not_values).flatten().next().is_none() {
            self.mistake(path.to_owned(), ("has neither values nor notValues".to_owned(), "write at least one value"));
            return None;
        }
        let mut found = Match::default();
        let namespace = self.namespace;
        let account = |text: &str| values::service_account(text, namespace);
        macro_rules! read {
            ($positive:ident, $negative:ident, $parse:expr) => {{
                found.$positive = self.list(path, "values", values, $parse);
                found.$negative = self.list(path, "notValues", not_values, $parse);
            }};
        }
        match spec.key.as_str() {
            "source.ip" => read!(source_ips, not_source_ips, values::network),
            "source.namespace" => read!(namespaces, not_namespaces, values::string),
            "source.principal" => read!(principals, not_principals, values::principal),
            "source.serviceAccount" => read!(service_accounts, not_service_accounts, account),
            "destination.ip" => read!(destination_ips, not_destination_ips, values::network),
            "destination.port" => read!(destination_ports, not_destination_ports, values::port),
            other => {
                let message = format!("'{}' is not a condition", crate::object::metadata::excerpt(other));
                let suggestion = "write source.ip, source.namespace, source.principal, source.serviceAccount, \
                                  destination.ip or destination.port";
                self.mistake(format!("{path}.key"), (message, suggestion));
                return None;
            }
        }
        Some(found)
    }

    /// A list whose entries are ORed. With one that is malformed the whole list is dropped: without that entry a
    /// DENY would match less.
    fn list<T>(
        &mut self,
        path: &str,
        field: &str,
        spec: &Option<Vec<String>>,
        parse: impl Fn(&str) -> Result<T, Mistake>,
    ) -> Vec<T> {
        let entries = spec.as_deref().unwrap_or_default();
        let mut found = Vec::with_capacity(entries.len());
        for (i, text) in entries.iter().enumerate() {
            match parse(text) {
                Ok(entry) => found.push(entry),
                Err(mistake) => self.mistake(format!("{path}.{field}[{i}]"), mistake),
            }
        }
        if found.len() < entries.len() { Vec::new() } else { found }
    }

    fn layer_7_fields(&mut self, path: &str, fields: &[(&str, &Option<Vec<String>>)]) {
        for (field, _) in fields.iter().filter(|(_, values)| is_given(values)) {
            self.layer_7(format!("{path}.{field}"), format!("'{field}'"));
        }
    }

    /// An entry without a condition would match everything, which nobody writes on purpose.
    fn require_condition(&mut self, path: &str, found: &Match, layer_7: &[(&str, &Option<Vec<String>>)]) {
        let within = format!("{path}.");
        let is_noted = self.notes.fields().any(|field| field.starts_with(&within));
        if *found == Match::default() && !is_noted && !layer_7.iter().any(|(_, values)| is_given(values)) {
            self.mistake(path.to_owned(), ("has no condition".to_owned(), "write at least one field"));
        }
    }

    fn missing(&mut self, path: String) -> Match {
        self.mistake(path, ("is missing".to_owned(), "write it with at least one field, or leave the whole entry out"));
        Match::default()
    }

    fn mistake(&mut self, field: String, (message, suggestion): Mistake) {
        self.is_incomplete = true;
        self.notes.error(field, message, suggestion);
    }

    fn layer_7(&mut self, field: String, what: String) {
        self.is_incomplete = true;
        let (effect, suggestion) = match self.action {
            Action::Allow => (
                "this rule allows nothing",
                "write a rule with addresses, ports or identities, or wait for a waypoint that can judge requests",
            ),
            Action::Deny => (
                "the rest of the rule denies without it",
                "write the rule with addresses, ports or identities, or remove it until a waypoint can judge requests",
            ),
        };
        self.notes.warning(field, format!("{what} needs layer 7, which is not judged here: {effect}"), suggestion);
    }
}

fn is_given(values: &Option<Vec<String>>) -> bool {
    values.as_ref().is_some_and(|values| !values.is_empty())
}
