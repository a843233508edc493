//! The text formats of a CONNECT: nothing panics, and what was read and written again reads the same.

#![no_main]

use std::fmt::{Debug, Display};

use libfuzzer_sys::fuzz_target;
use weft_hbone::{Authority, Baggage, Forwarded, Host, TraceParent};

fn round_trip<T>(text: &str) -> Option<T>
where
    T: std::str::FromStr<Err: Debug + PartialEq> + Display + Debug + PartialEq,
{
    let parsed: T = text.parse().ok()?;
    let written = parsed.to_string();
    assert_eq!(written.parse().as_ref(), Ok(&parsed), "{text:?} became {written:?}");
    Some(parsed)
}

fuzz_target!(|text: &str| {
    if let Some(authority) = round_trip::<Authority>(text) {
        assert_ne!(authority.port, 0);
        match &authority.host {
            Host::Ip(ip) => assert_eq!(*ip, ip.to_canonical()),
            Host::Name(name) => {
                assert!(name.len() <= 253 && name.is_ascii() && !name.contains([':', '/', '@', ' ']));
                // Nobody may take it for an address.
                assert!(name.parse::<std::net::IpAddr>().is_err());
            }
        }
        // The standard library must not see another address in it.
        if let Ok(address) = text.parse::<std::net::SocketAddr>() {
            let canonical = std::net::SocketAddr::new(address.ip().to_canonical(), address.port());
            assert_eq!(authority.socket_addr(), Some(canonical));
        }
    }
    if let Some(forwarded) = round_trip::<Forwarded>(text) {
        assert!(!forwarded.host.is_some_and(|host| host.chars().any(char::is_control)));
    }
    if let Ok(parent) = text.parse::<TraceParent>() {
        assert!(parent.trace_id != 0 && parent.parent_id != 0);
        let again: TraceParent = parent.to_string().parse().expect("own writing");
        assert_eq!((again.trace_id, again.parent_id), (parent.trace_id, parent.parent_id));
    }
    let baggage = Baggage::parse(text);
    let written = baggage.to_string();
    if written.len() <= 8192 {
        assert_eq!(Baggage::parse(&written), baggage, "{text:?} became {written:?}");
    }
    // What is written is a valid field value.
    assert!(written.bytes().all(|byte| byte.is_ascii_graphic()));
});
