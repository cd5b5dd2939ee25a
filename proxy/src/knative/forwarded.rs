//! `Forwarded` (RFC 7239) made of the `X-Forwarded-*` headers, for apps that read only the one. Pure.
//!
//! As queue-proxy makes it, also where the RFC would ask for more quoting: apps were written against that.

use http::header::FORWARDED;
use http::{HeaderMap, HeaderValue};

/// Sets the header where there is none, and anything to make it of.
pub fn synthesize(headers: &mut HeaderMap) {
    let field = |name: &str| {
        let text = headers.get(name).and_then(|value| value.to_str().ok());
        text.unwrap_or_default().trim().to_owned()
    };
    if !field(FORWARDED.as_str()).is_empty() {
        return;
    }
    let told = join(&field("x-forwarded-for"), &field("x-forwarded-host"), &field("x-forwarded-proto"));
    if let Some(value) = told.and_then(|text| HeaderValue::from_str(&text).ok()) {
        headers.insert(FORWARDED, value);
    }
}

/// The first element says all there is to say; each further hop is one of its own.
fn join(through: &str, host: &str, proto: &str) -> Option<String> {
    let mut hops = through.split(',').map(node);
    let first = hops.next().and_then(|hop| pair("for", &hop));
    let pairs = [first, pair("host", host), pair("proto", proto)];
    let mut told = pairs.into_iter().flatten().collect::<Vec<_>>().join(";");
    for hop in hops {
        if !told.is_empty() {
            told.push_str(", ");
        }
        told.push_str("for=");
        told.push_str(&hop);
    }
    (!told.is_empty()).then_some(told)
}

fn pair(name: &str, value: &str) -> Option<String> {
    (!value.is_empty()).then(|| format!("{name}={value}"))
}

/// RFC 7239 §6: an IPv6 address stands in brackets and quotes.
fn node(text: &str) -> String {
    let text = text.trim();
    if text.contains(':') { format!("\"[{text}]\"") } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_made_of_the_older_headers() {
        let both = "127.0.0.1, ::1";
        let cases = [
            (both, "h", "p", Some("for=127.0.0.1;host=h;proto=p, for=\"[::1]\"")),
            ("127.0.0.1", "h", "p", Some("for=127.0.0.1;host=h;proto=p")),
            (both, "", "", Some("for=127.0.0.1, for=\"[::1]\"")),
            ("", "h", "", Some("host=h")),
            ("", "", "p", Some("proto=p")),
            ("", "h", "p", Some("host=h;proto=p")),
            (",,,", "", "", Some("for=, for=, for=")),
            ("", "", "", None),
        ];
        for (through, host, proto, want) in cases {
            assert_eq!(join(through, host, proto).as_deref(), want, "{through:?} {host:?} {proto:?}");
        }
    }

    #[test]
    fn is_a_header_that_is_there_left_alone() {
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", HeaderValue::from_static("10.0.0.1"));
        headers.insert(FORWARDED, HeaderValue::from_static("for=x"));
        synthesize(&mut headers);
        assert_eq!(headers[FORWARDED], "for=x");
        headers.remove(FORWARDED);
        synthesize(&mut headers);
        assert_eq!(headers[FORWARDED], "for=10.0.0.1");
    }

    proptest! {
        #[test]
        fn is_there_one_element_for_each_hop(hops in prop::collection::vec("[0-9a-f.:]{1,20}", 1..20)) {
            let told = join(&hops.join(","), "", "").unwrap();
            prop_assert_eq!(told.matches("for=").count(), hops.len());
        }
    }
}
