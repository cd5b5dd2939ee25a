//! JSON Web Tokens (RFC 7519) as bearer credentials, verified against a key set with the care RFC 8725 asks for.
//!
//! The key decides the algorithm, never the token. Never follows `jku`, `jwk`, `x5u` or `x5c`: a token does not get
//! to say who signed it. Never reads a clock.

use super::{Known, Method, Presented};
use crate::auth::credential::CREDENTIAL_BYTES_MAX;
use crate::auth::jwks::{JwksFile, KeySet};
use crate::auth::{ConfigProblem, Identity, Reason, Request};
use crate::config;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::future::ready;
use jsonwebtoken::Algorithm;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;

pub const NAME: &str = "jwt";

/// How far the clocks of issuer and server may differ.
pub const LEEWAY_SECONDS: u64 = 30;

struct Jwt {
    config: config::Jwt,
    keys: JwksFile,
}

pub fn open(config: &config::Method) -> Result<Box<dyn Method>, ConfigProblem> {
    let config::Method::Jwt(config) = config else { unreachable!("METHODS pairs this with config::Method::Jwt") };
    let problem = |path: &str, message: &str| Err(ConfigProblem { path: path.into(), message: message.into() });
    if config.issuer.is_empty() {
        return problem(".issuer", "is empty; write what the tokens carry as `iss`");
    }
    if config.audience.is_empty() {
        return problem(".audience", "is empty; without it a token made for another service would be taken here");
    }
    let keys = JwksFile::open(&config.jwks_file)?;
    Ok(Box::new(Jwt { config: config.clone(), keys }))
}

impl Method for Jwt {
    fn identify<'a>(&'a self, presented: &'a Presented<'a>) -> Known<'a> {
        Box::pin(ready(presented.credential.map(|token| self.known(token, presented.request)).transpose()))
    }
}

impl Jwt {
    fn known(&self, token: &str, request: &Request<'_>) -> Result<Identity, Reason> {
        let snapshot = self.keys.current(request.now_unix);
        let verified = match snapshot.cache.get(token) {
            Some(verified) => {
                verified.check_time(request.now_unix)?;
                verified
            }
            None => {
                let verified = Arc::new(verify(token, &snapshot.keys, &self.config, request.now_unix)?);
                snapshot.cache.put(token, verified.clone());
                verified
            }
        };
        Ok(Identity {
            subject: verified.subject.clone(),
            issuer: self.config.issuer.clone(),
            method: NAME,
            claims: verified.claims.clone(),
            spiffe: request.peer.spiffe.clone(),
            expires_at_unix: Some(verified.expires_unix.saturating_add(LEEWAY_SECONDS)),
        })
    }
}

/// A token whose signature and claims are good, at the times it says.
#[derive(Debug)]
pub struct Verified {
    pub subject: String,
    pub claims: Arc<serde_json::Value>,
    /// Seconds since 1970, leeway not included; 0 without `nbf`.
    pub not_before_unix: u64,
    /// Seconds since 1970, leeway not included.
    pub expires_unix: u64,
}

impl Verified {
    pub fn check_time(&self, now_unix: u64) -> Result<(), Reason> {
        if now_unix >= self.expires_unix.saturating_add(LEEWAY_SECONDS) {
            return Err(Reason::Expired);
        }
        if now_unix.saturating_add(LEEWAY_SECONDS) < self.not_before_unix {
            return Err(Reason::NotYetValid);
        }
        Ok(())
    }
}

/// RFC 7515, section 4.1. Members that only say where to find a key are not even read.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    crit: Option<serde_json::Value>,
}

/// RFC 7519, section 4.1. A member given twice is an error here, while a map would keep the last: two readers of one
/// token must not see two subjects.
#[derive(Deserialize)]
struct Claims {
    iss: Option<String>,
    sub: Option<String>,
    aud: Option<Audience>,
    exp: Option<f64>,
    nbf: Option<f64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

/// Whose tokens are taken.
pub struct Expected<'a> {
    pub issuer: &'a str,
    /// `aud` must be or contain one of these. Empty: it is not looked at.
    pub audiences: &'a [String],
    /// Whether a token must say of whom it speaks.
    pub subject_required: bool,
}

/// [`verify_for`] what the method is configured for.
pub fn verify(token: &str, keys: &KeySet, config: &config::Jwt, now_unix: u64) -> Result<Verified, Reason> {
    // Queues and limits are kept by subject: callers without one would share a place.
    let audiences = std::slice::from_ref(&config.audience);
    verify_for(token, keys, &Expected { issuer: &config.issuer, audiences, subject_required: true }, now_unix)
}

/// The whole check of one token, signature first: claims are not looked at before we know who made them.
///
/// `iat` is not checked: it grants nothing, and `nbf` is the claim for "not yet".
pub fn verify_for(token: &str, keys: &KeySet, expected: &Expected<'_>, now_unix: u64) -> Result<Verified, Reason> {
    if token.len() > CREDENTIAL_BYTES_MAX {
        return Err(Reason::Malformed);
    }
    let mut parts = token.split('.');
    let (Some(header), Some(payload), Some(signature), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Reason::Malformed);
    };
    let Header { alg, kid, typ, crit } = json(header)?.1;
    let algorithm = algorithm(&alg)?;
    if crit.is_some() || !typ.as_deref().is_none_or(is_token_type) {
        return Err(Reason::Unsupported);
    }
    let key = keys.find(kid.as_deref(), algorithm)?;
    let signed = &token[..header.len() + 1 + payload.len()];
    if !jsonwebtoken::crypto::verify(signature, signed.as_bytes(), key, algorithm).unwrap_or(false) {
        return Err(Reason::Signature);
    }
    let (bytes, claims) = json::<Claims>(payload)?;
    let all = serde_json::from_slice(&bytes).map_err(|_| Reason::Malformed)?;
    check(claims, all, expected, now_unix)
}

fn check(claims: Claims, all: serde_json::Value, expected: &Expected<'_>, now_unix: u64) -> Result<Verified, Reason> {
    if claims.iss.as_deref() != Some(expected.issuer) {
        return Err(Reason::Issuer);
    }
    let fits = match &claims.aud {
        Some(Audience::One(one)) => expected.audiences.contains(one),
        Some(Audience::Many(many)) => many.iter().any(|one| expected.audiences.contains(one)),
        None => false,
    };
    if !fits && !expected.audiences.is_empty() {
        return Err(Reason::Audience);
    }
    let subject = claims.sub.unwrap_or_default();
    if subject.is_empty() && expected.subject_required {
        return Err(Reason::Subject);
    }
    // A token that never ends can never be taken back.
    let expires_unix = seconds(claims.exp.ok_or(Reason::Expired)?)?;
    let not_before_unix = claims.nbf.map(seconds).transpose()?.unwrap_or(0);
    let verified = Verified { subject, claims: Arc::new(all), not_before_unix, expires_unix };
    verified.check_time(now_unix)?;
    Ok(verified)
}

/// Exactly these spellings: RFC 7515 compares `alg` by case, and `none` or `HS*` in any spelling is not among them.
fn algorithm(alg: &str) -> Result<Algorithm, Reason> {
    match alg {
        "EdDSA" => Ok(Algorithm::EdDSA),
        "ES256" => Ok(Algorithm::ES256),
        "ES384" => Ok(Algorithm::ES384),
        "PS256" => Ok(Algorithm::PS256),
        "RS256" => Ok(Algorithm::RS256),
        _ => Err(Reason::Algorithm),
    }
}

/// RFC 8725, 3.11: a token made for something else (a logout notice, a proof of possession) is no access token.
fn is_token_type(typ: &str) -> bool {
    let typ = typ.to_ascii_lowercase();
    matches!(typ.strip_prefix("application/").unwrap_or(&typ), "jwt" | "at+jwt")
}

fn json<T: DeserializeOwned>(part: &str) -> Result<(Vec<u8>, T), Reason> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| Reason::Malformed)?;
    let value = serde_json::from_slice(&bytes).map_err(|_| Reason::Malformed)?;
    Ok((bytes, value))
}

/// RFC 7519's NumericDate: seconds since 1970, perhaps with a fraction, which is dropped.
fn seconds(date: f64) -> Result<u64, Reason> {
    // The cast saturates: a date before 1970 is 0, one past the end of time is `u64::MAX`.
    if date.is_finite() { Ok(date as u64) } else { Err(Reason::Malformed) }
}
