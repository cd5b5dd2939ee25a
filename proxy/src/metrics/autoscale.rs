//! What the autoscaler saw and decided. `service` is a name from the configuration.

use super::Ledger;
use crate::scale::autoscale::{Activity, Outcome};
use prometheus::{GaugeVec, IntCounterVec, IntGaugeVec, Opts};

const ACTIVITIES: [Activity; 3] = [Activity::Activating, Activity::Active, Activity::Inactive];

/// Handles on the families.
#[derive(Clone)]
pub struct AutoscaleMetrics {
    pub scrapes: IntCounterVec,
    pub scalings: IntCounterVec,
    desired: IntGaugeVec,
    ready: IntGaugeVec,
    load: GaugeVec,
    excess: IntGaugeVec,
    panicking: IntGaugeVec,
    activity: IntGaugeVec,
    buffers: IntGaugeVec,
}

impl AutoscaleMetrics {
    pub(super) fn new(l: &Ledger) -> AutoscaleMetrics {
        let service = &["service"];
        let load = Opts::new("outrider_autoscaler_load", "What all pods have, as averages over two windows.");
        AutoscaleMetrics {
            scrapes: l.counters(
                "outrider_autoscaler_scrapes_total",
                "Rounds of asking pods for their statistics.",
                &["service", "result"],
            ),
            scalings: l.counters(
                "outrider_autoscaler_scalings_total",
                "Times another number of pods was asked for.",
                &["service", "result"],
            ),
            desired: l.gauges("outrider_autoscaler_pods_desired", "Pods that are wanted.", service),
            ready: l.gauges("outrider_autoscaler_pods_ready", "Pods that take requests.", service),
            load: l.add(GaugeVec::new(load, &["service", "window"])),
            excess: l.gauges(
                "outrider_autoscaler_excess_burst_capacity",
                "Requests at once that could still come; below zero the buffer stays in the path.",
                service,
            ),
            panicking: l.gauges("outrider_autoscaler_panicking", "1 while a surge is answered.", service),
            activity: l.gauges(
                "outrider_autoscaler_activity",
                "1 for what the service is, 0 for others.",
                &["service", "state"],
            ),
            buffers: l.gauges("outrider_autoscaler_buffers", "Buffers that there should be.", service),
        }
    }

    /// One decision. What is not known keeps what was said of it before.
    pub fn decided(&self, service: &str, outcome: &Outcome, ready: Option<u32>) {
        let only = [service];
        if let Some(want) = outcome.step.want {
            self.desired.with_label_values(&only).set(want.into());
        }
        if let Some(ready) = ready {
            self.ready.with_label_values(&only).set(ready.into());
        }
        if let Some(decision) = outcome.decision {
            self.load.with_label_values(&[service, "stable"]).set(decision.load.stable);
            self.load.with_label_values(&[service, "panic"]).set(decision.load.panic);
            self.excess.with_label_values(&only).set(decision.excess_burst_capacity);
            self.panicking.with_label_values(&only).set(i64::from(decision.panicking));
        }
        for activity in ACTIVITIES {
            let is = i64::from(activity == outcome.activity);
            self.activity.with_label_values(&[service, activity.name()]).set(is);
        }
        self.buffers.with_label_values(&only).set(outcome.buffers.into());
    }
}
