use http::header::{CONTENT_TYPE, HeaderName};

use super::*;
use crate::route::Pattern;

fn parts(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
    let mut builder = http::Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(()).unwrap().into_parts().0
}

fn exact(value: &str) -> ValueMatch {
    ValueMatch::Exact(value.into())
}

fn regex(value: &str) -> ValueMatch {
    ValueMatch::Regex(Pattern::new(value).unwrap())
}

#[test]
fn the_host_is_the_authoritys_else_the_headers_without_its_port() {
    for (uri, host, expected) in [
        ("/", "cart", ("cart", None)),
        ("/", "cart:8080", ("cart", Some(8080))),
        ("/", "[::1]:8080", ("[::1]", Some(8080))),
        ("/", "[::1]", ("[::1]", None)),
        ("/", "", ("", None)),
        ("http://cart.shop:81/x", "other", ("cart.shop", Some(81))),
        ("http://user@cart.shop/x", "other", ("cart.shop", None)),
    ] {
        let parts = parts("GET", uri, &[("host", host)]);
        assert_eq!(asked_for(&parts.uri, &parts.headers), expected, "{uri} {host}");
        assert_eq!(Request::of(&parts).host, expected.0);
    }
}

#[test]
fn grpc_is_known_by_method_and_content_type() {
    for (method, kind, expected) in [
        ("POST", "application/grpc", true),
        ("POST", "application/grpc+proto", true),
        ("POST", "Application/GRPC; charset=x", true),
        ("GET", "application/grpc", false),
        ("POST", "application/grpc-web", false),
        ("POST", "application/grp", false),
        ("POST", "text/plain", false),
    ] {
        let parts = parts(method, "/", &[(CONTENT_TYPE.as_str(), kind)]);
        assert_eq!(Request::of(&parts).is_grpc(), expected, "{method} {kind}");
    }
    assert!(!Request::of(&parts("POST", "/", &[])).is_grpc());
}

#[test]
fn headers_of_several_lines_are_one_value() {
    let parts = parts("GET", "/", &[("x-a", "1"), ("x-a", "2"), ("x-b", ""), ("x-c", "version-17")]);
    for (name, value, expected) in [
        ("x-a", exact("1,2"), true),
        ("x-a", exact("1"), false),
        ("x-a", regex(".*2"), true),
        ("x-a", regex("1"), false),
        ("x-b", exact(""), true),
        ("x-c", regex("version-[0-9]+"), true),
        ("x-c", regex("[0-9]+"), false),
        ("x-d", exact(""), false),
        ("x-d", regex(".*"), false),
    ] {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        let matched = RequestMatch { headers: vec![HeaderMatch { name, value }], ..RequestMatch::default() };
        assert_eq!(Request::of(&parts).meets(&matched), expected, "{matched:?}");
    }
}

#[test]
fn parameters_are_compared_decoded_and_the_first_of_a_name_counts() {
    let parts = parts("GET", "/?animal=whale&animal=dog&full+name=J%C3%B6rg%20B&flag&half=%4&x=a%2Bb", &[]);
    for (name, value, expected) in [
        ("animal", exact("whale"), true),
        ("animal", exact("dog"), false),
        ("animal", regex("wh.*"), true),
        ("full name", exact("Jörg B"), true),
        ("full name", regex("Jörg ."), true),
        ("flag", exact(""), true),
        ("half", exact("%4"), true),
        ("x", exact("a+b"), true),
        ("y", regex(".*"), false),
    ] {
        let query = vec![QueryMatch { name: name.into(), value }];
        let matched = RequestMatch { query, ..RequestMatch::default() };
        assert_eq!(Request::of(&parts).meets(&matched), expected, "{matched:?}");
    }
}
