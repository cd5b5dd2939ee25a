//! OpenAI's API as its clients speak it: chat and text completions, embeddings, models; with vLLM's additions.
//!
//! Claims all of `/v1/…`, and `/openai/v1/…` as KServe prefixes it, so that even an unknown path is refused in words an
//! OpenAI client can read. Never keeps anything between requests: what the API offers as stored state is not here.

mod request;
mod response;
mod wire;

use crate::dialects::{Dialect, Facts, Operation, Parsed};
use crate::error::{Error, Verdict};
use crate::message::{Head, Part};
use bytes::Bytes;
use http::Method;

pub struct OpenAi;

/// What follows `/v1`, the one method it takes, and what to call it.
static ROUTES: &[(&str, &str, &str)] = &[
    ("/chat/completions", "POST", "chat_completions"),
    ("/completions", "POST", "completions"),
    ("/embeddings", "POST", "embeddings"),
    ("/models", "GET", "models"),
];

/// `/models/{id}`.
const MODEL: (&str, &str) = ("GET", "model");

const UNKNOWN_PATH: &str = "unknown_path";
const METHOD_NOT_ALLOWED: &str = "method_not_allowed";

/// The path after the API's root; `None` where the path is not this dialect's.
fn below_root(path: &str) -> Option<&str> {
    let path = path.strip_prefix("/openai").filter(|rest| rest.starts_with('/')).unwrap_or(path);
    path.strip_prefix("/v1").filter(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Method and name of what lives at a path below the root.
fn endpoint(below: &str) -> Option<(&'static str, &'static str)> {
    if let Some((_, method, name)) = ROUTES.iter().find(|(path, ..)| *path == below) {
        return Some((method, name));
    }
    below.strip_prefix("/models/").filter(|id| !id.is_empty()).map(|_| MODEL)
}

impl Dialect for OpenAi {
    fn name(&self) -> &'static str {
        "openai"
    }

    fn route(&self, head: &Head) -> Option<Operation> {
        let name = match endpoint(below_root(&head.path)?) {
            None => UNKNOWN_PATH,
            Some((method, name)) if head.method.as_str() == method => name,
            Some(_) => METHOD_NOT_ALLOWED,
        };
        Some(Operation { name, open: false })
    }

    fn parse(&self, operation: Operation, head: &Head, body: Bytes, facts: &Facts) -> Result<Parsed, Error> {
        match operation.name {
            "chat_completions" => request::chat::parse(head, &body, facts),
            "completions" => request::completions::parse(head, &body, facts),
            "embeddings" => request::embeddings::parse(head, &body, facts),
            "models" => Ok(request::models()),
            "model" => request::model(head, facts),
            METHOD_NOT_ALLOWED => {
                let allowed = below_root(&head.path).and_then(endpoint).map_or("POST", |(method, _)| method);
                Err(Error::MethodNotAllowed { method: head.method.to_string(), allowed })
            }
            _ => {
                Err(Error::UnknownPath { method: head.method.to_string(), path: head.path.chars().take(256).collect() })
            }
        }
    }

    fn refusal(&self, head: &Head, verdict: &Verdict) -> Vec<Part> {
        let mut parts = response::refusal(verdict);
        let allowed = below_root(&head.path).and_then(endpoint).filter(|(method, _)| head.method.as_str() != *method);
        if let (405, Some((method, _)), Some(Part::Head { headers, .. })) = (verdict.status, allowed, parts.first_mut())
        {
            headers.insert(http::header::ALLOW, http::HeaderValue::from_static(method));
        }
        if head.method == Method::HEAD {
            parts.retain(|part| !matches!(part, Part::Body(_)));
        }
        parts
    }
}

/// For the fuzzer: any bytes as a request, and any events as its answer.
pub fn fuzz(data: &[u8]) {
    let paths = ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/models", "/openai/v1/models/a%2Fb"];
    crate::dialects::common::drive::fuzz(&OpenAi, &paths, data);
}

#[cfg(test)]
mod tests;
