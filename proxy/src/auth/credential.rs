//! The credential of a request: taken from exactly one place, or not at all.
//!
//! A query parameter is read only where a setting asks for it (both ends' logs may hold it), a form field never.

use super::Reason;
use crate::message::Head;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName};

/// Longer credentials are refused unread: checking one must cost a stranger's request next to nothing.
pub const CREDENTIAL_BYTES_MAX: usize = 16 * 1024;

/// A place for a credential.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Location {
    /// `Authorization: Bearer` (RFC 6750, section 2.1)
    Bearer,
    /// What follows the prefix in this header.
    Header(HeaderName, String),
    Parameter(String),
    Cookie(String),
}

/// The credential at a place, if there is exactly one.
pub fn take<'a>(head: &'a Head, location: &Location) -> Result<Option<&'a str>, Reason> {
    match location {
        Location::Bearer => bearer(&head.headers),
        // RFC 9110, 11.6.2: one Authorization line. Whoever reads the other of two sees another caller.
        Location::Header(name, _) if name == AUTHORIZATION && head.headers.get_all(name).iter().count() > 1 => {
            Err(Reason::Ambiguous)
        }
        Location::Header(name, prefix) => {
            let lines = head.headers.get_all(name).iter();
            let tokens = lines.filter_map(|line| Some(line.to_str().ok()?.strip_prefix(prefix.as_str())?.trim()));
            only(tokens)
        }
        Location::Parameter(name) => only(parameters(head).filter(|(key, _)| key == name).map(|(_, value)| value)),
        Location::Cookie(name) => {
            let lines = head.headers.get_all(http::header::COOKIE).iter().filter_map(|line| line.to_str().ok());
            let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
            only(pairs.filter(|(key, _)| key == name).map(|(_, value)| value))
        }
    }
}

fn only<'a>(mut tokens: impl Iterator<Item = &'a str>) -> Result<Option<&'a str>, Reason> {
    let Some(token) = tokens.next() else { return Ok(None) };
    match (tokens.next(), token) {
        (Some(_), _) => Err(Reason::Ambiguous),
        (None, "") => Err(Reason::Malformed),
        (None, token) if token.len() > CREDENTIAL_BYTES_MAX => Err(Reason::Malformed),
        (None, token) => Ok(Some(token)),
    }
}

fn parameters(head: &Head) -> impl Iterator<Item = (&str, &str)> {
    let pairs = head.query.as_deref().unwrap_or_default().split('&');
    pairs.filter_map(|pair| pair.split_once('='))
}

/// `None`: no credential, or one of another scheme.
pub fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Reason> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Reason::Ambiguous);
    }
    let bytes = value.as_bytes();
    let Some((scheme, rest)) = bytes.split_first_chunk::<6>() else { return Ok(None) };
    // RFC 9110, 11.1: the scheme's case does not matter.
    if !scheme.eq_ignore_ascii_case(b"bearer") {
        return Ok(None);
    }
    let credential = match rest {
        [b' ', ..] => rest.trim_ascii(),
        [] => rest,
        _ => return Ok(None),
    };
    if credential.is_empty() || credential.len() > CREDENTIAL_BYTES_MAX {
        return Err(Reason::Malformed);
    }
    // RFC 6750's b64token; a comma or a space would mean two credentials in one header.
    let b64token = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~' | b'+' | b'/' | b'=');
    match std::str::from_utf8(credential) {
        Ok(text) if credential.iter().all(b64token) => Ok(Some(text)),
        _ => Err(Reason::Malformed),
    }
}

/// A SHA-256 as people write it: 64 hexadecimal digits of either case.
pub fn sha256_of_hex(text: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (at, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn which_headers_hold_a_bearer_credential() {
        let long = format!("Bearer {}", "a".repeat(CREDENTIAL_BYTES_MAX + 1));
        type Case<'a> = (&'a [&'a str], Result<Option<&'a str>, Reason>);
        let cases: &[Case<'_>] = &[
            (&[], Ok(None)),
            (&["Bearer abc"], Ok(Some("abc"))),
            (&["bearer   abc "], Ok(Some("abc"))),
            (&["BEARER a.b-c_d~e+f/g="], Ok(Some("a.b-c_d~e+f/g="))),
            (&["Basic dXNlcjpwdw=="], Ok(None)),
            (&["Bearerabc"], Ok(None)),
            (&["B"], Ok(None)),
            (&[""], Ok(None)),
            (&["Bearer"], Err(Reason::Malformed)),
            (&["Bearer  "], Err(Reason::Malformed)),
            (&["Bearer a b"], Err(Reason::Malformed)),
            (&["Bearer a, Bearer b"], Err(Reason::Malformed)),
            (&["Bearer \u{e9}"], Err(Reason::Malformed)),
            (&[&long], Err(Reason::Malformed)),
            (&["Bearer a", "Bearer b"], Err(Reason::Ambiguous)),
            (&["Bearer a", "Bearer a"], Err(Reason::Ambiguous)),
            (&["Basic a", "Bearer b"], Err(Reason::Ambiguous)),
        ];
        for (values, expected) in cases {
            let mut headers = HeaderMap::new();
            for value in *values {
                headers.append(AUTHORIZATION, HeaderValue::from_bytes(value.as_bytes()).unwrap());
            }
            assert_eq!(bearer(&headers), *expected, "{values:?}");
        }
    }
}
