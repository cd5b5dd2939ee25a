//! What an authorizer says, over either protocol. Pure.

use crate::config::HeaderPattern;
use crate::forward::Edit;
use crate::message::Refusal;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use outrider_protos::ext_authz::v3::check_response::HttpResponse;
use outrider_protos::ext_authz::v3::{CheckResponse, HeaderValueOption};

/// Headers that belong to one connection or to the framing of one body, and what only we may say of a caller: no
/// authorizer sets or removes them.
const OURS: &[&str] = &[
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-forwarded-client-cert",
];
/// These an answer of ours has once already.
const OUR_ANSWERS: &[&str] = &["date", "server", "x-request-id"];
/// How an authorizer over HTTP has request headers removed.
const TO_REMOVE: &str = "x-envoy-auth-headers-to-remove";

pub enum Answer {
    Allowed(Vec<Change>),
    Denied(Refusal),
    /// It could not be asked, or said nothing that makes sense.
    Failed(String),
    /// It is the wrong one to ask, now and always.
    Unfit(&'static str),
}

/// To a request's headers.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    Set(HeaderName, HeaderValue),
    /// To what is there; nothing, if nothing is.
    Append(HeaderName, HeaderValue),
    Remove(HeaderName),
}

impl Answer {
    /// Over gRPC.
    pub fn of_check(response: CheckResponse) -> Answer {
        let code = response.status.map_or(0, |status| status.code);
        match response.http_response {
            // With an OK beside it, it contradicts itself; the careful reading counts.
            Some(HttpResponse::DeniedResponse(denied)) => {
                let status = denied.status.map_or(0, |status| status.code);
                let status = u16::try_from(status).ok().filter(|status| (200..600).contains(status));
                let mut headers = HeaderMap::new();
                for (name, value, append) in denied.headers.into_iter().filter_map(header) {
                    match append {
                        true => drop(headers.append(name, value)),
                        false => drop(headers.insert(name, value)),
                    }
                }
                Answer::Denied(refusal(status.unwrap_or(403), &headers, denied.body.into()))
            }
            other if code != 0 => {
                tracing::debug!(code, odd = other.is_some(), "denied without a response of its own");
                Answer::Denied(refusal(403, &HeaderMap::new(), Bytes::new()))
            }
            Some(HttpResponse::OkResponse(ok)) => {
                let removed = ok.headers_to_remove.iter().filter_map(|name| Some(Change::Remove(may_change(name)?)));
                let set = ok.headers.into_iter().filter_map(header).map(|(name, value, append)| match append {
                    true => Change::Append(name, value),
                    false => Change::Set(name, value),
                });
                Answer::Allowed(removed.chain(set).collect())
            }
            None => Answer::Allowed(Vec::new()),
        }
    }

    /// Over HTTP: 200 allows, 5xx is no answer, all else is for the caller.
    pub fn of_http(status: StatusCode, headers: &HeaderMap, body: Bytes, to_upstream: &[HeaderPattern]) -> Answer {
        if status.is_server_error() {
            return Answer::Failed(format!("it answered {}", status.as_u16()));
        }
        if status != StatusCode::OK {
            return Answer::Denied(refusal(status.as_u16(), headers, body));
        }
        let lists = headers.get_all(TO_REMOVE).iter().filter_map(|value| value.to_str().ok());
        let names = lists.flat_map(|list| list.split(',')).map(str::trim);
        let mut changes: Vec<Change> = names.filter_map(|name| Some(Change::Remove(may_change(name)?))).collect();
        for name in headers.keys().filter(|name| to_upstream.iter().any(|pattern| pattern.matches(name))) {
            let value = super::question::joined(headers, name).and_then(|text| text.parse().ok());
            if let (Some(name), Some(value)) = (may_change(name.as_str()), value) {
                changes.push(Change::Set(name, value));
            }
        }
        Answer::Allowed(changes)
    }
}

/// The name of a header that an authorizer may change; pseudo-headers are no names.
fn may_change(name: &str) -> Option<HeaderName> {
    let name: HeaderName = name.parse().ok()?;
    (!OURS.contains(&name.as_str())).then_some(name)
}

/// Name, value, and whether it is added to what is there.
fn header(option: HeaderValueOption) -> Option<(HeaderName, HeaderValue, bool)> {
    let header = option.header?;
    let bytes = if header.raw_value.is_empty() { header.value.into() } else { header.raw_value };
    let append = option.append.is_some_and(|flag| flag.value);
    Some((may_change(&header.key)?, HeaderValue::from_maybe_shared(bytes).ok()?, append))
}

fn refusal(status: u16, headers: &HeaderMap, body: Bytes) -> Refusal {
    let status = StatusCode::from_u16(status).ok().filter(|status| !status.is_informational());
    let ours = |name: &HeaderName| OURS.contains(&name.as_str()) || OUR_ANSWERS.contains(&name.as_str());
    let mut kept = HeaderMap::new();
    for (name, value) in headers.iter().filter(|(name, _)| !ours(name)) {
        kept.append(name, value.clone());
    }
    Refusal { status: status.unwrap_or(StatusCode::FORBIDDEN), headers: kept, body }
}

/// Does the changes, and tells them as edits of a copy of the same headers.
pub fn apply(changes: &[Change], headers: &mut HeaderMap) -> Vec<Edit> {
    let mut edits = Vec::with_capacity(changes.len());
    for change in changes {
        let (name, value) = match change {
            Change::Remove(name) => (name, None),
            Change::Set(name, value) => (name, Some(value.clone())),
            Change::Append(name, value) => match super::question::joined(headers, name) {
                Some(before) => {
                    let after = [before.as_bytes(), b",", value.as_bytes()].concat();
                    let Ok(after) = HeaderValue::from_bytes(&after) else { continue };
                    (name, Some(after))
                }
                None => continue,
            },
        };
        edits.push(match value {
            Some(value) => {
                headers.insert(name, value.clone());
                Edit::Set(name.clone(), value)
            }
            None => {
                headers.remove(name);
                Edit::Remove(name.clone())
            }
        });
    }
    edits
}
