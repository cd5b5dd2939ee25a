//! What the queue does: who waits, for how long, and who was never given to the worker.
//!
//! `band` is the place of a priority among those configured, the highest first; `outcome` is a word of the inference
//! gateway's flow control.

use super::{Ledger, WAIT_BUCKETS, catch_up};
use crate::admission::{BANDS_MAX, Snapshot};
use prometheus::{HistogramVec, IntCounterVec, IntGauge, IntGaugeVec};
use std::time::Duration;

const BANDS: [&str; BANDS_MAX] = ["0", "1", "2", "3", "4", "5", "6", "7"];

pub struct QueueMetrics {
    wait_seconds: HistogramVec,
    waiting: IntGaugeVec,
    waiting_bytes: IntGauge,
    flows: IntGauge,
    dropped: IntCounterVec,
    cost: IntGauge,
    capacity: IntGauge,
}

impl QueueMetrics {
    pub(super) fn new(l: &Ledger) -> QueueMetrics {
        let band = &["band"];
        QueueMetrics {
            wait_seconds: l.histograms(
                "outrider_queue_wait_seconds",
                "Time requests waited for the worker, by band; 0 is the highest.",
                band,
                WAIT_BUCKETS,
            ),
            waiting: l.gauges("outrider_queue_waiting", "Requests that wait for the worker, by band.", band),
            waiting_bytes: l.gauge("outrider_queue_waiting_bytes", "Bytes of the bodies of requests that wait."),
            flows: l.gauge("outrider_queue_flows", "Callers of whom at least one request waits."),
            dropped: l.counters(
                "outrider_queue_dropped_total",
                "Requests that were never given to the worker, by what became of them.",
                &["outcome"],
            ),
            cost: l.gauge("outrider_worker_cost_running", "What the worker's requests cost: their number, or tokens."),
            capacity: l
                .gauge("outrider_worker_cost_capacity", "What they may cost together; 0: only their number counts."),
        }
    }

    /// A request waited for so long.
    pub fn waited(&self, band: u8, waited: Duration) {
        let band = BANDS[usize::from(band).min(BANDS_MAX - 1)];
        self.wait_seconds.with_label_values(&[band]).observe(waited.as_secs_f64());
    }

    pub(super) fn tell(&self, snapshot: &Snapshot) {
        for (band, depth) in BANDS.iter().zip(snapshot.depths).take(snapshot.bands) {
            self.waiting.with_label_values(&[band]).set(depth as i64);
        }
        self.waiting_bytes.set(snapshot.waiting_bytes as i64);
        self.flows.set(snapshot.flows as i64);
        self.cost.set(snapshot.cost as i64);
        self.capacity.set(snapshot.capacity.unwrap_or(0) as i64);
        for (outcome, requests) in snapshot.dropped.named() {
            catch_up(&self.dropped.with_label_values(&[outcome]), requests);
        }
    }
}
