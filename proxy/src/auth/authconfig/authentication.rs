//! The authentication phase of a policy: whose settings become which of our methods.

use super::certificates::x509;
use super::compile::{Compiler, each, make, unknown};
use super::raw::{Entry, Evaluators};
use super::secrets::{LabelSelector, problem};
use crate::auth::api_keys::{ApiKeys, Holder, Ring, sha256};
use crate::auth::credential::Location;
use crate::auth::endpoint::RawCredentials;
use crate::auth::methods::{Method, anonymous, api_key, introspection, jwt, plain, token_review};
use crate::auth::pipeline::{Authentication, Evaluator};
use crate::auth::secrets::{Hidden, Secrets};
use crate::auth::site::IdentitySource;
use crate::auth::values::RawValueFrom;
use crate::auth::verdicts::Limits;
use crate::auth::{ConfigProblem, Identity};
use crate::config::auth::{Fetched, Jwt, Keys};
use crate::config::{self, Audiences};
use http::header::AUTHORIZATION;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

type One = Evaluator<Authentication, Identity>;

/// Where the key is in a Secret.
const API_KEY: &str = "api_key";
/// Callers' names, where the annotations of their Secret say them.
const USER_NAMES: [&str; 2] = ["secret.kuadrant.io/user-id", "username"];

/// All of the phase, and what metadata must know of it.
pub(super) fn phase(
    compiler: &Compiler<'_>,
    raw: Evaluators,
    path: &str,
    problems: &mut Vec<ConfigProblem>,
) -> (Vec<One>, BTreeMap<String, IdentitySource>) {
    let (mut phase, mut identities) = (Vec::new(), BTreeMap::new());
    each(raw, path, problems, |name, entry| {
        let common = entry.common();
        let credentials: Value = entry.take("credentials");
        let (location, challenge) = place(credentials, entry)?;
        let defaults = extension(entry, "defaults");
        let overrides = extension(entry, "overrides");
        let (kind, settings) = entry.kind()?;
        let way = way(compiler, &kind, settings, entry)?;
        let source = IdentitySource { issuer: way.issuer, location: location.clone(), access_token: way.access_token };
        identities.insert(name.to_owned(), source);
        let challenge = if kind == "x509" { "Certificate".into() } else { challenge };
        let consumes = way.consumes && !compiler.setting.keep_credentials;
        let inner = Authentication { method: way.method, location, challenge, consumes, defaults, overrides };
        phase.push(compiler.evaluator(name, way.kind, inner, common, entry));
        Some(())
    });
    (phase, identities)
}

/// A method, and what follows from it.
struct Way {
    kind: &'static str,
    method: Box<dyn Method>,
    issuer: Option<String>,
    access_token: bool,
    /// It reads the credential.
    consumes: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawApiKey {
    selector: LabelSelector,
    #[serde(default)]
    all_namespaces: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawJwt {
    issuer_url: Option<String>,
    jwks_url: Option<String>,
    /// Seconds between fetches of the keys; 0, as Authorino has it by default: as we do it anyway.
    ttl: Option<u64>,
    /// Milliseconds.
    timeout: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTokenReview {
    #[serde(default)]
    audiences: Vec<String>,
    /// Milliseconds.
    timeout: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawIntrospection {
    endpoint: String,
    token_type_hint: Option<String>,
    credentials_ref: RawSecret,
    timeout: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSecret {
    name: String,
}

fn way(compiler: &Compiler<'_>, kind: &str, settings: Value, entry: &mut Entry<'_>) -> Option<Way> {
    match kind {
        "anonymous" => {
            read::<BTreeMap<String, Value>>(settings, entry, kind)?;
            let method = open(compiler, &config::Method::Anonymous, entry)?;
            Some(Way { kind: anonymous::NAME, method, issuer: None, access_token: false, consumes: false })
        }
        "apiKey" => {
            let raw: RawApiKey = read(settings, entry, kind)?;
            let method = api_key::of(Arc::new(keys(compiler, &raw, entry)));
            Some(Way { kind: api_key::NAME, method, issuer: None, access_token: false, consumes: true })
        }
        "jwt" => {
            let raw: RawJwt = read(settings, entry, kind)?;
            let issuer = raw.issuer_url.clone();
            let setting = jwt(compiler, raw, entry)?;
            let method = open(compiler, &config::Method::Jwt(setting), entry)?;
            Some(Way { kind: jwt::NAME, method, issuer, access_token: true, consumes: true })
        }
        "kubernetesTokenReview" => {
            let raw: RawTokenReview = read(settings, entry, kind)?;
            let mut kubernetes = compiler.setting.kubernetes.clone();
            if let Some(milliseconds) = raw.timeout.filter(|milliseconds| *milliseconds > 0) {
                kubernetes.timeout = Duration::from_millis(milliseconds);
            }
            let audiences = if raw.audiences.is_empty() { Audiences::Host } else { Audiences::These(raw.audiences) };
            let setting = config::TokenReview { audiences, kubernetes, limits: Limits::TOKENS };
            let method = open(compiler, &config::Method::TokenReview(setting), entry)?;
            Some(Way { kind: token_review::NAME, method, issuer: None, access_token: false, consumes: true })
        }
        "oauth2Introspection" => {
            let raw: RawIntrospection = read(settings, entry, kind)?;
            let method = open(compiler, &config::Method::Introspection(introspection(compiler, raw, entry)?), entry)?;
            Some(Way { kind: introspection::NAME, method, issuer: None, access_token: true, consumes: true })
        }
        "plain" => {
            let from: RawValueFrom = read(settings, entry, kind)?;
            let method = open(compiler, &config::Method::Plain(config::Plain { from }), entry)?;
            Some(Way { kind: plain::NAME, method, issuer: None, access_token: false, consumes: false })
        }
        "x509" => {
            let (kind, method) = (crate::auth::methods::x509::NAME, x509(compiler, settings, entry)?);
            Some(Way { kind, method, issuer: None, access_token: false, consumes: false })
        }
        other => unknown(entry, other),
    }
}

fn introspection(
    compiler: &Compiler<'_>,
    raw: RawIntrospection,
    entry: &mut Entry<'_>,
) -> Option<config::Introspection> {
    let name = raw.credentials_ref.name;
    let mut half = |key: &str| {
        let value = compiler.secrets.value(compiler.namespace, &name, key);
        let text = value.and_then(|bytes| String::from_utf8(bytes.into()).ok()).filter(|text| !text.is_empty());
        if text.is_none() {
            entry.problem(format!(
                "oauth2Introspection: the Secret {}/{name} has no text as {key:?}",
                compiler.namespace
            ));
        }
        text.map(Hidden::new)
    };
    let (id, secret) = (half("clientID"), half("clientSecret"));
    let client = config::ClientSecret::Given { id: id?, secret: secret? };
    let mut setting = config::Introspection::new(raw.endpoint, client);
    setting.token_type_hint = raw.token_type_hint;
    setting.subject_required = false;
    setting.authorities.clone_from(&compiler.setting.authorities);
    if let Some(milliseconds) = raw.timeout.filter(|milliseconds| *milliseconds > 0) {
        setting.timeout = Duration::from_millis(milliseconds);
    }
    Some(setting)
}

pub(super) fn read<T: DeserializeOwned>(settings: Value, entry: &mut Entry<'_>, kind: &str) -> Option<T> {
    let settings = if settings.is_null() { Value::Object(Default::default()) } else { settings };
    let path = format!("{}.{kind}", entry.path);
    serde_json::from_value(settings).map_err(|error| entry.problems.push(problem(path, error.to_string()))).ok()
}

fn open(compiler: &Compiler<'_>, method: &config::Method, entry: &mut Entry<'_>) -> Option<Box<dyn Method>> {
    let kind = crate::auth::methods::kind(method);
    let opened = (kind.open)(method, &compiler.setting.tools);
    let told = |it: ConfigProblem| problem(format!("{}.{}{}", entry.path, kind.name, it.path), it.message);
    opened.map_err(told).map_err(|problem| entry.problems.push(problem)).ok()
}

fn jwt(compiler: &Compiler<'_>, raw: RawJwt, entry: &mut Entry<'_>) -> Option<Jwt> {
    let compat = &compiler.setting.compat;
    let mut fetched = Fetched { authorities: compiler.setting.authorities.clone(), ..Fetched::default() };
    if let Some(milliseconds) = raw.timeout.filter(|milliseconds| *milliseconds > 0) {
        fetched.timeout = Duration::from_millis(milliseconds);
    }
    if let Some(seconds) = raw.ttl.filter(|seconds| *seconds > 0) {
        // Whoever asks for keys every second asks for a flood.
        fetched.refresh = Duration::from_secs(seconds.max(REFRESH_SECONDS_MIN));
    }
    let (keys, issuer) = match (raw.issuer_url, raw.jwks_url) {
        (Some(url), None) => (Keys::Issuer(url.clone(), fetched), Some(url).filter(|_| !compat.issuer_unchecked)),
        (None, Some(url)) => (Keys::Url(url, fetched), None),
        _ => {
            entry.problem("jwt: give exactly one of issuerUrl and jwksUrl");
            return None;
        }
    };
    let audiences = if compat.audience_unchecked { Vec::new() } else { compiler.setting.audiences.clone() };
    Some(Jwt { subject_required: false, ..Jwt::new(keys, issuer, audiences) })
}

const REFRESH_SECONDS_MIN: u64 = 30;

/// The keys that the Secrets hold now; the whole policy is read again when one changes.
fn keys(compiler: &Compiler<'_>, raw: &RawApiKey, entry: &mut Entry<'_>) -> Ring {
    if raw.selector.is_empty() {
        entry.problem("apiKey.selector: selects every Secret there is; name a label");
    }
    let namespace = Some(compiler.namespace).filter(|_| !raw.all_namespaces);
    let mut holders = Vec::new();
    for secret in compiler.secrets.selected(namespace, &raw.selector) {
        let key = secret.data.get(API_KEY).and_then(|bytes| std::str::from_utf8(bytes).ok());
        let Some(key) = key.filter(|key| !key.is_empty()) else {
            tracing::warn!(secret = secret.name, "has no text as `{API_KEY}`; nobody can show it");
            continue;
        };
        let annotation = |name: &&str| secret.metadata.get("annotations")?.get(*name)?.as_str();
        let subject = USER_NAMES.iter().find_map(annotation).unwrap_or(&secret.name).to_owned();
        let holder = Holder { subject, claims: Arc::new(secret.object()), expires_at_unix: None };
        holders.push((sha256(key), holder));
    }
    Ring::new(holders)
}

impl ApiKeys for Ring {
    fn find(&self, key: &str, _now_unix: u64) -> Option<Arc<Holder>> {
        Ring::find(self, key)
    }
}

/// Where the credential is, and what a caller without one is asked for.
fn place(credentials: Value, entry: &mut Entry<'_>) -> Option<(Location, String)> {
    let path = format!("{}.credentials", entry.path);
    let given = if credentials.is_null() { Value::Object(Default::default()) } else { credentials };
    let text = |pointer: &str| given.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let named = ["/customHeader/name", "/queryString/name", "/cookie/name"].into_iter().find_map(text);
    let compiled = serde_json::from_value::<RawCredentials>(given.clone()).map_err(|error| error.to_string());
    match compiled.and_then(RawCredentials::compile) {
        Ok(location) => {
            let challenge = named.unwrap_or_else(|| match &location {
                Location::Header(name, prefix) if *name == AUTHORIZATION => prefix.trim_end().to_owned(),
                _ => "Bearer".into(),
            });
            Some((location, challenge))
        }
        Err(words) => {
            entry.problems.push(problem(path, words));
            None
        }
    }
}

/// Properties added to an identity.
fn extension(entry: &mut Entry<'_>, name: &str) -> Vec<(String, crate::auth::pipeline::Make)> {
    let raw: BTreeMap<String, RawValueFrom> = entry.take(name);
    let path = format!("{}.{name}", entry.path);
    let each = raw.iter().filter_map(|(key, value)| {
        let make = make(value, &format!("{path}.{key}"), entry.problems)?;
        Some((key.clone(), make))
    });
    each.collect()
}
