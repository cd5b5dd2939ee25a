//! What identity and policy change in a request's headers before a foreign server sees them.
//!
//! Pure. Never touches a body.

use crate::accept::Busy;
use crate::auth::request;
use crate::config::Xfcc;
use crate::message::Head;
use crate::tls::xfcc;
use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

const XFCC: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What is changed in a request's headers, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Edit {
    Remove(HeaderName),
    Set(HeaderName, HeaderValue),
}

impl Edit {
    pub fn apply(self, headers: &mut HeaderMap) {
        match self {
            Edit::Remove(name) => drop(headers.remove(name)),
            Edit::Set(name, value) => drop(headers.insert(name, value)),
        }
    }
}

/// What identity adds to a request, and what it takes away, so that nobody but us can say who is calling.
pub fn edits(busy: &Busy, head: &Head, setting: Xfcc, request_id: &str) -> Vec<Edit> {
    let facts = busy.facts();
    let set = |name: HeaderName, value: Option<HeaderValue>| match value {
        Some(value) => Edit::Set(name, value),
        None => Edit::Remove(name),
    };
    let through = match joined(head, &FORWARDED_FOR) {
        Some(before) => HeaderValue::from_str(&format!("{before},{}", facts.said.address_text())).ok(),
        None => Some(facts.said.address.clone()),
    };
    let scheme = HeaderValue::from_static(if facts.peer.tls { "https" } else { "http" });
    vec![
        set(XFCC, client(busy, head, setting)),
        set(FORWARDED_FOR, through),
        // One id in the logs of all who had to do with the request.
        set(REQUEST_ID, HeaderValue::from_str(request_id).ok()),
        set(FORWARDED_PROTO, Some(scheme)),
    ]
}

fn client(busy: &Busy, head: &Head, setting: Xfcc) -> Option<HeaderValue> {
    let facts = busy.facts();
    let mutual_tls = facts.peer.spiffe.is_some();
    let ours = facts.said.xfcc.as_ref();
    if setting == Xfcc::SanitizeSet {
        return ours.filter(|_| mutual_tls).cloned();
    }
    let ours = ours.and_then(|ours| ours.to_str().ok());
    let told = xfcc::forwarded(setting, joined(head, &XFCC).as_deref(), mutual_tls, ours)?;
    HeaderValue::from_str(&told).ok()
}

/// Of what was done to the head: what has the last word over [`edits`], which come after it.
pub fn edits_of(edits: &[request::Edit]) -> impl Iterator<Item = Edit> {
    edits.iter().filter_map(|edit| match edit {
        request::Edit::Strip(name) if is_ours(name) => Some(Edit::Remove(name.clone())),
        request::Edit::Set(name, value) if is_ours(name) => Some(Edit::Set(name.clone(), value.clone())),
        _ => None,
    })
}

/// Whether [`edits`] says something of it.
fn is_ours(name: &HeaderName) -> bool {
    [XFCC, FORWARDED_FOR, REQUEST_ID, FORWARDED_PROTO].contains(name)
}

/// All lines of a header as one; `None` without any, or where one is no text.
fn joined(head: &Head, name: &HeaderName) -> Option<String> {
    let lines: Vec<&str> = head.headers.get_all(name).iter().map(|line| line.to_str().ok()).collect::<Option<_>>()?;
    (!lines.is_empty()).then(|| lines.join(","))
}
