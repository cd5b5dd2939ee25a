//! The shape of `rate_limits` in the file, its defaults, and what makes it contradict itself.

use super::{
    Descriptor, PROTOCOLS, RateLimit, RateLimits, RateProtocol, RateService, Source, UNITS, Unit, WORDS, When,
};
use crate::config::quantity::Quantity;
use crate::config::raw::Problems;
use http::Method;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Keys a limit remembers: some 6 MiB of memory for each limit whose keys are so many.
const KEYS_MAX: usize = 65_536;
/// As Kuadrant's own gateways wait: it is added to every request.
const SERVICE_TIMEOUT: Duration = Duration::from_millis(20);
/// Nobody means more in one window, and arithmetic on budgets could overflow beyond.
const LIMIT_MAX: u64 = 1_000_000_000_000;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawRateLimits {
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
    pub(in crate::config) fn validate(self, p: &mut Problems) -> RateLimits {
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
