//! `jwt`: whose tokens are taken, and where the keys that verify them are.

use super::{Problems, Quantity, RawLocation, address, location, shown, timeout};
use crate::auth::credential::Location;
use crate::auth::jwt::{ALGORITHMS, LEEWAY_SECONDS};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Clocks that differ by more than this are to be repaired, not forgiven.
const LEEWAY_MAX: Duration = Duration::from_secs(300);
const REFRESH_MIN: Duration = Duration::from_secs(30);

#[derive(Clone, Debug, PartialEq)]
pub struct Jwt {
    pub keys: Keys,
    /// What `iss` must be. `None`: it is not looked at.
    pub issuer: Option<String>,
    /// `aud` must be or contain one of these. Empty: it is not looked at.
    pub audiences: Vec<String>,
    /// Narrows what the keys may verify. Empty: whatever they are for.
    pub algorithms: Vec<String>,
    /// What `typ` must be. Empty: absent, `JWT` or `at+jwt`.
    pub types: Vec<String>,
    pub required_claims: Vec<String>,
    /// Whether `sub` must be there.
    pub subject_required: bool,
    pub leeway: Duration,
    pub credentials: Location,
}

/// Where the public keys of an issuer are.
#[derive(Clone, Debug, PartialEq)]
pub enum Keys {
    /// A JSON Web Key Set (RFC 7517 §5) in a file, reread when it changes.
    File(PathBuf),
    /// The same, at an address.
    Url(String, Fetched),
    /// OpenID Connect: the issuer's configuration says at which.
    Issuer(String, Fetched),
}

/// How keys are fetched.
#[derive(Clone, Debug, PartialEq)]
pub struct Fetched {
    pub timeout: Duration,
    pub refresh: Duration,
    /// Whom to verify the server with; `None`: the machine's own authorities.
    pub authorities: Option<PathBuf>,
    /// A file for the last good keys.
    pub copy: Option<PathBuf>,
}

impl Jwt {
    /// Everything as it is without further settings.
    pub fn new(keys: Keys, issuer: Option<String>, audiences: Vec<String>) -> Jwt {
        Jwt {
            keys,
            issuer,
            audiences,
            algorithms: Vec::new(),
            types: Vec::new(),
            required_claims: Vec::new(),
            subject_required: true,
            leeway: Duration::from_secs(LEEWAY_SECONDS),
            credentials: Location::Bearer,
        }
    }
}

impl Default for Fetched {
    fn default() -> Fetched {
        Fetched { timeout: super::TIMEOUT, refresh: crate::auth::jwks_fetch::REFRESH, authorities: None, copy: None }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawJwt {
    issuer: Option<String>,
    audience: Option<String>,
    audiences: Option<Vec<String>>,
    jwks_file: Option<PathBuf>,
    jwks_url: Option<String>,
    issuer_url: Option<String>,
    authorities: Option<PathBuf>,
    timeout: Option<Quantity>,
    refresh: Option<Quantity>,
    keys_cache: Option<PathBuf>,
    #[serde(default)]
    algorithms: Vec<String>,
    #[serde(default)]
    typ: Vec<String>,
    #[serde(default)]
    required_claims: Vec<String>,
    leeway: Option<Quantity>,
    credentials: Option<RawLocation>,
}

impl RawJwt {
    pub(super) fn validate(self, path: &str, base: &Path, p: &mut Problems) -> Option<Jwt> {
        let issuer = self.issuer.clone().or_else(|| self.issuer_url.clone());
        match issuer.as_deref() {
            None => p.add(&format!("{path}.issuer"), "is missing; write what the tokens carry as `iss`"),
            Some("") => p.add(&format!("{path}.issuer"), "must not be empty"),
            Some(_) => {}
        }
        let audiences = match (self.audience.clone(), self.audiences.clone()) {
            (Some(one), None) => vec![one],
            (None, Some(many)) => many,
            _ => Vec::new(),
        };
        if audiences.is_empty() || audiences.iter().any(String::is_empty) {
            let words = "one of `audience` and `audiences` must say for whom tokens are made: without it, a token made \
                         for another service would be taken here";
            p.add(&format!("{path}.audience"), words);
        }
        for name in &self.algorithms {
            if name == "ES512" {
                p.add(&format!("{path}.algorithms"), "ES512 is not supported (P-521); let the issuer sign with ES256");
            } else if !ALGORITHMS.iter().any(|(known, _)| known == name) {
                let known = ALGORITHMS.map(|(known, _)| known).join(", ");
                p.add(&format!("{path}.algorithms"), format!("`{name}` is none of {known}"));
            }
        }
        let leeway = p.duration_or_none(&format!("{path}.leeway"), &self.leeway, Duration::from_secs(LEEWAY_SECONDS));
        if leeway > LEEWAY_MAX {
            p.add(&format!("{path}.leeway"), "must be at most 5m: clocks that differ by more need repair");
        }
        let types = self.typ.iter().map(|typ| typ.to_ascii_lowercase());
        let types = types.map(|typ| typ.strip_prefix("application/").unwrap_or(&typ).to_owned()).collect();
        let credentials = location(&self.credentials, &format!("{path}.credentials"), p);
        let keys = self.keys(path, base, p)?;
        let (algorithms, required_claims) = (self.algorithms, self.required_claims);
        Some(Jwt { algorithms, types, required_claims, leeway, credentials, ..Jwt::new(keys, issuer, audiences) })
    }

    fn keys(&self, path: &str, base: &Path, p: &mut Problems) -> Option<Keys> {
        let fetched = Fetched {
            timeout: timeout(&self.timeout, &format!("{path}.timeout"), p),
            refresh: p.duration(&format!("{path}.refresh"), &self.refresh, Fetched::default().refresh),
            authorities: self.authorities.as_ref().map(|file| base.join(file)),
            copy: self.keys_cache.as_ref().map(|file| base.join(file)),
        };
        if fetched.refresh < REFRESH_MIN {
            p.add(&format!("{path}.refresh"), "must be at least 30s: an unknown key id is looked for at once anyway");
        }
        match (&self.jwks_file, &self.jwks_url, &self.issuer_url) {
            (Some(file), None, None) => {
                let idle = [self.timeout.is_some(), self.refresh.is_some(), self.authorities.is_some()];
                if idle.contains(&true) || self.keys_cache.is_some() {
                    p.add(path, "timeout, refresh, authorities and keys_cache are for jwks_url and issuer_url");
                }
                Some(Keys::File(base.join(file)))
            }
            (None, Some(url), None) => Some(Keys::Url(address(url, &format!("{path}.jwks_url"), p)?, fetched)),
            (None, None, Some(url)) => Some(Keys::Issuer(address(url, &format!("{path}.issuer_url"), p)?, fetched)),
            _ => {
                p.add(path, "exactly one of jwks_file, jwks_url, issuer_url says where the keys are");
                None
            }
        }
    }
}

impl Jwt {
    pub(super) fn dump(&self) -> Value {
        let mut dump = Map::new();
        let (place, fetched) = match &self.keys {
            Keys::File(path) => (("jwks_file", json!(path)), None),
            Keys::Url(url, fetched) => (("jwks_url", json!(url)), Some(fetched)),
            Keys::Issuer(url, fetched) => (("issuer_url", json!(url)), Some(fetched)),
        };
        let mut add = |name: &str, value: Value| drop(dump.insert(name.into(), value));
        add(place.0, place.1);
        add("issuer", json!(self.issuer));
        add("audiences", json!(self.audiences));
        add("algorithms", json!(self.algorithms));
        add("typ", json!(self.types));
        add("required_claims", json!(self.required_claims));
        add("leeway_seconds", json!(self.leeway.as_secs_f64()));
        add("credentials", shown(&self.credentials));
        if let Some(fetched) = fetched {
            add("timeout_seconds", json!(fetched.timeout.as_secs_f64()));
            add("refresh_seconds", json!(fetched.refresh.as_secs_f64()));
            add("authorities", json!(fetched.authorities));
            add("keys_cache", json!(fetched.copy));
        }
        Value::Object(dump)
    }
}
