//! The shape of the `activator` section, its defaults, and what makes it contradict itself.

use super::{Activator, Bounds, Pods, Probe, Scale, Service};
use crate::config::autoscale::{Autoscale, RawAutoscale};
use crate::config::inbound::protocol;
use crate::config::outbound::{HostPattern, RawOrigination};
use crate::config::quantity::Quantity;
use crate::config::raw::Problems;
use crate::config::{Destination, Forward, Kubernetes, Queue};
use crate::kube::client::scale::{Kind, Ref};
use crate::kube::client::slices::Port;
use http::{HeaderName, HeaderValue};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawActivator {
    #[serde(default)]
    knative: bool,
    external_scaler: Option<String>,
    services: Vec<RawService>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawService {
    name: String,
    namespace: Option<String>,
    hosts: Vec<String>,
    endpoint_slices: RawPods,
    #[serde(default)]
    concurrency: usize,
    scale: Option<RawScale>,
    autoscale: Option<RawAutoscale>,
    start_timeout: Option<Quantity>,
    #[serde(default)]
    probe: RawProbe,
    #[serde(default)]
    queue: RawBounds,
    #[serde(default)]
    tls: RawOrigination,
    protocol: Option<String>,
    connect_timeout: Option<Quantity>,
    idle_timeout: Option<Quantity>,
    response_timeout: Option<Quantity>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPods {
    files: Option<Vec<PathBuf>>,
    service: Option<String>,
    port: Option<RawPort>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum RawPort {
    Number(u16),
    Name(String),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawScale {
    deployment: Option<String>,
    stateful_set: Option<String>,
    command: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawProbe {
    path: Option<String>,
    header: Option<String>,
    body: Option<String>,
    period: Option<Quantity>,
    timeout: Option<Quantity>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBounds {
    requests_max: Option<usize>,
    bytes_max: Option<Quantity>,
    wait_max: Option<Quantity>,
}

impl RawActivator {
    pub(in crate::config) fn validate(
        self,
        base: &Path,
        kubernetes: &Kubernetes,
        queue: &Queue,
        p: &mut Problems,
    ) -> Activator {
        if self.services.is_empty() {
            p.add("activator.services", "must name at least one service");
        }
        let named = |(number, service): (usize, RawService)| {
            service.validate(&format!("activator.services[{number}]"), (base, queue), p)
        };
        let services: Vec<Service> = self.services.into_iter().enumerate().map(named).collect();
        let (mut hosts, mut names) = (BTreeSet::new(), BTreeSet::new());
        for service in &services {
            if !names.insert((&service.namespace, &service.name)) {
                p.add("activator.services", format!("`{}/{}` is there twice", service.namespace, service.name));
            }
            for pattern in service.hosts.iter().map(super::host) {
                if !hosts.insert(pattern.clone()) {
                    p.add("activator.services", format!("the host `{pattern}` is there twice"));
                }
            }
        }
        let external = &self.external_scaler;
        let external_scaler = external.as_ref().map(|_| p.address("activator.external_scaler", external, ""));
        if external_scaler.is_some() && services.iter().all(|service| service.autoscale.is_none()) {
            p.add("activator.external_scaler", "has nothing to tell without a service that has `autoscale`");
        }
        Activator { knative: self.knative, external_scaler, services, kubernetes: kubernetes.clone() }
    }
}

impl RawService {
    fn validate(self, path: &str, (base, queue): (&Path, &Queue), p: &mut Problems) -> Service {
        let seconds = Duration::from_secs;
        let at = |name: &str| format!("{path}.{name}");
        let namespace = self.namespace.unwrap_or_else(|| "default".into());
        for name in [&self.name, &namespace] {
            let sane = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
            if name.is_empty() || !name.bytes().all(sane) {
                p.add(&at("name"), format!("`{name}` is no name; Kubernetes has small letters, digits, `-` and `.`"));
            }
        }
        if self.hosts.is_empty() {
            p.add(&at("hosts"), "must name at least one host");
        }
        let host = |text: &String, p: &mut Problems| host(text).map_err(|words| p.add(&at("hosts"), words)).ok();
        let hosts = self.hosts.iter().filter_map(|text| host(text, p)).collect();
        let protocol = protocol(&at("protocol"), self.protocol.as_deref(), p);
        let forward = Forward {
            to: Destination::Original(None),
            protocol,
            concurrency: None,
            connect_timeout: p.duration(&at("connect_timeout"), &self.connect_timeout, seconds(5)),
            // As for `forward`: servers of models close idle connections after five seconds.
            idle_timeout: p.duration(&at("idle_timeout"), &self.idle_timeout, seconds(4)),
            response_timeout: p.optional(&at("response_timeout"), &self.response_timeout, None),
            start_timeout: seconds(60),
        };
        Service {
            hosts,
            pods: self.endpoint_slices.validate(&at("endpoint_slices"), base, p),
            concurrency: self.concurrency,
            autoscale: autoscale(self.autoscale, &at("autoscale"), (self.concurrency, self.scale.is_some()), p),
            scale: self.scale.and_then(|scale| scale.validate(&at("scale"), &namespace, p)),
            // A node that must be found, an image that must be pulled, weights that must be loaded.
            start_timeout: p.duration(&at("start_timeout"), &self.start_timeout, seconds(300)),
            probe: self.probe.validate(&at("probe"), p),
            queue: Bounds {
                requests_max: p.count(&at("queue.requests_max"), self.queue.requests_max, queue.requests_max),
                bytes_max: p.size(&at("queue.bytes_max"), &self.queue.bytes_max, queue.bytes_max),
                wait_max: p.duration(&at("queue.wait_max"), &self.queue.wait_max, queue.wait_max),
            },
            tls: self.tls.validate(path, base, p),
            name: self.name,
            namespace,
            forward,
        }
    }
}

fn autoscale(
    raw: Option<RawAutoscale>,
    at: &str,
    (concurrency, has_scale): (usize, bool),
    p: &mut Problems,
) -> Option<Autoscale> {
    let raw = raw?;
    if !has_scale {
        p.add(at, "needs `scale`: who is to be asked for pods");
    }
    let read = raw.validate(at, u32::try_from(concurrency).unwrap_or(0));
    read.map_err(|problems| p.0.extend(problems)).ok()
}

fn host(text: &str) -> Result<HostPattern, String> {
    let lower = text.to_ascii_lowercase();
    let sane = |host: &str| !host.is_empty() && !host.contains(['*', '/', ':', ' ']);
    match lower.strip_prefix("*.") {
        Some(rest) if sane(rest) => Ok(HostPattern::Suffix(format!(".{rest}"))),
        None if sane(&lower) => Ok(HostPattern::Exact(lower)),
        _ => Err(format!("`{text}` is no host; write `llama.models.svc` or `*.models.example`, without a port")),
    }
}

impl RawPods {
    fn validate(self, path: &str, base: &Path, p: &mut Problems) -> Pods {
        let port = match self.port {
            None => Port::Any,
            Some(RawPort::Number(number)) => Port::Number(number),
            Some(RawPort::Name(name)) => Port::Named(name),
        };
        match (self.files, self.service) {
            (Some(files), None) if !files.is_empty() => {
                Pods::Files { files: files.iter().map(|file| base.join(file)).collect(), port }
            }
            (None, Some(service)) => Pods::Kubernetes { service, port },
            _ => {
                p.add(path, "needs either `files` or `service`, the name of a Kubernetes Service");
                Pods::Files { files: Vec::new(), port }
            }
        }
    }
}

impl RawScale {
    fn validate(self, path: &str, namespace: &str, p: &mut Problems) -> Option<Scale> {
        let target = |kind: Kind, name: String| Scale::Kubernetes(Ref { namespace: namespace.into(), kind, name });
        match (self.deployment, self.stateful_set, self.command) {
            (Some(name), None, None) => Some(target(Kind::Deployment, name)),
            (None, Some(name), None) => Some(target(Kind::StatefulSet, name)),
            (None, None, Some(command)) if !command.is_empty() => Some(Scale::Command(command)),
            _ => {
                p.add(path, "needs exactly one of `deployment`, `stateful_set` and a `command`");
                None
            }
        }
    }
}

impl RawProbe {
    /// As queue-proxy, and a sidecar in its place, answer.
    fn validate(self, path: &str, p: &mut Problems) -> Probe {
        let own = self.path.is_some() || self.header.is_some();
        let header = match self.header.as_deref() {
            Some(line) => header(line).map_err(|words| p.add(&format!("{path}.header"), words)).ok(),
            None if own => None,
            None => Some((HeaderName::from_static("k-network-probe"), HeaderValue::from_static("queue"))),
        };
        let target = self.path.unwrap_or_else(|| "/healthz".into());
        if !target.starts_with('/') || target.contains(|c: char| c.is_whitespace() || c.is_control()) {
            p.add(&format!("{path}.path"), format!("`{target}` is no path"));
        }
        Probe {
            path: target,
            header,
            body: self.body.or_else(|| (!own).then(|| "queue".into())),
            period: p.duration(&format!("{path}.period"), &self.period, Duration::from_millis(200)),
            timeout: p.duration(&format!("{path}.timeout"), &self.timeout, Duration::from_millis(300)),
        }
    }
}

fn header(line: &str) -> Result<(HeaderName, HeaderValue), String> {
    let bad = || format!("`{line}` is no header; write `name: value`");
    let (name, value) = line.split_once(':').ok_or_else(bad)?;
    let name = name.trim().parse::<HeaderName>().map_err(|_| bad())?;
    Ok((name, value.trim().parse::<HeaderValue>().map_err(|_| bad())?))
}
