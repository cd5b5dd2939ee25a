//! The shape of the `activator` section, its defaults, and what makes it contradict itself.

use super::{Activator, Bounds, Pods, Probe, Publish, Scale, Service};
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
    keda: Option<String>,
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
    publish: Option<RawPublish>,
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

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPublish {
    service: String,
    name: Option<String>,
    address: String,
    port_name: Option<String>,
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
        let keda = self.keda.as_ref().map(|_| p.address("activator.keda", &self.keda, ""));
        if keda.is_some() && services.iter().all(|service| service.autoscale.is_none()) {
            p.add("activator.keda", "has nothing to tell: no service has `autoscale`");
        }
        Activator { knative: self.knative, keda, services, kubernetes: kubernetes.clone() }
    }
}

impl RawService {
    fn validate(self, path: &str, (base, queue): (&Path, &Queue), p: &mut Problems) -> Service {
        let at = |name: &str| format!("{path}.{name}");
        let forward = self.forward(path, p);
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
        let pods = self.endpoint_slices.validate(&at("endpoint_slices"), base, p);
        let scale = self.scale.and_then(|scale| scale.validate(&at("scale"), &namespace, p));
        if scale.is_none() && self.autoscale.is_some() {
            p.add(&at("autoscale"), "needs `scale`: somebody must start and stop pods");
        }
        Service {
            hosts,
            publish: self.publish.map(|publish| publish.validate(&at("publish"), &pods, p)),
            pods,
            concurrency: self.concurrency,
            scale,
            autoscale: self.autoscale.and_then(|raw| autoscale(raw, &at("autoscale"), self.concurrency, p)),
            // A node that must be found, an image that must be pulled, weights that must be loaded.
            start_timeout: p.duration(&at("start_timeout"), &self.start_timeout, Duration::from_secs(300)),
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

impl RawService {
    fn forward(&self, path: &str, p: &mut Problems) -> Forward {
        let seconds = Duration::from_secs;
        let at = |name: &str| format!("{path}.{name}");
        Forward {
            to: Destination::Original(None),
            protocol: protocol(&at("protocol"), self.protocol.as_deref(), p),
            concurrency: None,
            connect_timeout: p.duration(&at("connect_timeout"), &self.connect_timeout, seconds(5)),
            // As for `forward`: servers of models close idle connections after five seconds.
            idle_timeout: p.duration(&at("idle_timeout"), &self.idle_timeout, seconds(4)),
            response_timeout: p.optional(&at("response_timeout"), &self.response_timeout, None),
            start_timeout: seconds(60),
            sleep: None,
        }
    }
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

fn autoscale(raw: RawAutoscale, at: &str, concurrency: usize, p: &mut Problems) -> Option<Autoscale> {
    let concurrency = u32::try_from(concurrency).unwrap_or(u32::MAX);
    raw.validate(at, concurrency).map_err(|problems| p.0.extend(problems)).ok()
}

impl RawPublish {
    fn validate(self, path: &str, pods: &Pods, p: &mut Problems) -> Publish {
        if matches!(pods, Pods::Kubernetes { service, .. } if *service == self.service) {
            p.add(path, "must be another Service than the one whose slices list the pods, and have no selector");
        }
        let address = p.address(&format!("{path}.address"), &Some(self.address), "");
        if address.ip().is_unspecified() || address.port() == 0 {
            p.add(
                &format!("{path}.address"),
                "must be where callers reach this activator, for example its pod's address",
            );
        }
        Publish {
            name: self.name.unwrap_or_else(|| format!("{}-outrider", self.service)),
            service: self.service,
            address,
            port_name: self.port_name.unwrap_or_default(),
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
