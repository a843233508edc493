//! The entries of a policy's lists.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};
use weft_model::{ServiceAccountMatch, StringMatch};

use crate::object::metadata::{excerpt, is_dns_label, is_dns_subdomain};

/// Why an entry cannot be understood: what is wrong, and what to do.
pub(super) type Mistake = (String, &'static str);

/// A string, perhaps with `*` at one end.
pub(super) fn string(text: &str) -> Result<StringMatch, Mistake> {
    let literal = text.trim_matches('*');
    if text.is_empty() {
        return Err(("is empty".to_owned(), "write a value, or '*' for any"));
    }
    if text == "*" {
        return Ok(StringMatch::Presence);
    }
    match (text.strip_prefix('*'), text.strip_suffix('*')) {
        _ if literal.contains('*') => Err(wildcard(text)),
        (None, None) => Ok(StringMatch::Exact(text.into())),
        (None, Some(prefix)) if prefix == literal => Ok(StringMatch::Prefix(prefix.into())),
        (Some(suffix), None) if suffix == literal => Ok(StringMatch::Suffix(suffix.into())),
        _ => Err(wildcard(text)),
    }
}

fn wildcard(text: &str) -> Mistake {
    (
        format!("'{}' has '*' where it is not understood", excerpt(text)),
        "use one '*' at the start or at the end, or alone",
    )
}

/// A principal: `<trust domain>/ns/<namespace>/sa/<service account>`, without the scheme.
pub(super) fn principal(text: &str) -> Result<StringMatch, Mistake> {
    if text.starts_with("spiffe://") {
        return Err((format!("'{}' can never match", excerpt(text)), "principals are written without 'spiffe://'"));
    }
    string(text)
}

/// A service account, `<namespace>/<name>`, or `<name>` in the policy's own namespace.
pub(super) fn service_account(text: &str, namespace: &str) -> Result<ServiceAccountMatch, Mistake> {
    let (namespace, name) = text.split_once('/').unwrap_or((namespace, text));
    if !is_dns_label(namespace) || !is_dns_subdomain(name) {
        return Err((
            format!("'{}' is not a service account", excerpt(text)),
            "write NAMESPACE/NAME, or NAME for one of the policy's own namespace; there are no wildcards",
        ));
    }
    Ok(ServiceAccountMatch { namespace: namespace.into(), service_account: name.into() })
}

/// An address, or a range of them in CIDR notation. IPv4-mapped ones become IPv4, as the addresses that they are
/// compared with.
pub(super) fn network(text: &str) -> Result<IpNet, Mistake> {
    let network = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => text.parse::<IpNet>().map_err(|_| {
            (
                format!("'{}' is neither an IP address nor a range", excerpt(text)),
                "write an address, or a range in CIDR notation as in 10.0.0.0/8",
            )
        })?,
    };
    Ok(match network {
        IpNet::V6(mapped) if mapped.prefix_len() >= 96 => match mapped.addr().to_ipv4_mapped() {
            Some(address) => {
                let length = mapped.prefix_len() - 96;
                Ipv4Net::new(address, length).expect("at most 128 - 96").trunc().into()
            }
            None => network.trunc(),
        },
        _ => network.trunc(),
    })
}

/// A port.
pub(super) fn port(text: &str) -> Result<u16, Mistake> {
    match text.parse::<u16>() {
        Ok(port) if port > 0 && !text.starts_with('+') => Ok(port),
        _ => Err((format!("'{}' is not a port", excerpt(text)), "write a number from 1 to 65535, in quotes")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_have_one_wildcard_at_one_end() {
        let cases = [
            ("*", Some(StringMatch::Presence)),
            ("a", Some(StringMatch::Exact("a".into()))),
            ("a*", Some(StringMatch::Prefix("a".into()))),
            ("*a", Some(StringMatch::Suffix("a".into()))),
            ("", None),
            ("*a*", None),
            ("a*b", None),
            ("**", None),
            ("a**", None),
        ];
        for (text, expected) in cases {
            assert_eq!(string(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn networks_are_addresses_or_ranges() {
        for (text, expected) in [
            ("10.1.2.3", Some("10.1.2.3/32")),
            ("10.1.2.3/8", Some("10.0.0.0/8")),
            ("fd00::1", Some("fd00::1/128")),
            ("fd00::/8", Some("fd00::/8")),
            ("::ffff:10.0.0.0/104", Some("10.0.0.0/8")),
            ("::ffff:10.0.0.1", Some("10.0.0.1/32")),
            ("::/0", Some("::/0")),
            ("10.0.0.0/33", None),
            ("10.0.0", None),
            ("", None),
        ] {
            assert_eq!(network(text).ok().map(|network| network.to_string()).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn ports_are_decimal_numbers_above_zero() {
        for (text, expected) in [
            ("1", Some(1)),
            ("65535", Some(65535)),
            ("0", None),
            ("65536", None),
            ("+80", None),
            ("http", None),
            ("", None),
        ] {
            assert_eq!(port(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn service_accounts_are_of_the_policys_namespace_unless_they_name_one() {
        let found = service_account("reader", "shop").expect("a name alone is valid");
        assert_eq!((&*found.namespace, &*found.service_account), ("shop", "reader"));
        let found = service_account("bank/teller", "shop").expect("a namespace and a name are valid");
        assert_eq!((&*found.namespace, &*found.service_account), ("bank", "teller"));
        for bad in ["", "*", "bank/*", "a/b/c", "/x"] {
            assert!(service_account(bad, "shop").is_err(), "{bad}");
        }
    }
}
