//! What callers of kube-rbac-proxy are told when they may not: its status codes and its sentences.
//!
//! One difference: while the API server cannot be asked whose a token is, kube-rbac-proxy says 401 and its callers throw
//! good tokens away; here it is 503.

use super::authorization::BAD_REQUEST;
use super::globs::Glob;
use crate::auth::pipeline::{Fault, Refused};
use crate::auth::rules::access_review::Question;
use crate::message::Refusal;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::Value;

/// Go's own words for a path that is none.
const NOT_FOUND: &str = "404 page not found";
const FAILED: &str = "Authorization error";

/// Whether a request is looked at; an error for one that does not exist.
pub fn concerns(allow: &[Glob], ignore: &[Glob], root: &Value) -> Result<bool, String> {
    let path = root["request"]["url_path"].as_str().unwrap_or_default();
    if !allow.is_empty() && !allow.iter().any(|glob| glob.matches(path)) {
        return Err(NOT_FOUND.into());
    }
    Ok(!ignore.iter().any(|glob| glob.matches(path)))
}

fn about(begin: &str, question: &Question) -> String {
    let (resource, subresource) = question.action.resource();
    let (user, verb) = (&question.user, question.action.verb());
    format!("{begin} (user={user}, verb={verb}, resource={resource}, subresource={subresource})")
}

pub fn denied(question: &Question, _: &str) -> String {
    about("Forbidden", question)
}

pub fn unknown(question: &Question, _: &str) -> String {
    about(FAILED, question)
}

/// As Go's `http.Error` writes it.
pub fn refusal(refused: &Refused) -> Refusal {
    let reason = refused.reason.as_str();
    let (status, words) = match refused.fault {
        Fault::Unauthenticated => (StatusCode::UNAUTHORIZED, "Unauthorized"),
        Fault::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable"),
        _ if reason.contains(NOT_FOUND) => (StatusCode::NOT_FOUND, NOT_FOUND),
        _ if reason == BAD_REQUEST => (StatusCode::BAD_REQUEST, BAD_REQUEST),
        _ if reason.starts_with(FAILED) => (StatusCode::INTERNAL_SERVER_ERROR, reason),
        _ => (StatusCode::FORBIDDEN, reason),
    };
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if status == StatusCode::UNAUTHORIZED {
        // RFC 9110, section 11.6.1; kube-rbac-proxy leaves it out.
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    Refusal { status, headers, body: Bytes::from(format!("{words}\n")) }
}
