//! The `activator` section: services whose pods may not be there, and how each is found, woken and reached.
//!
//! In the place of `worker` and `forward`; everything else of the file means what it means to a sidecar.

mod raw;
#[cfg(test)]
mod tests;

pub(super) use raw::RawActivator;

use super::autoscale::Autoscale;
use super::outbound::{Expect, HostPattern, Origination};
use super::raw::Problems;
use super::{Config, Forward, Kubernetes};
use crate::kube::client::scale::Ref;
use crate::kube::client::slices::Port;
use http::{HeaderName, HeaderValue};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Clone, Debug, PartialEq)]
pub struct Activator {
    /// Knative's headers are understood and said: `Knative-Serving-Revision` and `-Namespace` choose the service, and
    /// pods are told `K-Proxy-Request: activator`.
    pub knative: bool,
    /// Where KEDA asks what autoscalers here want (`external-push`).
    pub keda: Option<SocketAddr>,
    /// At least one.
    pub services: Vec<Service>,
    /// How the API server is reached, for those who need it.
    pub kubernetes: Kubernetes,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    pub name: String,
    pub namespace: String,
    /// In lower case, without ports.
    pub hosts: Vec<HostPattern>,
    pub pods: Pods,
    /// Requests a pod takes at once; 0: as many as come.
    pub concurrency: usize,
    /// Who starts the first pod; `None` if somebody else does, and it is only waited for.
    pub scale: Option<Scale>,
    /// `None`: somebody else decides how many pods there shall be, or they are never fewer.
    pub autoscale: Option<Autoscale>,
    /// `None`: callers always come here.
    pub publish: Option<Publish>,
    /// A first pod that takes longer has failed to start.
    pub start_timeout: Duration,
    pub probe: Probe,
    pub queue: Bounds,
    pub tls: Origination,
    /// How requests are handed to pods; its destination is not read, for each request has its own.
    pub forward: Forward,
}

/// Where a service's pods are listed.
#[derive(Clone, Debug, PartialEq)]
pub enum Pods {
    /// EndpointSlice objects in files, YAML or JSON. A file that is not there lists nobody.
    Files { files: Vec<PathBuf>, port: Port },
    /// The API server's, of this Service.
    Kubernetes { service: String, port: Port },
}

#[derive(Clone, Debug, PartialEq)]
pub enum Scale {
    /// Run with the number of pods as its last argument.
    Command(Vec<String>),
    Kubernetes(Ref),
}

/// The EndpointSlice that says whom callers reach.
#[derive(Clone, Debug, PartialEq)]
pub struct Publish {
    /// The Service it is of, which has no selector; not the one whose slices list the pods.
    pub service: String,
    /// Of the slice; each activator has one of its own.
    pub name: String,
    /// Where callers reach this activator.
    pub address: SocketAddr,
    pub port_name: String,
}

/// What a pod is asked that nobody has seen ready yet, and what it must answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    pub path: String,
    pub header: Option<(HeaderName, HeaderValue)>,
    /// `None`: any, with a status of 200.
    pub body: Option<String>,
    pub period: Duration,
    pub timeout: Duration,
}

/// How much may wait for a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    pub requests_max: usize,
    pub bytes_max: usize,
    pub wait_max: Duration,
}

impl Activator {
    /// What contradicts the rest of the file.
    pub(super) fn check(&self, config: &Config, p: &mut Problems) {
        for (number, service) in self.services.iter().enumerate() {
            let at = |name: &str| format!("activator.services[{number}].{name}");
            if config.tls.source.is_none() && matches!(service.tls, Origination::Mutual { .. }) {
                p.add(&at("tls"), "`mode: mutual` needs an identity; name a source of one under `tls`");
            }
            if service.queue.bytes_max < config.limits.body_bytes_max {
                p.add(&at("queue.bytes_max"), "must be at least limits.body_bytes_max");
            }
        }
    }

    /// As `/config_dump` shows it; a command may hold a secret, so only its program is shown.
    pub(super) fn dump(&self) -> Value {
        let services: Vec<Value> = self.services.iter().map(Service::dump).collect();
        let keda = self.keda.map(|address| address.to_string());
        json!({"knative": self.knative, "keda": keda, "services": services, "kubernetes": self.kubernetes.server})
    }

    /// After so long an unused connection to a pod is closed.
    pub fn idle_timeout(&self) -> Duration {
        self.services.iter().map(|service| service.forward.idle_timeout).min().unwrap_or_default()
    }
}

impl Service {
    fn dump(&self) -> Value {
        let seconds = |duration: Duration| duration.as_secs_f64();
        let hosts: Vec<String> = self.hosts.iter().map(host).collect();
        let forward = &self.forward;
        json!({
            "name": self.name,
            "namespace": self.namespace,
            "hosts": hosts,
            "endpoint_slices": match &self.pods {
                Pods::Files { files, port } => json!({"files": files, "port": format!("{port:?}")}),
                Pods::Kubernetes { service, port } => json!({"service": service, "port": format!("{port:?}")}),
            },
            "concurrency": self.concurrency,
            "scale": self.scale.as_ref().map(|scale| match scale {
                Scale::Command(words) => json!({
                    "program": words.first(),
                    "arguments": format!("{} not shown", words.len().saturating_sub(1)),
                }),
                Scale::Kubernetes(target) => json!(target.to_string()),
            }),
            "start_timeout_seconds": seconds(self.start_timeout),
            "autoscale": self.autoscale.as_ref().map(super::autoscale::shown),
            "publish": self.publish.as_ref().map(|publish| json!({
                "service": publish.service,
                "name": publish.name,
                "address": publish.address.to_string(),
                "port_name": publish.port_name,
            })),
            "probe": {
                "path": self.probe.path,
                "header": self.probe.header.as_ref().map(|(name, _)| name.as_str()),
                "body": self.probe.body,
                "period_seconds": seconds(self.probe.period),
                "timeout_seconds": seconds(self.probe.timeout),
            },
            "queue": {
                "requests_max": self.queue.requests_max,
                "bytes_max": self.queue.bytes_max,
                "wait_max_seconds": seconds(self.queue.wait_max),
            },
            "tls": tls(&self.tls),
            "protocol": forward.protocol.name(),
            "connect_timeout_seconds": seconds(forward.connect_timeout),
            "idle_timeout_seconds": seconds(forward.idle_timeout),
            "response_timeout_seconds": forward.response_timeout.map(seconds),
        })
    }
}

fn host(pattern: &HostPattern) -> String {
    match pattern {
        HostPattern::Exact(host) => host.clone(),
        HostPattern::Suffix(suffix) => format!("*{suffix}"),
    }
}

fn tls(origination: &Origination) -> Value {
    match origination {
        Origination::Mutual { expect: Expect::Ids(ids), .. } => json!({"mode": "mutual", "ids": ids}),
        Origination::Mutual { expect: Expect::Namespace { namespace, accounts }, .. } => {
            json!({"mode": "mutual", "namespace": namespace, "service_accounts": accounts})
        }
        Origination::Mutual { expect: Expect::TrustDomain, .. } => json!({"mode": "mutual"}),
        Origination::Simple { name, roots } => json!({"mode": "simple", "sni": name, "roots": roots}),
        Origination::Disable => json!({"mode": "disable"}),
    }
}
