//! Every family, bucket and label, declared once.
//!
//! Labels come from closed sets in our own source: never a path, a model name a caller made up, or a subject. Histograms
//! that OpenTelemetry's semantic conventions name (`gen_ai.server.*`) have that name and those buckets; the rest is
//! `outrider_*` or, for the process, what every Prometheus client calls it.

mod activator;
mod auth;
mod autoscale;
mod gateways;
mod process;
mod queue;
mod verdicts;
mod wake;

pub use activator::ActivatorMetrics;
pub use auth::AuthMetrics;
pub use autoscale::AutoscaleMetrics;

use crate::admission::Snapshot;
use crate::ext_authz::server::Counted;
use crate::policy::Watched;
use crate::tls::Status;
use process::Process;
use prometheus::core::Collector;
use prometheus::{
    Counter, CounterVec, Encoder, Gauge, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder,
};
use queue::QueueMetrics;
use verdicts::VerdictMetrics;
use wake::WakeMetrics;

/// As OpenTelemetry advises for `gen_ai.server.request.duration`.
const DURATION_BUCKETS: &[f64] =
    &[0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92];
/// As OpenTelemetry advises for `gen_ai.server.time_to_first_token`.
const FIRST_TOKEN_BUCKETS: &[f64] =
    &[0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
/// From "at once" to the longest wait configured by default.
const WAIT_BUCKETS: &[f64] = &[0.001, 0.01, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 150.0, 300.0];
/// Every value of `Snapshot::worker`.
const WORKER_STATES: &[&str] = &["asleep", "awake", "backoff", "stopping", "waking"];

pub struct Metrics {
    registry: Registry,
    pub requests: IntCounterVec,
    pub request_seconds: HistogramVec,
    pub first_token_seconds: HistogramVec,
    pub queue: QueueMetrics,
    pub tokens: IntCounterVec,
    pub body_bytes: IntCounterVec,
    pub in_flight: IntGauge,
    pub connections: IntCounterVec,
    pub connections_open: IntGaugeVec,
    pub handshake_failures: IntCounterVec,
    pub outbound: Outbound,
    pub passed_bytes: IntCounterVec,
    pub rate_limits: RateMetrics,
    pub auth: AuthMetrics,
    pub activator: ActivatorMetrics,
    pub autoscale: AutoscaleMetrics,
    pub verdicts: VerdictMetrics,
    pub wake: WakeMetrics,
    running: IntGauge,
    draining: IntGauge,
    worker_state: IntGaugeVec,
    worker_starts: IntCounter,
    worker_start_failures: IntCounter,
    worker_crashes: IntCounter,
    worker_wake_seconds: Counter,
    identity: IdentityGauges,
    policy: PolicyGauges,
    authorizations: Counted,
    log_dropped: IntCounter,
    process: Process,
}

/// Who we are, and how the renewal of that goes.
struct IdentityGauges {
    ready: IntGauge,
    not_after: IntGauge,
    rotations: IntCounter,
    renewal_failures: IntCounter,
    crls: IntGauge,
    crls_stale: IntGauge,
}

impl IdentityGauges {
    fn new(l: &Ledger) -> Self {
        IdentityGauges {
            ready: l.gauge("outrider_identity_ready", "1 while there is a certificate that has not expired."),
            not_after: l.gauge("outrider_identity_not_after_seconds", "End of our certificate since unix epoch."),
            rotations: l.counter("outrider_identity_rotations_total", "Times our identity was replaced."),
            renewal_failures: l
                .counter("outrider_identity_renewal_failures_total", "Renewals that failed; the old one stayed."),
            crls: l.gauge("outrider_identity_crls", "Revocation lists in force."),
            crls_stale: l.gauge("outrider_identity_crls_stale", "Of these, past their nextUpdate."),
        }
    }
}

/// The way out. `cluster` is a name from the configuration.
pub struct Outbound {
    pub requests: IntCounterVec,
    pub request_seconds: HistogramVec,
    pub retries: IntCounterVec,
    pub ejections: IntCounterVec,
    pub endpoints: IntGaugeVec,
    pub connections: IntCounterVec,
    pub connections_open: IntGaugeVec,
}

impl Outbound {
    fn new(l: &Ledger) -> Self {
        Outbound {
            requests: l.counters(
                "outrider_outbound_requests_total",
                "Requests of the application by cluster, HTTP status and outcome.",
                &["cluster", "code", "label"],
            ),
            request_seconds: l.histograms(
                "outrider_outbound_request_duration_seconds",
                "Time from the head of an application's request to the end of its answer.",
                &["cluster"],
                DURATION_BUCKETS,
            ),
            retries: l.counters(
                "outrider_outbound_retries_total",
                "Tries after the first, by what the try before met with.",
                &["cluster", "reason"],
            ),
            ejections: l.counters(
                "outrider_outbound_ejections_total",
                "Endpoints left alone for a while, by the detector that said so.",
                &["cluster", "detector"],
            ),
            endpoints: l.gauges(
                "outrider_outbound_endpoints",
                "Endpoints that are known, and those of them that are used.",
                &["cluster", "state"],
            ),
            connections: l.counters(
                "outrider_outbound_connections_total",
                "Connections to endpoints, by how opening them went.",
                &["cluster", "result"],
            ),
            connections_open: l.gauges(
                "outrider_outbound_connections_open",
                "Connections to endpoints that are open.",
                &["cluster"],
            ),
        }
    }
}

/// `limit` is a name from the configuration, or `(service)`.
#[derive(Clone)]
pub struct RateMetrics {
    pub decisions: IntCounterVec,
    pub tokens: IntCounterVec,
    pub guessed: IntCounter,
}

impl RateMetrics {
    fn new(l: &Ledger) -> Self {
        let (decisions, tokens) = ("outrider_rate_limit_decisions_total", "outrider_rate_limit_tokens_total");
        RateMetrics {
            decisions: l.counters(decisions, "Requests by limit and what it said of them.", &["limit", "outcome"]),
            tokens: l.counters(tokens, "LLM tokens charged, by limit and what it counts.", &["limit", "unit"]),
            guessed: l.counter(
                "outrider_rate_limit_guessed_total",
                "Answers that said nothing of their tokens, which were counted by pieces.",
            ),
        }
    }
}

/// Registers a family. A name used twice is a mistake in this file, seen by the first test that runs.
struct Ledger(Registry);

impl Ledger {
    fn add<C: Collector + Clone + 'static>(&self, family: Result<C, prometheus::Error>) -> C {
        let family = family.expect("names and labels in this file are well formed");
        self.0.register(Box::new(family.clone())).expect("no name in this file is used twice");
        family
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn reals(&self, name: &str, help: &str, labels: &[&str]) -> CounterVec {
        self.add(CounterVec::new(Opts::new(name, help), labels))
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::new(name, help))
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.add(IntGauge::new(name, help))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    fn real(&self, name: &str, help: &str) -> Gauge {
        self.add(Gauge::new(name, help))
    }

    fn histograms(&self, name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> HistogramVec {
        self.add(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels))
    }
}

struct PolicyGauges {
    /// `provider` is a name from the configuration.
    ext_authz: IntCounterVec,
    generation: IntGauge,
    good: IntGauge,
    failures: IntCounter,
}

impl PolicyGauges {
    fn new(l: &Ledger) -> Self {
        PolicyGauges {
            ext_authz: l.counters(
                "outrider_ext_authz_requests_total",
                "Questions to external authorizers, by the name of the provider and how they went.",
                &["provider", "result"],
            ),
            generation: l.gauge("outrider_policy_generation", "Counts the sets of policies there were; 0 without any."),
            good: l.gauge("outrider_policy_good", "1 while the folder is in force as it is, 0 while an older one is."),
            failures: l.counter("outrider_policy_reload_failures_total", "Folders that were not taken."),
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

impl Metrics {
    pub fn new() -> Self {
        let (l, asked) = (Ledger(Registry::new()), &["dialect", "operation"]);
        Metrics {
            requests: l.counters(
                "outrider_requests_total",
                "Requests by what was asked, HTTP status and outcome.",
                &["dialect", "operation", "code", "label"],
            ),
            request_seconds: l.histograms(
                "gen_ai_server_request_duration_seconds",
                "Time from a request's head to the end of its answer.",
                asked,
                DURATION_BUCKETS,
            ),
            first_token_seconds: l.histograms(
                "gen_ai_server_time_to_first_token_seconds",
                "Time from a request's head to the first generated token.",
                asked,
                FIRST_TOKEN_BUCKETS,
            ),
            queue: QueueMetrics::new(&l),
            tokens: l.counters("outrider_tokens_total", "LLM tokens, `input` and `output`.", &["type"]),
            body_bytes: l.counters("outrider_body_bytes_total", "Bytes of bodies.", &["direction"]),
            in_flight: l.gauge("outrider_requests_in_flight", "Requests between head and end."),
            connections: l.counters("outrider_connections_total", "Connections accepted.", &["protocol", "tls"]),
            connections_open: l.gauges("outrider_connections_open", "Connections that are open.", &["protocol", "tls"]),
            handshake_failures: l.counters(
                "outrider_connection_failures_total",
                "Connections that ended before or instead of a request, by reason.",
                &["reason"],
            ),
            passed_bytes: l.counters(
                "outrider_passed_bytes_total",
                "Bytes of connections that speak no HTTP and are passed on as they are.",
                &["direction"],
            ),
            outbound: Outbound::new(&l),
            rate_limits: RateMetrics::new(&l),
            auth: AuthMetrics::new(&l),
            activator: ActivatorMetrics::new(&l),
            autoscale: AutoscaleMetrics::new(&l),
            verdicts: VerdictMetrics::new(&l),
            wake: WakeMetrics::new(&l),
            running: l.gauge("outrider_worker_requests_running", "Requests the worker has."),
            draining: l.gauge("outrider_draining", "1 while no new request is taken."),
            worker_state: l.gauges("outrider_worker_state", "1 for the worker's state, 0 for others.", &["state"]),
            worker_starts: l.counter("outrider_worker_starts_total", "Times the worker was started."),
            worker_start_failures: l.counter("outrider_worker_start_failures_total", "Starts that failed."),
            worker_crashes: l.counter("outrider_worker_crashes_total", "Times the worker went away by itself."),
            worker_wake_seconds: l
                .add(Counter::new("outrider_worker_wake_seconds_total", "Time successful starts took, in sum.")),
            identity: IdentityGauges::new(&l),
            policy: PolicyGauges::new(&l),
            authorizations: gateways::counted(&l),
            log_dropped: l.counter("outrider_access_log_dropped_total", "Lines that nobody read in time."),
            process: Process::new(&l),
            registry: l.0,
        }
    }

    /// Questions to external authorizers, by provider and result; a handle on the family.
    pub fn ext_authz(&self) -> IntCounterVec {
        self.policy.ext_authz.clone()
    }

    /// Answers to gateways; handles on the families.
    pub fn authorizations(&self) -> Counted {
        self.authorizations.clone()
    }

    /// What the next exposition says of the policies in force, and of looks at their folder.
    pub fn policy(&self, policies: &Watched) {
        let gauges = &self.policy;
        gauges.generation.set(policies.generation() as i64);
        gauges.good.set(i64::from(policies.problems().is_empty()));
        catch_up(&gauges.failures, policies.failures());
    }

    /// Access-log lines that were dropped so far.
    pub fn dropped(&self, lines: u64) {
        catch_up(&self.log_dropped, lines);
    }

    /// What the next exposition says of our identity.
    pub fn identity(&self, status: &Status, ready: bool) {
        let gauges = &self.identity;
        gauges.ready.set(i64::from(ready));
        gauges.not_after.set(status.not_after_unix.unwrap_or(0));
        gauges.crls.set(status.crls as i64);
        gauges.crls_stale.set(status.crls_stale as i64);
        catch_up(&gauges.rotations, status.rotations);
        catch_up(&gauges.renewal_failures, status.renewal_failures);
    }

    /// The exposition in Prometheus' text format; `snapshot` is the gate's state at this moment.
    pub fn expose(&self, snapshot: &Snapshot) -> String {
        self.running.set(snapshot.running as i64);
        self.queue.tell(snapshot);
        self.draining.set(i64::from(snapshot.draining));
        for state in WORKER_STATES {
            self.worker_state.with_label_values(&[state]).set(i64::from(*state == snapshot.worker));
        }
        for (counter, value) in [
            (&self.worker_starts, snapshot.starts),
            (&self.worker_start_failures, snapshot.start_failures),
            (&self.worker_crashes, snapshot.crashes),
        ] {
            catch_up(counter, value);
        }
        raise(&self.worker_wake_seconds, snapshot.wake_seconds_sum);
        self.process.measure();
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text).expect("memory takes every write");
        String::from_utf8(text).expect("the format is text")
    }
}

/// Brings a counter up to what was counted elsewhere.
fn raise(counter: &Counter, value: f64) {
    counter.inc_by((value - counter.get()).max(0.0));
}

/// The same of whole numbers.
fn catch_up(counter: &IntCounter, value: u64) {
    counter.inc_by(value.saturating_sub(counter.get()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scale::autoscale::{Autoscale, Path, Settings, Surroundings};
    use crate::scale::stats::Report;
    use std::time::Duration;

    #[test]
    fn is_the_exposition_what_dashboards_rely_on() {
        let metrics = Metrics::new();
        let asked = ["openai", "chat_completions"];
        metrics.requests.with_label_values(&["openai", "chat_completions", "200", "ok"]).inc();
        metrics.request_seconds.with_label_values(&asked).observe(0.3);
        metrics.first_token_seconds.with_label_values(&asked).observe(0.03);
        metrics.tokens.with_label_values(&["input"]).inc();
        metrics.body_bytes.with_label_values(&["request"]).inc();
        metrics.connections.with_label_values(&["h2", "mtls"]).inc();
        metrics.connections_open.with_label_values(&["h2", "mtls"]).inc();
        metrics.handshake_failures.with_label_values(&["timeout"]).inc();
        metrics.outbound.requests.with_label_values(&["models", "200", "ok"]).inc();
        metrics.outbound.request_seconds.with_label_values(&["models"]).observe(0.3);
        metrics.outbound.retries.with_label_values(&["models", "connect_failure"]).inc();
        metrics.outbound.ejections.with_label_values(&["models", "5xx"]).inc();
        metrics.outbound.endpoints.with_label_values(&["models", "known"]).set(1);
        metrics.outbound.connections.with_label_values(&["models", "ok"]).inc();
        metrics.outbound.connections_open.with_label_values(&["models"]).inc();
        metrics.passed_bytes.with_label_values(&["sent"]).inc();
        let mut autoscale = Autoscale::new(Settings::default(), 0, 0, Duration::ZERO);
        autoscale.observe(Duration::ZERO, &Report { concurrency: 1.0, ..Report::default() });
        let outcome = autoscale.tick(Duration::ZERO, Surroundings { ready: Some(0), path: Path::default() });
        metrics.autoscale.decided("chat", &outcome, Some(0));
        metrics.autoscale.scrapes.with_label_values(&["chat", "ok"]).inc();
        metrics.autoscale.scalings.with_label_values(&["chat", "ok"]).inc();
        metrics.rate_limits.decisions.with_label_values(&["calls", "allowed"]).inc();
        metrics.rate_limits.tokens.with_label_values(&["words", "total_tokens"]).inc();
        metrics.ext_authz().with_label_values(&["opa", "allowed"]).inc();
        metrics.authorizations().status.with_label_values(&["OK"]).inc();
        metrics.authorizations().seconds.with_label_values(&["grpc"]).observe(0.0001);
        let memory: std::sync::Arc<dyn crate::auth::verdicts::Remembers> =
            std::sync::Arc::new(crate::auth::verdicts::Verdicts::<()>::new(Default::default()));
        metrics.verdicts.tell(&[("token_review", memory)]);
        metrics.wake.tell(&[("loading", 1.5)]);
        metrics.queue.waited(0, std::time::Duration::from_millis(5));
        let snapshot = Snapshot { worker: "awake", starts: 3, bands: 1, ..Snapshot::default() };
        metrics.expose(&snapshot);
        let text = metrics.expose(&snapshot);
        let families: Vec<&str> = text.lines().filter(|line| line.starts_with('#')).collect();
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/metrics.golden.txt");
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(path, families.join("\n") + "\n").unwrap();
        }
        let golden = std::fs::read_to_string(path).unwrap();
        assert_eq!(families.join("\n").trim(), golden.trim());
        assert!(text.contains("outrider_worker_starts_total 3"), "{text}");
        assert!(text.contains("outrider_worker_state{state=\"awake\"} 1"));
    }
}
