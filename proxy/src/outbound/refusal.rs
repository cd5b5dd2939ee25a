//! What the way out says no to, and how: one enum, one table. Pure.
//!
//! The application hears it in words, as JSON or as a gRPC status, with a header that tells our answers from a server's.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use serde_json::json;

/// Names who refused; its value is always `outbound`.
pub const REFUSED_BY: HeaderName = HeaderName::from_static("x-outrider-refused-by");

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the request names no host that could be one")]
    NoHost,
    #[error("CONNECT is not served; let connections be intercepted, or speak to the service by its name")]
    Connect,
    #[error("no route leads to {0}; add one under `outbound.routes`")]
    NoRoute(String),
    #[error("the request would come back to this sidecar; its destination must be another")]
    Loop,
    #[error("the cluster {0} has no endpoint; see whether its pods are ready")]
    NoEndpoint(String),
    /// A circuit breaker: the name of the limit.
    #[error("the cluster {cluster} is at its limit `{limit}`")]
    Overflow { cluster: String, limit: &'static str },
    /// `reason` is a label: of a handshake, or of what the socket said.
    #[error("no connection to the cluster {cluster}: {reason}")]
    ConnectFailed { cluster: String, reason: &'static str },
    #[error("the cluster {0} closed the connection before it answered")]
    Reset(String),
    #[error("the cluster {0} did not answer in time")]
    Timeout(String),
    #[error("a fault was injected on purpose")]
    Fault { status: u16, grpc: u16 },
}

/// What a refusal means outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub status: u16,
    pub grpc: u16,
    pub label: &'static str,
}

const fn verdict(status: u16, grpc: u16, label: &'static str) -> Verdict {
    Verdict { status, grpc, label }
}

impl Refusal {
    pub fn verdict(&self) -> Verdict {
        match self {
            Refusal::NoHost => verdict(400, 3, "no_host"),
            Refusal::Connect => verdict(405, 12, "connect_method"),
            // 502 and not 404: the service was never asked, so it cannot be what knows no such thing.
            Refusal::NoRoute(_) => verdict(502, 14, "no_route"),
            // 508 is what WebDAV calls it (RFC 5842 §7.2).
            Refusal::Loop => verdict(508, 14, "loop"),
            Refusal::NoEndpoint(_) => verdict(503, 14, "no_endpoint"),
            Refusal::Overflow { .. } => verdict(503, 14, "overflow"),
            Refusal::ConnectFailed { .. } => verdict(503, 14, "connect_failed"),
            Refusal::Reset(_) => verdict(502, 14, "reset"),
            Refusal::Timeout(_) => verdict(504, 4, "timeout"),
            Refusal::Fault { status, grpc } => verdict(*status, *grpc, "fault"),
        }
    }

    /// For a caller that sent this content type.
    pub fn answer(&self, content_type: Option<&HeaderValue>) -> Response<Bytes> {
        let Verdict { status, grpc, label } = self.verdict();
        let speaks_grpc = is_grpc(content_type);
        let mut response = Response::new(Bytes::new());
        let headers = response.headers_mut();
        headers.insert(REFUSED_BY, HeaderValue::from_static("outbound"));
        if speaks_grpc {
            // Trailers-only: status and words are in the one head there is.
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert("grpc-status", HeaderValue::from(grpc));
            if let Ok(words) = HeaderValue::from_str(&percent(&self.to_string())) {
                headers.insert("grpc-message", words);
            }
            return response;
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let body = json!({"error": {"message": self.to_string(), "type": "outbound", "code": label}});
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
        *response.body_mut() = Bytes::from(body.to_string() + "\n");
        response
    }
}

/// `application/grpc`, alone or with a codec (`+proto`) or parameters behind it.
pub fn is_grpc(content_type: Option<&HeaderValue>) -> bool {
    let rest = content_type.and_then(|value| value.as_bytes().strip_prefix(b"application/grpc"));
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// As gRPC writes messages: visible ASCII without `%` as it is, the rest as percent signs and digits.
fn percent(words: &str) -> String {
    let mut text = String::with_capacity(words.len());
    for byte in words.bytes() {
        match byte {
            b'%' | 0..=0x1f | 0x7f.. => text.push_str(&format!("%{byte:02X}")),
            plain => text.push(char::from(plain)),
        }
    }
    text
}

/// What a gRPC status is in HTTP, for outlier detection (as Envoy maps it).
pub fn http_of_grpc(grpc: u16) -> u16 {
    match grpc {
        0 => 200,
        1 => 499,
        4 => 504,
        8 => 429,
        12 => 501,
        14 => 503,
        2 | 13 | 15 => 500,
        _ => 400,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_is_a_refusal_said() {
        let refusal = Refusal::NoRoute("nowhere.é".into());
        let plain = refusal.answer(None);
        assert_eq!(
            (plain.status(), plain.headers()[REFUSED_BY].as_bytes()),
            (StatusCode::BAD_GATEWAY, &b"outbound"[..])
        );
        let body: serde_json::Value = serde_json::from_slice(plain.body()).unwrap();
        assert_eq!(body["error"]["code"], "no_route");
        let grpc = refusal.answer(Some(&HeaderValue::from_static("application/grpc+proto")));
        assert_eq!((grpc.status(), grpc.headers()["grpc-status"].as_bytes()), (StatusCode::OK, &b"14"[..]));
        assert!(grpc.headers()["grpc-message"].to_str().unwrap().contains("nowhere.%C3%A9"));
        assert!(grpc.body().is_empty());
        assert!(!is_grpc(Some(&HeaderValue::from_static("application/grpc-web"))));
    }
}
