//! The one canonical form of a path, so that no two rooms read the same path differently.
//!
//! What is ambiguous is refused, never repaired: `%2F` is a slash to some and not to others, and `..` walks past
//! whatever was checked by prefix.

use crate::error::Error;

/// The path of a request's target: what stands before `?`, and after scheme and authority in the absolute form that
/// every server must take (RFC 9112, section 3.2.2).
pub fn of_target(target: &str) -> &str {
    let path = target.split('?').next().unwrap_or("");
    let Some((scheme, rest)) = path.split_once("://") else { return path };
    match scheme.to_ascii_lowercase().as_str() {
        "http" | "https" => rest.find('/').map_or("/", |slash| &rest[slash..]),
        _ => path,
    }
}

/// Absolute, no dot segments, no empty segments, no NUL; percent-encoding is left as it came.
pub fn canonical(path: &str) -> Result<String, Error> {
    let refuse = |why: &str| Err(Error::invalid(format!("the request's path {why}")));
    if path != "*" && !path.starts_with('/') {
        return refuse("must begin with a slash");
    }
    if path.bytes().any(|b| !(0x21..=0x7e).contains(&b) || b == b'\\') {
        return refuse("holds a character that must be percent-encoded");
    }
    let mut merged = String::with_capacity(path.len());
    for byte in path.chars() {
        if !(byte == '/' && merged.ends_with('/')) {
            merged.push(byte);
        }
    }
    let bytes = merged.as_bytes();
    for (at, _) in merged.match_indices('%') {
        let digits = bytes.get(at + 1..at + 3).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(b'/' | b'\\') => return refuse("holds an encoded slash, which is ambiguous"),
            Some(0) => return refuse("holds a NUL"),
            Some(_) if digits.is_some_and(|digits| !digits.starts_with('+')) => {}
            _ => return refuse("holds a `%` that is no percent-encoding"),
        }
    }
    let dots = |segment: &str| matches!(segment.to_ascii_lowercase().replace("%2e", ".").as_str(), "." | "..");
    if merged.split('/').any(dots) {
        return refuse("holds a `.` or `..` segment");
    }
    Ok(merged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_the_path_of_a_target() {
        for (target, want) in [
            ("/v1/models?a=b", "/v1/models"),
            ("https://localhost:8443/v1/models?a=b", "/v1/models"),
            ("HTTP://host", "/"),
            ("http://host?a=/b", "/"),
            ("ftp://host/a", "ftp://host/a"),
            ("/a?b://c/d", "/a"),
            ("", ""),
        ] {
            assert_eq!(of_target(target), want, "{target}");
        }
    }

    #[test]
    fn which_paths_are_taken_and_how() {
        for (path, want) in [
            ("/", "/"),
            ("/v1/chat/completions", "/v1/chat/completions"),
            ("//v1///models/", "/v1/models/"),
            ("/v2/models/a%20b...c", "/v2/models/a%20b...c"),
            ("/.well-known/x", "/.well-known/x"),
            ("*", "*"),
        ] {
            assert_eq!(canonical(path).ok().as_deref(), Some(want), "{path}");
        }
        for path in [
            "",
            "v1",
            "/a/../b",
            "/a/./b",
            "/..",
            "/a/%2e%2E/b",
            "/a/.%2e",
            "/a%2Fb",
            "/a%5cb",
            "/a\\b",
            "/a%00",
            "/a\0",
            "/%",
            "/%g1",
            "/%+1",
            "/é",
        ] {
            assert!(canonical(path).is_err(), "{path}");
        }
    }

    proptest! {
        #[test]
        fn is_the_canonical_form_its_own(path in ".{0,40}") {
            if let Ok(once) = canonical(&format!("/{path}")) {
                prop_assert_eq!(canonical(&once).unwrap(), once.clone());
                prop_assert!(!once.contains("//"));
            }
        }
    }
}
