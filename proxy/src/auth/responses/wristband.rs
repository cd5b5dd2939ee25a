//! The festival wristband: a JWT of our own about a caller whom we have already let in, for those behind us.
//!
//! Signed with keys from Secrets, whose public halves are published as OpenID Connect does. Never says more of the
//! caller than a digest, unless the policy adds claims; never lives longer than the policy says.

use super::json::Properties;
use super::{Made, Response};
use crate::auth::ConfigProblem;
use crate::auth::site::{Site, parse, problem};
use crate::auth::values::RawValueFrom;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use ring::digest::{SHA256, digest};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

pub use key::SigningKey;

mod go_json;
mod key;

pub const NAME: &str = "wristband";
/// As Authorino's.
const DURATION_SECONDS: u64 = 300;
/// Whoever wants more wants a session, and a way to end it.
const DURATION_SECONDS_MAX: u64 = 24 * 3600;
/// Below an issuer; where the wristband's verifiers look.
const CONFIGURATION: &str = "/.well-known/openid-configuration";
const KEYS: &str = "/.well-known/openid-connect/certs";
/// The same, for those who look where most issuers have theirs.
const KEYS_TOO: &str = "/.well-known/jwks.json";
/// Ours to say: with another `exp`, say, a wristband would outlive its settings.
const RESERVED: [&str; 4] = ["exp", "iat", "iss", "nbf"];

/// `WristbandAuthResponseSpec` of AuthConfig v1beta3.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Raw {
    issuer: String,
    #[serde(default)]
    custom_claims: BTreeMap<String, RawValueFrom>,
    token_duration: Option<u64>,
    signing_key_refs: Vec<RawKey>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawKey {
    name: String,
    algorithm: String,
}

struct Wristband {
    issuer: String,
    claims: Properties,
    duration_seconds: u64,
    /// Signs; the others are published, so that what they signed is still believed.
    key: SigningKey,
    published: Published,
}

/// What those who verify wristbands ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    configuration: Bytes,
    keys: Bytes,
}

impl Published {
    /// The JSON document at a path below the issuer.
    pub fn document(&self, path: &str) -> Option<&Bytes> {
        match path {
            CONFIGURATION => Some(&self.configuration),
            KEYS | KEYS_TOO => Some(&self.keys),
            _ => None,
        }
    }

    fn new(issuer: &str, keys: &[SigningKey]) -> Published {
        let issuer = issuer.trim_end_matches('/');
        let mut algorithms: Vec<_> = keys.iter().map(SigningKey::algorithm).collect();
        algorithms.sort_unstable();
        algorithms.dedup();
        let configuration = json!({
            "issuer": issuer,
            "jwks_uri": format!("{issuer}{KEYS}"),
            "id_token_signing_alg_values_supported": algorithms,
        });
        let keys = json!({"keys": keys.iter().map(SigningKey::public).collect::<Vec<_>>()});
        Published { configuration: configuration.to_string().into(), keys: keys.to_string().into() }
    }
}

pub fn open(given: Value, path: &str, site: &Site<'_>, problems: &mut Vec<ConfigProblem>) -> Option<Box<dyn Response>> {
    let raw: Raw = parse(given, path, problems)?;
    let before = problems.len();
    for name in raw.custom_claims.keys().filter(|name| RESERVED.contains(&name.as_str())) {
        problem(problems, format!("{path}.customClaims.{name}"), "is for the wristband itself to say");
    }
    let claims = Properties::compile(&raw.custom_claims, &format!("{path}.customClaims"), problems);
    let duration_seconds = raw.token_duration.unwrap_or(DURATION_SECONDS);
    if !(1..=DURATION_SECONDS_MAX).contains(&duration_seconds) {
        let words = format!("is in seconds, from 1 to {DURATION_SECONDS_MAX}");
        problem(problems, format!("{path}.tokenDuration"), words);
    }
    let keys = keys(&raw.signing_key_refs, path, site, problems);
    if problems.len() > before {
        return None;
    }
    let published = Published::new(&raw.issuer, &keys);
    let key = keys.into_iter().next()?;
    Some(Box::new(Wristband { issuer: raw.issuer, claims: claims?, duration_seconds, key, published }))
}

fn keys(raw: &[RawKey], path: &str, site: &Site<'_>, problems: &mut Vec<ConfigProblem>) -> Vec<SigningKey> {
    let path = format!("{path}.signingKeyRefs");
    if raw.is_empty() {
        problem(problems, path.as_str(), "needs at least one key");
    }
    let mut keys: Vec<SigningKey> = Vec::new();
    for (index, raw) in raw.iter().enumerate() {
        let pem = site.secrets.value(site.namespace, &raw.name, "key.pem");
        let pem = pem.ok_or_else(|| format!("the Secret {}/{} has no key.pem", site.namespace, raw.name));
        match pem.and_then(|pem| SigningKey::load(&raw.name, &raw.algorithm, &pem)) {
            Ok(key) if keys.iter().any(|other| other.id() == key.id()) => {
                problem(problems, format!("{path}[{index}]"), "is there twice");
            }
            Ok(key) => keys.push(key),
            Err(words) => problem(problems, format!("{path}[{index}]"), words),
        }
    }
    keys
}

impl Wristband {
    fn sign(&self, root: &Value, now_unix: u64) -> Result<Value, String> {
        let identity = &root["auth"]["identity"];
        // Who comes with our wristband already wears one.
        if identity["iss"].as_str() == Some(&self.issuer) {
            return Ok(Value::Null);
        }
        let mut claims = Map::new();
        claims.insert("sub".into(), subject(identity).into());
        self.claims.resolve_into(root, &mut claims)?;
        claims.insert("iss".into(), self.issuer.as_str().into());
        claims.insert("iat".into(), now_unix.into());
        claims.insert("exp".into(), now_unix.saturating_add(self.duration_seconds).into());
        let header = json!({"alg": self.key.algorithm(), "kid": self.key.id(), "typ": "JWT"});
        let encode = |part: &[u8]| URL_SAFE_NO_PAD.encode(part);
        let signed = format!(
            "{}.{}",
            encode(header.to_string().as_bytes()),
            encode(Value::Object(claims).to_string().as_bytes())
        );
        let signature = self.key.sign(signed.as_bytes())?;
        Ok(format!("{signed}.{}", encode(&signature)).into())
    }
}

/// The same for the same identity, and telling nothing of it to who does not know it: as Authorino computes it.
fn subject(identity: &Value) -> String {
    let digest = digest(&SHA256, go_json::marshal(identity).as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Response for Wristband {
    fn make<'a>(&'a self, root: &'a Value, now_unix: u64) -> Made<'a> {
        Box::pin(std::future::ready(self.sign(root, now_unix)))
    }

    fn published(&self) -> Option<&Published> {
        Some(&self.published)
    }
}
