//! The `baggage` header (W3C Baggage), as far as tunnels use it: who is at the other end.

use std::fmt;

/// Who the sender says it is. For metrics and logs; policy looks at certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Baggage {
    /// `k8s.cluster.name`
    pub cluster: Option<String>,
    /// `k8s.namespace.name`
    pub namespace: Option<String>,
    /// Kind of the workload, in lower case: the `deployment` of `k8s.deployment.name`. Written as `pod` if absent.
    pub workload_type: Option<String>,
    /// Name of the workload: the value of `k8s.deployment.name`.
    pub workload_name: Option<String>,
    /// `service.name`, the canonical service.
    pub service: Option<String>,
    /// `service.version`, the canonical revision.
    pub version: Option<String>,
    /// `cloud.region`
    pub region: Option<String>,
    /// `cloud.availability_zone`
    pub zone: Option<String>,
}

/// W3C Baggage, 3.3.2: what must be carried on. More is not looked at.
const MAX_LENGTH: usize = 8192;
/// Members that are looked at.
const MAX_MEMBERS: usize = 64;
/// Longest value that is kept, in bytes; Kubernetes' names have at most 253.
const MAX_VALUE: usize = 512;
/// Longest kind of workload that is kept.
const MAX_TYPE: usize = 63;

impl Baggage {
    /// Reads a header. Whatever is unknown, malformed or over the limits is left out, since a stranger's label is not
    /// worth refusing a connection for. Of members with the same key the first counts.
    pub fn parse(text: &str) -> Self {
        let mut baggage = Self::default();
        // Cutting may leave half a member, which must not be taken for a whole one.
        let text = match text.char_indices().find(|(at, _)| *at >= MAX_LENGTH) {
            Some((end, _)) => text[..end].rsplit_once(',').map_or("", |(members, _)| members),
            None => text,
        };
        for member in text.split(',').take(MAX_MEMBERS) {
            // Properties of a member come after a semicolon.
            let pair = member.split(';').next().unwrap_or_default();
            let Some((key, value)) = pair.split_once('=') else { continue };
            let (key, value) = (key.trim_matches([' ', '\t']), value.trim_matches([' ', '\t']));
            let Some(value) = decode(value) else { continue };
            baggage.set(key, value);
        }
        baggage
    }

    fn set(&mut self, key: &str, value: String) {
        let field = match key {
            "k8s.cluster.name" => &mut self.cluster,
            "k8s.namespace.name" => &mut self.namespace,
            "service.name" => &mut self.service,
            "service.version" => &mut self.version,
            "cloud.region" => &mut self.region,
            "cloud.availability_zone" => &mut self.zone,
            _ => {
                let kind = key.strip_prefix("k8s.").and_then(|rest| rest.strip_suffix(".name"));
                if let Some(kind) = kind.filter(|kind| is_workload_type(kind))
                    && self.workload_name.is_none()
                {
                    self.workload_type = Some(kind.to_owned());
                    self.workload_name = Some(value);
                }
                return;
            }
        };
        field.get_or_insert(value);
    }
}

/// Writes the header's value; empty fields are left out.
impl fmt::Display for Baggage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.workload_type.as_deref().filter(|kind| is_workload_type(kind)).unwrap_or("pod");
        let members = [
            ("k8s.cluster.name", &self.cluster),
            ("k8s.namespace.name", &self.namespace),
            ("", &self.workload_name),
            ("service.name", &self.service),
            ("service.version", &self.version),
            ("cloud.region", &self.region),
            ("cloud.availability_zone", &self.zone),
        ];
        let mut separator = "";
        for (key, value) in members {
            let Some(value) = value.as_deref().filter(|value| !value.is_empty()) else { continue };
            f.write_str(separator)?;
            separator = ",";
            match key {
                "" => write!(f, "k8s.{kind}.name=")?,
                _ => write!(f, "{key}=")?,
            }
            encode(value, f)?;
        }
        Ok(())
    }
}

fn is_workload_type(kind: &str) -> bool {
    let is_other = matches!(kind, "cluster" | "namespace");
    !is_other
        && (1..=MAX_TYPE).contains(&kind.len())
        && kind.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// W3C Baggage, 3.3.1: `baggage-octet`, without the percent sign that begins an escape.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'"' | b',' | b';' | b'\\' | b'%')
}

fn encode(value: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut rest = value;
    while !rest.is_empty() {
        let plain = rest.bytes().position(|byte| !is_plain(byte)).unwrap_or(rest.len());
        f.write_str(&rest[..plain])?;
        rest = &rest[plain..];
        if let Some(special) = rest.chars().next() {
            let mut buffer = [0; 4];
            for byte in special.encode_utf8(&mut buffer).bytes() {
                write!(f, "%{byte:02X}")?;
            }
            rest = &rest[special.len_utf8()..];
        }
    }
    Ok(())
}

/// `None` for what is no value, or none that belongs into a log.
fn decode(value: &str) -> Option<String> {
    let bytes = value.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len().min(MAX_VALUE));
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'%' {
            let digit = |at: usize| bytes.get(at).and_then(|byte| char::from(*byte).to_digit(16));
            decoded.push((digit(at + 1)? << 4 | digit(at + 2)?) as u8);
            at += 3;
        } else {
            // Spaces inside are not in the grammar, but some senders do not escape them.
            if !is_plain(bytes[at]) && bytes[at] != b' ' {
                return None;
            }
            decoded.push(bytes[at]);
            at += 1;
        }
        if decoded.len() > MAX_VALUE {
            return None;
        }
    }
    String::from_utf8(decoded).ok().filter(|text| !text.is_empty() && !text.chars().any(char::is_control))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn reads_and_writes_a_workload() {
        let text = "k8s.cluster.name=Kubernetes,k8s.namespace.name=shop,k8s.deployment.name=cart,\
                    service.name=cart,service.version=v1,cloud.region=eu-west,cloud.availability_zone=a";
        let baggage = Baggage {
            cluster: some("Kubernetes"),
            namespace: some("shop"),
            workload_type: some("deployment"),
            workload_name: some("cart"),
            service: some("cart"),
            version: some("v1"),
            region: some("eu-west"),
            zone: some("a"),
        };
        assert_eq!(Baggage::parse(text), baggage);
        assert_eq!(baggage.to_string(), text);
    }

    #[test]
    fn escapes_what_the_format_cannot_carry() {
        let baggage = Baggage { service: some("a, b;c=d%\"\\ü"), ..Baggage::default() };
        assert_eq!(baggage.to_string(), "service.name=a%2C%20b%3Bc=d%25%22%5C%C3%BC");
        assert_eq!(Baggage::parse(&baggage.to_string()), baggage);
    }

    #[test]
    fn a_workload_without_a_type_is_a_pod() {
        let baggage = Baggage { workload_name: some("x"), ..Baggage::default() };
        assert_eq!(baggage.to_string(), "k8s.pod.name=x");
    }

    #[test]
    fn leaves_out_what_it_cannot_read() {
        let long = format!("service.name={}", "x".repeat(MAX_VALUE + 1));
        let cases = [
            ("", None),
            (",,=,;", None),
            ("service.name", None),
            ("service.name=", None),
            ("service.name=%", None),
            ("service.name=%4", None),
            ("service.name=%zz", None),
            ("service.name=%ff", None),
            ("service.name=a%0ab", None),
            ("service.name=a\"b", None),
            ("service.name=ü", None),
            ("other=x", None),
            (long.as_str(), None),
            (" service.name \t=\t a ; property=1", some("a")),
            ("service.name=a%20b", some("a b")),
            ("service.name=%,service.name=b", some("b")),
            ("service.name=a,service.name=b", some("a")),
            ("service.name=a=b", some("a=b")),
        ];
        for (text, service) in cases {
            assert_eq!(Baggage::parse(text), Baggage { service, ..Baggage::default() }, "{text}");
        }
    }

    #[test]
    fn only_names_of_kinds_are_workloads() {
        for (key, is_workload) in [
            ("k8s.statefulset.name", true),
            ("k8s.my-kind2.name", true),
            ("k8s.name", false),
            ("k8s..name", false),
            ("k8s.a.b.name", false),
            ("k8s.Pod.name", false),
            ("k8s.pod.uid", false),
        ] {
            assert_eq!(Baggage::parse(&format!("{key}=x")).workload_name.is_some(), is_workload, "{key}");
        }
    }

    #[test]
    fn reads_no_further_than_the_limits() {
        let members = format!("{}service.name=a", "x=y,".repeat(MAX_MEMBERS));
        assert_eq!(Baggage::parse(&members), Baggage::default());
        let cut = format!("service.version=b,x={},service.name=abc", "y".repeat(MAX_LENGTH - 36));
        assert!(cut.len() > MAX_LENGTH && cut.len() < MAX_LENGTH + 3);
        let baggage = Baggage::parse(&cut);
        assert_eq!(baggage.version, some("b"));
        assert_eq!(baggage.service, None, "`ab` must not stand for `abc`");
        let wide = "ü".repeat(MAX_LENGTH);
        assert_eq!(Baggage::parse(&wide), Baggage::default());
    }
}
