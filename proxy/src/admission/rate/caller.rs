//! Who calls, as far as limits ask: the values that keys are made of. Pure.
//!
//! A value that is absent is the empty one, shared by all who lack it: leaving a header out must free nobody of a limit.

use crate::config::rate_limits::{Source, When};
use crate::percent;
use http::{HeaderMap, Method};
use serde_json::Value;
use std::borrow::Cow;

#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// Empty where nobody issued anything.
    pub issuer: &'a str,
    pub subject: &'a str,
    /// An object, perhaps empty.
    pub claims: &'a Value,
    pub headers: &'a HeaderMap,
    pub method: &'a Method,
    pub path: &'a str,
}

impl Caller<'_> {
    /// What a source says of this caller; empty where it says nothing.
    pub fn value(&self, source: &Source) -> Cow<'_, str> {
        match source {
            Source::Identity => self.subject.into(),
            Source::Claim(path) => claim(self.claims, path).map(text).unwrap_or_default(),
            Source::Header(name) => {
                let lines: Vec<_> =
                    self.headers.get_all(name).iter().map(|line| String::from_utf8_lossy(line.as_bytes())).collect();
                match lines.len() {
                    0 => Cow::default(),
                    1 => lines.into_iter().next().unwrap_or_default(),
                    _ => lines.join(",").into(),
                }
            }
            Source::Path => self.path.into(),
            Source::Method => self.method.as_str().into(),
            Source::Literal(value) => value.clone().into(),
            // Of a model nothing is known here.
            Source::Global | Source::Model => Cow::default(),
        }
    }

    /// The path with `%63` and `c` the same: a server behind may take both for one, so a limit must.
    pub fn decoded_path(&self) -> Cow<'_, str> {
        percent::decoded(self.path)
    }
}

/// A claim of the whole name, or else the one that dots lead to.
fn claim<'v>(claims: &'v Value, path: &str) -> Option<&'v Value> {
    claims.get(path).or_else(|| path.split('.').try_fold(claims, |value, name| value.get(name)))
}

fn text(value: &Value) -> Cow<'_, str> {
    match value {
        Value::String(text) => text.as_str().into(),
        Value::Null => Cow::default(),
        other => other.to_string().into(),
    }
}

/// Whether a limit is meant for such a request, as far as its head tells.
pub fn matches(when: &When, method: &Method, path: &str) -> bool {
    let within = |prefix: &String| {
        let prefix = prefix.trim_end_matches('/');
        path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    when.method.as_ref().is_none_or(|wanted| wanted == method) && when.path_prefix.as_ref().is_none_or(within)
}
