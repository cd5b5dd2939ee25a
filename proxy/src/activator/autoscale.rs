//! What a service's autoscaler has to know of it here: its pods, who is held or on the way, and that all come this way.
//!
//! Callers are counted here and not at the pods, which are told so by `K-Proxy-Request`. That is right as long as one
//! activator has all of them; several would each decide by their own part.

use super::service::Service;
use crate::config::autoscale as config;
use crate::metrics::AutoscaleMetrics;
use crate::scale::autoscale::{Outcome, Path};
use crate::scale::autoscaler::{Around, Autoscaler, Company, Pod};
use crate::scale::scaler::Scaler;
use crate::scale::stats::Report;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// An autoscaler for the service, not yet at work.
pub fn hire(
    service: &Arc<Service>,
    autoscale: &config::Autoscale,
    scaler: Arc<dyn Scaler>,
    metrics: &AutoscaleMetrics,
) -> Arc<Autoscaler> {
    let known = Mutex::new(BTreeMap::new());
    let around = Arc::new(Watched { service: service.clone(), stats_port: autoscale.stats_port, known });
    let name = format!("{}/{}", service.config.namespace, service.config.name);
    let company = Company { scaler, around, metrics: metrics.clone() };
    let autoscaler = Autoscaler::new(&name, autoscale.settings.clone(), company);
    service.is_scaled_by(autoscaler.clone());
    autoscaler
}

struct Watched {
    service: Arc<Service>,
    stats_port: u16,
    /// Since when each pod has been there.
    known: Mutex<BTreeMap<SocketAddr, Duration>>,
}

impl Around for Watched {
    fn pods(&self) -> Option<Vec<Pod>> {
        let (listed, now) = (self.service.listed()?, self.service.now());
        let mut known = self.known.lock().expect("nothing panics while it holds these");
        known.retain(|address, _| listed.iter().any(|(listed, _)| listed == address));
        let pods = listed.iter().map(|(address, ready)| {
            let since = *known.entry(*address).or_insert(now);
            let stats = SocketAddr::new(address.ip(), self.stats_port);
            Pod { stats, ready: *ready, age: now.saturating_sub(since) }
        });
        Some(pods.collect())
    }

    fn buffered(&self) -> Option<Report> {
        self.service.buffered()
    }

    /// Whoever comes, comes here: a service's address is the activator's own.
    fn path(&self) -> Path {
        Path { proved: true, buffered_for: Some(self.service.now()) }
    }

    fn decided(&self, _: &Outcome) {}
}
