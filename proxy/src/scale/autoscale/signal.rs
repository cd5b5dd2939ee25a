//! What is measured of a service, over the long window and the short one.

use super::settings::{Aggregation, Metric, Settings};
use super::window::Window;
use crate::scale::stats::Report;
use std::time::Duration;

/// What one request that is there counts at least where something else than requests is counted: ceil(more than
/// nothing) is one pod, and that is what somebody who waits needs. Large enough to survive rounding in an hour's window.
const TRACE: f64 = 0.01;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    pub stable: f64,
    pub panic: f64,
}

#[derive(Clone, Debug)]
pub struct Signal {
    metric: Metric,
    aggregation: Aggregation,
    stable: Window,
    panic: Window,
}

impl Signal {
    pub fn new(settings: &Settings) -> Signal {
        Signal {
            metric: settings.metric,
            aggregation: settings.metric_aggregation_algorithm,
            stable: Window::new(settings.window),
            panic: Window::new(settings.panic_window()),
        }
    }

    /// Another metric means another history, which begins now.
    pub fn change(&mut self, settings: &Settings) {
        if self.metric != settings.metric {
            *self = Signal::new(settings);
        }
        self.aggregation = settings.metric_aggregation_algorithm;
        self.stable.resize(settings.window);
        self.panic.resize(settings.panic_window());
    }

    /// Of all pods together, or of a buffer: what one counts, the other leaves out.
    pub fn record(&mut self, now: Duration, report: &Report) {
        let value = self.value(report);
        if value.is_finite() {
            self.stable.record(now, value);
            self.panic.record(now, value);
        }
    }

    fn value(&self, report: &Report) -> f64 {
        let least = if report.concurrency > 0.0 { TRACE } else { 0.0 };
        match self.metric {
            Metric::Concurrency => (report.concurrency - report.proxied_concurrency).max(0.0),
            Metric::Rps => (report.requests - report.proxied_requests).max(0.0),
            Metric::Tokens => report.tokens_waiting.max(least),
            Metric::Kv => report.kv_used.max(least),
        }
    }

    /// `None`: nobody has said anything for as long as either window.
    pub fn load(&self, now: Duration) -> Option<Load> {
        if self.stable.is_empty(now) && self.panic.is_empty(now) {
            return None;
        }
        let average = |window: &Window| window.average(now, self.aggregation);
        Some(Load { stable: average(&self.stable), panic: average(&self.panic) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(1000 + seconds)
    }

    #[test]
    fn what_is_counted_of_each_metric() {
        let report = Report {
            concurrency: 5.0,
            proxied_concurrency: 2.0,
            requests: 50.0,
            proxied_requests: 20.0,
            tokens_waiting: 4000.0,
            kv_used: 0.0,
        };
        let rows = [(Metric::Concurrency, 3.0), (Metric::Rps, 30.0), (Metric::Tokens, 4000.0), (Metric::Kv, TRACE)];
        for (metric, expected) in rows {
            let mut signal = Signal::new(&Settings { metric, ..Settings::default() });
            assert_eq!(signal.load(at(0)), None, "nobody has said anything");
            signal.record(at(0), &report);
            assert_eq!(signal.load(at(0)), Some(Load { stable: expected, panic: expected }), "{metric:?}");
        }
    }

    #[test]
    fn is_one_who_waits_seen_whatever_the_metric_and_however_long_the_window() {
        let window = Duration::from_secs(3600);
        let mut signal = Signal::new(&Settings { metric: Metric::Kv, window, ..Settings::default() });
        for second in 0..3600 {
            let concurrency = f64::from(u8::from(second == 0));
            signal.record(at(second), &Report { concurrency, ..Report::default() });
        }
        assert!(signal.load(at(3599)).unwrap().stable > 0.0);
    }

    #[test]
    fn is_a_shorter_window_taken_at_once() {
        let mut signal = Signal::new(&Settings::default());
        for second in 0..60 {
            signal.record(at(second), &Report { concurrency: second as f64, ..Report::default() });
        }
        signal.change(&Settings { window: Duration::from_secs(10), ..Settings::default() });
        assert_eq!(signal.load(at(59)), Some(Load { stable: 54.5, panic: 59.0 }));
    }
}
