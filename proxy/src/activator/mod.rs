//! In front of pods that do not exist: requests for a service are held, its first pod is asked for, and each goes to a
//! pod that has room.
//!
//! ```text
//! exchange ─ find: host → service ─ admission (queue, one wake) ─ trip: throttle → seat → forward
//!                          pods: EndpointSlices ─┘      └─ scale: 0 → 1      probe ─┘
//! ```
//!
//! The exchange is the sidecar's own: TLS, credentials, policy, limits and refusals are as there; what differs is who
//! stands behind. Only `pods`, `probe`, `scale`, `service` and `trip` touch the world. Never reads a body, and takes a pod
//! away only where the service has an autoscaler, which decides it.

mod autoscale;
mod pods;
mod probe;
pub mod scale;
pub mod service;
pub mod throttle;
mod trip;

pub use service::Service;
pub use trip::Trip;

use crate::config::activator as config;
use crate::config::outbound::HostPattern;
use crate::kube::client::Client;
use crate::message::Head;
use crate::metrics::AutoscaleMetrics;
use crate::outbound::origin::{Ourselves, Problem};
use crate::scale::external_scaler::{self, Board};
use scale::{Woken, scaler};
use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

const REVISION: &str = "knative-serving-revision";
const NAMESPACE: &str = "knative-serving-namespace";

pub struct Activator {
    /// Knative's headers are understood and said.
    pub knative: bool,
    pub external_scaler: Option<SocketAddr>,
    pub services: Vec<Arc<Service>>,
    exact: HashMap<String, usize>,
    /// With their leading dots, the longest first.
    suffixes: Vec<(String, usize)>,
    client: Option<Client>,
    /// Where KEDA asks, until that begins.
    external: Mutex<Option<TcpListener>>,
}

impl Activator {
    pub fn new(config: &config::Activator) -> Arc<Activator> {
        let (mut exact, mut suffixes) = (HashMap::new(), Vec::new());
        for (number, service) in config.services.iter().enumerate() {
            for host in &service.hosts {
                match host {
                    HostPattern::Exact(host) => {
                        exact.insert(host.clone(), number);
                    }
                    HostPattern::Suffix(suffix) => suffixes.push((suffix.clone(), number)),
                }
            }
        }
        suffixes.sort_by_key(|(suffix, _)| std::cmp::Reverse(suffix.len()));
        let asks = |service: &config::Service| {
            matches!(service.pods, config::Pods::Kubernetes { .. })
                || matches!(service.scale, Some(config::Scale::Kubernetes(_)))
        };
        let client = config.services.iter().any(asks).then(|| Client::new(config.kubernetes.clone()));
        let services = config.services.iter().map(|service| Service::new(service.clone()));
        let services = services.collect();
        let external = Mutex::new(None);
        let (knative, external_scaler) = (config.knative, config.external_scaler);
        Arc::new(Activator { knative, external_scaler, services, exact, suffixes, client, external })
    }

    /// With whose certificate pods are met. Before anything is served.
    pub fn secure(&self, ourselves: &Ourselves) -> Result<(), BadService> {
        self.services.iter().try_for_each(|service| {
            service.secure(ourselves).map_err(|problem| BadService { service: service.config.name.clone(), problem })
        })
    }

    /// KEDA will ask there.
    pub fn answer_on(&self, listener: TcpListener) {
        *self.external.lock().expect("nothing panics while it holds a listener") = Some(listener);
    }

    /// Starts what runs beside the callers: discovery, probes, each service's keeper and its autoscaler. Needs a runtime
    /// around it.
    pub fn staff(&self, metrics: &AutoscaleMetrics) -> std::io::Result<()> {
        let mut seen = Vec::new();
        for service in &self.services {
            let scaler = scaler(service.config.scale.as_ref(), self.client.as_ref());
            if let (Some(autoscale), Some(scaler)) = (&service.config.autoscale, &scaler) {
                let autoscaler = autoscale::hire(service, autoscale, scaler.clone(), metrics);
                seen.push((service.config.name.clone(), autoscaler.seen()));
                tokio::spawn(autoscaler.run(std::future::pending()));
            }
            let woken = Woken { service: service.clone(), scaler };
            tokio::spawn(pods::follow(service.clone(), self.client.clone()));
            tokio::spawn(probe::follow(service.clone()));
            tokio::spawn(service.admission.clone().run(Arc::new(woken), std::future::pending()));
        }
        if let Some(listener) = self.external.lock().expect("nothing panics while it holds a listener").take() {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tokio::spawn(async move {
                // It is asked until the process ends.
                let (_end, ended) = watch::channel(false);
                external_scaler::serve(listener, Board::new(seen), ended).await;
            });
        }
        Ok(())
    }

    /// Whose a request is: by Knative's headers, where they count, else by its host.
    pub fn find(&self, head: &Head, host: &str) -> Option<&Arc<Service>> {
        if self.knative
            && let (Some(revision), Some(namespace)) = (head.header(REVISION), head.header(NAMESPACE))
        {
            let named =
                |service: &&Arc<Service>| service.config.name == revision && service.config.namespace == namespace;
            return self.services.iter().find(named);
        }
        let host = crate::auth::without_port(host).to_ascii_lowercase();
        let host = host.strip_suffix('.').unwrap_or(&host);
        let number = self.exact.get(host).copied().or_else(|| {
            let over = |(suffix, _): &&(String, usize)| host.len() > suffix.len() && host.ends_with(suffix.as_str());
            self.suffixes.iter().find(over).map(|(_, number)| *number)
        });
        number.map(|number| &self.services[number])
    }

    /// What pods are told, and what they never are, beside what every forwarded request is.
    pub fn edits(&self) -> Vec<crate::forward::Edit> {
        use crate::forward::Edit;
        use http::{HeaderName, HeaderValue};
        let remove = |name: &'static str| Edit::Remove(HeaderName::from_static(name));
        let told = Edit::Set(HeaderName::from_static("k-proxy-request"), HeaderValue::from_static("activator"));
        match (self.knative, self.services.iter().any(|service| service.config.autoscale.is_some())) {
            (true, _) => vec![remove(REVISION), remove(NAMESPACE), told],
            // What is counted here is left out there.
            (false, true) => vec![told],
            (false, false) => Vec::new(),
        }
    }
}

/// A service that cannot be, with its name.
#[derive(Clone, Debug, thiserror::Error)]
#[error("activator.services `{service}`: {problem}")]
pub struct BadService {
    pub service: String,
    pub problem: Problem,
}
