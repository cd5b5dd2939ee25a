//! The section's shape, its defaults, and what makes it contradict itself; clusters are read in `cluster`.

use super::cluster::RawCluster;
use super::{Abort, Fault, HostMatch, HostPattern, Mirror, Outbound, Retries, RetryOn, Route, Unknown};
use crate::config::quantity::Quantity;
use crate::config::raw::Problems;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawOutbound {
    listen: Option<String>,
    #[serde(default)]
    interception: bool,
    unknown: Option<String>,
    detect_timeout: Option<Quantity>,
    #[serde(default)]
    opaque_ports: Vec<u16>,
    connections_max: Option<usize>,
    drain_min: Option<Quantity>,
    zone: Option<String>,
    #[serde(default)]
    failover: Vec<String>,
    #[serde(default)]
    routes: Vec<RawRoute>,
    #[serde(default)]
    clusters: Vec<RawCluster>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRoute {
    #[serde(default)]
    hosts: Vec<String>,
    #[serde(default)]
    ports: Vec<u16>,
    path_prefix: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    cluster: Option<String>,
    clusters: Option<Vec<RawTarget>>,
    timeout: Option<Quantity>,
    per_try_timeout: Option<Quantity>,
    idle_timeout: Option<Quantity>,
    retries: Option<RawRetries>,
    fault: Option<RawFault>,
    mirror: Option<RawMirror>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTarget {
    name: String,
    weight: u32,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRetries {
    attempts: Option<u32>,
    on: Option<Vec<String>>,
    #[serde(default)]
    budget: RawBudget,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBudget {
    percent: Option<u32>,
    min: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFault {
    delay: Option<RawDelay>,
    abort: Option<RawAbort>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDelay {
    fixed: Quantity,
    percent: Option<f64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAbort {
    http: Option<u16>,
    grpc: Option<u16>,
    percent: Option<f64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMirror {
    cluster: String,
    percent: Option<f64>,
}

impl RawOutbound {
    pub(in crate::config) fn validate(self, base: &Path, p: &mut Problems) -> Outbound {
        let names: Vec<String> = self.clusters.iter().map(|cluster| cluster.name.clone()).collect();
        for (at, name) in names.iter().enumerate() {
            if names[..at].contains(name) {
                p.add(&format!("outbound.clusters[{at}].name"), format!("`{name}` is used twice"));
            }
        }
        let listen = p.address("outbound.listen", &self.listen, "127.0.0.1:15001");
        if !listen.ip().is_loopback() {
            // A redirect brings the pod's own connections to the loopback too.
            p.add("outbound.listen", "must be a loopback address: whoever reaches it speaks with this pod's identity");
        }
        let unknown = match (self.unknown.as_deref(), self.interception) {
            (None, true) | (Some("passthrough"), true) => Unknown::Passthrough,
            (None, false) | (Some("refuse"), _) => Unknown::Refuse,
            (Some("passthrough"), false) => {
                p.add("outbound.unknown", "passthrough needs interception: without it nobody knows the destination");
                Unknown::Refuse
            }
            (Some(other), _) => {
                p.add("outbound.unknown", format!("`{other}` is none of passthrough, refuse"));
                Unknown::Refuse
            }
        };
        if !self.failover.is_empty() && self.zone.is_none() {
            p.add("outbound.failover", "needs `zone`: without it nothing is near or far");
        }
        let routes = self.routes.into_iter().enumerate();
        let routes = routes.map(|(at, route)| route.validate(&format!("outbound.routes[{at}]"), &names, p)).collect();
        let clusters = self.clusters.into_iter().enumerate();
        let clusters = clusters.map(|(at, cluster)| cluster.validate(&format!("outbound.clusters[{at}]"), base, p));
        let clusters = clusters.collect();
        Outbound {
            // On the loopback: whoever reaches this port speaks with our identity.
            listen,
            interception: self.interception,
            unknown,
            detect_timeout: p.duration("outbound.detect_timeout", &self.detect_timeout, SECOND),
            opaque_ports: self.opaque_ports,
            connections_max: p.count("outbound.connections_max", self.connections_max, 10_000),
            drain_min: p.duration("outbound.drain_min", &self.drain_min, SECOND),
            zone: self.zone,
            failover: self.failover,
            routes,
            clusters,
        }
    }
}

impl RawRoute {
    fn validate(self, path: &str, names: &[String], p: &mut Problems) -> Route {
        let at = |name: &str| format!("{path}.{name}");
        let mut hosts = Vec::new();
        for host in &self.hosts {
            match host_match(host) {
                Ok(host) => hosts.push(host),
                Err(words) => p.add(&at("hosts"), words),
            }
        }
        // A star among them is every host, which is what none means.
        let hosts = hosts.into_iter().collect::<Option<Vec<HostMatch>>>().unwrap_or_default();
        if self.path_prefix.as_ref().is_some_and(|prefix| !prefix.starts_with('/')) {
            p.add(&at("path_prefix"), "must begin with a slash");
        }
        let targets = match (self.cluster, self.clusters) {
            (Some(name), None) => vec![RawTarget { name, weight: 1 }],
            (None, Some(targets)) if !targets.is_empty() => targets,
            _ => {
                p.add(path, "must have exactly one of cluster, clusters");
                Vec::new()
            }
        };
        if !targets.is_empty() && targets.iter().all(|target| target.weight == 0) {
            p.add(&at("clusters"), "at least one weight must be above 0");
        }
        let targets = targets.into_iter().filter_map(|target| {
            if target.weight > 1_000_000 {
                p.add(&at("clusters"), format!("the weight of `{}` is above 1000000", target.name));
            }
            Some((known(&target.name, &at("cluster"), names, p)?, target.weight))
        });
        let targets: Vec<(usize, u32)> = targets.filter(|(_, weight)| *weight > 0).collect();
        let mirror = self.mirror.and_then(|mirror| {
            let percent = percent(mirror.percent, &at("mirror.percent"), p);
            Some(Mirror { cluster: known(&mirror.cluster, &at("mirror.cluster"), names, p)?, percent })
        });
        let timeout = p.optional(&at("timeout"), &self.timeout, None);
        let per_try_timeout = p.optional(&at("per_try_timeout"), &self.per_try_timeout, None);
        if timeout.zip(per_try_timeout).is_some_and(|(total, one)| one > total) {
            p.add(&at("per_try_timeout"), "is longer than `timeout`");
        }
        Route {
            hosts,
            ports: self.ports,
            path_prefix: self.path_prefix,
            headers: self.headers.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect(),
            targets,
            timeout,
            per_try_timeout,
            // Off: a generation may think for minutes between two tokens.
            idle_timeout: p.optional(&at("idle_timeout"), &self.idle_timeout, None),
            retries: self.retries.unwrap_or_default().validate(path, p),
            fault: self.fault.map(|fault| fault.validate(path, p)).unwrap_or_default(),
            mirror,
        }
    }
}

fn known(name: &str, path: &str, names: &[String], p: &mut Problems) -> Option<usize> {
    let found = names.iter().position(|known| known == name);
    if found.is_none() {
        p.add(path, format!("`{name}` is no cluster; there are: {}", names.join(", ")));
    }
    found
}

/// `None` for `*`, which is every host.
fn host_match(text: &str) -> Result<Option<HostMatch>, String> {
    let lower = text.to_ascii_lowercase();
    if lower == "*" {
        return Ok(None);
    }
    let (host, port) = match lower.rsplit_once(':') {
        // More than one colon without brackets is an IPv6 address, and has no port.
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            (host, Some(port.parse().map_err(|_| format!("`{text}`: `{port}` is no port"))?))
        }
        _ => (lower.as_str(), None),
    };
    let host = host.trim_matches(['[', ']']);
    let pattern = match host.strip_prefix('*') {
        Some(suffix) if suffix.len() > 1 && suffix.starts_with('.') => HostPattern::Suffix(suffix.into()),
        Some(_) => return Err(format!("`{text}`: a star stands for whole labels at the front, as in `*.example.com`")),
        None if host.is_empty() || host.contains('*') => return Err(format!("`{text}` is no host")),
        None => HostPattern::Exact(host.into()),
    };
    Ok(Some(HostMatch { pattern, port }))
}

fn percent(given: Option<f64>, path: &str, p: &mut Problems) -> f64 {
    let percent = given.unwrap_or(100.0);
    if !(0.0..=100.0).contains(&percent) {
        p.add(path, "must be between 0 and 100");
    }
    percent
}

impl RawRetries {
    /// As Istio does it when nobody says otherwise: twice, and only for what the server itself says it did not take.
    fn validate(self, path: &str, p: &mut Problems) -> Retries {
        let default = ["connect-failure", "refused-stream", "reset-before-request", "unavailable", "503"];
        let on = self.on.unwrap_or_else(|| default.map(String::from).to_vec());
        let on = on.iter().filter_map(|name| match retry_on(name) {
            Some(on) => Some(on),
            None => {
                p.add(&format!("{path}.retries.on"), format!("`{name}` is neither a condition nor a status"));
                None
            }
        });
        let on = on.collect();
        let attempts = self.attempts.unwrap_or(2);
        if attempts > 10 {
            p.add(&format!("{path}.retries.attempts"), "more than 10 would make an outage worse");
        }
        let (budget_percent, budget_min) = (self.budget.percent.unwrap_or(20), self.budget.min.unwrap_or(3));
        if budget_percent > 100 {
            p.add(&format!("{path}.retries.budget.percent"), "must be at most 100");
        }
        Retries { attempts, on, budget_percent, budget_min }
    }
}

fn retry_on(name: &str) -> Option<RetryOn> {
    Some(match name {
        "connect-failure" => RetryOn::ConnectFailure,
        "refused-stream" => RetryOn::RefusedStream,
        "reset-before-request" => RetryOn::ResetBeforeRequest,
        "reset" => RetryOn::Reset,
        "per-try-timeout" => RetryOn::PerTryTimeout,
        "gateway-error" => RetryOn::GatewayError,
        "5xx" => RetryOn::FiveHundreds,
        // gRPC status codes by their names in Envoy.
        "cancelled" => RetryOn::Grpc(1),
        "deadline-exceeded" => RetryOn::Grpc(4),
        "resource-exhausted" => RetryOn::Grpc(8),
        "internal" => RetryOn::Grpc(13),
        "unavailable" => RetryOn::Grpc(14),
        status => RetryOn::Status(status.parse().ok().filter(|status| (400..600).contains(status))?),
    })
}

impl RawFault {
    fn validate(self, path: &str, p: &mut Problems) -> Fault {
        let delay = self.delay.map(|delay| {
            let fixed = p.duration(&format!("{path}.fault.delay.fixed"), &Some(delay.fixed), SECOND);
            (fixed, percent(delay.percent, &format!("{path}.fault.delay.percent"), p))
        });
        let abort = self.abort.and_then(|abort| {
            let percent = percent(abort.percent, &format!("{path}.fault.abort.percent"), p);
            match (abort.http, abort.grpc) {
                (Some(status), None) if (200..600).contains(&status) => Some((Abort::Http(status), percent)),
                (None, Some(status)) if status <= 16 => Some((Abort::Grpc(status), percent)),
                _ => {
                    p.add(&format!("{path}.fault.abort"), "must be one of http (200 to 599) and grpc (0 to 16)");
                    None
                }
            }
        });
        Fault { delay, abort }
    }
}
