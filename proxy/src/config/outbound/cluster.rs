//! The shape of one cluster, its defaults, and what makes it contradict itself.

use super::{
    Balancer, Cluster, ClusterLimits, Expect, HashKey, Origination, Outlier, Protocol, Source, StaticEndpoint,
};
use crate::config::quantity::Quantity;
use crate::config::raw::Problems;
use crate::outbound::balancers::BALANCERS;
use crate::tls::SpiffeId;
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawCluster {
    pub name: String,
    endpoints: Option<Vec<RawEndpoint>>,
    dns: Option<RawDns>,
    endpoint_slice: Option<RawSlice>,
    #[serde(default)]
    tls: RawOrigination,
    protocol: Option<String>,
    balancer: Option<RawBalancer>,
    #[serde(default)]
    limits: RawLimits,
    #[serde(default)]
    outlier: RawOutlier,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum RawEndpoint {
    Address(String),
    Full(RawEndpointFull),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEndpointFull {
    address: String,
    weight: Option<u32>,
    zone: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDns {
    name: String,
    port: u16,
    refresh: Option<Quantity>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSlice {
    files: Vec<PathBuf>,
    port: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawOrigination {
    mode: Option<String>,
    #[serde(default)]
    ids: Vec<String>,
    namespace: Option<String>,
    #[serde(default)]
    service_accounts: Vec<String>,
    sni: Option<String>,
    roots: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBalancer {
    kind: String,
    header: Option<String>,
    prompt_bytes: Option<usize>,
    overload_percent: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLimits {
    connect_timeout: Option<Quantity>,
    connections_max: Option<usize>,
    pending_max: Option<usize>,
    requests_max: Option<usize>,
    idle_timeout: Option<Quantity>,
    connection_age_max: Option<Quantity>,
    stale_age_max: Option<Quantity>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawOutlier {
    consecutive_5xx: Option<u32>,
    consecutive_gateway: Option<u32>,
    consecutive_local_origin: Option<u32>,
    interval: Option<Quantity>,
    base_ejection: Option<Quantity>,
    max_ejection: Option<Quantity>,
    ejection_percent_max: Option<u32>,
}

impl RawCluster {
    pub(in crate::config) fn validate(self, path: &str, base: &Path, p: &mut Problems) -> Cluster {
        let sane = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        if self.name.is_empty() || !self.name.bytes().all(sane) {
            p.add(&format!("{path}.name"), "must be made of letters, digits, dots, dashes and underscores");
        }
        let source = match (self.endpoints, self.dns, self.endpoint_slice) {
            (Some(endpoints), None, None) => {
                Source::Static(endpoints.into_iter().filter_map(|endpoint| endpoint.validate(path, p)).collect())
            }
            (None, Some(dns), None) => Source::Dns {
                refresh: p.duration(&format!("{path}.dns.refresh"), &dns.refresh, Duration::from_secs(30)),
                name: dns.name,
                port: dns.port,
            },
            (None, None, Some(slice)) => Source::EndpointSlice {
                files: slice.files.iter().map(|file| base.join(file)).collect(),
                port: slice.port,
            },
            _ => {
                p.add(path, "must have exactly one of endpoints, dns, endpoint_slice");
                Source::Static(Vec::new())
            }
        };
        let protocol = match self.protocol.as_deref() {
            None | Some("auto") => Protocol::Auto,
            Some("http1") => Protocol::H1,
            Some("h2") => Protocol::H2,
            Some(other) => {
                p.add(&format!("{path}.protocol"), format!("`{other}` is none of auto, http1, h2"));
                Protocol::Auto
            }
        };
        Cluster {
            name: self.name,
            source,
            tls: self.tls.validate(path, base, p),
            protocol,
            balancer: balancer(self.balancer, path, p),
            limits: self.limits.validate(path, p),
            outlier: self.outlier.validate(path, p),
        }
    }
}

impl Cluster {
    /// What is not routed: as the application speaks it, to where it was going, without TLS of ours.
    pub fn passthrough() -> Cluster {
        let raw = RawCluster {
            name: "passthrough".into(),
            endpoints: Some(Vec::new()),
            dns: None,
            endpoint_slice: None,
            tls: RawOrigination::default(),
            protocol: None,
            balancer: None,
            limits: RawLimits::default(),
            outlier: RawOutlier::default(),
        };
        raw.validate("passthrough", Path::new(""), &mut Problems::default())
    }
}

impl RawEndpoint {
    fn validate(self, path: &str, p: &mut Problems) -> Option<StaticEndpoint> {
        let (address, weight, zone) = match self {
            RawEndpoint::Address(address) => (address, None, None),
            RawEndpoint::Full(full) => (full.address, full.weight, full.zone),
        };
        let weight = weight.unwrap_or(1);
        if !(1..=1000).contains(&weight) {
            p.add(&format!("{path}.endpoints"), format!("the weight of {address} is not between 1 and 1000"));
        }
        match address.parse::<SocketAddr>() {
            Ok(address) => Some(StaticEndpoint { address, weight, zone }),
            Err(_) => {
                let words = format!("`{address}` is no address with a port; names go under `dns`");
                p.add(&format!("{path}.endpoints"), words);
                None
            }
        }
    }
}

impl RawOrigination {
    pub(in crate::config) fn validate(self, path: &str, base: &Path, p: &mut Problems) -> Origination {
        let named = !self.ids.is_empty() || self.namespace.is_some() || !self.service_accounts.is_empty();
        let mode = self.mode.as_deref().unwrap_or("disable");
        if named && mode != "mutual" {
            p.add(&format!("{path}.tls"), "ids, namespace and service_accounts need `mode: mutual`");
        }
        if self.roots.is_some() && mode != "simple" {
            p.add(&format!("{path}.tls.roots"), "belongs to `mode: simple`; `mutual` uses the mesh's trust bundle");
        }
        match mode {
            "disable" => Origination::Disable,
            "simple" => {
                let missing = |what: &str, p: &mut Problems| p.add(&format!("{path}.tls.{what}"), "is needed");
                if self.sni.is_none() {
                    missing("sni", p);
                }
                if self.roots.is_none() {
                    missing("roots", p);
                }
                let roots = base.join(self.roots.unwrap_or_default());
                Origination::Simple { name: self.sni.unwrap_or_default(), roots }
            }
            "mutual" => Origination::Mutual { sni: self.sni.clone(), expect: self.expect(path, p) },
            other => {
                p.add(&format!("{path}.tls.mode"), format!("`{other}` is none of disable, simple, mutual"));
                Origination::Disable
            }
        }
    }

    fn expect(self, path: &str, p: &mut Problems) -> Expect {
        for id in &self.ids {
            if let Err(error) = SpiffeId::parse(id) {
                p.add(&format!("{path}.tls.ids"), format!("`{id}`: {error}"));
            }
        }
        match (self.ids.is_empty(), self.namespace) {
            (false, None) if self.service_accounts.is_empty() => Expect::Ids(self.ids),
            (true, Some(namespace)) => Expect::Namespace { namespace, accounts: self.service_accounts },
            (true, None) if self.service_accounts.is_empty() => Expect::TrustDomain,
            (true, None) => {
                p.add(&format!("{path}.tls.service_accounts"), "need their `namespace`");
                Expect::TrustDomain
            }
            (false, _) => {
                p.add(&format!("{path}.tls"), "must not have both ids and namespace or service_accounts");
                Expect::Ids(self.ids)
            }
        }
    }
}

fn balancer(given: Option<RawBalancer>, path: &str, p: &mut Problems) -> Balancer {
    // Requests to models take from milliseconds to minutes: whoever has fewest is the best guess.
    let Some(given) = given else {
        return Balancer { kind: "least_request".into(), key: None, overload_percent: None };
    };
    let at = format!("{path}.balancer");
    if !BALANCERS.iter().any(|(name, _)| *name == given.kind) {
        let names: Vec<&str> = BALANCERS.iter().map(|(name, _)| *name).collect();
        p.add(&format!("{at}.kind"), format!("`{}` is none of {}", given.kind, names.join(", ")));
    }
    let hashes = given.kind == "consistent_hash";
    let key = match (given.header, given.prompt_bytes) {
        (Some(name), None) if hashes => Some(HashKey::Header(name.to_ascii_lowercase())),
        (None, Some(bytes)) if hashes && (1..=32 << 10).contains(&bytes) => Some(HashKey::Prompt { bytes }),
        (None, None) if !hashes => None,
        _ if hashes => {
            p.add(&at, "consistent_hash needs exactly one of header and prompt_bytes (1 to 32768)");
            None
        }
        _ => {
            p.add(&at, "header and prompt_bytes belong to consistent_hash");
            None
        }
    };
    if given.overload_percent.is_some_and(|percent| percent < 100 || !hashes) {
        p.add(&format!("{at}.overload_percent"), "belongs to consistent_hash, and must be at least 100");
    }
    Balancer { kind: given.kind, key, overload_percent: given.overload_percent }
}

impl RawLimits {
    fn validate(self, path: &str, p: &mut Problems) -> ClusterLimits {
        let at = |name: &str| format!("{path}.limits.{name}");
        let seconds = Duration::from_secs;
        ClusterLimits {
            connect_timeout: p.duration(&at("connect_timeout"), &self.connect_timeout, seconds(5)),
            connections_max: p.count(&at("connections_max"), self.connections_max, 1024),
            pending_max: p.count(&at("pending_max"), self.pending_max, 1024),
            requests_max: p.count(&at("requests_max"), self.requests_max, 100_000),
            // Shorter than what common servers grant, so that mostly we are the one who closes.
            idle_timeout: p.duration(&at("idle_timeout"), &self.idle_timeout, seconds(55)),
            connection_age_max: p.optional(&at("connection_age_max"), &self.connection_age_max, Some(seconds(3600))),
            stale_age_max: p.duration(&at("stale_age_max"), &self.stale_age_max, seconds(60)),
        }
    }
}

impl RawOutlier {
    fn validate(self, path: &str, p: &mut Problems) -> Outlier {
        let at = |name: &str| format!("{path}.outlier.{name}");
        let seconds = Duration::from_secs;
        let outlier = Outlier {
            consecutive_5xx: self.consecutive_5xx.unwrap_or(5),
            consecutive_gateway: self.consecutive_gateway.unwrap_or(0),
            consecutive_local_origin: self.consecutive_local_origin.unwrap_or(5),
            interval: p.duration(&at("interval"), &self.interval, seconds(10)),
            base_ejection: p.duration(&at("base_ejection"), &self.base_ejection, seconds(30)),
            max_ejection: p.duration(&at("max_ejection"), &self.max_ejection, seconds(300)),
            ejection_percent_max: self.ejection_percent_max.unwrap_or(10),
        };
        if outlier.ejection_percent_max > 100 {
            p.add(&at("ejection_percent_max"), "must be at most 100");
        }
        if outlier.max_ejection < outlier.base_ejection {
            p.add(&at("max_ejection"), "is shorter than base_ejection");
        }
        outlier
    }
}
