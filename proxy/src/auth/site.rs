//! Where a policy is compiled: its namespace and Secrets, how its servers are reached, and what else it may refer to.
//!
//! Lives while a policy is read; nothing compiled borrows from it.

use super::ConfigProblem;
use super::credential::Location;
use super::secrets::{Hidden, Secrets};
use crate::fetch::Client;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;

#[derive(Clone, Copy)]
pub struct Site<'a> {
    /// Of the policy, and so of the Secrets it may name.
    pub namespace: &'a str,
    pub secrets: &'a dyn Secrets,
    pub client: &'a Client,
    /// Hosts that a request may choose among, where a policy makes a host from what a request says. Empty: none.
    pub hosts: &'a [HostPattern],
    /// As Authorino: an answer of any status is an answer. Ours: only 2xx is.
    pub any_status: bool,
    /// Authentication evaluators by name, for metadata that speaks for a caller.
    pub identities: &'a BTreeMap<String, IdentitySource>,
}

/// What metadata must know of an authentication evaluator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentitySource {
    /// Of a JWT evaluator with `issuerUrl`.
    pub issuer: Option<String>,
    pub location: Location,
    /// Whether its credentials are access tokens: of a JWT or an introspection, not of an API key.
    pub access_token: bool,
}

/// `api.example.com`, `*.example.com` or `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPattern(String);

impl HostPattern {
    pub fn parse(text: &str) -> Result<HostPattern, String> {
        let name = text.strip_prefix("*.").unwrap_or(text);
        let sound = text == "*"
            || (!name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.:[]_".contains(&b)));
        let words = || format!("{text:?} is no host; write api.example.com, *.example.com, or * for any");
        if sound { Ok(HostPattern(text.to_ascii_lowercase())) } else { Err(words()) }
    }

    /// `host` in lower case, without its port.
    pub fn matches(&self, host: &str) -> bool {
        match self.0.strip_prefix('*') {
            Some("") => true,
            Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
            None => host == self.0,
        }
    }
}

impl Site<'_> {
    /// A Secret's value that will stand in a header or a form.
    pub fn secret(&self, name: &str, key: &str) -> Result<Hidden, String> {
        let place = format!("key {key:?} of the Secret {}/{name}", self.namespace);
        let Some(bytes) = self.secrets.value(self.namespace, name, key) else {
            return Err(format!("{place} is not there"));
        };
        let text = String::from_utf8(bytes.into()).map_err(|_| format!("{place} is not UTF-8"))?;
        match text {
            text if text.is_empty() => Err(format!("{place} is empty")),
            text if text.chars().any(char::is_control) => {
                Err(format!("{place} holds a line break or another control character; `echo -n` makes none"))
            }
            text => Ok(Hidden::new(text)),
        }
    }
}

/// The settings of one evaluator in their own shape; what does not fit is a problem at its path.
pub fn parse<T: DeserializeOwned>(
    given: serde_json::Value,
    path: &str,
    problems: &mut Vec<ConfigProblem>,
) -> Option<T> {
    serde_json::from_value(given).map_err(|error| problem(problems, path, error.to_string())).ok()
}

/// What was compiled, or a problem more.
pub fn sound<T>(compiled: Result<T, ConfigProblem>, problems: &mut Vec<ConfigProblem>) -> Option<T> {
    compiled.map_err(|problem| problems.push(problem)).ok()
}

pub fn problem(problems: &mut Vec<ConfigProblem>, path: impl Into<String>, message: impl Into<String>) {
    problems.push(ConfigProblem { path: path.into(), message: message.into() });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_hosts_does_a_pattern_mean() {
        for (pattern, host, expected) in [
            ("*", "anything", true),
            ("*.example.com", "a.example.com", true),
            ("*.example.com", "a.b.example.com", true),
            ("*.example.com", "example.com", false),
            ("*.example.com", "badexample.com", false),
            ("*.example.com", ".example.com", false),
            ("API.example.com", "api.example.com", true),
            ("api.example.com", "api.example.com.evil", false),
        ] {
            assert_eq!(HostPattern::parse(pattern).unwrap().matches(host), expected, "{pattern} {host}");
        }
        for bad in ["", "*.", "http://a", "a/b", "a b", "**", "a@b"] {
            assert!(HostPattern::parse(bad).is_err(), "{bad:?}");
        }
    }
}
