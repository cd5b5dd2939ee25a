//! External authorizers that CUSTOM policies name: the file's shape and its meaning.

use super::quantity::Quantity;
use super::raw::Problems;
use http::{HeaderName, Uri};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// As long as Envoy waits by default: it is added to every request that is asked about.
const TIMEOUT: Duration = Duration::from_millis(200);
/// What an authorizer over HTTP is sent of the headers, beside `host`: who calls, and how they came here.
const HEADERS_TO_CHECK: &[&str] = &["authorization", "cookie", "x-forwarded-*"];

/// An external authorizer.
#[derive(Clone, Debug, PartialEq)]
pub struct Provider {
    pub service: Service,
    pub timeout: Duration,
    /// Whether requests pass while it cannot be asked.
    pub fail_open: bool,
    /// Request headers an authorizer over HTTP is sent; over gRPC it is sent all.
    pub headers_to_check: Vec<HeaderPattern>,
    /// Headers of its answer that the server behind is sent; over gRPC the answer says so itself.
    pub headers_to_upstream: Vec<HeaderPattern>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Service {
    /// Envoy's `Authorization.Check`, at this `host:port`.
    Grpc(String),
    /// The request without its body, at this `host:port` and below this path.
    Http { authority: String, prefix: String },
}

/// A header's name, or its beginning.
#[derive(Clone, Debug, PartialEq)]
pub struct HeaderPattern {
    name: String,
    prefix: bool,
}

impl HeaderPattern {
    fn parse(text: &str) -> Result<HeaderPattern, String> {
        let (name, prefix) = text.strip_suffix('*').map_or((text, false), |name| (name, true));
        match name.parse::<HeaderName>() {
            Ok(name) => Ok(HeaderPattern { name: name.as_str().to_owned(), prefix }),
            Err(_) => Err(format!("`{text}` is no header's name; write `x-user` or `x-user-*`")),
        }
    }

    pub fn matches(&self, name: &HeaderName) -> bool {
        if self.prefix { name.as_str().starts_with(&self.name) } else { name.as_str() == self.name }
    }

    fn text(&self) -> String {
        format!("{}{}", self.name, if self.prefix { "*" } else { "" })
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawProvider {
    grpc: Option<String>,
    http: Option<String>,
    timeout: Option<Quantity>,
    #[serde(default)]
    fail_open: bool,
    headers_to_check: Option<Vec<String>>,
    headers_to_upstream: Option<Vec<String>>,
}

/// All of `policy.providers`.
pub(super) fn validate(raw: BTreeMap<String, RawProvider>, p: &mut Problems) -> BTreeMap<String, Provider> {
    raw.into_iter()
        .map(|(name, provider)| (name.clone(), provider.validate(&format!("policy.providers.{name}"), p)))
        .collect()
}

impl RawProvider {
    fn validate(self, path: &str, p: &mut Problems) -> Provider {
        let service = match (&self.grpc, &self.http) {
            (Some(address), None) => grpc(address).unwrap_or_else(|words| p.refused(&format!("{path}.grpc"), words)),
            (None, Some(url)) => http(url).unwrap_or_else(|words| p.refused(&format!("{path}.http"), words)),
            (Some(_), Some(_)) => {
                p.refused(path, "has both `grpc` and `http`; an authorizer is asked in one way".into())
            }
            (None, None) => p.refused(path, "needs `grpc: 'host:port'` or `http: 'http://host:port/path'`".into()),
        };
        let mut patterns = |key: &str, given: Option<Vec<String>>, default: &[&str]| -> Vec<HeaderPattern> {
            let path = format!("{path}.{key}");
            if given.is_some() && self.grpc.is_some() {
                p.add(&path, "is for `http`; over gRPC all headers are sent, and the answer says what to change");
            }
            let texts = given.unwrap_or_else(|| default.iter().map(ToString::to_string).collect());
            let parse = |text: &String| HeaderPattern::parse(text).map_err(|words| p.add(&path, words)).ok();
            texts.iter().filter_map(parse).collect()
        };
        let headers_to_check = patterns("headers_to_check", self.headers_to_check, HEADERS_TO_CHECK);
        let headers_to_upstream = patterns("headers_to_upstream", self.headers_to_upstream, &[]);
        let timeout = p.duration(&format!("{path}.timeout"), &self.timeout, TIMEOUT);
        Provider { service, timeout, fail_open: self.fail_open, headers_to_check, headers_to_upstream }
    }
}

impl Problems {
    /// Tells it, and gives something to go on with.
    fn refused(&mut self, path: &str, words: String) -> Service {
        self.add(path, words);
        Service::Grpc("localhost:1".into())
    }
}

/// `host:port`.
fn grpc(address: &str) -> Result<Service, String> {
    let authority = address.parse::<http::uri::Authority>().ok().filter(|it| it.port_u16().is_some());
    let plain = authority.filter(|it| !it.as_str().contains('@') && !it.host().is_empty());
    plain.map(|it| Service::Grpc(it.to_string())).ok_or_else(|| format!("`{address}` is none; write `opa.policy:9191`"))
}

/// `http://host:port/prefix`.
fn http(url: &str) -> Result<Service, String> {
    let bad = || format!("`{url}` is none; write `http://authorizer.policy:8080/check`");
    let uri: Uri = url.parse().map_err(|_| bad())?;
    match (uri.scheme_str(), uri.authority(), uri.query()) {
        (Some("https"), ..) => {
            Err("https is not spoken to authorizers; write an http:// address within the mesh".into())
        }
        (Some("http"), Some(authority), None) if !authority.as_str().contains('@') && !authority.host().is_empty() => {
            let prefix = uri.path().trim_end_matches('/').to_owned();
            Ok(Service::Http { authority: authority.to_string(), prefix })
        }
        _ => Err(bad()),
    }
}

impl Provider {
    pub(super) fn dump(&self) -> Value {
        let texts = |patterns: &[HeaderPattern]| patterns.iter().map(HeaderPattern::text).collect::<Vec<_>>();
        let mut dump = match &self.service {
            Service::Grpc(authority) => json!({"grpc": authority}),
            Service::Http { authority, prefix } => json!({
                "http": format!("http://{authority}{prefix}"),
                "headers_to_check": texts(&self.headers_to_check),
                "headers_to_upstream": texts(&self.headers_to_upstream),
            }),
        };
        dump["timeout_seconds"] = self.timeout.as_secs_f64().into();
        dump["fail_open"] = self.fail_open.into();
        dump
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(yaml: &str) -> (Provider, String) {
        let mut problems = Problems::default();
        let raw: RawProvider = serde_yaml_ng::from_str(yaml).unwrap();
        let provider = raw.validate("policy.providers.x", &mut problems);
        (provider, problems.words())
    }

    #[test]
    fn which_providers_are_understood() {
        let (grpc, problems) = of("{grpc: 'opa.policy:9191'}");
        assert_eq!((grpc.service, problems.as_str()), (Service::Grpc("opa.policy:9191".into()), ""));
        assert_eq!((grpc.timeout, grpc.fail_open), (Duration::from_millis(200), false));
        let (http, problems) = of("{http: 'http://a:80/check/', headers_to_upstream: [X-User-*], timeout: 1s}");
        assert_eq!(http.service, Service::Http { authority: "a:80".into(), prefix: "/check".into() });
        assert_eq!(problems, "");
        let name = |text: &'static str| HeaderName::from_static(text);
        assert!(http.headers_to_upstream[0].matches(&name("x-user-id")));
        assert!(!http.headers_to_upstream[0].matches(&name("x-other")));
        assert!(http.headers_to_check.iter().any(|pattern| pattern.matches(&name("x-forwarded-for"))));
        assert!(!http.headers_to_check.iter().any(|pattern| pattern.matches(&name("authorization-not"))));
    }

    #[test]
    fn which_providers_are_refused_and_why() {
        for (yaml, words) in [
            ("{}", "policy.providers.x: needs `grpc"),
            ("{grpc: 'a:1', http: 'http://a'}", "policy.providers.x: has both"),
            ("{grpc: 'http://a:1'}", "policy.providers.x.grpc: `http://a:1` is none"),
            ("{grpc: a}", "policy.providers.x.grpc"),
            ("{grpc: 'me@a:1'}", "policy.providers.x.grpc"),
            ("{http: 'a:80'}", "policy.providers.x.http"),
            ("{http: 'https://a'}", "https is not spoken"),
            ("{http: 'http://a/?q=1'}", "policy.providers.x.http"),
            ("{grpc: 'a:1', headers_to_check: [x]}", "policy.providers.x.headers_to_check: is for `http`"),
            ("{http: 'http://a', headers_to_upstream: ['a b']}", "no header's name"),
            ("{grpc: 'a:1', timeout: 0s}", "policy.providers.x.timeout"),
        ] {
            let (_, problems) = of(yaml);
            assert!(problems.contains(words), "{yaml}: {problems}");
        }
    }
}
