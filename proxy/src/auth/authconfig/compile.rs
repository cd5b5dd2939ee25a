//! From the shape of a document to a pipeline.

use super::raw::{Common, Entry, Evaluators, Named, RawDenyWith, RawResponse, RawSpec, RawSuccess};
use super::secrets::problem;
use super::{Setting, Store, access, authentication};
use crate::auth::ConfigProblem;
use crate::auth::callbacks;
use crate::auth::metadata::SOURCES;
use crate::auth::patterns::{Compat as PatternCompat, Condition, NamedPatterns, RawPattern};
use crate::auth::pipeline::{DenyWith, Evaluator, Kept, Make, Output, Phase, Pipeline, Place, Test};
use crate::auth::responses::RESPONSES;
use crate::auth::rules::{self, Opening, Rule, access_review};
use crate::auth::site::Site;
use crate::auth::values::{RawValueFrom, ValueFrom};
use http::{HeaderName, StatusCode};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Authorino's default, in seconds.
const CACHE_TTL: u64 = 60;
/// A verdict that is believed for longer is no verdict any more.
const CACHE_TTL_MAX: u64 = 24 * 3600;
const API_VERSIONS: [&str; 3] = ["authorino.kuadrant.io/v1beta3", "authorino.kuadrant.io/v1beta2", "kuadrant.io/v1"];

/// What one policy is compiled with.
pub(super) struct Compiler<'a> {
    pub setting: &'a Setting,
    pub secrets: &'a Store,
    pub namespace: &'a str,
    pub named: &'a NamedPatterns,
}

/// `None` for a document that is of no concern here. Hosts come with the pipeline.
pub(super) fn document(
    document: Value,
    named: &Named,
    secrets: &Store,
    setting: &Setting,
) -> Result<Option<(Vec<String>, Pipeline)>, Vec<ConfigProblem>> {
    let version = document.get("apiVersion").and_then(Value::as_str).unwrap_or_default().to_owned();
    if !matches!(named.kind.as_str(), "AuthConfig" | "AuthPolicy") {
        tracing::info!(kind = named.kind, name = named.name, "is no AuthConfig; passed over");
        return Ok(None);
    }
    if !API_VERSIONS.contains(&version.as_str()) {
        let message = format!("{version:?} is not known; write one of {}", API_VERSIONS.join(", "));
        return Err(vec![problem("apiVersion", message)]);
    }
    if named.name.is_empty() {
        return Err(vec![problem("metadata.name", "is needed")]);
    }
    let context = document.to_string().contains("context.");
    let (spec, path) = spec(document, named)?;
    let namespace = named.namespace.as_deref().unwrap_or(&setting.namespace);
    let mut problems = Vec::new();
    let patterns = sets(&spec.patterns, &format!("{path}.patterns"), &mut problems);
    let compiler = Compiler { setting, secrets, namespace, named: &patterns };
    let hosts = spec.hosts.clone();
    if hosts.is_empty() {
        problems.push(problem(format!("{path}.hosts"), "is needed; write \"*\" for any host"));
    }
    let mut pipeline = compiler.pipeline(spec, &path, &mut problems);
    pipeline.name = format!("{namespace}/{}", named.name).into();
    pipeline.context = context;
    setting.tally.attach(&mut pipeline);
    if problems.is_empty() { Ok(Some((hosts, pipeline))) } else { Err(problems) }
}

/// The part that both kinds have in common, and where it stands.
fn spec(mut document: Value, named: &Named) -> Result<(RawSpec, String), Vec<ConfigProblem>> {
    let shape = |value: Value, path: &str| {
        serde_json::from_value::<RawSpec>(value).map_err(|error| vec![problem(path, error.to_string())])
    };
    let spec = document.get_mut("spec").map(Value::take).ok_or_else(|| vec![problem("spec", "is needed")])?;
    if named.kind == "AuthConfig" {
        return Ok((shape(spec, "spec")?, "spec".into()));
    }
    let Value::Object(mut spec) = spec else { return Err(vec![problem("spec", "is no mapping")]) };
    let mut path = "spec".to_owned();
    // Which of several policies wins is for the control plane to say; one alone is what it says.
    for name in ["defaults", "overrides"] {
        if let Some(Value::Object(inner)) = spec.remove(name) {
            if spec.contains_key("rules") || path != "spec" {
                return Err(vec![problem("spec", "has rules in more than one place; keep one")]);
            }
            (path, spec) = (format!("spec.{name}"), inner);
        }
    }
    let Some(Value::Object(mut rules)) = spec.remove("rules") else {
        return Err(vec![problem(format!("{path}.rules"), "is needed")]);
    };
    for known in ["targetRef", "strategy"] {
        spec.remove(known);
    }
    for name in ["when", "patterns"] {
        rules.extend(spec.remove(name).map(|value| (name.to_owned(), value)));
    }
    if let Some(unknown) = spec.keys().next() {
        return Err(vec![problem(format!("{path}.{unknown}"), "is not known")]);
    }
    // Its hosts are those of the route that it is attached to: whoever comes here came by it.
    rules.insert("hosts".into(), Value::Array(vec!["*".into()]));
    Ok((shape(Value::Object(rules), &format!("{path}.rules"))?, format!("{path}.rules")))
}

/// Named sets are lists, or, in an AuthPolicy, below `allOf`.
fn sets(raw: &BTreeMap<String, Value>, path: &str, problems: &mut Vec<ConfigProblem>) -> NamedPatterns {
    let mut sets = NamedPatterns::new();
    for (name, value) in raw {
        let list = value.get("allOf").unwrap_or(value).clone();
        match serde_json::from_value(list) {
            Ok(list) => drop(sets.insert(name.clone(), list)),
            Err(error) => problems.push(problem(format!("{path}.{name}"), error.to_string())),
        }
    }
    sets
}

impl Compiler<'_> {
    fn pipeline(&self, spec: RawSpec, path: &str, problems: &mut Vec<ConfigProblem>) -> Pipeline {
        let compat = &self.setting.compat;
        let at = |phase: &str| format!("{path}.{phase}");
        let when = self.test(&spec.when, true, &at("when"), problems);
        let entrances = self.entrances(spec.authentication, &at("authentication"), problems);
        let (authentication, identities) = authentication::phase(self, entrances, &at("authentication"), problems);
        let client = &self.setting.client;
        let site = Site {
            namespace: self.namespace,
            secrets: self.secrets,
            client,
            hosts: &self.setting.hosts,
            any_status: compat.any_status,
            identities: &identities,
        };
        let mut metadata = Vec::new();
        each(spec.metadata, &at("metadata"), problems, |name, entry| {
            let common = entry.common();
            let (kind, settings) = entry.kind()?;
            let Some(line) = SOURCES.iter().find(|line| line.name == kind) else { return unknown(entry, &kind) };
            let source = (line.open)(settings, &format!("{}.{kind}", entry.path), &site, entry.problems)?;
            metadata.push(self.evaluator(name, line.name, source, common, entry));
            Some(())
        });
        let authorization = self.authorization(spec.authorization, &at("authorization"), &site, problems);
        let RawResponse { unauthenticated, unauthorized, success } = spec.response.unwrap_or_default();
        let response = self.response(success.unwrap_or_default(), &at("response.success"), &site, problems);
        let mut callbacks = Vec::new();
        each(spec.callbacks, &at("callbacks"), problems, |name, entry| {
            let common = entry.common();
            let (kind, settings) = entry.kind()?;
            if kind != callbacks::NAME {
                return unknown(entry, &kind);
            }
            let path = format!("{}.{kind}", entry.path);
            let callback = self.setting.callbacks.open(settings, &path, &site, entry.problems)?;
            callbacks.push(self.evaluator(name, callbacks::NAME, callback, common, entry));
            Some(())
        });
        Pipeline {
            when,
            authentication: Phase::new(authentication),
            metadata: Phase::new(metadata),
            authorization: Phase::new(authorization),
            response: Phase::new(response),
            callbacks: Phase::new(callbacks),
            unauthenticated: deny(unauthenticated, &at("response.unauthenticated"), problems),
            unauthorized: deny(unauthorized, &at("response.unauthorized"), problems),
            leniency: compat.leniency(),
            timeout: self.setting.timeout,
            explains: true,
            ..Pipeline::default()
        }
    }

    /// A policy that names no way in has none, or, as Authorino has it, one for everybody.
    fn entrances(&self, mut named: Evaluators, path: &str, problems: &mut Vec<ConfigProblem>) -> Evaluators {
        if named.is_empty() && self.setting.compat.authentication_optional {
            let everybody = Map::from_iter([("anonymous".to_owned(), Value::Object(Map::new()))]);
            named.insert("anonymous".into(), everybody);
        }
        if named.is_empty() {
            let words = "is needed, so that somebody can enter; `{everybody: {anonymous: {}}}` lets everybody in";
            problems.push(problem(path, words));
        }
        named
    }

    fn authorization(
        &self,
        raw: Evaluators,
        path: &str,
        site: &Site<'_>,
        problems: &mut Vec<ConfigProblem>,
    ) -> Vec<Evaluator<Box<dyn Rule>>> {
        let mut authorization = Vec::new();
        each(raw, path, problems, |name, entry| {
            let common = Common { restricts: true, ..entry.common() };
            let (kind, settings) = entry.kind()?;
            let path = format!("{}.{kind}", entry.path);
            if kind == access::NAME {
                let rule = access::open(settings, &path, &self.setting.kubernetes, entry.problems)?;
                authorization.push(self.evaluator(name, access_review::NAME, rule, common, entry));
                return Some(());
            }
            let Some(line) = rules::kind(&kind) else { return unknown(entry, &kind) };
            if rules::external::is_external(&settings) {
                let rule = rules::external::open(settings, &path, site, entry.problems)?;
                authorization.push(self.evaluator(name, line.name, rule, common, entry));
                return Some(());
            }
            let opening = Opening { named: self.named, compat: self.patterns(), path: &path };
            let rule = (line.open)(&settings, opening).map_err(|problem| entry.problems.push(problem)).ok()?;
            authorization.push(self.evaluator(name, line.name, rule, common, entry));
            Some(())
        });
        authorization
    }

    fn response(
        &self,
        success: RawSuccess,
        path: &str,
        site: &Site<'_>,
        problems: &mut Vec<ConfigProblem>,
    ) -> Vec<Evaluator<Output>> {
        let mut response = Vec::new();
        let parts = [("headers", success.headers), ("dynamicMetadata", success.dynamic_metadata)];
        for (part, raw) in parts {
            each(raw, &format!("{path}.{part}"), problems, |name, entry| {
                let common = entry.common();
                let key: Option<String> = entry.take("key");
                let key = key.filter(|key| !key.is_empty()).unwrap_or_else(|| name.to_owned());
                let place = match part {
                    "headers" => match HeaderName::try_from(&key) {
                        Ok(header) => Place::Header(header),
                        Err(_) => {
                            entry.problem(format!("{key:?} names no header; give the header's name as `key`"));
                            return None;
                        }
                    },
                    _ => Place::Metadata(key),
                };
                let (kind, settings) = entry.kind()?;
                let Some(line) = RESPONSES.iter().find(|line| line.name == kind) else { return unknown(entry, &kind) };
                let made = (line.open)(settings, &format!("{}.{kind}", entry.path), site, entry.problems)?;
                response.push(self.evaluator(name, line.name, Output { place, response: made }, common, entry));
                Some(())
            });
        }
        response
    }

    pub(super) fn patterns(&self) -> PatternCompat {
        PatternCompat { missing_matches_neq: self.setting.compat.missing_matches_neq }
    }

    /// No conditions, no test. `restricts`: of what keeps callers out, which is asked unless it is known that it need
    /// not be: `roles excl admin` is true of a caller without roles.
    fn test(&self, raw: &[RawPattern], restricts: bool, path: &str, problems: &mut Vec<ConfigProblem>) -> Option<Test> {
        if raw.is_empty() {
            return None;
        }
        let missing_matches_neq = restricts || self.patterns().missing_matches_neq;
        match Condition::compile(raw, self.named, PatternCompat { missing_matches_neq }, path) {
            Ok(condition) => Some(Box::new(move |root| condition.holds(root).map_err(|fault| fault.to_string()))),
            Err(problem) => {
                problems.push(problem);
                None
            }
        }
    }

    pub(super) fn evaluator<T, V: Clone>(
        &self,
        name: &str,
        kind: &'static str,
        inner: T,
        common: Common,
        entry: &mut Entry<'_>,
    ) -> Evaluator<T, V> {
        let when = self.test(&common.when, common.restricts, &format!("{}.when", entry.path), entry.problems);
        let cache = common.cache.and_then(|cache| {
            let ttl = cache.ttl.filter(|ttl| *ttl > 0).unwrap_or(CACHE_TTL);
            if ttl > CACHE_TTL_MAX {
                let path = format!("{}.cache.ttl", entry.path);
                entry.problems.push(problem(path, format!("is more than {CACHE_TTL_MAX} s")));
            }
            let key = make(&cache.key, &format!("{}.cache.key", entry.path), entry.problems)?;
            Some(Kept::new(key, ttl))
        });
        let new = Evaluator::new(name, kind, inner);
        Evaluator { priority: common.priority, metrics: common.metrics, when, cache, ..new }
    }
}

/// Reads each evaluator of a phase; what is wrong with it is told by the reading.
pub(super) fn each(
    raw: Evaluators,
    path: &str,
    problems: &mut Vec<ConfigProblem>,
    mut read: impl FnMut(&str, &mut Entry<'_>) -> Option<()>,
) {
    for (name, fields) in raw {
        read(&name, &mut Entry::new(fields, format!("{path}.{name}"), problems));
    }
}

pub(super) fn unknown<T>(entry: &mut Entry<'_>, kind: &str) -> Option<T> {
    entry.problem(match kind {
        "spicedb" => {
            "`spicedb` is nothing that is known here: ask its HTTP API in `metadata`, and judge the answer".to_owned()
        }
        _ => format!("`{kind}` is nothing that is known here"),
    });
    None
}

pub(super) fn make(raw: &RawValueFrom, path: &str, problems: &mut Vec<ConfigProblem>) -> Option<Make> {
    match raw.compile(path) {
        Ok(value) => Some(Box::new(move |root| value.resolve(root).map_err(|fault| fault.to_string()))),
        Err(problem) => {
            problems.push(problem);
            None
        }
    }
}

/// The same as text.
fn make_text(raw: &RawValueFrom, path: &str, problems: &mut Vec<ConfigProblem>) -> Option<Make> {
    let value: ValueFrom = raw.compile(path).map_err(|problem| problems.push(problem)).ok()?;
    Some(Box::new(move |root| value.text(root).map(Value::String).map_err(|fault| fault.to_string())))
}

fn deny(raw: Option<RawDenyWith>, path: &str, problems: &mut Vec<ConfigProblem>) -> DenyWith {
    let Some(raw) = raw else { return DenyWith::default() };
    let code = raw.code.filter(|code| *code != 0);
    if code.is_some_and(|code| !(300..600).contains(&code)) {
        problems.push(problem(format!("{path}.code"), "is none of 300 to 599"));
    }
    let mut headers = Vec::with_capacity(raw.headers.len());
    for (name, value) in &raw.headers {
        let path = format!("{path}.headers.{name}");
        match HeaderName::try_from(name) {
            Ok(header) if FRAMING.contains(&header.as_str()) => {
                problems.push(problem(path, "is for the connection to say"));
            }
            Ok(header) => headers.extend(make_text(value, &path, problems).map(|make| (header, make))),
            Err(_) => problems.push(problem(path, "is no header's name")),
        }
    }
    let mut text =
        |value: &Option<RawValueFrom>, name: &str| make_text(value.as_ref()?, &format!("{path}.{name}"), problems);
    let (message, body) = (text(&raw.message, "message"), text(&raw.body, "body"));
    DenyWith { code: code.and_then(|code| StatusCode::from_u16(code).ok()), message, headers, body }
}

/// What frames an answer is not a policy's to say.
const FRAMING: [&str; 6] = ["connection", "content-length", "keep-alive", "te", "trailer", "transfer-encoding"];
