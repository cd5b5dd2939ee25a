//! Which headers end at this hop. Pure.
//!
//! Never touches what is between the ends: names and values that go on go on as they are.

use http::HeaderMap;
use http::header::{CONNECTION, COOKIE, EXPECT, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE};

/// RFC 9110 §7.6.1, and two that never were standard but are sent all the same.
const OF_THE_HOP: [HeaderName; 4] =
    [CONNECTION, TRANSFER_ENCODING, HeaderName::from_static("keep-alive"), HeaderName::from_static("proxy-connection")];

/// Says which certificate a caller showed; an application has no business saying it of itself.
const FORWARDED_CERTIFICATE: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// The protocol a request asks to go over to, if it asks (RFC 9110 §7.8).
pub fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let asks = tokens(headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"));
    headers.get(UPGRADE).filter(|_| asks).cloned()
}

/// Takes out what ends here; `going_over` puts an upgrade back in.
pub fn clean_request(headers: &mut HeaderMap, going_over: Option<HeaderValue>) {
    let trailers = tokens(headers, &TE).any(|token| token.eq_ignore_ascii_case("trailers"));
    clean(headers);
    headers.remove(FORWARDED_CERTIFICATE);
    // Our own server has said `100 Continue` already, when the body was first asked for.
    headers.remove(EXPECT);
    headers.remove(TE);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    restore(headers, going_over);
}

pub fn clean_response(headers: &mut HeaderMap, going_over: Option<HeaderValue>) {
    clean(headers);
    restore(headers, going_over);
}

fn clean(headers: &mut HeaderMap) {
    // Nearly always there is nothing to do.
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = tokens(headers, &CONNECTION).filter_map(|token| token.parse().ok()).collect();
        for name in named {
            headers.remove(name);
        }
    }
    for name in &OF_THE_HOP {
        headers.remove(name);
    }
    headers.remove(UPGRADE);
}

fn restore(headers: &mut HeaderMap, going_over: Option<HeaderValue>) {
    if let Some(protocol) = going_over {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol);
    }
}

/// HTTP/2 may cut `cookie` into several fields; http/1 wants one (RFC 9113 §8.2.3).
pub fn join_cookies(headers: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]))
    {
        headers.insert(COOKIE, joined);
    }
}

fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn what_ends_at_this_hop() {
        let mut headers = map(&[
            ("connection", "keep-alive, X-Mine"),
            ("x-mine", "1"),
            ("keep-alive", "5"),
            ("te", "gzip, trailers"),
            ("transfer-encoding", "chunked"),
            ("x-forwarded-client-cert", "By=me"),
            ("upgrade", "h2c"),
            ("expect", "100-continue"),
            ("accept", "x"),
        ]);
        assert_eq!(upgrade(&headers), None, "named, but not asked for");
        clean_request(&mut headers, None);
        assert_eq!(headers, map(&[("te", "trailers"), ("accept", "x")]));
        let mut crumbs = map(&[("cookie", "a=1"), ("x", "y"), ("cookie", "b=2")]);
        join_cookies(&mut crumbs);
        assert_eq!(crumbs, map(&[("cookie", "a=1; b=2"), ("x", "y")]));
        let mut socket = map(&[("connection", "Upgrade"), ("upgrade", "websocket"), ("sec-websocket-key", "k")]);
        let going_over = upgrade(&socket);
        clean_request(&mut socket, going_over);
        assert_eq!(socket, map(&[("connection", "upgrade"), ("upgrade", "websocket"), ("sec-websocket-key", "k")]));
    }
}
