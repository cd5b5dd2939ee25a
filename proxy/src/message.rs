//! What crosses the border with a caller, free of any HTTP library's session: [`Head`] in, [`Part`]s out.

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Version};

/// A request up to its body.
#[derive(Clone, Debug)]
pub struct Head {
    pub method: Method,
    /// The one canonical path: absolute, percent-decoding left as the caller sent it, no dot segments.
    pub path: String,
    /// What followed `?`, without it.
    pub query: Option<String>,
    pub headers: HeaderMap,
    pub version: Version,
    /// This exchange's id, drawn by the sidecar: unique, of `[A-Za-z0-9_-]`. Answers, logs and the worker carry it.
    pub request_id: String,
    /// When the head arrived, seconds since 1970. Dialects own no clock.
    pub arrived_unix_seconds: u64,
}

impl Head {
    /// A copy with the one header that a refusal depends on: which way of speaking the caller expects.
    pub fn for_refusals(&self) -> Head {
        let kind = self.headers.get(http::header::CONTENT_TYPE);
        let headers = kind.map(|kind| (http::header::CONTENT_TYPE, kind.clone())).into_iter().collect();
        let (path, request_id) = (self.path.clone(), self.request_id.clone());
        let (method, version, arrived_unix_seconds) = (self.method.clone(), self.version, self.arrived_unix_seconds);
        Head { method, path, query: None, headers, version, request_id, arrived_unix_seconds }
    }

    /// A header as text, if it is there once or more and is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// A piece of an answer, in order: one `Head`, any number of `Body`, one `End`.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    Head {
        status: StatusCode,
        headers: HeaderMap,
    },
    Body(Bytes),
    /// The clean end, with trailers for gRPC.
    End(Option<HeaderMap>),
}

impl Part {
    /// A complete answer with a body of this media type.
    pub fn whole(status: StatusCode, media_type: &'static str, body: impl Into<Bytes>) -> Vec<Part> {
        let body = body.into();
        let mut headers = HeaderMap::new();
        headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(media_type));
        headers.insert(http::header::CONTENT_LENGTH, body.len().into());
        vec![Part::Head { status, headers }, Part::Body(body), Part::End(None)]
    }
}

/// A complete answer in words that are not ours.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    pub status: StatusCode,
    /// Without any that frame the body.
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Refusal {
    /// For a caller of any protocol but gRPC.
    pub fn parts(&self) -> Vec<Part> {
        let mut headers = self.headers.clone();
        // RFC 9110 §6.4.1: these have no body, and their content-length would be another's.
        if matches!(self.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
            return vec![Part::Head { status: self.status, headers }, Part::End(None)];
        }
        headers.insert(http::header::CONTENT_LENGTH, self.body.len().into());
        vec![Part::Head { status: self.status, headers }, Part::Body(self.body.clone()), Part::End(None)]
    }
}
