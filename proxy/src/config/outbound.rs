//! The way out: where requests of the application in this pod go, and under which rules.
//!
//! [`raw`] is the shape in the file and names every default. Never resolves a name and never opens a file.

mod cluster;
mod dump;
mod raw;

pub(in crate::config) use cluster::RawOrigination;
pub use raw::RawOutbound;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Clone, Debug, PartialEq)]
pub struct Outbound {
    pub listen: SocketAddr,
    /// Whether connections are redirected here, so that the kernel knows where they were meant to go.
    pub interception: bool,
    pub unknown: Unknown,
    /// Without a first byte for so long, a connection's protocol is one in which the server speaks first.
    pub detect_timeout: Duration,
    /// Destination ports that are copied byte for byte without a look.
    pub opaque_ports: Vec<u16>,
    /// Connections of the application, over all threads.
    pub connections_max: usize,
    /// After the last inbound request of a drain, the way out stays open at least so long.
    pub drain_min: Duration,
    /// Where this pod is; endpoints near it are preferred.
    pub zone: Option<String>,
    /// Zones that take over, in this order.
    pub failover: Vec<String>,
    /// The first that matches is taken.
    pub routes: Vec<Route>,
    pub clusters: Vec<Cluster>,
}

/// What happens to a request that no route matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// It goes where it was meant to go, as it is.
    Passthrough,
    Refuse,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Any of them; empty: every host.
    pub hosts: Vec<HostMatch>,
    /// Any of them; empty: every port.
    pub ports: Vec<u16>,
    pub path_prefix: Option<String>,
    /// All of them: name in lower case, value to be equal.
    pub headers: Vec<(String, String)>,
    /// At least one; indices into [`Outbound::clusters`] with weights above 0.
    pub targets: Vec<(usize, u32)>,
    /// From the head of the request to the end of the answer. `None`: for ever, as streams need it.
    pub timeout: Option<Duration>,
    /// From the start of one try to the head of its answer.
    pub per_try_timeout: Option<Duration>,
    /// A stream on which nothing moves in either direction for so long is cut.
    pub idle_timeout: Option<Duration>,
    pub retries: Retries,
    pub fault: Fault,
    pub mirror: Option<Mirror>,
}

/// A host as a route names it, in lower case; with a port, the port must be equal too.
#[derive(Clone, Debug, PartialEq)]
pub struct HostMatch {
    pub pattern: HostPattern,
    pub port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum HostPattern {
    Exact(String),
    /// With its leading dot: `.example.com` for `*.example.com`.
    Suffix(String),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Retries {
    /// Tries after the first.
    pub attempts: u32,
    pub on: Vec<RetryOn>,
    /// Retries at once may be this many of a hundred requests at once …
    pub budget_percent: u32,
    /// … but so many always.
    pub budget_min: u32,
}

/// What a try may have met with to deserve another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryOn {
    /// No connection, or no handshake: nothing was sent.
    ConnectFailure,
    /// HTTP/2 said that the stream was never looked at (RFC 9113 §8.7).
    RefusedStream,
    /// The connection ended before any byte of this request was written on it.
    ResetBeforeRequest,
    /// The connection ended before the head of an answer: the request may have been worked on.
    Reset,
    /// No head of an answer within `per_try_timeout`: likewise.
    PerTryTimeout,
    Status(u16),
    /// 502, 503, 504.
    GatewayError,
    FiveHundreds,
    /// A gRPC status in the head of the answer.
    Grpc(u16),
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fault {
    pub delay: Option<(Duration, f64)>,
    pub abort: Option<(Abort, f64)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Abort {
    Http(u16),
    Grpc(u16),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Mirror {
    pub cluster: usize,
    pub percent: f64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    pub name: String,
    pub source: Source,
    pub tls: Origination,
    pub protocol: Protocol,
    pub balancer: Balancer,
    pub limits: ClusterLimits,
    pub outlier: Outlier,
}

/// Where endpoints come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    Static(Vec<StaticEndpoint>),
    Dns {
        name: String,
        port: u16,
        refresh: Duration,
    },
    /// Kubernetes EndpointSlice objects, YAML or JSON; `port` by name, or none if the slices have only one.
    EndpointSlice {
        files: Vec<PathBuf>,
        port: Option<String>,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub struct StaticEndpoint {
    pub address: SocketAddr,
    pub weight: u32,
    pub zone: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Origination {
    Disable,
    /// TLS as browsers do it: the server's name is verified, we show nothing.
    Simple {
        name: String,
        roots: PathBuf,
    },
    /// Our identity is shown, and the server's SPIFFE id must be one of these.
    Mutual {
        expect: Expect,
        sni: Option<String>,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub enum Expect {
    Ids(Vec<String>),
    /// `accounts` empty: any of the namespace.
    Namespace {
        namespace: String,
        accounts: Vec<String>,
    },
    /// Any workload of our trust domain.
    TrustDomain,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// As the application speaks it.
    Auto,
    H1,
    H2,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Balancer {
    /// A name in `outbound::balancers::BALANCERS`.
    pub kind: String,
    pub key: Option<HashKey>,
    /// An endpoint with more than this many percent of the mean load is passed over by `consistent_hash`.
    pub overload_percent: Option<u32>,
}

/// What requests are told apart by.
#[derive(Clone, Debug, PartialEq)]
pub enum HashKey {
    Header(String),
    /// The first bytes of the prompt in a JSON body.
    Prompt {
        bytes: usize,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub struct ClusterLimits {
    pub connect_timeout: Duration,
    /// Connections, over all threads.
    pub connections_max: usize,
    /// Requests that wait for a connection.
    pub pending_max: usize,
    /// Requests at once.
    pub requests_max: usize,
    /// An unused connection is closed after so long.
    pub idle_timeout: Duration,
    /// A connection takes no new requests after so long; `None`: it may grow old.
    pub connection_age_max: Option<Duration>,
    /// The same for one made with an identity that has been renewed since.
    pub stale_age_max: Duration,
}

/// Envoy's outlier detection; 0 turns a detector off.
#[derive(Clone, Debug, PartialEq)]
pub struct Outlier {
    pub consecutive_5xx: u32,
    pub consecutive_gateway: u32,
    pub consecutive_local_origin: u32,
    pub interval: Duration,
    pub base_ejection: Duration,
    pub max_ejection: Duration,
    pub ejection_percent_max: u32,
}

impl Route {
    /// A route that asks for nothing: for what is passed through.
    pub fn plain() -> Route {
        let retries = Retries { attempts: 0, on: Vec::new(), budget_percent: 0, budget_min: 0 };
        Route {
            hosts: Vec::new(),
            ports: Vec::new(),
            path_prefix: None,
            headers: Vec::new(),
            targets: Vec::new(),
            timeout: None,
            per_try_timeout: None,
            idle_timeout: None,
            retries,
            fault: Fault::default(),
            mirror: None,
        }
    }
}
