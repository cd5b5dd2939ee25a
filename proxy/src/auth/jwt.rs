//! JSON Web Tokens (RFC 7519): verified against a key set with the care RFC 8725 asks for.
//!
//! The key decides the algorithm, never the token. Never follows `jku`, `jwk`, `x5u` or `x5c`: a token does not get
//! to say who signed it. Never reads a clock.

mod strict;

use super::Reason;
use super::credential::CREDENTIAL_BYTES_MAX;
use super::jwks::KeySet;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};
use std::sync::Arc;

/// How far the clocks of issuer and server may differ, unless a setting says otherwise.
pub const LEEWAY_SECONDS: u64 = 30;

/// What signs tokens here. RFC 7515 compares `alg` by case; `none` and `HS*` in any spelling are not among these, nor
/// is ES512: the cryptography below us has no P-521. RFC 9864 calls EdDSA by its curve.
pub const ALGORITHMS: [(&str, Algorithm); 10] = [
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("Ed25519", Algorithm::EdDSA),
    ("EdDSA", Algorithm::EdDSA),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
];

/// A line of [`ALGORITHMS`].
pub fn algorithm(name: &str) -> Option<Algorithm> {
    ALGORITHMS.iter().find(|(known, _)| *known == name).map(|(_, algorithm)| *algorithm)
}

/// Which tokens are taken.
#[derive(Clone, Debug)]
pub struct Expected {
    /// What `iss` must be. `None`: it is not looked at.
    pub issuer: Option<String>,
    /// `aud` must be or contain one of these. Empty: it is not looked at.
    pub audiences: Vec<String>,
    /// Whether a token must say of whom it speaks.
    pub subject_required: bool,
    /// Narrows what a key may verify. Empty: whatever it is for.
    pub algorithms: Vec<Algorithm>,
    /// `typ` must be one of these, lower case, without `application/`. Empty: absent, `JWT` or `at+jwt`.
    pub types: Vec<String>,
    /// Claims that must be there and not null.
    pub required_claims: Vec<String>,
    pub leeway_seconds: u64,
}

impl Default for Expected {
    fn default() -> Expected {
        Expected {
            issuer: None,
            audiences: Vec::new(),
            subject_required: true,
            algorithms: Vec::new(),
            types: Vec::new(),
            required_claims: Vec::new(),
            leeway_seconds: LEEWAY_SECONDS,
        }
    }
}

/// A token whose signature and claims are good, at the times it says.
#[derive(Debug)]
pub struct Verified {
    /// Empty without one.
    pub subject: String,
    /// Empty without one.
    pub issuer: String,
    pub claims: Arc<Value>,
    /// Seconds since 1970, leeway included; 0 without `nbf`.
    pub begins_unix: u64,
    /// Seconds since 1970, leeway included.
    pub ends_unix: u64,
}

impl Verified {
    pub fn check_time(&self, now_unix: u64) -> Result<(), Reason> {
        if now_unix >= self.ends_unix {
            return Err(Reason::Expired);
        }
        if now_unix < self.begins_unix {
            return Err(Reason::NotYetValid);
        }
        Ok(())
    }
}

/// The whole check of one token, signature first: claims are not looked at before we know who made them.
///
/// `iat` is not checked: it grants nothing, and `nbf` is the claim for "not yet".
pub fn verify(token: &str, keys: &KeySet, expected: &Expected, now_unix: u64) -> Result<Verified, Reason> {
    let verified = check(object(signed(token, keys, expected)?)?, expected)?;
    verified.check_time(now_unix)?;
    Ok(verified)
}

/// What is signed: the payload, still encoded, of a token whose signature is good.
fn signed<'t>(token: &'t str, keys: &KeySet, expected: &Expected) -> Result<&'t str, Reason> {
    let [header, payload, signature] = parts(token)?;
    let head = object(header)?;
    let algorithm = algorithm(text(&head, "alg")?.ok_or(Reason::Malformed)?).ok_or(Reason::Algorithm)?;
    if !expected.algorithms.is_empty() && !expected.algorithms.contains(&algorithm) {
        return Err(Reason::Algorithm);
    }
    if EXTENSIONS.iter().any(|name| head.contains_key(*name)) || !is_wanted(text(&head, "typ")?, &expected.types) {
        return Err(Reason::Unsupported);
    }
    let key = keys.find(text(&head, "kid")?, algorithm)?;
    let signed = &token[..header.len() + 1 + payload.len()];
    match jsonwebtoken::crypto::verify(signature, signed.as_bytes(), key, algorithm) {
        Ok(true) => Ok(payload),
        _ => Err(Reason::Signature),
    }
}

/// Only to know whom to ask for keys: nothing is believed yet.
pub fn unverified_issuer(token: &str) -> Result<String, Reason> {
    let [_, payload, _] = parts(token)?;
    match object(payload)?.remove("iss") {
        Some(Value::String(issuer)) => Ok(issuer),
        _ => Err(Reason::Issuer),
    }
}

/// Header members that change how the rest is to be read: extensions (`crit`), a payload that is not encoded (`b64`),
/// compressed (`zip`) or encrypted (`enc`). Some libraries honour the last three unasked.
const EXTENSIONS: [&str; 4] = ["b64", "crit", "enc", "zip"];

fn parts(token: &str) -> Result<[&str; 3], Reason> {
    if token.len() > CREDENTIAL_BYTES_MAX {
        return Err(Reason::Malformed);
    }
    let mut parts = token.split('.');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(header), Some(payload), Some(signature), None) => Ok([header, payload, signature]),
        _ => Err(Reason::Malformed),
    }
}

fn object(part: &str) -> Result<Map<String, Value>, Reason> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| Reason::Malformed)?;
    match strict::parse(&bytes) {
        Some(Value::Object(object)) => Ok(object),
        _ => Err(Reason::Malformed),
    }
}

/// A member that is text, or absent; null counts as absent.
fn text<'a>(object: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, Reason> {
    match object.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(Reason::Malformed),
    }
}

/// RFC 7519's NumericDate: seconds since 1970, perhaps with a fraction, which is dropped.
fn date(object: &Map<String, Value>, name: &str) -> Result<Option<u64>, Reason> {
    match object.get(name) {
        None | Some(Value::Null) => Ok(None),
        // The cast saturates: a date before 1970 is 0, one past the end of time is `u64::MAX`.
        Some(Value::Number(date)) => Ok(date.as_u64().or_else(|| date.as_f64().map(|date| date as u64))),
        Some(_) => Err(Reason::Malformed),
    }
}

/// RFC 8725, 3.11: a token made for something else (a logout notice, a proof of possession) is no access token.
fn is_wanted(typ: Option<&str>, types: &[String]) -> bool {
    let typ = typ.map(str::to_ascii_lowercase);
    let typ = typ.as_deref().map(|typ| typ.strip_prefix("application/").unwrap_or(typ));
    if types.is_empty() {
        return matches!(typ, None | Some("jwt" | "at+jwt"));
    }
    typ.is_some_and(|typ| types.iter().any(|wanted| wanted == typ))
}

fn check(claims: Map<String, Value>, expected: &Expected) -> Result<Verified, Reason> {
    let issuer = text(&claims, "iss")?;
    if expected.issuer.is_some() && issuer != expected.issuer.as_deref() {
        return Err(Reason::Issuer);
    }
    if !is_for(claims.get("aud"), &expected.audiences)? {
        return Err(Reason::Audience);
    }
    let subject = text(&claims, "sub")?.unwrap_or_default();
    // A name with a line break or a NUL in it is another name to whoever reads less carefully.
    if subject.is_empty() && expected.subject_required || subject.contains(char::is_control) {
        return Err(Reason::Subject);
    }
    let missing = |name: &String| claims.get(name).is_none_or(Value::is_null);
    if expected.required_claims.iter().any(missing) {
        return Err(Reason::Claim);
    }
    // A token that never ends can never be taken back.
    let expires = date(&claims, "exp")?.ok_or(Reason::Expired)?;
    let not_before = date(&claims, "nbf")?.unwrap_or(0);
    Ok(Verified {
        subject: subject.into(),
        issuer: issuer.unwrap_or_default().into(),
        begins_unix: not_before.saturating_sub(expected.leeway_seconds),
        ends_unix: expires.saturating_add(expected.leeway_seconds),
        claims: Arc::new(Value::Object(claims)),
    })
}

/// `aud`: one name or a list of them.
fn is_for(aud: Option<&Value>, audiences: &[String]) -> Result<bool, Reason> {
    let names: Vec<&str> = match aud {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(many)) => many.iter().map(Value::as_str).collect::<Option<_>>().ok_or(Reason::Malformed)?,
        Some(_) => return Err(Reason::Malformed),
    };
    Ok(audiences.is_empty() || names.iter().any(|name| audiences.iter().any(|wanted| wanted == name)))
}

#[cfg(test)]
mod tests;
