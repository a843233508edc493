//! SPIFFE identities in Istio's form.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

use crate::interner::intern;

/// The scheme that every identity starts with.
const SCHEME: &str = "spiffe://";

/// A workload's identity, `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`. Cheap to clone.
#[derive(Clone)]
pub struct Identity {
    /// The whole URI: what is compared and displayed.
    uri: Arc<str>,
    /// Length of the trust domain.
    trust_domain: u16,
    /// Length of the namespace.
    namespace: u16,
}

/// Why a string is not an identity.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "'{text}' is not an identity of the form spiffe://<trust domain>/ns/<namespace>/sa/<service account>: {reason}"
)]
pub struct IdentityError {
    text: String,
    reason: &'static str,
}

impl Identity {
    /// Puts an identity together.
    ///
    /// # Errors
    /// When a part has a character or length that the SPIFFE standard does not allow.
    pub fn new(trust_domain: &str, namespace: &str, service_account: &str) -> Result<Self, IdentityError> {
        let uri = format!("{SCHEME}{trust_domain}/ns/{namespace}/sa/{service_account}");
        let fail = |reason| IdentityError { text: uri.clone(), reason };
        check_trust_domain(trust_domain).map_err(fail)?;
        check_segment(namespace).map_err(fail)?;
        check_segment(service_account).map_err(fail)?;
        if uri.len() > 2048 {
            return Err(fail("it is longer than 2048 bytes"));
        }
        Ok(Self {
            uri: intern(&uri),
            trust_domain: u16::try_from(trust_domain.len()).expect("checked to be at most 255"),
            namespace: u16::try_from(namespace.len()).expect("the URI was checked to be at most 2048"),
        })
    }

    /// The trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        &self.principal()[..usize::from(self.trust_domain)]
    }

    /// The namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        let start = usize::from(self.trust_domain) + "/ns/".len();
        &self.principal()[start..start + usize::from(self.namespace)]
    }

    /// The service account.
    #[must_use]
    pub fn service_account(&self) -> &str {
        let start = usize::from(self.trust_domain) + "/ns/".len() + usize::from(self.namespace) + "/sa/".len();
        &self.principal()[start..]
    }

    /// The identity without `spiffe://`, as policies spell it.
    #[must_use]
    pub fn principal(&self) -> &str {
        &self.uri[SCHEME.len()..]
    }

    /// The whole URI, as certificates carry it.
    #[must_use]
    pub fn uri(&self) -> &Arc<str> {
        &self.uri
    }

    /// For the interner, which puts an equal string there.
    pub(crate) fn uri_mut(&mut self) -> &mut Arc<str> {
        &mut self.uri
    }
}

fn check_trust_domain(text: &str) -> Result<(), &'static str> {
    match text {
        "" => Err("the trust domain is empty"),
        _ if text.len() > 255 => Err("the trust domain is longer than 255 bytes"),
        _ if !text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_')) => {
            Err("a trust domain has only lower-case letters, digits, '.', '-' and '_'")
        }
        _ => Ok(()),
    }
}

fn check_segment(text: &str) -> Result<(), &'static str> {
    match text {
        "" => Err("a part of the path is empty"),
        "." | ".." => Err("a part of the path is '.' or '..'"),
        _ if !text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')) => {
            Err("a path has only letters, digits, '.', '-', '_' and '/'")
        }
        _ => Ok(()),
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail = |reason| IdentityError { text: text.to_owned(), reason };
        let rest = text.strip_prefix(SCHEME).ok_or_else(|| fail("it does not start with spiffe://"))?;
        let mut parts = rest.split('/');
        let form = "its path is not /ns/<namespace>/sa/<service account>";
        match (parts.next(), parts.next(), parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(trust_domain), Some("ns"), Some(namespace), Some("sa"), Some(service_account), None) => {
                Self::new(trust_domain, namespace, service_account)
            }
            _ => Err(fail(form)),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.uri, &other.uri) || self.uri == other.uri
    }
}

impl Eq for Identity {}

impl Hash for Identity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.uri.hash(state);
    }
}

impl PartialOrd for Identity {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Identity {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.uri.cmp(&other.uri)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_taken_apart_and_put_together() {
        let text = "spiffe://cluster.local/ns/shop/sa/front.end-1";
        let identity: Identity = text.parse().expect("a valid identity");
        assert_eq!(
            (identity.trust_domain(), identity.namespace(), identity.service_account()),
            ("cluster.local", "shop", "front.end-1")
        );
        assert_eq!(identity.principal(), "cluster.local/ns/shop/sa/front.end-1");
        assert_eq!((identity.to_string().as_str(), &**identity.uri()), (text, text));
        assert_eq!(identity, Identity::new("cluster.local", "shop", "front.end-1").expect("a valid identity"));
        assert_ne!(identity, Identity::new("cluster.local", "shop", "frontend").expect("a valid identity"));
    }

    #[test]
    fn what_is_not_exactly_of_the_form_is_refused() {
        for text in [
            "",
            "cluster.local/ns/a/sa/b",
            "SPIFFE://cluster.local/ns/a/sa/b",
            "https://cluster.local/ns/a/sa/b",
            "spiffe:///ns/a/sa/b",
            "spiffe://Cluster.local/ns/a/sa/b",
            "spiffe://cluster.local:443/ns/a/sa/b",
            "spiffe://user@cluster.local/ns/a/sa/b",
            "spiffe://cluster.local/ns/a/sa/",
            "spiffe://cluster.local/ns//sa/b",
            "spiffe://cluster.local/ns/a/sa/b/",
            "spiffe://cluster.local/ns/a/sa/b/c",
            "spiffe://cluster.local//ns/a/sa/b",
            "spiffe://cluster.local/ns/a/sa/b?x=y",
            "spiffe://cluster.local/ns/a/sa/b#c",
            "spiffe://cluster.local/ns/a/sa/%62",
            "spiffe://cluster.local/ns/../sa/b",
            "spiffe://cluster.local/ns/./sa/b",
            "spiffe://cluster.local/sa/b/ns/a",
            "spiffe://cluster.local/NS/a/SA/b",
            "spiffe://cluster.local/ns/a b/sa/c",
            "spiffe://cluster.local/ns/\u{e4}/sa/c",
            "spiffe://cluster.local/ns/a/sa/b\n",
            "spiffe://cluster.local/ns/a/sa/b\0",
        ] {
            let error = text.parse::<Identity>().expect_err(text);
            assert!(error.to_string().starts_with(&format!("'{text}' is not an identity")), "{error}");
        }
    }

    #[test]
    fn lengths_are_those_of_the_standard() {
        let long = |length| "a".repeat(length);
        assert!(Identity::new(&long(255), "a", "b").is_ok());
        assert!(Identity::new(&long(256), "a", "b").is_err());
        let rest = "spiffe://td/ns/a/sa/".len();
        assert!(Identity::new("td", "a", &long(2048 - rest)).is_ok());
        assert!(Identity::new("td", "a", &long(2049 - rest)).is_err());
    }
}
