//! What is remembered of others' answers about callers, by the name of the method or rule that asks.

use super::{Ledger, catch_up};
use crate::auth::methods::Memory;
use crate::auth::verdicts::Counts;
use prometheus::{IntCounterVec, IntGaugeVec};
use std::collections::BTreeMap;

pub struct VerdictMetrics {
    questions: IntCounterVec,
    evictions: IntCounterVec,
    entries: IntGaugeVec,
}

impl VerdictMetrics {
    pub(super) fn new(l: &Ledger) -> Self {
        VerdictMetrics {
            questions: l.counters(
                "outrider_auth_verdicts_total",
                "Questions about callers: answered from memory (hit), asked of others (miss), waited for with somebody \
                 who asked the same (wait), without an answer (failure).",
                &["cache", "result"],
            ),
            evictions: l.counters(
                "outrider_auth_verdict_evictions_total",
                "Answers that made room for newer ones.",
                &["cache"],
            ),
            entries: l.gauges(
                "outrider_auth_verdict_entries",
                "Answers that are remembered, by what they were.",
                &["cache", "verdict"],
            ),
        }
    }

    /// What the next exposition says of these.
    pub fn tell(&self, memories: &[Memory]) {
        let mut all: BTreeMap<&str, Counts> = BTreeMap::new();
        for (name, memory) in memories {
            *all.entry(name).or_default() += memory.counts();
        }
        for (name, counts) in all {
            let results =
                [("hit", counts.hits), ("miss", counts.misses), ("wait", counts.waits), ("failure", counts.failures)];
            for (result, value) in results {
                catch_up(&self.questions.with_label_values(&[name, result]), value);
            }
            catch_up(&self.evictions.with_label_values(&[name]), counts.evictions);
            self.entries.with_label_values(&[name, "allow"]).set(counts.good as i64);
            self.entries.with_label_values(&[name, "deny"]).set(counts.bad as i64);
        }
    }
}
