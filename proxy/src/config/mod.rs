//! What an operator may decide: one YAML file, read once into a [`Config`] in which nothing contradicts itself.
//!
//! [`raw`] is the file's shape; every default is named there with its reason. Never reads the environment, and never
//! starts anything: `outrider check` is this module and nothing else.

pub mod activator;
pub mod audit;
pub mod auth;
pub mod authconfig;
pub mod autoscale;
mod cold;
mod device;
mod dump;
pub mod inbound;
pub mod kubernetes;
mod leaving;
pub mod outbound;
mod probes;
pub mod providers;
pub mod quantity;
pub mod queue;
pub mod rate_limits;
mod raw;
mod readiness;
pub mod served;
mod sleep;
mod timeouts;
mod tls;
mod worker;

pub use probes::{AppProbe, HttpProbe, ProbeAsk, ProbeKind, Probes};
pub use sleep::{Sleep, Sleeper};
pub use tls::{IdentitySource, IstioCa, SelfSigned, Tls, TlsFiles, TlsMode, TrustFiles, WorkloadApi};
pub use worker::Waking;

pub use auth::{ApiKey, Auth, CertificateSource, ClientSecret, Introspection, Jwt, Method, Plain, Vouchers, X509};
pub use cold::Cold;
pub use device::Device;
pub use leaving::{Drain, Upgrade};
pub use readiness::{Knative, Readiness};

pub use kubernetes::{Audiences, Kubernetes, TokenReview};
pub use providers::{HeaderPattern, Provider, Service};
pub use queue::{Cost, Fairness, Priority, Queue};
pub use timeouts::Timeouts;

pub use inbound::{Destination, Forward, Interception, Policy, Protocol, Xfcc};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A configuration that makes sense. Paths are absolute or relative to the process, never to the file.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub listen: SocketAddr,
    pub admin: SocketAddr,
    /// Runtimes, each on one thread with its own accept loop.
    pub threads: usize,
    pub interception: Interception,
    pub tls: Tls,
    pub auth: Auth,
    pub policy: Option<Policy>,
    pub xfcc: Xfcc,
    pub behind: Behind,
    /// A device that what is behind shares with others.
    pub device: Option<Device>,
    /// How the API server is reached.
    pub kubernetes: Kubernetes,
    pub queue: Queue,
    pub timeouts: Timeouts,
    pub limits: Limits,
    /// Callers held while the worker wakes.
    pub cold: Cold,
    pub rate_limits: rate_limits::RateLimits,
    pub drain: Drain,
    /// One line on stderr for each request.
    pub access_log: bool,
    /// `None`: decisions are told in the access log only.
    pub audit: Option<audit::Audit>,
    pub probes: Probes,
    /// Where `/healthz` is served with our certificate, for kubelets that ask over HTTPS.
    pub healthz: Option<SocketAddr>,
    /// `None`: this sidecar only lets in.
    pub outbound: Option<outbound::Outbound>,
    /// `None`: no gateway is answered.
    pub served: Option<served::Served>,
    /// `None`: whoever is here is ready.
    pub readiness: Option<Readiness>,
    /// `None`: this is no Knative pod.
    pub knative: Option<Knative>,
    /// `None`: nobody takes over.
    pub upgrade: Option<Upgrade>,
}

/// Who answers.
#[derive(Clone, Debug, PartialEq)]
pub enum Behind {
    /// Our own worker: requests are understood, and answered here.
    Worker(Worker),
    /// A foreign server: requests are passed on.
    Forward(Forward),
    /// Pods that may not be there: requests are held until one is, and passed on.
    Pods(activator::Activator),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Worker {
    /// The Unix socket it serves `worker.v1` on.
    pub socket: PathBuf,
    /// How to start it; `None` if somebody else does, and we only connect.
    pub command: Option<Vec<String>>,
    /// Where its standby parent listens, who starts it at our word.
    pub standby: Option<PathBuf>,
    /// Models it has, by the names callers use; at least one.
    pub models: Vec<String>,
    /// Requests it is given at once.
    pub concurrency: usize,
    /// Without work for so long, it is stopped. `None`: never (and always so if nobody here starts it).
    pub idle_timeout: Option<Duration>,
    pub waking: Waking,
    /// A start that takes longer has failed.
    pub start_timeout: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    pub body_bytes_max: usize,
    /// From the end of the head to the end of the body.
    pub body_timeout: Duration,
    /// From the first byte of a connection, or the end of the last answer on it, to the end of a head (http/1).
    pub header_timeout: Duration,
    /// A write to the caller that makes no progress for so long ends the exchange.
    pub write_timeout: Duration,
    pub handshake_timeout: Duration,
    /// TLS handshakes in flight, over all threads.
    pub handshakes_max: usize,
    /// Connections, over all threads.
    pub connections_max: usize,
    /// Streams on one HTTP/2 connection.
    pub streams_max: u32,
    /// An HTTP/2 connection without a stream for so long is closed.
    pub idle_timeout: Duration,
    /// After so long a connection is asked to go (GOAWAY, `connection: close`), so that rotated certificates and new
    /// replicas are noticed. `None`: never.
    pub connection_age_max: Option<Duration>,
    /// What still runs on a connection this long after it was asked to go is cut. `None`: it may end by itself.
    pub connection_age_grace: Option<Duration>,
}

/// Why a file is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the configuration {path}: {source}")]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("the configuration {path} is not as it should be: {words}")]
    Shape { path: PathBuf, words: String },
    /// All of them at once, each with its path in the file.
    #[error("the configuration {path} contradicts itself:\n  {}", problems.join("\n  "))]
    Contradictions { path: PathBuf, problems: Vec<String> },
}

impl Config {
    /// Our own worker, if one answers.
    pub fn worker(&self) -> Option<&Worker> {
        match &self.behind {
            Behind::Worker(worker) => Some(worker),
            Behind::Forward(_) | Behind::Pods(_) => None,
        }
    }

    /// Whether somebody here can put what is behind to sleep.
    pub fn sleeps(&self) -> bool {
        match &self.behind {
            Behind::Worker(worker) => worker.command.is_some() || worker.standby.is_some(),
            Behind::Forward(forward) => forward.sleep.is_some(),
            Behind::Pods(_) => false,
        }
    }

    /// The foreign server behind, if one is.
    pub fn forward(&self) -> Option<&Forward> {
        match &self.behind {
            Behind::Forward(forward) => Some(forward),
            Behind::Worker(_) | Behind::Pods(_) => None,
        }
    }

    /// After so long an unused connection to whoever stands behind is closed.
    pub fn unused_max(&self) -> Duration {
        match &self.behind {
            Behind::Worker(_) => Duration::ZERO,
            Behind::Forward(forward) => forward.idle_timeout,
            Behind::Pods(activator) => activator.idle_timeout(),
        }
    }

    /// Reads and validates a file; relative paths in it are relative to the folder it is in.
    pub fn load(path: &Path) -> Result<Config, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Unreadable { path: path.into(), source })?;
        let base = path.parent().unwrap_or(Path::new("")).to_path_buf();
        Config::parse(&text, &base, path)
    }

    /// Validates a text; `base` is what relative paths are relative to, `path` only names it in errors.
    pub fn parse(text: &str, base: &Path, path: &Path) -> Result<Config, Error> {
        let raw: raw::Raw = serde_yaml_ng::from_str(text)
            .map_err(|error| Error::Shape { path: path.into(), words: error.to_string() })?;
        raw.validate(base).map_err(|problems| Error::Contradictions { path: path.into(), problems })
    }
}

#[cfg(test)]
mod tests;
