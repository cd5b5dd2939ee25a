//! What an activator holds, and what its pods take. `service` is a name from the configuration.

use super::Ledger;
use crate::activator::Service;
use prometheus::{IntCounterVec, IntGaugeVec};

/// Handles on the families.
#[derive(Clone)]
pub struct ActivatorMetrics {
    pods: IntGaugeVec,
    requests: IntGaugeVec,
    capacity: IntGaugeVec,
    starts: IntGaugeVec,
    /// Requests that a pod had no room for, or that met one that took no connection; each went on to another.
    pub moved: IntCounterVec,
}

impl ActivatorMetrics {
    pub(super) fn new(l: &Ledger) -> ActivatorMetrics {
        let service = &["service"];
        ActivatorMetrics {
            pods: l.gauges("outrider_activator_pods", "Pods that are known.", &["service", "state"]),
            requests: l.gauges(
                "outrider_activator_requests",
                "Requests that are held for a service, or that its pods have.",
                &["service", "state"],
            ),
            capacity: l.gauges(
                "outrider_activator_capacity",
                "Requests that all pods take at once; -1 without a limit.",
                service,
            ),
            starts: l.gauges("outrider_activator_starts", "Times the first pod was asked for.", &["service", "result"]),
            moved: l.counters(
                "outrider_activator_moved_total",
                "Times a request went on to another pod.",
                &["service", "reason"],
            ),
        }
    }

    /// As it is now.
    pub fn look(&self, service: &Service) {
        let name = service.config.name.as_str();
        let (census, held) = (service.census(), service.admission.snapshot());
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.pods.with_label_values(&[name, "ready"]).set(count(census.ready));
        self.pods.with_label_values(&[name, "cold"]).set(count(census.cold));
        self.requests.with_label_values(&[name, "waiting"]).set(count(held.waiting));
        self.requests.with_label_values(&[name, "running"]).set(count(census.in_flight));
        let unlimited = census.capacity >= crate::activator::throttle::UNLIMITED;
        self.capacity.with_label_values(&[name]).set(if unlimited { -1 } else { count(census.capacity) });
        let starts = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        self.starts.with_label_values(&[name, "failed"]).set(starts(held.start_failures));
        self.starts.with_label_values(&[name, "ok"]).set(starts(held.starts.saturating_sub(held.start_failures)));
    }
}
