use super::{Ambiguous, Slashes, normalize};

#[test]
fn each_path_has_one_form() {
    for (path, kept, merged) in [
        ("/", "/", "/"),
        ("*", "*", "*"),
        ("/a/b", "/a/b", "/a/b"),
        ("/a/", "/a/", "/a/"),
        // RFC 3986, section 6.2.2.
        ("/%7Esmith/%7euser", "/~smith/~user", "/~smith/~user"),
        ("/%41%2d%2e%5F/x", "/A-._/x", "/A-._/x"),
        ("/a%3ab", "/a%3Ab", "/a%3Ab"),
        ("/a:b@c;d=1,2", "/a:b@c;d=1,2", "/a:b@c;d=1,2"),
        ("/%C3%A4/ä", "/%C3%A4/%C3%A4", "/%C3%A4/%C3%A4"),
        ("/{id}|^`<>\"", "/%7Bid%7D%7C%5E%60%3C%3E%22", "/%7Bid%7D%7C%5E%60%3C%3E%22"),
        ("/%25%32%66", "/%252f", "/%252f"),
        // RFC 3986, section 5.2.4.
        ("/a/b/c/./../../g", "/a/g", "/a/g"),
        ("/a/b/..", "/a/", "/a/"),
        ("/a/b/.", "/a/b/", "/a/b/"),
        ("/a/..", "/", "/"),
        ("/./", "/", "/"),
        ("/.", "/", "/"),
        ("/%2e/a/%2E%2e/b", "/b", "/b"),
        ("/a/.b/..c/.../d..", "/a/.b/..c/.../d..", "/a/.b/..c/.../d.."),
        ("//", "//", "/"),
        ("//a///b//", "//a///b//", "/a/b/"),
        ("/a/b/..//c", "/a//c", "/a/c"),
    ] {
        assert_eq!(normalize(path, Slashes::Keep).as_deref(), Ok(kept), "{path}");
        assert_eq!(normalize(path, Slashes::Merge).as_deref(), Ok(merged), "{path}, merged");
    }
}

#[test]
fn ambiguous_paths_are_refused() {
    use Ambiguous::*;
    for (path, expected) in [
        ("", NotAbsolute),
        ("a", NotAbsolute),
        ("*/", NotAbsolute),
        ("/%", BadEscape),
        ("/%2", BadEscape),
        ("/%g0", BadEscape),
        ("/%u002f", BadEscape),
        ("/a%2fb", EscapedSlash),
        ("/a/..%2Fb", EscapedSlash),
        ("/a\\b", Backslash),
        ("/a%5Cb", Backslash),
        ("/a%00", BadByte),
        ("/a%0a", BadByte),
        ("/a%7f", BadByte),
        ("/a b", BadByte),
        ("/a\u{1}", BadByte),
        ("/a#b", BadByte),
        ("/a?b", BadByte),
        ("/..", DotSegments),
        ("/a/../../b", DotSegments),
        ("/%2e%2e/b", DotSegments),
        ("/a/..;/b", DotParameters),
        ("/a/%2e%2e;x=1/b", DotParameters),
        ("/.;/b", DotParameters),
    ] {
        assert_eq!(normalize(path, Slashes::Keep), Err(expected), "{path}");
        assert_eq!(normalize(path, Slashes::Merge), Err(expected), "{path}, merged");
    }
    // Some servers take the empty element away, others the one before it.
    assert_eq!(normalize("/a//../b", Slashes::Keep), Err(DotSegments));
    assert_eq!(normalize("/a//../b", Slashes::Merge).as_deref(), Ok("/b"));
}

#[test]
fn the_usual_path_is_not_copied() {
    let path = "/api/v1/users/17/orders.json;v=1";
    assert!(matches!(normalize(path, Slashes::Merge), Ok(std::borrow::Cow::Borrowed(same)) if same == path));
}

#[test]
fn what_is_normal_stays_so() {
    let pieces = ["/", "/", "a", ".", "..", "%2e", "%41", "%3a", "ä", ";", "%", "~", "b"];
    let mut random = fastrand::Rng::with_seed(7);
    let mut accepted = 0;
    for _ in 0..20_000 {
        let path: String = std::iter::once("/")
            .chain((0..random.usize(0..9)).map(|_| pieces[random.usize(0..pieces.len())]))
            .collect();
        for slashes in [Slashes::Keep, Slashes::Merge] {
            let Ok(normal) = normalize(&path, slashes) else { continue };
            accepted += 1;
            assert_eq!(normalize(&normal, slashes).as_deref(), Ok(&*normal), "{path}");
            let is_clean = |element: &str| element != "." && element != "..";
            assert!(normal.starts_with('/') && normal.split('/').all(is_clean), "{path} became {normal}");
            assert!(slashes == Slashes::Keep || !normal.contains("//"), "{path} became {normal}");
        }
    }
    assert!(accepted > 10_000, "only {accepted} were accepted");
}
