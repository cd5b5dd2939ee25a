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
