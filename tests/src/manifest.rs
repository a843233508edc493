//! Kubernetes manifests, as `kubectl get -o yaml` would show them.

use std::fmt::Write as _;
use std::net::IpAddr;

use serde_json::{Map, Value, json};

/// One Kubernetes object.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest(Value);

impl Manifest {
    /// A Namespace with labels.
    pub fn namespace(name: &str, labels: &[(&str, &str)]) -> Self {
        Self(json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": { "name": name, "labels": pairs(labels) },
        }))
    }

    /// A ServiceAccount.
    pub fn service_account(namespace: &str, name: &str) -> Self {
        Self(json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": { "name": name, "namespace": namespace },
        }))
    }

    /// Any object.
    pub fn object(object: Value) -> Self {
        Self(object)
    }

    /// The object as YAML in block style.
    pub fn to_yaml(&self) -> String {
        let mut text = String::new();
        write_block(&mut text, &self.0, 0);
        text
    }
}

/// A file of several objects.
pub fn yaml<'a>(objects: impl IntoIterator<Item = &'a Manifest>) -> String {
    objects.into_iter().map(Manifest::to_yaml).collect::<Vec<_>>().join("---\n")
}

/// A Service to be made by [`World::service`](crate::World::service).
#[derive(Debug, Clone)]
pub struct ServiceSpec {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) is_headless: bool,
    spec: Map<String, Value>,
    ports: Vec<Value>,
    annotations: Map<String, Value>,
}

impl ServiceSpec {
    /// A Service of the namespace `default` that selects the pods with the label `app: NAME`.
    pub fn new(name: &str) -> Self {
        let mut spec = Map::new();
        spec.insert("selector".into(), json!({ "app": name }));
        Self {
            namespace: "default".into(),
            name: name.into(),
            is_headless: false,
            spec,
            ports: Vec::new(),
            annotations: Map::new(),
        }
    }

    /// Puts it into a namespace.
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// Forwards `port` to the pods' `target`.
    #[must_use]
    pub fn port(self, port: u16, target: u16) -> Self {
        self.port_to("tcp", port, json!(target))
    }

    /// Forwards `port` to the pods' `target`, and says that HTTP is spoken there.
    #[must_use]
    pub fn http_port(self, port: u16, target: u16) -> Self {
        self.port_to("http", port, json!(target))
    }

    /// Forwards `port` to the pods' container port called `target`.
    #[must_use]
    pub fn named_port(self, port: u16, target: &str) -> Self {
        self.port_to("tcp", port, json!(target))
    }

    /// Gives it no virtual address.
    #[must_use]
    pub fn headless(mut self) -> Self {
        self.is_headless = true;
        self
    }

    /// Sets a field of `spec`, for what has no method here.
    #[must_use]
    pub fn field(mut self, name: &str, value: Value) -> Self {
        self.spec.insert(name.into(), value);
        self
    }

    /// Sets an annotation.
    #[must_use]
    pub fn annotation(mut self, name: &str, value: &str) -> Self {
        self.annotations.insert(name.into(), json!(value));
        self
    }

    fn port_to(mut self, protocol: &str, port: u16, target: Value) -> Self {
        self.ports.push(
            json!({ "name": format!("{protocol}-{port}"), "port": port, "targetPort": target, "protocol": "TCP" }),
        );
        self
    }

    pub(crate) fn manifest(&self, addresses: &[IpAddr]) -> Manifest {
        let mut spec = self.spec.clone();
        let addresses: Vec<String> = match self.is_headless {
            true => vec!["None".into()],
            false => addresses.iter().map(IpAddr::to_string).collect(),
        };
        spec.insert("clusterIP".into(), json!(addresses[0]));
        spec.insert("clusterIPs".into(), json!(addresses));
        spec.insert("ports".into(), json!(self.ports));
        Manifest(json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": { "name": self.name, "namespace": self.namespace, "annotations": self.annotations },
            "spec": spec,
        }))
    }
}

pub(crate) fn pairs(pairs: &[(&str, &str)]) -> Map<String, Value> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect()
}

/// Writes `value` as the block that follows `key:` or `-` at this depth.
fn write_block(text: &mut String, value: &Value, depth: usize) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (key, value) in fields {
                write!(text, "{indent}{}:", scalar(&json!(key))).expect("writing to a string does not fail");
                write_after_key(text, value, depth);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                write!(text, "{indent}-").expect("writing to a string does not fail");
                write_after_key(text, item, depth);
            }
        }
        other => writeln!(text, "{indent}{}", scalar(other)).expect("writing to a string does not fail"),
    }
}

fn write_after_key(text: &mut String, value: &Value, depth: usize) {
    let is_nested = match value {
        Value::Object(fields) => !fields.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    };
    if is_nested {
        text.push('\n');
        write_block(text, value, depth + 1);
    } else {
        writeln!(text, " {}", scalar(value)).expect("writing to a string does not fail");
    }
}

/// JSON scalars and empty collections are YAML; a string goes without quotes where YAML cannot take it for anything else.
fn scalar(value: &Value) -> String {
    let Value::String(text) = value else { return value.to_string() };
    let is_plain = text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '/')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c))
        && !["true", "false", "yes", "no", "on", "off", "null", "y", "n"].contains(&text.to_ascii_lowercase().as_str());
    if is_plain { text.clone() } else { value.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_that_yaml_would_read_as_something_else_are_quoted() {
        for (text, written) in [
            ("true", "\"true\""),
            ("10.0.0.1", "\"10.0.0.1\""),
            ("*", "\"*\""),
            ("a: b", "\"a: b\""),
            ("None", "None"),
            ("istio.io/dataplane-mode", "istio.io/dataplane-mode"),
        ] {
            assert_eq!(scalar(&json!(text)), written);
        }
    }

    #[test]
    fn nested_objects_are_written_in_block_style() {
        let manifest = Manifest::object(json!({ "spec": { "ports": [{ "port": 80 }], "empty": {} } }));
        assert_eq!(manifest.to_yaml(), "spec:\n  empty: {}\n  ports:\n    -\n      port: 80\n");
    }
}
