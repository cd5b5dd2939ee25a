//! `rate_limits`: how many requests and LLM tokens callers may have in a window, and who counts what is counted
//! elsewhere. The file's shape is in [`raw`].

mod raw;

use http::{HeaderName, Method};
pub(super) use raw::RawRateLimits;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct RateLimits {
    /// `x-ratelimit-*` on answers too, not only on refusals.
    pub headers: bool,
    /// Keys that one limit remembers.
    pub keys_max: usize,
    pub limits: Vec<RateLimit>,
    pub service: Option<RateService>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct RateLimit {
    /// For callers, metrics and logs.
    pub name: Arc<str>,
    pub unit: Unit,
    pub limit: u64,
    pub window: Duration,
    /// At once, after a rest; `None`: as much as the limit.
    pub burst: Option<u64>,
    pub key: Source,
    pub when: When,
    /// Other limits, by the value of `overrides_by`, which is the key if nothing else is said.
    pub overrides: BTreeMap<String, u64>,
    pub overrides_by: Source,
    /// Whether a stream ends when its tokens are used up.
    pub cut: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Requests,
    PromptTokens,
    CompletionTokens,
    TotalTokens,
}

/// Where a value is taken from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// The issuer and the name of the caller.
    Identity,
    /// Of the caller's token; dots lead into objects, unless a claim has the whole name.
    Claim(String),
    Header(HeaderName),
    /// The same for everybody.
    Global,
    /// Only in descriptors, like all that follow.
    Model,
    Path,
    Method,
    Literal(String),
}

/// All that is named must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct When {
    /// Of whole segments.
    pub path_prefix: Option<String>,
    pub model: Option<String>,
    pub method: Option<Method>,
}

/// Somebody else who counts.
#[derive(Clone, Debug, PartialEq)]
pub struct RateService {
    pub protocol: RateProtocol,
    /// `host:port`.
    pub address: String,
    pub domain: String,
    pub timeout: Duration,
    /// Whether requests pass while it cannot be asked.
    pub fail_open: bool,
    pub descriptors: Vec<Descriptor>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateProtocol {
    /// `envoy.service.ratelimit.v3`: what is asked is counted.
    Envoy,
    /// With `kuadrant.service.ratelimit.v1` for tokens: asked first, reported when they are known.
    Kuadrant,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Descriptor {
    pub unit: Unit,
    /// In order: servers find their limits by it.
    pub entries: Vec<(String, Source)>,
}

const UNITS: &[(&str, Unit)] = &[
    ("requests", Unit::Requests),
    ("prompt_tokens", Unit::PromptTokens),
    ("completion_tokens", Unit::CompletionTokens),
    ("total_tokens", Unit::TotalTokens),
];
const PROTOCOLS: &[(&str, RateProtocol)] = &[("envoy", RateProtocol::Envoy), ("kuadrant", RateProtocol::Kuadrant)];

impl Unit {
    /// As the file spells it.
    pub fn name(self) -> &'static str {
        UNITS.iter().find(|(_, unit)| *unit == self).expect("the table has them all").0
    }
}

impl RateLimits {
    /// Whether answers must be read to count their tokens.
    pub fn counts_tokens(&self) -> bool {
        let descriptors = self.service.iter().flat_map(|service| service.descriptors.iter().map(|one| one.unit));
        self.limits.iter().map(|limit| limit.unit).chain(descriptors).any(|unit| unit != Unit::Requests)
    }

    /// Where the first thing is that depends on the model.
    pub(super) fn model_at(&self) -> Option<String> {
        let limit = self.limits.iter().position(|limit| limit.when.model.is_some());
        let limit = limit.map(|at| format!("rate_limits.limits[{at}].when.model"));
        let named = |one: &Descriptor| one.entries.iter().any(|(_, source)| *source == Source::Model);
        let descriptors = self.service.iter().flat_map(|service| &service.descriptors);
        let descriptor = descriptors.into_iter().position(named);
        limit.or(descriptor.map(|at| format!("rate_limits.service.descriptors[{at}].entries")))
    }

    pub(super) fn dump(&self) -> Value {
        json!({
            "headers": self.headers,
            "keys_max": self.keys_max,
            "limits": self.limits.iter().map(RateLimit::dump).collect::<Vec<_>>(),
            "service": self.service.as_ref().map(|service| json!({
                "protocol": PROTOCOLS.iter().find(|(_, one)| *one == service.protocol).map(|(name, _)| name),
                "address": service.address,
                "domain": service.domain,
                "timeout_seconds": service.timeout.as_secs_f64(),
                "fail": if service.fail_open { "open" } else { "closed" },
                "descriptors": service.descriptors.iter().map(|one| json!({
                    "unit": one.unit.name(),
                    "entries": one.entries.iter().map(|(key, from)| json!({"key": key, "from": from.dump()}))
                        .collect::<Vec<_>>(),
                })).collect::<Vec<_>>(),
            })),
        })
    }
}

impl RateLimit {
    fn dump(&self) -> Value {
        json!({
            "name": &*self.name,
            "unit": self.unit.name(),
            "limit": self.limit,
            "window_seconds": self.window.as_secs_f64(),
            "burst": self.burst.unwrap_or(self.limit),
            "key": self.key.dump(),
            "when": {
                "path_prefix": self.when.path_prefix,
                "model": self.when.model,
                "method": self.when.method.as_ref().map(Method::as_str),
            },
            "overrides": self.overrides,
            "overrides_by": self.overrides_by.dump(),
            "cut": self.cut,
        })
    }
}

impl Source {
    fn dump(&self) -> Value {
        match self {
            Source::Claim(claim) => json!({"claim": claim}),
            Source::Header(name) => json!({"header": name.as_str()}),
            Source::Literal(value) => json!({"value": value}),
            word => WORDS.iter().find(|(_, one)| one == word).map_or(Value::Null, |(name, _)| (*name).into()),
        }
    }
}

/// Sources that are a word; the first two also as keys of limits.
const WORDS: &[(&str, Source)] = &[
    ("identity", Source::Identity),
    ("global", Source::Global),
    ("model", Source::Model),
    ("path", Source::Path),
    ("method", Source::Method),
];
