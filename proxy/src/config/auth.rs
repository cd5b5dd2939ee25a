//! `auth`: the ways to prove who one is, and where each credential is looked for.
//!
//! Never opens a file: whether a key set can be read is found out when the method is opened.

mod certificates;
mod introspection;
mod jwt;

use super::authconfig::{AuthConfig, RawAuthConfig};
use super::kubernetes::{Kubernetes, RawTokenReview, TokenReview};
use super::quantity::Quantity;
use super::raw::Problems;
use crate::auth::credential::Location;
pub use certificates::{CertificateSource, Plain, Vouchers, X509};
use certificates::{RawPlain, RawX509};
use http::HeaderName;
use introspection::RawIntrospection;
pub use introspection::{ClientSecret, Introspection};
use jwt::RawJwt;
pub use jwt::{Fetched, Jwt, Keys};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longer than a server in the next room needs, shorter than a caller's patience.
const TIMEOUT: Duration = Duration::from_secs(5);
const TIMEOUT_MAX: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, PartialEq)]
pub struct Auth {
    /// Tried in order; at least one, unless there are policies.
    pub methods: Vec<Method>,
    /// Policies that others wrote, in the place of our own list of methods.
    pub authconfig: Option<AuthConfig>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Method {
    ApiKey(ApiKey),
    Introspection(Introspection),
    Jwt(Jwt),
    /// Everybody, without a credential.
    Anonymous,
    /// Whoever shows a client certificate of the trust domain.
    Mtls,
    /// Whoever the request says it is.
    Plain(Plain),
    /// Whoever shows a token that the Kubernetes API knows.
    TokenReview(TokenReview),
    /// Whoever showed a client certificate to a proxy before us.
    X509(X509),
}

impl Method {
    /// Where its callers show their credential.
    pub fn credentials(&self) -> &Location {
        match self {
            Method::ApiKey(api_key) => &api_key.credentials,
            Method::Introspection(introspection) => &introspection.credentials,
            Method::Jwt(jwt) => &jwt.credentials,
            Method::Anonymous | Method::Mtls | Method::Plain(_) | Method::TokenReview(_) | Method::X509(_) => {
                &Location::Bearer
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct ApiKey {
    /// Hashes of keys and who has them, as `outrider token api-key` writes them; reread when it changes.
    pub keys_file: PathBuf,
    pub credentials: Location,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAuth {
    #[serde(default)]
    methods: Vec<RawMethod>,
    authconfig: Option<RawAuthConfig>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMethod {
    api_key: Option<RawApiKey>,
    introspection: Option<RawIntrospection>,
    jwt: Option<RawJwt>,
    anonymous: Option<Nothing>,
    mtls: Option<Nothing>,
    plain: Option<RawPlain>,
    token_review: Option<RawTokenReview>,
    x509: Option<RawX509>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawApiKey {
    keys_file: PathBuf,
    credentials: Option<RawLocation>,
}

/// Exactly one of these.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLocation {
    bearer: Option<Nothing>,
    header: Option<RawHeader>,
    query: Option<String>,
    cookie: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHeader {
    name: String,
    #[serde(default)]
    prefix: String,
}

impl RawAuth {
    pub(super) fn validate(self, base: &Path, kubernetes: &Kubernetes, p: &mut Problems) -> Auth {
        let authconfig = self.authconfig.map(|policies| policies.validate(base, kubernetes, p));
        if authconfig.is_some() && !self.methods.is_empty() {
            p.add("auth", "has both methods and authconfig; who enters is said in one place");
        }
        if self.methods.is_empty() && authconfig.is_none() {
            p.add("auth.methods", "must name at least one; `[{anonymous: {}}]` lets everybody in");
        }
        let mut methods = Vec::new();
        for (at, method) in self.methods.into_iter().enumerate() {
            let path = format!("auth.methods[{at}]");
            let here = Here { path: &path, base, kubernetes };
            methods.extend(method.validate(&here, p));
        }
        let copies = methods.iter().filter_map(Method::copy);
        if !copies.clone().all({
            let mut seen = HashSet::new();
            move |copy| seen.insert(copy)
        }) {
            p.add("auth.methods", "two methods have one `keys_cache`; each issuer's keys need a file of their own");
        }
        Auth { methods, authconfig }
    }
}

/// Where a method stands, and what it may refer to.
struct Here<'a> {
    path: &'a str,
    base: &'a Path,
    kubernetes: &'a Kubernetes,
}

impl RawMethod {
    fn validate(self, here: &Here<'_>, p: &mut Problems) -> Option<Method> {
        let RawMethod { api_key, introspection, jwt, anonymous, mtls, plain, token_review, x509 } = self;
        let Here { path, base, kubernetes } = here;
        let asked = [api_key.is_some(), introspection.is_some(), jwt.is_some(), token_review.is_some()];
        let seen = [anonymous.is_some(), mtls.is_some(), plain.is_some(), x509.is_some()];
        if asked.into_iter().chain(seen).filter(|given| *given).count() != 1 {
            p.add(
                path,
                "must be exactly one of anonymous, api_key, introspection, jwt, mtls, plain, token_review, x509",
            );
            return None;
        }
        if anonymous.is_some() || mtls.is_some() {
            return Some(if anonymous.is_some() { Method::Anonymous } else { Method::Mtls });
        }
        if let Some(plain) = plain {
            return plain.validate(&format!("{path}.plain"), p).map(Method::Plain);
        }
        if let Some(x509) = x509 {
            return x509.validate(&format!("{path}.x509"), base, p).map(Method::X509);
        }
        if let Some(RawApiKey { keys_file, credentials }) = api_key {
            let credentials = location(&credentials, &format!("{path}.api_key.credentials"), p);
            return Some(Method::ApiKey(ApiKey { keys_file: base.join(keys_file), credentials }));
        }
        if let Some(introspection) = introspection {
            let path = format!("{path}.introspection");
            return introspection.validate(&path, base, p).map(Method::Introspection);
        }
        if let Some(review) = token_review {
            let review = review.validate(&format!("{path}.token_review"), kubernetes, p);
            return Some(Method::TokenReview(review));
        }
        jwt?.validate(&format!("{path}.jwt"), base, p).map(Method::Jwt)
    }
}

impl Method {
    fn copy(&self) -> Option<&Path> {
        match self {
            Method::Jwt(Jwt { keys: Keys::Url(_, fetched) | Keys::Issuer(_, fetched), .. }) => fetched.copy.as_deref(),
            _ => None,
        }
    }

    pub(super) fn dump(&self) -> Value {
        match self {
            Method::ApiKey(ApiKey { keys_file, credentials }) => {
                json!({"api_key": {"keys_file": keys_file, "credentials": shown(credentials)}})
            }
            Method::Introspection(introspection) => json!({"introspection": introspection.dump()}),
            Method::Jwt(jwt) => json!({"jwt": jwt.dump()}),
            Method::Anonymous => json!({"anonymous": {}}),
            Method::Mtls => json!({"mtls": {}}),
            Method::Plain(plain) => json!({"plain": plain.dump()}),
            Method::TokenReview(review) => json!({"token_review": review.dump()}),
            Method::X509(x509) => json!({"x509": x509.dump()}),
        }
    }
}

/// Of something asked over the network.
fn timeout(given: &Option<Quantity>, path: &str, p: &mut Problems) -> Duration {
    let timeout = p.duration(path, given, TIMEOUT);
    if timeout > TIMEOUT_MAX {
        p.add(path, "must be at most 60s");
    }
    timeout
}

fn address(text: &str, path: &str, p: &mut Problems) -> Option<String> {
    let sound = text.parse::<http::Uri>().is_ok_and(|uri| {
        let host = uri.authority().is_some_and(|it| !it.host().is_empty() && !it.as_str().contains('@'));
        host && matches!(uri.scheme_str(), Some("http" | "https"))
    });
    if sound {
        return Some(text.to_owned());
    }
    p.add(path, "is no address; write `https://host[:port]/path`, without a user name");
    None
}

fn location(raw: &Option<RawLocation>, path: &str, p: &mut Problems) -> Location {
    let Some(raw) = raw else { return Location::Bearer };
    match (&raw.bearer, &raw.header, &raw.query, &raw.cookie) {
        (Some(Nothing {}), None, None, None) => Location::Bearer,
        (None, Some(header), None, None) => match HeaderName::try_from(header.name.as_str()) {
            Ok(name) => Location::Header(name, header.prefix.clone()),
            Err(_) => {
                p.add(&format!("{path}.header.name"), format!("`{}` is no header's name", header.name));
                Location::Bearer
            }
        },
        (None, None, Some(name), None) if !name.is_empty() => Location::Parameter(name.clone()),
        (None, None, None, Some(name)) if !name.is_empty() => Location::Cookie(name.clone()),
        _ => {
            p.add(
                path,
                "must be exactly one of `bearer: {}`, `header: {name: …, prefix: …}`, `query: name`, `cookie: name`",
            );
            Location::Bearer
        }
    }
}

fn shown(location: &Location) -> Value {
    match location {
        Location::Bearer => json!({"bearer": {}}),
        Location::Header(name, prefix) => json!({"header": {"name": name.as_str(), "prefix": prefix}}),
        Location::Parameter(name) => json!({"query": name}),
        Location::Cookie(name) => json!({"cookie": name}),
    }
}

#[cfg(test)]
mod tests;
