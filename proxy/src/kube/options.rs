//! What the injector is asked for, and what of it cannot be.

use super::Problem;
use serde_yaml_ng::Value;

/// Everything beside the manifest itself; annotations of a pod override part of it ([`super::knobs`]).
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    pub image: String,
    /// As the API's `imagePullPolicy`.
    pub pull_policy: Option<String>,
    /// A native sidecar (an init container that goes on) or one container among others. Native unless told.
    pub native: Option<bool>,
    /// What stands behind the sidecar. With a redirect and nothing else said: whatever port the caller meant.
    pub behind: Option<Behind>,
    pub identity: Identity,
    /// Permissive with an identity and disabled without, unless told.
    pub tls: Option<Tls>,
    pub trust_domain: String,
    pub redirect: Option<Redirect>,
    pub resources: Resources,
    /// Whether probes of the pod's own containers go through the sidecar.
    pub rewrite_probes: bool,
    /// Whether the app ends only when the sidecar's callers are gone.
    pub hold_app: bool,
    /// Merged over what we would configure.
    pub base: Option<Value>,
    /// For pods that name none: policies and identities are of a namespace.
    pub namespace: String,
    /// A ConfigMap of policy files.
    pub policies: Option<String>,
    /// Which address listeners take: `0.0.0.0`, or `[::]` where there is IPv6.
    pub listen_host: String,
    /// What the sidecar logs, as `OUTRIDER_LOG`.
    pub log: Option<String>,
}

/// What answers requests.
#[derive(Clone, Debug, PartialEq)]
pub enum Behind {
    /// Our worker, in a container of the same pod (the first one unless named), over a Unix socket.
    Worker { models: Vec<String>, container: Option<String> },
    /// A foreign server: `127.0.0.1:8080`, `unix:/run/app.sock`, or `original`.
    Forward(String),
}

/// Where the sidecar's certificate comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Identity {
    None,
    /// Istio's certificate authority, by a projected service account token.
    Istio,
    /// SPIRE's agent through its CSI driver.
    Spire,
    /// `tls.crt`, `tls.key` and `ca.crt` of a secret, as cert-manager makes them.
    Secret(String),
    /// Made in the sidecar; nobody else trusts it.
    SelfSigned,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    Strict,
    Permissive,
    Disable,
}

impl Tls {
    pub fn name(self) -> &'static str {
        match self {
            Tls::Strict => "strict",
            Tls::Permissive => "permissive",
            Tls::Disable => "disable",
        }
    }
}

/// Which connections the pod's own network rules send to the sidecar.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Redirect {
    /// Also what leaves the pod.
    pub outbound: bool,
    /// All unless told; told to be none, none.
    pub include_inbound_ports: Option<Vec<String>>,
    pub exclude_inbound_ports: Vec<String>,
    pub include_outbound_ports: Vec<String>,
    pub exclude_outbound_ports: Vec<String>,
    /// All unless told.
    pub include_outbound_ranges: Option<Vec<String>>,
    pub exclude_outbound_ranges: Vec<String>,
}

/// As the API's quantities; a limit left out is none.
#[derive(Clone, Debug, PartialEq)]
pub struct Resources {
    pub cpu: String,
    pub memory: String,
    pub cpu_limit: Option<String>,
    pub memory_limit: Option<String>,
}

impl Default for Resources {
    /// A sidecar at rest has about 15 MiB; a CPU limit would throttle handshakes in bursts, so there is none.
    fn default() -> Self {
        Resources { cpu: "50m".into(), memory: "32Mi".into(), cpu_limit: None, memory_limit: Some("256Mi".into()) }
    }
}

impl Default for Options {
    fn default() -> Self {
        Options {
            image: "outrider:0.1.0".into(),
            pull_policy: None,
            native: None,
            behind: None,
            identity: Identity::None,
            tls: None,
            trust_domain: "cluster.local".into(),
            redirect: None,
            resources: Resources::default(),
            rewrite_probes: true,
            hold_app: false,
            base: None,
            namespace: "default".into(),
            policies: None,
            listen_host: "0.0.0.0".into(),
            log: None,
        }
    }
}

/// Of the base configuration these are ours: the containers we write depend on them.
const OURS: [&str; 4] = ["listen", "interception", "admin", "probes"];

impl Options {
    pub fn native(&self) -> bool {
        self.native.unwrap_or(true)
    }

    /// What will be in force, so that who may call follows from it.
    pub fn tls(&self) -> Tls {
        let based = self.base.as_ref().and_then(|base| base.get("tls")?.get("mode")?.as_str());
        let based = based
            .and_then(|mode| [Tls::Strict, Tls::Permissive, Tls::Disable].into_iter().find(|tls| tls.name() == mode));
        let fallback = if self.identity == Identity::None { Tls::Disable } else { Tls::Permissive };
        based.or(self.tls).unwrap_or(fallback)
    }

    /// With the base configuration and the redirect taken into account.
    pub fn behind(&self) -> Option<Behind> {
        let based = |key: &str| self.base.as_ref().is_some_and(|base| base.get(key).is_some());
        match &self.behind {
            Some(behind) => Some(behind.clone()),
            None if based("worker") => Some(Behind::Worker { models: Vec::new(), container: None }),
            None if based("forward") => Some(Behind::Forward(String::new())),
            None => self.redirect.as_ref().map(|_| Behind::Forward("original".into())),
        }
    }

    /// What no pod could be injected with.
    pub fn problems(&self) -> Vec<Problem> {
        let mut found = Vec::new();
        let mut add = |place: &str, words: &str| found.push(Problem { place: place.into(), words: words.into() });
        if self.image.is_empty() {
            add("--image", "must not be empty");
        }
        match (self.behind(), &self.redirect) {
            (None, _) => add(
                "--models or --forward",
                "say what stands behind the sidecar: our worker, or where a server listens",
            ),
            (Some(Behind::Forward(to)), None) if to == "original" => {
                add(
                    "--forward",
                    "`original` is known only with --redirect; name the server's address, like 127.0.0.1:8080",
                );
            }
            (Some(Behind::Worker { models, .. }), _) if models.is_empty() && self.base.is_none() => {
                add("--models", "must name the worker's models, at least one");
            }
            _ => {}
        }
        let own_tls = self.base.as_ref().is_some_and(|base| base.get("tls").is_some());
        if self.identity == Identity::None && self.tls() != Tls::Disable && !own_tls {
            add(
                "--identity",
                "is needed for --tls strict and permissive; one of istio, spire, secret=NAME, self-signed",
            );
        }
        match &self.base {
            Some(Value::Mapping(base)) => {
                for key in OURS.into_iter().filter(|key| base.contains_key(*key)) {
                    add("--config", &format!("`{key}` follows from the pod; leave it out"));
                }
            }
            Some(_) => add("--config", "is no mapping; it is part of a sidecar's configuration"),
            None => {}
        }
        found
    }
}
