//! Names, namespaces and addresses, as every kind has them.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Interner, Kind, ObjectId};
use crate::problem::Notes;

/// The namespace of a namespaced object that names none.
pub(crate) const DEFAULT_NAMESPACE: &str = "default";

/// Which object this is, or `None` with the reason in `notes` when its name is missing or malformed: such an object
/// cannot be told from another.
pub(crate) fn identify(
    kind: Kind,
    namespace: Option<&str>,
    name: Option<&str>,
    interner: &mut Interner,
    notes: &mut Notes,
) -> Option<ObjectId> {
    let Some(name) = name.filter(|name| !name.is_empty()) else {
        notes.error("metadata.name", "is missing", "give the object a name");
        return None;
    };
    let namespace = namespace.filter(|namespace| !namespace.is_empty()).unwrap_or(DEFAULT_NAMESPACE);
    let is_name = if kind == Kind::Namespace { is_dns_label } else { is_dns_subdomain };
    if !is_name(name) {
        notes.error(
            "metadata.name",
            format!("'{}' is not a name", excerpt(name)),
            "use lower-case letters, digits and '-', with a letter or digit at both ends",
        );
        return None;
    }
    if kind.is_namespaced() && !is_dns_label(namespace) {
        notes.error(
            "metadata.namespace",
            format!("'{}' is not the name of a namespace", excerpt(namespace)),
            "use lower-case letters, digits and '-', with a letter or digit at both ends",
        );
        return None;
    }
    Some(ObjectId {
        kind,
        namespace: if kind.is_namespaced() { interner.text(namespace) } else { Arc::default() },
        // The names of namespaces, nodes and accounts repeat in other objects.
        name: if matches!(kind, Kind::Namespace | Kind::Node | Kind::ServiceAccount) {
            interner.text(name)
        } else {
            name.into()
        },
    })
}

/// [`identify`] by the metadata of an object.
pub(crate) fn identify_by(
    kind: Kind,
    metadata: &ObjectMeta,
    interner: &mut Interner,
    notes: &mut Notes,
) -> Option<ObjectId> {
    identify(kind, metadata.namespace.as_deref(), metadata.name.as_deref(), interner, notes)
}

/// A label of RFC 1123, as Kubernetes wants it: lower case, at most 63.
pub(crate) fn is_dns_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    matches!(text.len(), 1..=63)
        && text.bytes().all(|b| inner(b) || b == b'-')
        && text.bytes().next().is_some_and(inner)
        && text.bytes().next_back().is_some_and(inner)
}

/// A subdomain of RFC 1123: at most 253, parts as [`is_dns_label`] wants them but of any length.
pub(crate) fn is_dns_subdomain(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    matches!(text.len(), 1..=253)
        && text.split('.').all(|part| {
            part.bytes().all(|b| inner(b) || b == b'-')
                && part.bytes().next().is_some_and(inner)
                && part.bytes().next_back().is_some_and(inner)
        })
}

/// The beginning of a text of unknown length, for a message.
pub(crate) fn excerpt(text: &str) -> String {
    let mut shown: String = text.chars().take(80).flat_map(char::escape_debug).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

/// Reads an address that a pod or service has. IPv4-mapped ones become IPv4, so that one address has one form.
pub(crate) fn address(text: &str, field: impl FnOnce() -> String, notes: &mut Notes) -> Option<IpAddr> {
    match text.parse::<IpAddr>().map(|address| address.to_canonical()) {
        Ok(address) if address.is_unspecified() || address.is_loopback() || address.is_multicast() => {
            notes.error(
                field(),
                format!("{address} is an unspecified, loopback or multicast address"),
                "write the address by which others reach it",
            );
            None
        }
        Ok(address) => Some(address),
        Err(_) => {
            notes.error(field(), format!("'{}' is not an IP address", excerpt(text)), "write an IPv4 or IPv6 address");
            None
        }
    }
}

/// Reads a port number that Kubernetes carries as a signed integer.
pub(crate) fn port(number: i32, field: impl FnOnce() -> String, notes: &mut Notes) -> Option<u16> {
    match u16::try_from(number) {
        Ok(port) if port > 0 => Some(port),
        _ => {
            notes.error(field(), format!("{number} is not a port"), "write a number from 1 to 65535");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_kubernetes() {
        let long = "a".repeat(64);
        for (text, label, subdomain) in [
            ("web", true, true),
            ("web-0", true, true),
            ("web.shop", false, true),
            ("-web", false, false),
            ("web-", false, false),
            ("Web", false, false),
            ("a/b", false, false),
            ("a..b", false, false),
            ("", false, false),
            (&long, false, true),
        ] {
            assert_eq!(is_dns_label(text), label, "{text}");
            assert_eq!(is_dns_subdomain(text), subdomain, "{text}");
        }
    }

    #[test]
    fn addresses_have_one_form() {
        let mut notes = Notes::default();
        let mut read = |text| address(text, String::new, &mut notes).map(|address| address.to_string());
        assert_eq!(read("::ffff:10.0.0.1").as_deref(), Some("10.0.0.1"));
        assert_eq!(read("fd00::1").as_deref(), Some("fd00::1"));
        for bad in ["", "10.0.0", "127.0.0.1", "0.0.0.0", "ff02::1", "10.0.0.1/8"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
