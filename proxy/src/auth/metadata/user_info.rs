//! The claims of OpenID Connect's UserInfo (Core 1.0, section 5.3), asked for with the caller's own access token.
//!
//! Never shows a server a credential that is no access token, nor one of another issuer; never believes claims of
//! another subject.

use super::{Fetched, Source};
use crate::auth::ConfigProblem;
use crate::auth::credential::Location;
use crate::auth::endpoint::{Discovery, absolute, get, timeout};
use crate::auth::site::{Site, parse, problem};
use crate::fetch::Client;
use http::Uri;
use serde::Deserialize;
use serde_json::Value;
use std::time::Duration;

pub const NAME: &str = "userInfo";

/// `UserInfoMetadataSpec` of AuthConfig v1beta3.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Raw {
    identity_source: Option<String>,
    user_info_url: Option<String>,
    timeout: Option<u64>,
}

struct UserInfo {
    client: Client,
    endpoint: Endpoint,
    /// Where the access tokens of callers are.
    locations: Vec<Location>,
    timeout: Duration,
}

enum Endpoint {
    Given(Uri),
    /// Of the issuer whose tokens these are.
    Discovered(Box<Discovery>),
}

pub fn open(given: Value, path: &str, site: &Site<'_>, problems: &mut Vec<ConfigProblem>) -> Option<Box<dyn Source>> {
    let raw: Raw = parse(given, path, problems)?;
    let source = UserInfo::compile(raw, site).map_err(|(key, words)| problem(problems, format!("{path}.{key}"), words));
    Some(Box::new(source.ok()?))
}

impl UserInfo {
    fn compile(raw: Raw, site: &Site<'_>) -> Result<UserInfo, (&'static str, String)> {
        let (client, timeout) = (site.client.clone(), timeout(raw.timeout));
        if let Some(name) = raw.identity_source.filter(|name| !name.is_empty()) {
            let bad = |words: &str| ("identitySource", format!("{name:?} {words}"));
            let source = site.identities.get(&name).ok_or_else(|| bad("is no authentication of this policy"))?;
            let issuer =
                source.issuer.as_ref().ok_or_else(|| bad("has no jwt.issuerUrl; write userInfoUrl instead"))?;
            let discovery = Discovery::new(client.clone(), issuer, "openid-configuration", timeout);
            let endpoint = Endpoint::Discovered(Box::new(
                discovery.map_err(|words| bad(&format!("has an issuerUrl that {words}")))?,
            ));
            return Ok(UserInfo { client, endpoint, locations: vec![source.location.clone()], timeout });
        }
        let url = raw.user_info_url.ok_or_else(|| ("identitySource", "or userInfoUrl is needed".to_owned()))?;
        let endpoint = Endpoint::Given(absolute(&url).map_err(|words| ("userInfoUrl", words))?);
        let mut locations: Vec<Location> = Vec::new();
        for source in site.identities.values().filter(|source| source.access_token) {
            if !locations.contains(&source.location) {
                locations.push(source.location.clone());
            }
        }
        if locations.is_empty() {
            return Err(("userInfoUrl", "needs an access token, and no jwt or oauth2Introspection takes one".into()));
        }
        Ok(UserInfo { client, endpoint, locations, timeout })
    }

    async fn ask(&self, root: &Value) -> Result<Value, String> {
        let identity = &root["auth"]["identity"];
        let uri = match &self.endpoint {
            Endpoint::Given(uri) => uri.clone(),
            Endpoint::Discovered(discovery) if identity["iss"].as_str() == Some(discovery.issuer()) => {
                discovery.endpoint("userinfo_endpoint").await?
            }
            Endpoint::Discovered(_) => return Err("the caller is not known by this issuer".into()),
        };
        let mut tokens = self.locations.iter().filter_map(|location| credential(root, location));
        let token = match (tokens.next(), tokens.next()) {
            (Some(token), None) => token,
            (None, _) => return Err("the request shows no access token".into()),
            (Some(_), Some(_)) => return Err("the request shows more than one access token".into()),
        };
        let claims = get(&self.client, uri, Some(token), self.timeout).await?;
        // Core 1.0, 5.3.2: without this check one user's token may bring another's claims.
        match (&identity["sub"], &claims["sub"]) {
            (Value::String(known), Value::String(told)) if known == told => Ok(claims),
            // The answer to an introspection need not name a subject.
            (Value::Null, Value::String(_)) if matches!(self.endpoint, Endpoint::Given(_)) => Ok(claims),
            _ => Err("the answer is about another subject".into()),
        }
    }
}

impl Source for UserInfo {
    fn fetch<'a>(&'a self, root: &'a Value) -> Fetched<'a> {
        Box::pin(self.ask(root))
    }
}

/// The credential as the authorization JSON holds it. It was judged already; here it is only found again.
fn credential<'a>(root: &'a Value, location: &Location) -> Option<&'a str> {
    let request = &root["request"];
    let found = match location {
        Location::Bearer => {
            let (scheme, token) = request["headers"]["authorization"].as_str()?.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(token)
        }
        Location::Header(name, prefix) => request["headers"][name.as_str()].as_str()?.strip_prefix(prefix.as_str()),
        Location::Parameter(name) => {
            let pairs = request["query"].as_str()?.trim_start_matches('?').split('&');
            pairs.filter_map(|pair| pair.split_once('=')).find(|(key, _)| key == name).map(|(_, value)| value)
        }
        Location::Cookie(name) => {
            let pairs = request["headers"]["cookie"].as_str()?.split(';');
            pairs.filter_map(|pair| pair.trim().split_once('=')).find(|(key, _)| key == name).map(|(_, value)| value)
        }
    };
    found.map(str::trim).filter(|token| !token.is_empty())
}
