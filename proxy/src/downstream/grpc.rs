//! What gRPC asks of HTTP (grpc/doc/PROTOCOL-HTTP2.md), for callers of any gRPC dialect.

use crate::error::Verdict;
use crate::message::{Head, Part};
use http::{HeaderMap, HeaderValue, StatusCode};
use std::time::Duration;

/// Whether the caller speaks gRPC: `application/grpc`, `application/grpc+proto` …, but not gRPC-Web.
pub fn is_grpc(head: &Head) -> bool {
    let rest = head.header("content-type").and_then(|value| value.strip_prefix("application/grpc"));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['+', ';']))
}

/// A `grpc-timeout`: at most eight digits and a unit.
pub fn timeout_of(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

/// A refusal in one header block ("Trailers-Only").
pub fn refusal(verdict: &Verdict) -> Vec<Part> {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from(verdict.grpc));
    if let Ok(message) = HeaderValue::from_str(&percent_encoded(&verdict.words)) {
        headers.insert("grpc-message", message);
    }
    vec![Part::Head { status: StatusCode::OK, headers }, Part::End(None)]
}

/// As `grpc-message` wants it: printable ASCII but `%` stays.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(byte as char),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_timeouts_are_understood() {
        let cases =
            [("1S", Some(1000)), ("250m", Some(250)), ("99999999H", Some(359_999_996_400_000)), ("2M", Some(120_000))];
        for (text, want) in cases.into_iter().chain([
            ("", None),
            ("S", None),
            ("1", None),
            ("-1S", None),
            ("123456789S", None),
            ("1é", None),
        ]) {
            assert_eq!(timeout_of(text).map(|t| t.as_millis()), want, "{text}");
        }
    }

    #[test]
    fn is_a_message_fit_for_a_header() {
        assert_eq!(percent_encoded("50 % naïve\n"), "50 %25 na%C3%AFve%0A");
    }
}
