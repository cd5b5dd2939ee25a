//! `auth.authconfig`: policies that others wrote, and where they may be as lenient as Authorino.

use super::kubernetes::Kubernetes;
use super::quantity::Quantity;
use super::raw::Problems;
use crate::auth::pipeline::Leniency;
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// For one whole decision. Longer than any one server is waited for by default.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Where documents come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Documents {
    Folder(PathBuf),
    /// The Kubernetes API, watched.
    Api(Scope),
}

/// Which objects of a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// `None`: all.
    pub namespace: Option<String>,
    /// As `kubectl -l` takes them; empty: all.
    pub labels: String,
}

/// AuthConfigs.
#[derive(Clone, Debug, PartialEq)]
pub struct AuthConfig {
    pub policies: Documents,
    /// Kubernetes Secrets that they refer to.
    pub secrets: Option<Documents>,
    /// Of policies and Secrets that name none.
    pub namespace: String,
    pub compat: Compat,
    /// What `aud` of a JWT must be or contain: an AuthConfig cannot say. Empty: it is not looked at.
    pub audiences: Vec<String>,
    /// To verify servers with; `None`: the machine's own.
    pub authorities: Option<PathBuf>,
    /// Credentials are left in the request for whoever stands behind.
    pub keep_credentials: bool,
    /// Hosts that a request may choose among, where a policy makes a host from what the request says.
    pub hosts: Vec<String>,
    pub timeout: Duration,
    /// SPIFFE ids of peers whose word of a caller's certificate (`x509`) is believed; `*`: anybody's. Empty: of every peer
    /// whose own certificate was verified.
    pub certificate_peers: Vec<String>,
    /// Who is asked about tokens and accesses.
    pub kubernetes: Kubernetes,
}

/// Where Authorino lets in whom we refuse. Each is off unless asked for.
///
/// What differs from Authorino 0.22 with all of them, and why (`make oracle` compares the rest):
/// - Paths that can be read in two ways (`..`, an encoded slash) are refused, and repeated slashes are one.
/// - `auth.metadata` and its like are there before anything is in them: `has(auth.metadata.x)` is false where theirs is an
///   error, by which a rule is passed over.
/// - `request.size` is there when it is 0.
/// - A non-resource SubjectAccessReview is about the path less its query: with it no rule of RBAC can match.
/// - Hosts are compared without regard to case.
/// - `spicedb` is not there, nor is `http.send` in Rego: a policy that has one of them is not taken.
/// - Rego of v1 is understood where `version: v1` says so; theirs reads all as v0.
/// - CEL has the functions of the standard, of which theirs lacks some conversions.
/// - A fixed value in `plain` is written as it is, not as the bytes of its JSON.
/// - Of methods of one priority, those that ask nobody go first; theirs are in a race.
/// - A stranger who is challenged for a `plain` identity is told `Bearer`, not the selector; and refusals for which the
///   policy has no words have ours, which tell callers nothing of what failed.
/// - Callbacks are made after the reply; theirs hold it up.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Compat {
    /// A rule whose `when` cannot be evaluated is passed over, not denied.
    pub when_errors_skip: bool,
    /// A policy whose own `when` cannot be evaluated allows the request, not denies it.
    pub toplevel_when_errors_allow: bool,
    /// `iss` of a JWT need not be the `issuerUrl`.
    pub issuer_unchecked: bool,
    /// `aud` of a JWT is not looked at, whatever `audiences` says.
    pub audience_unchecked: bool,
    /// `neq` and `excl` hold for an attribute that is not there; only `neq ""` does not, for nothing is like nothing. In
    /// the `when` of rules and of policies they do in any case: not to ask would let in.
    pub missing_matches_neq: bool,
    /// While a server that knows callers is down, they get 401, not 503.
    pub provider_down_401: bool,
    /// `anonymous` lets in who shows a credential that another method refused.
    pub anonymous_forgives: bool,
    /// An answer of any status is metadata, not only one of 2xx.
    pub any_status: bool,
    /// A policy that says nothing of `authentication` lets everybody in.
    pub authentication_optional: bool,
}

impl Compat {
    /// All of Authorino's ways.
    pub const AUTHORINO: Compat = Compat {
        when_errors_skip: true,
        toplevel_when_errors_allow: true,
        issuer_unchecked: true,
        audience_unchecked: true,
        missing_matches_neq: true,
        provider_down_401: true,
        anonymous_forgives: true,
        any_status: true,
        authentication_optional: true,
    };

    /// What of it the pipeline decides.
    pub fn leniency(&self) -> Leniency {
        Leniency {
            when_errors_skip: self.when_errors_skip,
            toplevel_when_errors_allow: self.toplevel_when_errors_allow,
            anonymous_forgives: self.anonymous_forgives,
            provider_down_401: self.provider_down_401,
        }
    }

    fn dump(&self) -> Value {
        json!({
            "when_errors_skip": self.when_errors_skip,
            "toplevel_when_errors_allow": self.toplevel_when_errors_allow,
            "issuer_unchecked": self.issuer_unchecked,
            "audience_unchecked": self.audience_unchecked,
            "missing_matches_neq": self.missing_matches_neq,
            "provider_down_401": self.provider_down_401,
            "anonymous_forgives": self.anonymous_forgives,
            "any_status": self.any_status,
            "authentication_optional": self.authentication_optional,
        })
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAuthConfig {
    folder: Option<PathBuf>,
    kubernetes: Option<RawScope>,
    secrets: Option<RawDocuments>,
    namespace: Option<String>,
    compat: Option<RawCompat>,
    #[serde(default)]
    audiences: Vec<String>,
    authorities: Option<PathBuf>,
    #[serde(default)]
    keep_credentials: bool,
    #[serde(default)]
    hosts: Vec<String>,
    timeout: Option<Quantity>,
    #[serde(default)]
    certificate_peers: Vec<String>,
}

/// A folder, or `{kubernetes: {…}}`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum RawDocuments {
    Folder(PathBuf),
    Api(RawApi),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawApi {
    kubernetes: RawScope,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawScope {
    namespace: Option<String>,
    label_selector: String,
}

impl RawScope {
    /// `namespace` is where nothing is said, `*` all of them.
    fn validate(self, path: &str, namespace: &str, p: &mut Problems) -> Scope {
        let name = self.namespace.unwrap_or_else(|| namespace.to_owned());
        let sound = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if name != "*" && !sound {
            p.add(&format!("{path}.namespace"), format!("`{name}` is no namespace; write one, or \"*\" for all"));
        }
        if self.label_selector.chars().any(char::is_control) {
            p.add(&format!("{path}.label_selector"), "is no selector; write `app=llama,tier in (a, b)`");
        }
        Scope { namespace: Some(name).filter(|name| name != "*"), labels: self.label_selector }
    }
}

/// A name for all of them, or each by its own.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum RawCompat {
    Name(String),
    Each(Compat),
}

impl RawAuthConfig {
    pub(super) fn validate(self, base: &Path, kubernetes: &Kubernetes, p: &mut Problems) -> AuthConfig {
        let path = "auth.authconfig";
        let compat = match self.compat {
            None => Compat::default(),
            Some(RawCompat::Each(compat)) => compat,
            Some(RawCompat::Name(name)) if name == "authorino" => Compat::AUTHORINO,
            Some(RawCompat::Name(name)) => {
                p.add(
                    &format!("{path}.compat"),
                    format!("`{name}` is none; write `authorino`, or name its ways one by one"),
                );
                Compat::default()
            }
        };
        for host in &self.hosts {
            if let Err(words) = crate::auth::site::HostPattern::parse(host) {
                p.add(&format!("{path}.hosts"), words);
            }
        }
        let namespace = self.namespace.unwrap_or_else(|| "default".into());
        let policies = match (self.folder, self.kubernetes) {
            (Some(folder), None) => Documents::Folder(base.join(folder)),
            (None, Some(scope)) => Documents::Api(scope.validate(&format!("{path}.kubernetes"), &namespace, p)),
            (folder, _) => {
                p.add(path, "needs either `folder`, or `kubernetes` to watch the API");
                Documents::Folder(folder.unwrap_or_default())
            }
        };
        let secrets = self.secrets.map(|secrets| secrets.validate(base, &namespace, p));
        AuthConfig {
            policies,
            secrets,
            namespace,
            compat,
            audiences: self.audiences,
            authorities: self.authorities.map(|file| base.join(file)),
            keep_credentials: self.keep_credentials,
            hosts: self.hosts,
            timeout: p.duration(&format!("{path}.timeout"), &self.timeout, TIMEOUT),
            certificate_peers: self.certificate_peers,
            kubernetes: kubernetes.clone(),
        }
    }
}

impl RawDocuments {
    fn validate(self, base: &Path, namespace: &str, p: &mut Problems) -> Documents {
        let path = "auth.authconfig.secrets.kubernetes";
        match self {
            RawDocuments::Folder(folder) => Documents::Folder(base.join(folder)),
            RawDocuments::Api(RawApi { kubernetes }) => {
                let scope = kubernetes.validate(path, namespace, p);
                if scope.namespace.is_none() && scope.labels.is_empty() {
                    let words = "would read every Secret of the cluster; write a `label_selector`, such as \
                                 `authorino.kuadrant.io/managed-by=authorino`";
                    p.add(path, words);
                }
                Documents::Api(scope)
            }
        }
    }
}

impl Documents {
    fn dump(&self) -> Value {
        match self {
            Documents::Folder(folder) => json!(folder),
            Documents::Api(scope) => json!({"kubernetes": {
                "namespace": scope.namespace.as_deref().unwrap_or("*"),
                "label_selector": scope.labels,
            }}),
        }
    }
}

impl AuthConfig {
    pub(super) fn dump(&self) -> Value {
        json!({
            "policies": self.policies.dump(),
            "secrets": self.secrets.as_ref().map(Documents::dump),
            "namespace": self.namespace,
            "compat": self.compat.dump(),
            "audiences": self.audiences,
            "authorities": self.authorities,
            "keep_credentials": self.keep_credentials,
            "hosts": self.hosts,
            "timeout_seconds": self.timeout.as_secs_f64(),
            "certificate_peers": self.certificate_peers,
            "kubernetes": self.kubernetes.dump(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(yaml: &str) -> (AuthConfig, String) {
        let mut problems = Problems::default();
        let raw: RawAuthConfig = serde_yaml_ng::from_str(yaml).unwrap();
        let config = raw.validate(Path::new("/etc/o"), &Kubernetes::in_cluster(None), &mut problems);
        (config, problems.words())
    }

    #[test]
    fn where_do_policies_and_secrets_come_from() {
        let scope = |namespace: Option<&str>, labels: &str| {
            Documents::Api(Scope { namespace: namespace.map(str::to_owned), labels: labels.into() })
        };
        let folder = |name: &str| Documents::Folder(Path::new("/etc/o").join(name));
        for (yaml, policies, secrets) in [
            ("{folder: a}", folder("a"), None),
            ("{folder: a, secrets: b}", folder("a"), Some(folder("b"))),
            ("{folder: a, namespace: n, secrets: {kubernetes: {}}}", folder("a"), Some(scope(Some("n"), ""))),
            (
                "{kubernetes: {namespace: '*', label_selector: g=h}, secrets: {kubernetes: {label_selector: 'a in (b)'}}}",
                scope(None, "g=h"),
                Some(scope(Some("default"), "a in (b)")),
            ),
        ] {
            let (config, problems) = of(yaml);
            assert_eq!((config.policies, config.secrets, problems.as_str()), (policies, secrets, ""), "{yaml}");
        }
        for bad in [
            "{}",
            "{folder: a, kubernetes: {}}",
            "{kubernetes: {namespace: a/b}}",
            "{kubernetes: {namespace: ''}}",
            "{folder: a, secrets: {kubernetes: {namespace: '*'}}}",
        ] {
            assert!(!of(bad).1.is_empty(), "{bad}");
        }
        for bad in ["{folder: a, secrets: {kubernetes: {labels: b}}}", "{folder: a, secrets: {folder: b}}"] {
            assert!(serde_yaml_ng::from_str::<RawAuthConfig>(bad).is_err(), "{bad}");
        }
    }
}
