//! Paths: each has one form or is refused, and in that form it means what it meant before.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_route::path::{Slashes, normalize};

/// The bytes that a path stands for.
fn decoded(path: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = path.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first == b'%' {
            let digits = str::from_utf8(&after[..2]).expect("two digits follow");
            bytes.push(u8::from_str_radix(digits, 16).expect("they are hexadecimal"));
            rest = &after[2..];
        } else {
            bytes.push(*first);
        }
    }
    bytes
}

/// Dot segments taken out of what a path stands for, by RFC 3986, section 5.2.4.
fn resolved(path: &[u8], slashes: Slashes) -> Vec<u8> {
    let mut input = path.to_vec();
    if slashes == Slashes::Merge {
        input.dedup_by(|a, b| (*a, *b) == (b'/', b'/'));
    }
    let mut output = Vec::new();
    let mut rest = input.as_slice();
    while !rest.is_empty() {
        if rest.starts_with(b"/./") || rest == b"/." {
            rest = if rest.len() == 2 { b"/" } else { &rest[2..] };
        } else if rest.starts_with(b"/../") || rest == b"/.." {
            rest = if rest.len() == 3 { b"/" } else { &rest[3..] };
            output.truncate(output.iter().rposition(|byte| *byte == b'/').unwrap_or(0));
        } else {
            let end = rest[1..].iter().position(|byte| *byte == b'/').map_or(rest.len(), |end| end + 1);
            output.extend_from_slice(&rest[..end]);
            rest = &rest[end..];
        }
    }
    output
}

fuzz_target!(|path: &str| {
    for slashes in [Slashes::Keep, Slashes::Merge] {
        let Ok(normal) = normalize(path, slashes) else { continue };
        assert_eq!(normalize(&normal, slashes).as_deref(), Ok(&*normal), "{path:?}");
        if path == "*" {
            continue;
        }
        assert!(normal.starts_with('/') && normal.is_ascii(), "{path:?} became {normal:?}");
        assert!(slashes == Slashes::Keep || !normal.contains("//"), "{path:?} became {normal:?}");
        for element in normal.split('/') {
            assert!(element != "." && element != "..", "{path:?} became {normal:?}");
            assert!(!element.starts_with("..;") && !element.starts_with(".;"), "{path:?} became {normal:?}");
        }
        assert_eq!(decoded(&normal), resolved(&decoded(path), slashes), "{path:?} became {normal:?}");
        // Nothing that some server takes for a slash, or for the end of the path, is left in it.
        let bytes = decoded(&normal);
        assert_eq!(bytes.iter().filter(|byte| **byte == b'/').count(), normal.matches('/').count());
        assert!(!bytes.iter().any(|byte| *byte == b'\\' || byte.is_ascii_control()), "{path:?} became {normal:?}");
        let target: http::uri::PathAndQuery = normal.parse().expect("it can be sent");
        assert_eq!((target.path(), target.query()), (&*normal, None));
    }
});
