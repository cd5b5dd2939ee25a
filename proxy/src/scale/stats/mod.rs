//! What this pod tells an autoscaler: requests at once, weighed by how long, and how many came. Pure: time is an argument.
//!
//! The words are Knative's (`Stat`), so that its autoscaler can ask us as it asks its own sidecars. Never blocks and
//! never reads a clock; one that steps back loses the step and nothing else.

use outrider_protos::knative::Stat;
use prost::Message;
use std::time::Duration;

/// What Knative's scraper reads of an answer; more would be cut off, and then be no message.
pub const STAT_BYTES_MAX: usize = 336;
/// A pod's name is a DNS subdomain of at most 253 characters (RFC 1123 and the Kubernetes API); with the numbers, 325
/// bytes at most.
const POD_NAME_MAX: usize = 253;
/// How often a report is made.
pub const PERIOD: Duration = Duration::from_secs(1);

/// ∫ concurrency dt over a period, for all requests and for those that came by way of a buffer.
#[derive(Debug, Default)]
pub struct Reporter {
    all: Flow,
    proxied: Flow,
    changed: Duration,
    /// How long the period has been so far.
    elapsed: Duration,
}

#[derive(Debug, Default)]
struct Flow {
    running: u64,
    /// Requests × seconds.
    area: f64,
    came: u64,
}

/// One period's account.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Report {
    pub concurrency: f64,
    /// Of `concurrency`, what a buffer in front of us counts already.
    pub proxied_concurrency: f64,
    /// Requests a second.
    pub requests: f64,
    pub proxied_requests: f64,
    /// LLM tokens of requests that wait; whoever knows fills it in.
    pub tokens_waiting: f64,
    /// From 0 to 1; whoever knows fills it in.
    pub kv_used: f64,
}

impl Reporter {
    pub fn new(now: Duration) -> Reporter {
        Reporter { changed: now, ..Reporter::default() }
    }

    /// A request begins. `proxied`: it says `K-Proxy-Request: activator`.
    pub fn enter(&mut self, now: Duration, proxied: bool) {
        self.elapse(now);
        for flow in [Some(&mut self.all), proxied.then_some(&mut self.proxied)].into_iter().flatten() {
            flow.running += 1;
            flow.came += 1;
        }
    }

    /// A request that entered has ended.
    pub fn leave(&mut self, now: Duration, proxied: bool) {
        self.elapse(now);
        for flow in [Some(&mut self.all), proxied.then_some(&mut self.proxied)].into_iter().flatten() {
            flow.running = flow.running.checked_sub(1).expect("a request leaves once, as it entered");
        }
    }

    /// Requests that have entered and not left.
    pub fn running(&self) -> u64 {
        self.all.running
    }

    /// Closes the period, of about a second, and begins the next.
    pub fn report(&mut self, now: Duration) -> Report {
        self.elapse(now);
        let seconds = std::mem::take(&mut self.elapsed).as_secs_f64();
        let mean = |flow: &mut Flow| {
            let area = std::mem::take(&mut flow.area);
            if seconds > 0.0 { area / seconds } else { 0.0 }
        };
        // A count is of one second whatever the period was; a period of nothing counts as one, not as infinitely fast.
        let period = if seconds > 0.0 { seconds } else { 1.0 };
        let rate = |flow: &mut Flow| std::mem::take(&mut flow.came) as f64 / period;
        Report {
            concurrency: mean(&mut self.all),
            proxied_concurrency: mean(&mut self.proxied),
            requests: rate(&mut self.all),
            proxied_requests: rate(&mut self.proxied),
            ..Report::default()
        }
    }

    fn elapse(&mut self, now: Duration) {
        let elapsed = now.saturating_sub(self.changed);
        self.elapsed += elapsed;
        for flow in [&mut self.all, &mut self.proxied] {
            flow.area += flow.running as f64 * elapsed.as_secs_f64();
        }
        // Threads that read the clock in one order and come here in another are a moment late: that is passed over. A
        // clock that stepped back is followed, so that time goes on from there; what it took back is lost.
        if now > self.changed || self.changed - now > PERIOD {
            self.changed = now;
        }
    }
}

/// Who reports, and when.
#[derive(Clone, Copy, Debug)]
pub struct Reporting<'a> {
    pub pod: &'a str,
    pub uptime: Duration,
    /// Since unix epoch.
    pub unix: Duration,
}

impl Report {
    /// Beside the requests, what of them counts for a language model: the tokens of those that wait, as admission knows,
    /// and the blocks of the KV cache, in use and in all, as the worker says (`worker.v1.LifecycleResponse`).
    pub fn with_model(self, tokens_waiting: u64, kv_blocks: (u32, u32)) -> Report {
        let (used, all) = (f64::from(kv_blocks.0), f64::from(kv_blocks.1));
        let kv_used = if all > 0.0 { (used / all).min(1.0) } else { 0.0 };
        Report { tokens_waiting: tokens_waiting as f64, kv_used, ..self }
    }

    /// As `GET :9090/metrics` answers, `content-type: application/protobuf`. Always within [`STAT_BYTES_MAX`].
    pub fn encode(&self, by: &Reporting<'_>) -> Vec<u8> {
        let end = (0..=POD_NAME_MAX.min(by.pod.len())).rfind(|at| by.pod.is_char_boundary(*at)).unwrap_or(0);
        Stat {
            pod_name: by.pod[..end].to_owned(),
            average_concurrent_requests: self.concurrency,
            average_proxied_concurrent_requests: self.proxied_concurrency,
            request_count: self.requests,
            proxied_request_count: self.proxied_requests,
            process_uptime: by.uptime.as_secs_f64(),
            timestamp: i64::try_from(by.unix.as_millis()).unwrap_or(i64::MAX),
            tokens_waiting: self.tokens_waiting,
            kv_used: self.kv_used,
        }
        .encode_to_vec()
    }

    /// What a pod answered, its uptime beside it. Numbers that are none, or less than nothing, count as nothing.
    pub fn decode(bytes: &[u8]) -> Result<(Report, Duration), prost::DecodeError> {
        let stat = Stat::decode(bytes)?;
        let sound = |number: f64| if number.is_finite() && number > 0.0 { number } else { 0.0 };
        let report = Report {
            concurrency: sound(stat.average_concurrent_requests),
            proxied_concurrency: sound(stat.average_proxied_concurrent_requests),
            requests: sound(stat.request_count),
            proxied_requests: sound(stat.proxied_request_count),
            tokens_waiting: sound(stat.tokens_waiting),
            kv_used: sound(stat.kv_used).min(1.0),
        };
        let uptime = Duration::try_from_secs_f64(sound(stat.process_uptime)).unwrap_or(Duration::MAX);
        Ok((report, uptime))
    }
}

/// What a buffer in front of pods tells of one service: at once of the first request, then once a second.
///
/// The first request of a service that was idle is told of before the second is over: somebody has to be woken. That
/// second's own report then leaves it out.
#[derive(Debug, Default)]
pub struct Announcer {
    /// `None` while idle.
    reporter: Option<Reporter>,
    announced: bool,
}

impl Announcer {
    /// A request is held or passed on. What it gives is to be told at once.
    pub fn enter(&mut self, now: Duration) -> Option<Report> {
        let first = self.reporter.is_none();
        self.reporter.get_or_insert_with(|| Reporter::new(now)).enter(now, false);
        self.announced |= first;
        first.then_some(Report { concurrency: 1.0, requests: 1.0, ..Report::default() })
    }

    pub fn leave(&mut self, now: Duration) {
        self.reporter.as_mut().expect("a request leaves after it entered").leave(now, false);
    }

    /// What the last second was like; nothing while there was nothing.
    pub fn report(&mut self, now: Duration) -> Option<Report> {
        let reporter = self.reporter.as_mut()?;
        let mut report = reporter.report(now);
        if report.concurrency == 0.0 && reporter.running() == 0 {
            self.reporter = None;
        }
        if std::mem::take(&mut self.announced) {
            report.concurrency = (report.concurrency - 1.0).max(0.0);
            report.requests = (report.requests - 1.0).max(0.0);
        }
        Some(report)
    }

    pub fn running(&self) -> u64 {
        self.reporter.as_ref().map_or(0, Reporter::running)
    }
}

#[cfg(test)]
mod tests;
