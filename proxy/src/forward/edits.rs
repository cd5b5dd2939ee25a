//! What identity and policy change in a request's headers before a foreign server sees them.
//!
//! Pure. Never touches a body.

use crate::accept::Busy;
use crate::auth::request;
use crate::config::Xfcc;
use crate::message::Head;
use crate::tls::xfcc;
use http::HeaderMap;
use http::header::{COOKIE, HeaderName, HeaderValue};

const XFCC: &str = "x-forwarded-client-cert";

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
    let set = |name: &'static str, text: &str| {
        let value = HeaderValue::from_str(text).ok();
        value.map_or(Edit::Remove(HeaderName::from_static(name)), |value| {
            Edit::Set(HeaderName::from_static(name), value)
        })
    };
    let caller = facts.peer.address.ip().to_canonical().to_string();
    let through = match joined(head, "x-forwarded-for") {
        Some(before) => format!("{before},{caller}"),
        None => caller,
    };
    let received = joined(head, XFCC);
    let mutual_tls = facts.peer.spiffe.is_some();
    let client = xfcc::forwarded(setting, received.as_deref(), mutual_tls, facts.xfcc.as_deref());
    vec![
        client.map_or(Edit::Remove(HeaderName::from_static(XFCC)), |client| set(XFCC, &client)),
        set("x-forwarded-for", &through),
        // One id in the logs of all who had to do with the request.
        set("x-request-id", request_id),
        set("x-forwarded-proto", if facts.peer.tls { "https" } else { "http" }),
    ]
}

/// The same edits that were done to `head`, for the request that is sent on.
pub fn edits_of(edits: &[request::Edit], head: &Head) -> Vec<Edit> {
    let same = |edit: &request::Edit| match edit {
        request::Edit::Strip(name) => Some(Edit::Remove(name.clone())),
        request::Edit::Set(name, value) => Some(Edit::Set(name.clone(), value.clone())),
        request::Edit::StripCookie(_) => Some(match head.headers.get(COOKIE) {
            Some(kept) => Edit::Set(COOKIE, kept.clone()),
            None => Edit::Remove(COOKIE),
        }),
        // The target is taken from the head.
        request::Edit::StripParameter(_) => None,
    };
    edits.iter().filter_map(same).collect()
}

/// All lines of a header as one; `None` without any, or where one is no text.
fn joined(head: &Head, name: &str) -> Option<String> {
    let lines: Vec<&str> = head.headers.get_all(name).iter().map(|line| line.to_str().ok()).collect::<Option<_>>()?;
    (!lines.is_empty()).then(|| lines.join(","))
}
