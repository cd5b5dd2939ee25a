//! What was decided about callers, and how looks at the folder of their policies went.

use super::{Ledger, catch_up};
use crate::auth::audit::Audit;
use crate::auth::audit::trail::Trail;
use crate::auth::authconfig::Index;
use crate::auth::pipeline::counts::Tally;
use crate::watched::Watched;
use prometheus::{HistogramVec, IntCounter, IntCounterVec, IntGauge};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Most decisions take microseconds; those that ask others take what the others take.
const SECONDS_BUCKETS: &[f64] = &[0.00001, 0.00005, 0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0];

/// Authorino's own names and labels.
const EVALUATOR: [&str; 4] = ["namespace", "authconfig", "evaluator_type", "evaluator_name"];
/// For evaluators that say `metrics: true`.
const EVALUATORS: [(&str, &str); 4] = [
    ("auth_server_evaluator_total", "Evaluations of an AuthConfig's evaluator."),
    ("auth_server_evaluator_ignored", "Of these, those whose condition did not hold."),
    ("auth_server_evaluator_denied", "Those that failed, or said no."),
    ("auth_server_evaluator_cancelled", "Those that were not waited for, because another one decided."),
];

/// Beside Authorino's `auth_server_*`, of which each decision here is one.
pub struct AuthMetrics {
    decisions: IntCounterVec,
    seconds: HistogramVec,
    generation: IntGauge,
    good: IntGauge,
    failures: IntCounter,
    api_failures: IntCounter,
    audit_dropped: IntCounter,
    policies: IntCounterVec,
    answers: IntCounterVec,
    /// Total, ignored, denied, cancelled.
    evaluators: [IntCounterVec; 4],
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
            good: l.gauge("outrider_authconfig_good", "1 while the AuthConfigs are in force as they are written."),
            failures: l.counter(
                "outrider_authconfig_reload_failures_total",
                "Sets of AuthConfigs that were not taken, or not whole.",
            ),
            api_failures: l.counter(
                "outrider_authconfig_api_failures_total",
                "Times the Kubernetes API could not be asked for AuthConfigs or Secrets; what it told last stays.",
            ),
            audit_dropped: l.counter("outrider_audit_dropped_total", "Audit lines that nobody took in time."),
            policies: l.counters(
                "auth_server_authconfig_total",
                "Requests that an AuthConfig was asked about.",
                &["namespace", "authconfig"],
            ),
            answers: l.counters(
                "auth_server_authconfig_response_status",
                "The same, by what was answered.",
                &["namespace", "authconfig", "status"],
            ),
            evaluators: EVALUATORS.map(|(name, help)| l.counters(name, help, &EVALUATOR)),
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
        catch_up(&self.failures, watched.failures());
        catch_up(&self.api_failures, watched.outside_failures());
    }

    /// And of what policies and their evaluators were asked.
    pub fn tally(&self, tally: &Tally) {
        let mut totals: BTreeMap<[String; 2], u64> = BTreeMap::new();
        tally.policies(|labels, count| {
            *totals.entry([labels[0].to_owned(), labels[1].to_owned()]).or_default() += count;
            if count > 0 {
                catch_up(&self.answers.with_label_values(&labels), count);
            }
        });
        for (labels, count) in totals {
            catch_up(&self.policies.with_label_values(&labels), count);
        }
        tally.evaluators(|labels, counts| {
            let now = [&counts.total, &counts.ignored, &counts.denied, &counts.cancelled];
            for (family, now) in self.evaluators.iter().zip(now) {
                catch_up(&family.with_label_values(&labels), now.load(Ordering::Relaxed));
            }
        });
    }

    /// And of the audit trail.
    pub fn trail(&self, trail: &Trail) {
        catch_up(&self.audit_dropped, trail.dropped());
    }
}
