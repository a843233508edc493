use std::time::Duration;

use super::*;
use crate::route::Backend;

const NOW: u64 = 1_800_000_000;
const UID: &str = "Kubernetes//Pod/shop/cart-7d9f";

fn persistence(carrier: SessionCarrier, absolute: Option<u64>, idle: Option<u64>) -> SessionPersistence {
    let name = if carrier == SessionCarrier::Header { "x-session" } else { "session" };
    let [absolute_timeout, idle_timeout] = [absolute, idle].map(|seconds| seconds.map(Duration::from_secs));
    SessionPersistence { name: name.into(), carrier, absolute_timeout, idle_timeout }
}

fn target(port: u16) -> BackendTarget {
    BackendTarget::Service { key: "shop/cart".into(), port }
}

/// What a client sends after it was told.
fn sent(told: &(HeaderName, HeaderValue)) -> HeaderMap {
    let (name, value) = told;
    let mut headers = HeaderMap::new();
    if name == SET_COOKIE {
        let cookie = value.to_str().unwrap().split(';').next().unwrap();
        headers.insert(COOKIE, HeaderValue::from_str(&format!("a=b; xsession=1;{cookie}; c=d")).unwrap());
    } else {
        headers.insert(name, value.clone());
    }
    headers
}

#[test]
fn a_session_is_told_and_found_again() {
    for carrier in [SessionCarrier::Header, SessionCarrier::SessionCookie, SessionCarrier::PermanentCookie] {
        let persistence = persistence(carrier, Some(3_600), None);
        assert_eq!(read(&persistence, &HeaderMap::new(), NOW), None);
        let told = tell(&persistence, None, &target(80), UID, Some("/cart"), NOW).unwrap();
        let token = read(&persistence, &sent(&told), NOW + 10).unwrap();
        assert_eq!(token.uid(), UID);
        let backends = [81, 80].map(|port| Backend { target: target(port), weight: 0, filters: Vec::new() });
        let rule = Rule { backends: backends.to_vec(), ..Rule::default() };
        assert_eq!(token.backend(&rule), Some(1));
        assert_eq!(token.backend(&Rule { backends: rule.backends[..1].to_vec(), ..Rule::default() }), None);
        // The same endpoint: a cookie is not set again. Another: the session begins anew.
        let again = tell(&persistence, Some(&token), &target(80), UID, Some("/cart"), NOW + 10);
        assert_eq!(again.is_some(), carrier == SessionCarrier::Header);
        assert!(tell(&persistence, Some(&token), &target(80), "another", Some("/cart"), NOW + 10).is_some());
        assert!(tell(&persistence, Some(&token), &target(81), UID, Some("/cart"), NOW + 10).is_some());
    }
}

#[test]
fn cookies_say_how_long_and_where_they_live() {
    let value = |carrier, path, before: Option<&Token>, now| {
        let told = tell(&persistence(carrier, Some(3_600), Some(60)), before, &target(80), UID, path, now).unwrap();
        let value = told.1.to_str().unwrap().to_owned();
        value.split_once("; ").unwrap().1.to_owned()
    };
    let [session, permanent] = [SessionCarrier::SessionCookie, SessionCarrier::PermanentCookie];
    assert_eq!(value(session, Some("/cart"), None, NOW), "Path=/cart; HttpOnly; SameSite=Lax");
    assert_eq!(value(session, None, None, NOW), "Path=/; HttpOnly; SameSite=Lax");
    assert_eq!(value(session, Some("/a;b"), None, NOW), "Path=/; HttpOnly; SameSite=Lax");
    assert_eq!(value(permanent, None, None, NOW), "Path=/; HttpOnly; SameSite=Lax; Max-Age=3600");
    // It goes on: what is left is less.
    let (backend, began) = (hash(&target(80)).unwrap(), NOW as u32);
    let before = Token { uid: UID.to_owned(), backend, began, seen: began };
    assert_eq!(value(permanent, None, Some(&before), NOW + 50), "Path=/; HttpOnly; SameSite=Lax; Max-Age=3550");
}

#[test]
fn sessions_end_after_their_time_and_when_they_are_idle() {
    for (absolute, idle, after, is_alive) in [
        (None, None, 1_000_000, true),
        (Some(100), None, 99, true),
        (Some(100), None, 100, false),
        (None, Some(100), 99, true),
        (None, Some(100), 100, false),
    ] {
        let persistence = persistence(SessionCarrier::SessionCookie, absolute, idle);
        let told = tell(&persistence, None, &target(80), UID, None, NOW).unwrap();
        assert_eq!(read(&persistence, &sent(&told), NOW + after).is_some(), is_alive, "{absolute:?} {idle:?} {after}");
    }
    // Seen again and again, it is not idle; but its age is what it is.
    let persistence = persistence(SessionCarrier::SessionCookie, Some(250), Some(100));
    let mut told = tell(&persistence, None, &target(80), UID, None, NOW).unwrap();
    for now in [NOW + 90, NOW + 180] {
        let token = read(&persistence, &sent(&told), now).unwrap();
        told = tell(&persistence, Some(&token), &target(80), UID, None, now).unwrap();
    }
    assert!(read(&persistence, &sent(&told), NOW + 249).is_some());
    assert!(read(&persistence, &sent(&told), NOW + 250).is_none());
    // From a future beyond what clocks differ by.
    assert!(read(&persistence, &sent(&told), NOW).is_none());
}

#[test]
fn what_is_no_token_begins_a_session() {
    let persistence = persistence(SessionCarrier::Header, None, None);
    let of = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let good = [&[1][..], &[0; 12], b"uid"].concat();
    let long = |length: usize| of(&[&good[..13], &vec![b'a'; length][..]].concat());
    let is_read = |text: &str| {
        let headers =
            HeaderMap::from_iter([(HeaderName::from_static("x-session"), HeaderValue::from_str(text).unwrap())]);
        read(&persistence, &headers, NOW).is_some()
    };
    assert!(is_read(&of(&good)));
    assert!(is_read(&long(UID_BYTES)));
    for bad in [
        String::new(),
        "*".to_owned(),
        of(b""),
        of(&good[..12]),
        of(&good[..13]),
        of(&[&[2], &good[1..]].concat()),
        of(&[&good[..13], b"u d"].concat()),
        of(&[&good[..13], b"u\nd"].concat()),
        of(&[&good[..13], "ü".as_bytes()].concat()),
        of(&good) + "=",
        long(UID_BYTES + 1),
        long(100_000),
    ] {
        assert!(!is_read(&bad), "{bad}");
    }
    let mut two = HeaderMap::new();
    two.append("x-session", HeaderValue::from_str(&of(&good)).unwrap());
    two.append("x-session", HeaderValue::from_str(&of(&good)).unwrap());
    assert_eq!(read(&persistence, &two, NOW), None);
}

#[test]
fn what_cannot_be_told_is_not() {
    let told = |name: &str, uid: &str, target: &BackendTarget| {
        let persistence =
            SessionPersistence { name: name.into(), ..persistence(SessionCarrier::SessionCookie, None, None) };
        tell(&persistence, None, target, uid, None, NOW).is_some()
    };
    assert!(told("s", "uid", &target(80)));
    assert!(!told("a b", "uid", &target(80)));
    assert!(!told("a=b", "uid", &target(80)));
    assert!(!told("s", "", &target(80)));
    assert!(!told("s", "a b", &target(80)));
    assert!(!told("s", &"a".repeat(UID_BYTES + 1), &target(80)));
    assert!(!told("s", "uid", &BackendTarget::Invalid { reason: "it is not there".into() }));
}
