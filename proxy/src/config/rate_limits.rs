//! `rate_limits`: how many requests and LLM tokens callers may have in a window, and who counts what is counted
//! elsewhere; the file's shape and its meaning.

use super::quantity::Quantity;
use super::raw::Problems;
use http::{HeaderName, Method};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Keys a limit remembers: some 6 MiB of memory for each limit whose keys are so many.
const KEYS_MAX: usize = 65_536;
/// As Kuadrant's own gateways wait: it is added to every request.
const SERVICE_TIMEOUT: Duration = Duration::from_millis(20);
/// Nobody means more in one window, and arithmetic on budgets could overflow beyond.
const LIMIT_MAX: u64 = 1_000_000_000_000;

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

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRateLimits {
    #[serde(default)]
    headers: bool,
    keys_max: Option<usize>,
    #[serde(default)]
    limits: Vec<RawRateLimit>,
    service: Option<RawService>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRateLimit {
    name: String,
    #[serde(default = "requests")]
    unit: String,
    limit: u64,
    window: Quantity,
    burst: Option<u64>,
    key: RawSource,
    #[serde(default)]
    when: RawWhen,
    #[serde(default)]
    overrides: BTreeMap<String, u64>,
    overrides_by: Option<RawSource>,
    #[serde(default)]
    cut: bool,
}

fn requests() -> String {
    "requests".into()
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum RawSource {
    Word(String),
    Of(RawOf),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawOf {
    claim: Option<String>,
    header: Option<String>,
    value: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawWhen {
    path_prefix: Option<String>,
    model: Option<String>,
    method: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawService {
    protocol: String,
    address: String,
    domain: String,
    timeout: Option<Quantity>,
    fail: Option<String>,
    #[serde(default)]
    descriptors: Vec<RawDescriptor>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDescriptor {
    #[serde(default = "requests")]
    unit: String,
    entries: Vec<RawEntry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntry {
    key: String,
    from: RawSource,
}

impl RawRateLimits {
    pub(super) fn validate(self, p: &mut Problems) -> RateLimits {
        let mut names = BTreeSet::new();
        let mut limits = Vec::new();
        for (at, limit) in self.limits.into_iter().enumerate() {
            let path = format!("rate_limits.limits[{at}]");
            if limit.name.is_empty() || !limit.name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
                p.add(
                    &format!("{path}.name"),
                    "must be letters, digits, `-`, `_` and `.`: headers and metrics carry it",
                );
            }
            if !names.insert(limit.name.clone()) {
                p.add(&format!("{path}.name"), format!("`{}` is the name of another limit", limit.name));
            }
            limits.push(limit.validate(&path, p));
        }
        let keys_max = p.count("rate_limits.keys_max", self.keys_max, KEYS_MAX);
        let service = self.service.map(|service| service.validate(p));
        RateLimits { headers: self.headers, keys_max, limits, service }
    }
}

impl RawRateLimit {
    fn validate(self, path: &str, p: &mut Problems) -> RateLimit {
        let unit = unit(&format!("{path}.unit"), &self.unit, p);
        let window = p.duration(&format!("{path}.window"), &Some(self.window), Duration::from_secs(60));
        let counts = self.overrides.iter().map(|(value, limit)| (format!("overrides.{value}"), *limit));
        let counts = counts.chain([("limit".to_owned(), self.limit), ("burst".to_owned(), self.burst.unwrap_or(0))]);
        for (field, _) in counts.filter(|(_, count)| *count > LIMIT_MAX) {
            p.add(&format!("{path}.{field}"), format!("must be at most {LIMIT_MAX}"));
        }
        if self.burst == Some(0) && self.limit > 0 {
            p.add(&format!("{path}.burst"), "must be at least 1, or nothing would ever pass");
        }
        if self.cut && unit == Unit::Requests {
            p.add(&format!("{path}.cut"), "is for limits of tokens: a request that runs was counted when it came");
        }
        let mut key = |field: &str, raw: RawSource| {
            let path = format!("{path}.{field}");
            let source = raw.validate(&path, p);
            if !matches!(source, Source::Identity | Source::Global | Source::Claim(_) | Source::Header(_)) {
                p.add(&path, "must be `identity`, `global`, {claim: NAME} or {header: NAME}");
            }
            source
        };
        let (by, source) = (self.overrides_by.map(|raw| key("overrides_by", raw)), key("key", self.key));
        let by = by.unwrap_or_else(|| source.clone());
        if !self.overrides.is_empty() && by == Source::Global {
            p.add(&format!("{path}.overrides"), "need overrides_by, or a key with values");
        }
        RateLimit {
            name: self.name.into(),
            unit,
            limit: self.limit,
            window,
            burst: self.burst,
            key: source,
            when: self.when.validate(&format!("{path}.when"), p),
            overrides: self.overrides,
            overrides_by: by,
            cut: self.cut,
        }
    }
}

fn unit(path: &str, name: &str, p: &mut Problems) -> Unit {
    let found = UNITS.iter().find(|(known, _)| *known == name).map(|(_, unit)| *unit);
    found.unwrap_or_else(|| {
        p.add(path, format!("`{name}` is none of requests, prompt_tokens, completion_tokens, total_tokens"));
        Unit::Requests
    })
}

impl RawSource {
    fn validate(self, path: &str, p: &mut Problems) -> Source {
        let of = match self {
            RawSource::Word(word) => {
                let found = WORDS.iter().find(|(known, _)| *known == word).map(|(_, source)| source.clone());
                return found.unwrap_or_else(|| {
                    p.add(
                        path,
                        format!("`{word}` is no source; write `identity`, {{claim: NAME}} or {{header: NAME}}"),
                    );
                    Source::Global
                });
            }
            RawSource::Of(of) => of,
        };
        match (of.claim, of.header, of.value) {
            (Some(claim), None, None) if !claim.is_empty() => Source::Claim(claim),
            (None, None, Some(value)) if !value.is_empty() => Source::Literal(value),
            (None, Some(name), None) => name.parse().map(Source::Header).unwrap_or_else(|_| {
                p.add(path, format!("`{name}` is no header's name"));
                Source::Global
            }),
            _ => {
                p.add(path, "must have exactly one of claim, header, value");
                Source::Global
            }
        }
    }
}

impl RawWhen {
    fn validate(self, path: &str, p: &mut Problems) -> When {
        if self.path_prefix.as_ref().is_some_and(|prefix| !prefix.starts_with('/')) {
            p.add(&format!("{path}.path_prefix"), "must begin with a slash");
        }
        let method = self.method.and_then(|name| {
            let method = Method::from_bytes(name.as_bytes()).ok().filter(|_| name.to_uppercase() == name);
            if method.is_none() {
                p.add(&format!("{path}.method"), format!("`{name}` is no method; write `POST`"));
            }
            method
        });
        When { path_prefix: self.path_prefix, model: self.model, method }
    }
}

impl RawService {
    fn validate(self, p: &mut Problems) -> RateService {
        let path = "rate_limits.service";
        let protocol = PROTOCOLS.iter().find(|(name, _)| *name == self.protocol).map(|(_, protocol)| *protocol);
        if protocol.is_none() {
            p.add(&format!("{path}.protocol"), format!("`{}` is none of envoy, kuadrant", self.protocol));
        }
        let authority = self.address.parse::<http::uri::Authority>().ok();
        if authority.is_none_or(|it| it.port_u16().is_none() || it.as_str().contains('@') || it.host().is_empty()) {
            p.add(&format!("{path}.address"), format!("`{}` is none; write `limitador.limits:8081`", self.address));
        }
        if self.domain.is_empty() {
            p.add(&format!("{path}.domain"), "must not be empty: the service finds its limits by it");
        }
        let fail = self.fail.as_deref().unwrap_or("closed");
        if !["open", "closed"].contains(&fail) {
            p.add(&format!("{path}.fail"), format!("`{fail}` is none of open, closed"));
        }
        if self.descriptors.is_empty() {
            p.add(&format!("{path}.descriptors"), "must name at least one: without any, nothing would be asked");
        }
        let descriptors = self.descriptors.into_iter().enumerate();
        RateService {
            protocol: protocol.unwrap_or(RateProtocol::Envoy),
            timeout: p.duration(&format!("{path}.timeout"), &self.timeout, SERVICE_TIMEOUT),
            fail_open: fail == "open",
            descriptors: descriptors.map(|(at, one)| one.validate(&format!("{path}.descriptors[{at}]"), p)).collect(),
            address: self.address,
            domain: self.domain,
        }
    }
}

impl RawDescriptor {
    fn validate(self, path: &str, p: &mut Problems) -> Descriptor {
        if self.entries.is_empty() || self.entries.iter().any(|entry| entry.key.is_empty()) {
            p.add(&format!("{path}.entries"), "must be at least one {key: NAME, from: SOURCE}");
        }
        let entries = self.entries.into_iter().enumerate();
        let entries = entries.map(|(at, entry)| {
            let path = format!("{path}.entries[{at}].from");
            let source = entry.from.validate(&path, p);
            if source == Source::Global {
                p.add(&path, "has no value; write {value: TEXT}");
            }
            (entry.key, source)
        });
        let entries = entries.collect();
        Descriptor { unit: unit(&format!("{path}.unit"), &self.unit, p), entries }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(yaml: &str) -> (RateLimits, String) {
        let mut problems = Problems::default();
        let raw: RawRateLimits = serde_yaml_ng::from_str(yaml).unwrap();
        (raw.validate(&mut problems), problems.words())
    }

    #[test]
    fn which_limits_are_understood() {
        let (limits, problems) = of("
            limits:
              - {name: calls, limit: 100, window: 1m, key: identity, when: {path_prefix: /v1, method: POST}}
              - {name: tokens, unit: total_tokens, limit: 5000, window: 24h, key: identity, cut: true,
                 overrides: {gold: 100000}, overrides_by: {claim: plan.name}}
            service: {protocol: kuadrant, address: 'limitador:8081', domain: models,
                      descriptors: [{unit: total_tokens, entries: [{key: user, from: identity},
                                                                   {key: model, from: model}]}]}");
        assert_eq!(problems, "");
        assert_eq!((limits.limits[0].unit, limits.limits[0].when.method.clone()), (Unit::Requests, Some(Method::POST)));
        assert_eq!(limits.limits[1].overrides_by, Source::Claim("plan.name".into()));
        assert!(limits.counts_tokens() && limits.limits[1].cut);
        assert_eq!(limits.model_at().as_deref(), Some("rate_limits.service.descriptors[0].entries"));
        let service = limits.service.as_ref().unwrap();
        assert_eq!((service.timeout, service.fail_open), (SERVICE_TIMEOUT, false));
        let dump = limits.dump();
        assert_eq!(dump["limits"][1]["window_seconds"], 86400.0);
        assert_eq!(dump["service"]["descriptors"][0]["entries"][1]["from"], "model");
    }

    #[test]
    fn which_limits_are_refused_and_why() {
        let limit = |more: &str| format!("limits: [{{name: a, limit: 1, window: 1m, key: identity{more}}}]");
        let service = |more: &str| {
            format!(
                "service: {{protocol: envoy, address: 'a:1', domain: d, descriptors: [{{entries: [{{key: u, {more}}}]}}]}}"
            )
        };
        for (yaml, words) in [
            (limit(", unit: words"), "limits[0].unit: `words` is none"),
            (limit(", cut: true"), "limits[0].cut: is for limits of tokens"),
            (limit(", burst: 0"), "limits[0].burst"),
            (limit(", overrides_by: {claim: a, header: b}"), "limits[0].overrides_by: must have exactly one"),
            (limit(", when: {method: post}"), "limits[0].when.method"),
            (limit(", when: {path_prefix: v1}"), "limits[0].when.path_prefix"),
            (limit(", overrides: {gold: 9999999999999}"), "limits[0].overrides.gold"),
            ("limits: [{name: a, limit: 1, window: 1m, key: model}]".into(), "limits[0].key: must be `identity`"),
            ("limits: [{name: a, limit: 1, window: 1m, key: caller}]".into(), "`caller` is no source"),
            ("limits: [{name: 'a b', limit: 1, window: 0s, key: global, overrides: {x: 1}}]".into(), "limits[0].name"),
            (
                "limits: [{name: a, limit: 1, window: 0s, key: global, overrides: {x: 1}}]".into(),
                "limits[0].overrides:",
            ),
            ("limits: [{name: a, limit: 1, window: 0s, key: global}]".into(), "limits[0].window"),
            (service("from: global"), "entries[0].from: has no value"),
            (service("from: {header: 'a b'}"), "no header's name"),
            ("service: {protocol: x, address: a, domain: ''}".into(), "service.protocol"),
            ("service: {protocol: x, address: a, domain: '', fail: maybe}".into(), "service.fail"),
            ("service: {protocol: x, address: a, domain: ''}".into(), "service.descriptors"),
            ("keys_max: 0".into(), "rate_limits.keys_max"),
        ] {
            let (_, problems) = of(&yaml);
            assert!(problems.contains(words), "{yaml}: {problems}");
        }
        let twice = "{name: a, limit: 1, window: 1m, key: global}";
        assert!(of(&format!("limits: [{twice}, {twice}]")).1.contains("is the name of another limit"));
    }
}
