//! OpenAI answers: what all of them share. An error always has the one shape its clients know.

pub mod embeddings;
pub mod generation;
pub mod logprobs;
pub mod models;

use super::wire::{ErrorBody, ErrorObject};
use crate::dialects::Note;
use crate::error::Verdict;
use crate::message::{Head, Part};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Serialize;

/// Names the build that gave an answer, as the API's field is meant.
pub const SYSTEM_FINGERPRINT: &str = concat!("fp_outrider_", env!("CARGO_PKG_VERSION"));

/// What stands in front of every answer of one exchange.
pub struct Envelope {
    pub id: String,
    pub created: u64,
    pub model: String,
}

impl Envelope {
    pub fn new(prefix: &str, head: &Head, model: String) -> Envelope {
        Envelope { id: format!("{prefix}-{}", head.request_id), created: head.arrived_unix_seconds, model }
    }
}

pub fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("our own structs have string keys only")
}

pub fn whole(value: &impl Serialize) -> Vec<Part> {
    Part::whole(StatusCode::OK, "application/json", json(value))
}

/// One server-sent event (WHATWG HTML §9.2).
pub fn event(value: &impl Serialize) -> Part {
    let mut bytes = Vec::with_capacity(256);
    bytes.extend_from_slice(b"data: ");
    serde_json::to_writer(&mut bytes, value).expect("our own structs have string keys only");
    bytes.extend_from_slice(b"\n\n");
    Part::Body(bytes.into())
}

/// The last event of a stream that ended well, and of no other.
pub fn done() -> Part {
    Part::Body(Bytes::from_static(b"data: [DONE]\n\n"))
}

/// What is no part of the answer. Clients pass over a comment (WHATWG HTML §9.2.6: a line that begins with a colon); an
/// event of its own name is for clients that asked for it: OpenAI's own packages would read its data as a chunk.
pub fn note(note: &Note) -> Part {
    let line = |text: &str| text.replace(['\r', '\n'], " ");
    let text = match note {
        Note::Comment(words) => format!(": {}\n\n", line(words)),
        Note::Progress(json) => format!("event: outrider.progress\ndata: {}\n\n", line(json)),
    };
    Part::Body(text.into())
}

pub fn stream_head() -> Part {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Reverse proxies of the nginx kind would otherwise collect the stream before they pass it on.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Part::Head { status: StatusCode::OK, headers }
}

/// A complete refusal.
pub fn refusal(verdict: &Verdict) -> Vec<Part> {
    let status = StatusCode::from_u16(verdict.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut parts = Part::whole(status, "application/json", json(&error_body(verdict)));
    if let (Some(after), Some(Part::Head { headers, .. })) = (verdict.retry_after, parts.first_mut()) {
        // Whole seconds (RFC 9110 §10.2.3), and never 0: that would invite a busy loop.
        headers
            .insert(header::RETRY_AFTER, HeaderValue::from(after.as_millis().div_ceil(1000).clamp(1, 86_400) as u64));
    }
    parts
}

/// A failure within a stream. What follows must be the end, and not [`done`].
pub fn failure(verdict: &Verdict) -> Part {
    event(&error_body(verdict))
}

fn error_body(verdict: &Verdict) -> ErrorBody<'_> {
    let r#type = match verdict.status {
        401 => "authentication_error",
        403 => "permission_error",
        429 => match &verdict.quota {
            Some(quota) => {
                if quota.tokens {
                    "tokens"
                } else {
                    "requests"
                }
            }
            None => "rate_limit_error",
        },
        400..=499 => "invalid_request_error",
        _ => "server_error",
    };
    let code = match verdict.label {
        "invalid" => None,
        "rate_limited" => Some("rate_limit_exceeded"),
        "unknown_model" => Some("model_not_found"),
        "unknown_path" => Some("unknown_url"),
        "credential_missing" | "credential_refused" => Some("invalid_api_key"),
        label => Some(label),
    };
    ErrorBody { error: ErrorObject { message: &verdict.words, r#type, param: verdict.param.as_deref(), code } }
}
