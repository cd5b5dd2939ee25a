//! What is counted of starts, stage by stage.

use super::{Ledger, raise};
use prometheus::CounterVec;

pub struct WakeMetrics {
    stages: CounterVec,
}

impl WakeMetrics {
    pub(super) fn new(l: &Ledger) -> Self {
        let (name, help) =
            ("outrider_worker_wake_stage_seconds_total", "Time successful starts took, in sum, by stage.");
        WakeMetrics { stages: l.reals(name, help, &["stage"]) }
    }

    /// Seconds of each stage so far; the stages are a closed set.
    pub fn tell(&self, stages: &[(&'static str, f64)]) {
        for (stage, seconds) in stages {
            raise(&self.stages.with_label_values(&[*stage]), *seconds);
        }
    }
}
