//! The `kubernetes` section: how the API server is reached, for whatever asks it.
//!
//! By default as every pod may: the service's name, and the files a service account is mounted with. Reads nothing.

use super::quantity::Quantity;
use super::raw::Problems;
use crate::auth::verdicts::Limits;
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Tokens are shown to the Kubernetes API.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenReview {
    pub audiences: Audiences,
    pub kubernetes: Kubernetes,
    pub limits: Limits,
}

/// What a token must be made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Audiences {
    /// The host the caller asked for, without its port.
    Host,
    /// The API server itself, as tokens are that name no audience.
    Server,
    /// One of these.
    These(Vec<String>),
}

/// Where every pod finds its service account.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubernetes {
    /// `https://host:port`.
    pub server: String,
    /// PEM; `None`: the system's.
    pub authorities: Option<PathBuf>,
    /// A bearer token, read again whenever the file changes.
    pub token_file: Option<PathBuf>,
    /// Certificate and key, where the server knows us by these.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Of one question.
    pub timeout: Duration,
}

impl Kubernetes {
    /// As a pod reaches it; `server` where the environment names another than the service's DNS name.
    pub fn in_cluster(server: Option<String>) -> Kubernetes {
        Kubernetes {
            server: server.unwrap_or_else(|| "https://kubernetes.default.svc".into()),
            authorities: Some(Path::new(ACCOUNT).join("ca.crt")),
            token_file: Some(Path::new(ACCOUNT).join("token")),
            identity: None,
            timeout: TIMEOUT,
        }
    }
}

/// The API answers reviews in milliseconds; one that takes seconds is in trouble, and callers wait behind it.
pub const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawKubernetes {
    server: Option<String>,
    authorities: Option<PathBuf>,
    token_file: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    timeout: Option<Quantity>,
}

impl RawKubernetes {
    pub(super) fn validate(self, base: &Path, p: &mut Problems) -> Kubernetes {
        let pod = Kubernetes::in_cluster(None);
        if let Some(server) = &self.server {
            let uri = server.parse::<http::Uri>().ok();
            let good = uri.is_some_and(|uri| {
                matches!(uri.scheme_str(), Some("https" | "http")) && uri.host().is_some() && uri.query().is_none()
            });
            if !good {
                p.add("kubernetes.server", format!("`{server}` is no server; write `https://10.96.0.1:443`"));
            }
        }
        let identity = match (self.certificate, self.key) {
            (Some(certificate), Some(key)) => Some((base.join(certificate), base.join(key))),
            (None, None) => None,
            _ => {
                p.add("kubernetes", "needs both certificate and key, or neither");
                None
            }
        };
        // Whoever names another server, or another way to be known there, does not mean the pod's token.
        let token = if self.server.is_some() || identity.is_some() { None } else { pod.token_file };
        let authorities = if self.server.is_some() { None } else { pod.authorities };
        Kubernetes {
            server: self.server.unwrap_or(pod.server),
            authorities: self.authorities.map(|path| base.join(path)).or(authorities),
            token_file: self.token_file.map(|path| base.join(path)).or(token),
            identity,
            timeout: p.duration("kubernetes.timeout", &self.timeout, TIMEOUT),
        }
    }
}

impl Kubernetes {
    /// As `/config_dump` shows it.
    pub(super) fn dump(&self) -> Value {
        json!({
            "server": self.server,
            "authorities": self.authorities,
            "token_file": self.token_file,
            "certificate": self.identity.as_ref().map(|(certificate, _)| certificate),
            "key": self.identity.as_ref().map(|(_, key)| key),
            "timeout_seconds": self.timeout.as_secs_f64(),
        })
    }
}

impl TokenReview {
    pub(super) fn dump(&self) -> Value {
        json!({
            "audiences": match &self.audiences {
                Audiences::Host => json!("host"),
                Audiences::Server => json!("server"),
                Audiences::These(these) => json!(these),
            },
            "allow_ttl_seconds": self.limits.good_seconds,
            "deny_ttl_seconds": self.limits.bad_seconds,
            "questions_max": self.limits.asking_max,
            "questions_per_second": self.limits.asked_per_second,
            "wait_max_seconds": self.limits.wait_max.as_secs_f64(),
            "kubernetes": self.kubernetes.dump(),
        })
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTokenReview {
    audiences: Option<Vec<String>>,
    allow_ttl: Option<Quantity>,
    deny_ttl: Option<Quantity>,
    questions_max: Option<usize>,
    questions_per_second: Option<usize>,
    wait_max: Option<Quantity>,
}

impl RawTokenReview {
    pub(super) fn validate(self, path: &str, kubernetes: &Kubernetes, p: &mut Problems) -> TokenReview {
        let default = Limits::default();
        let seconds = |at: &str, given: &Option<Quantity>, default: u64, p: &mut Problems| {
            let given = p.duration(&format!("{path}.{at}"), given, Duration::from_secs(default));
            // Kept by the second: what is shorter would be nothing.
            given.as_secs().max(1)
        };
        let audiences = match self.audiences {
            None => Audiences::Host,
            Some(these) if these.is_empty() => Audiences::Server,
            Some(these) if these.iter().any(String::is_empty) => {
                p.add(&format!("{path}.audiences"), "has an empty name");
                Audiences::Host
            }
            Some(these) => Audiences::These(these),
        };
        let per_second = default.asked_per_second as usize;
        let per_second = p.count(&format!("{path}.questions_per_second"), self.questions_per_second, per_second);
        let limits = Limits {
            good_seconds: seconds("allow_ttl", &self.allow_ttl, default.good_seconds, p),
            bad_seconds: seconds("deny_ttl", &self.deny_ttl, default.bad_seconds, p),
            asking_max: p.count(&format!("{path}.questions_max"), self.questions_max, default.asking_max).min(1024),
            asked_per_second: u32::try_from(per_second).unwrap_or(u32::MAX),
            wait_max: p.duration(&format!("{path}.wait_max"), &self.wait_max, default.wait_max),
            ..default
        };
        TokenReview { audiences, kubernetes: kubernetes.clone(), limits }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(yaml: &str) -> (Kubernetes, String) {
        let mut problems = Problems::default();
        let raw: RawKubernetes = serde_yaml_ng::from_str(yaml).unwrap();
        let kubernetes = raw.validate(Path::new("/etc/o"), &mut problems);
        (kubernetes, problems.words())
    }

    #[test]
    fn how_is_the_server_reached() {
        assert_eq!(of("{}"), (Kubernetes::in_cluster(None), String::new()));
        let (there, problems) = of("{server: 'https://127.0.0.1:6443', authorities: ca.pem, token_file: /run/token}");
        assert_eq!((there.server.as_str(), problems.as_str()), ("https://127.0.0.1:6443", ""));
        assert_eq!(there.authorities, Some("/etc/o/ca.pem".into()));
        assert_eq!(there.token_file, Some("/run/token".into()));
        let (mutual, _) = of("{certificate: c.pem, key: k.pem}");
        assert_eq!((mutual.token_file, mutual.identity.is_some()), (None, true));
        for bad in ["{server: '127.0.0.1:6443'}", "{server: 'ftp://x'}", "{certificate: c.pem}", "{timeout: 0s}"] {
            assert!(!of(bad).1.is_empty(), "{bad}");
        }
    }
}
