//! What was decided about callers, and how looks at the folder of their policies went.

use super::Ledger;
use crate::auth::audit::Audit;
use crate::auth::authconfig::Index;
use crate::watched::Watched;
use prometheus::{HistogramVec, IntCounter, IntCounterVec, IntGauge};
use std::time::Duration;

/// Most decisions take microseconds; those that ask others take what the others take.
const SECONDS_BUCKETS: &[f64] = &[0.00001, 0.00005, 0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0];

/// Beside Authorino's `auth_server_*`, of which each decision here is one.
pub struct AuthMetrics {
    decisions: IntCounterVec,
    seconds: HistogramVec,
    generation: IntGauge,
    good: IntGauge,
    failures: IntCounter,
}

impl AuthMetrics {
    pub(super) fn new(l: &Ledger) -> AuthMetrics {
        AuthMetrics {
            decisions: l.counters(
                "outrider_auth_decisions_total",
                "Decisions about callers, by the phase and the type of evaluator that had the last word.",
                &["phase", "type", "outcome"],
            ),
            seconds: l.histograms(
                "outrider_auth_duration_seconds",
                "Time from the question who calls to the decision, of requests that a policy was asked about.",
                &["outcome"],
                SECONDS_BUCKETS,
            ),
            generation: l.gauge("outrider_authconfig_generation", "Counts the sets of AuthConfigs; 0 without any."),
            good: l
                .gauge("outrider_authconfig_good", "1 while the AuthConfigs are in force as they are in the folder."),
            failures: l
                .counter("outrider_authconfig_reload_failures_total", "Sets of AuthConfigs that were not taken."),
        }
    }

    /// One decision; `took` where it was measured.
    pub fn decided(&self, audit: &Audit, took: Option<Duration>) {
        self.decisions.with_label_values(&[audit.phase, audit.kind, audit.outcome]).inc();
        if let Some(took) = took {
            self.seconds.with_label_values(&[audit.outcome]).observe(took.as_secs_f64());
        }
    }

    /// What the next exposition says of the folder.
    pub fn watched(&self, watched: &Watched<Index>) {
        self.generation.set(watched.generation() as i64);
        self.good.set(i64::from(watched.problems().is_empty()));
        self.failures.inc_by(watched.failures().saturating_sub(self.failures.get()));
    }
}
