//! In front of pods that do not exist: requests for a service are held, its first pod is asked for, and each goes to a
//! pod that has room.
//!
//! ```text
//! exchange ─ find: host → service ─ admission (queue, one wake) ─ trip: throttle → seat → forward
//!                          pods: EndpointSlices ─┘      └─ scale: 0 → 1      probe ─┘
//! ```
//!
//! The exchange is the sidecar's own: TLS, credentials, policy, limits and refusals are as there; what differs is who
//! stands behind. Only `throttle` is pure; the others touch the world. Never reads a body, and never takes
//! a pod away.

mod autoscale;
mod pods;
mod probe;
mod publish;
pub mod scale;
pub mod service;
pub mod throttle;
mod trip;
mod way;

pub use service::Service;
pub use trip::Trip;

use crate::config::activator as config;
use crate::config::outbound::HostPattern;
use crate::kube::client::Client;
use crate::message::Head;
use crate::metrics::{ActivatorMetrics, Metrics};
use crate::outbound::origin::{Ourselves, Problem};
use crate::scale::autoscaler::Autoscaler;
use crate::scale::external_scaler::{self, Board};
use scale::{Woken, scaler};
use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

/// How old a number may be that is exposed.
const LOOK_PERIOD: Duration = Duration::from_millis(500);
const REVISION: &str = "knative-serving-revision";
const NAMESPACE: &str = "knative-serving-namespace";

pub struct Activator {
    /// Knative's headers are understood and said.
    pub knative: bool,
    pub services: Vec<Arc<Service>>,
    exact: HashMap<String, usize>,
    /// With their leading dots, the longest first.
    suffixes: Vec<(String, usize)>,
    client: Option<Client>,
    /// Where KEDA asks.
    pub keda: Option<SocketAddr>,
    board: Mutex<Option<TcpListener>>,
    halt: watch::Sender<bool>,
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
            service.publish.is_some()
                || matches!(service.pods, config::Pods::Kubernetes { .. })
                || matches!(service.scale, Some(config::Scale::Kubernetes(_)))
        };
        let client = config.services.iter().any(asks).then(|| Client::new(config.kubernetes.clone()));
        let services = config.services.iter().map(|service| Service::new(service.clone()));
        Arc::new(Activator {
            knative: config.knative,
            services: services.collect(),
            exact,
            suffixes,
            client,
            keda: config.keda,
            board: Mutex::default(),
            halt: watch::Sender::new(false),
        })
    }

    /// With whose certificate pods are met. Before anything is served.
    pub fn secure(&self, ourselves: &Ourselves) -> Result<(), BadService> {
        self.services.iter().try_for_each(|service| {
            service.secure(ourselves).map_err(|problem| BadService { service: service.config.name.clone(), problem })
        })
    }

    /// KEDA will ask here.
    pub fn answers_keda(&self, listener: TcpListener) {
        *self.board.lock().expect("nothing panics under it") = Some(listener);
    }

    fn tell_keda(&self, autoscalers: &[Arc<Autoscaler>]) {
        let Some(listener) = self.board.lock().expect("nothing panics under it").take() else { return };
        let board = Board::new(autoscalers.iter().map(|one| (one.name().to_owned(), one.seen())));
        match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => drop(tokio::spawn(external_scaler::serve(listener, board, self.halt.subscribe()))),
            Err(error) => tracing::error!(%error, "KEDA cannot be answered"),
        }
    }

    /// Starts what runs beside the callers: discovery, probes, and each service's keeper. Needs a runtime around it.
    pub fn staff(&self, metrics: &Metrics) {
        let mut autoscalers = Vec::new();
        for service in &self.services {
            let scaler = scaler(service.config.scale.as_ref(), self.client.as_ref());
            if let Some(autoscaler) = autoscale::open(service, scaler.clone(), &metrics.autoscale) {
                tokio::spawn(autoscaler.clone().run(std::future::pending()));
                autoscalers.push(autoscaler);
            }
            tokio::spawn(publish::follow(service.clone(), self.client.clone()));
            tokio::spawn(look(service.clone(), metrics.activator.clone()));
            let woken = Woken { service: service.clone(), scaler };
            tokio::spawn(pods::follow(service.clone(), self.client.clone()));
            tokio::spawn(probe::follow(service.clone()));
            tokio::spawn(service.admission.clone().run(Arc::new(woken), std::future::pending()));
        }
        self.tell_keda(&autoscalers);
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
    pub fn edits(&self, service: &Service) -> Vec<crate::forward::Edit> {
        use crate::forward::Edit;
        use http::{HeaderName, HeaderValue};
        // Else the autoscaler would count each request twice: here, and at its pod.
        let told = Edit::Set(HeaderName::from_static("k-proxy-request"), HeaderValue::from_static("activator"));
        if !self.knative {
            return service.config.autoscale.iter().map(|_| told.clone()).collect();
        }
        let remove = |name: &'static str| Edit::Remove(HeaderName::from_static(name));
        vec![remove(REVISION), remove(NAMESPACE), told]
    }
}

/// Keeps its numbers fresh, for ever.
async fn look(service: Arc<Service>, metrics: ActivatorMetrics) {
    service.counts_in(&metrics);
    loop {
        metrics.look(&service);
        tokio::time::sleep(LOOK_PERIOD).await;
    }
}

/// A service that cannot be, with its name.
#[derive(Clone, Debug, thiserror::Error)]
#[error("activator.services `{service}`: {problem}")]
pub struct BadService {
    pub service: String,
    pub problem: Problem,
}
