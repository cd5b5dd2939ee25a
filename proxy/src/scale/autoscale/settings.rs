//! Every knob of one service's scaling, its default, and what each may be.

use super::decide;
use std::time::Duration;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Requests at once.
    Concurrency,
    /// Requests a second.
    Rps,
    /// LLM tokens of requests that wait.
    Tokens,
    /// Shares of KV caches in use, summed over pods.
    Kv,
}

impl Metric {
    pub const ALL: [Metric; 4] = [Metric::Concurrency, Metric::Rps, Metric::Tokens, Metric::Kv];

    pub fn name(self) -> &'static str {
        match self {
            Metric::Concurrency => "concurrency",
            Metric::Rps => "rps",
            Metric::Tokens => "tokens",
            Metric::Kv => "kv",
        }
    }

    pub fn named(name: &str) -> Option<Metric> {
        Metric::ALL.into_iter().find(|metric| metric.name() == name)
    }

    /// Of one pod, where nobody says otherwise and no hard limit does.
    pub(super) fn total_default(self) -> f64 {
        match self {
            Metric::Concurrency => 100.0,
            Metric::Rps => 200.0,
            // About two seconds of a GPU's prefill: what waits longer than that is worth another pod.
            Metric::Tokens => 16_384.0,
            Metric::Kv => 1.0,
        }
    }
}

/// How seconds become an average.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aggregation {
    Linear,
    WeightedExponential,
}

impl Aggregation {
    pub fn name(self) -> &'static str {
        match self {
            Aggregation::Linear => "linear",
            Aggregation::WeightedExponential => "weighted-exponential",
        }
    }

    /// In today's spelling and in the one of old.
    pub fn named(name: &str) -> Option<Aggregation> {
        match name {
            "linear" => Some(Aggregation::Linear),
            "weighted-exponential" | "weightedExponential" => Some(Aggregation::WeightedExponential),
            _ => None,
        }
    }
}

/// Names are those of Knative's annotations and of its `config-autoscaler`.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub metric: Metric,
    pub metric_aggregation_algorithm: Aggregation,
    /// Requests at once that one pod takes at most; 0: no limit.
    pub container_concurrency: u32,
    /// `None`: by the metric.
    pub target: Option<f64>,
    pub target_utilization_percentage: f64,
    /// Requests at once that may come in a burst; −1: no end of them, so that the buffer stays in the path.
    pub target_burst_capacity: f64,
    /// Requests at once that one buffer carries.
    pub activator_capacity: f64,
    pub window: Duration,
    pub panic_window_percentage: f64,
    pub panic_threshold_percentage: f64,
    pub max_scale_up_rate: f64,
    pub max_scale_down_rate: f64,
    pub enable_scale_to_zero: bool,
    /// How long the buffer has to be in the path before the last pod goes.
    pub scale_to_zero_grace_period: Duration,
    /// How long the last pod stays at least once nobody asks.
    pub scale_to_zero_pod_retention_period: Duration,
    pub scale_down_delay: Duration,
    pub min_scale: u32,
    /// 0: no limit.
    pub max_scale: u32,
    /// What `max_scale` may be at most; 0: anything.
    pub max_scale_limit: u32,
    pub initial_scale: u32,
    pub allow_zero_initial_scale: bool,
    /// Pods when there are any at all; from 2 on it matters.
    pub activation_scale: u32,
    /// How long the first pod may take.
    pub progress_deadline: Duration,
    /// False once no route leads to the service: it then may go at once, whatever its minimum.
    pub reachable: bool,
}

pub const WINDOW_MIN: Duration = Duration::from_secs(6);
pub const WINDOW_MAX: Duration = Duration::from_secs(3600);
pub const TARGET_MIN: f64 = 0.01;

impl Default for Settings {
    fn default() -> Self {
        Settings {
            metric: Metric::Concurrency,
            metric_aggregation_algorithm: Aggregation::Linear,
            container_concurrency: 0,
            target: None,
            target_utilization_percentage: 70.0,
            target_burst_capacity: 211.0,
            activator_capacity: 100.0,
            window: Duration::from_secs(60),
            panic_window_percentage: 10.0,
            panic_threshold_percentage: 200.0,
            max_scale_up_rate: 1000.0,
            max_scale_down_rate: 2.0,
            enable_scale_to_zero: true,
            scale_to_zero_grace_period: Duration::from_secs(30),
            scale_to_zero_pod_retention_period: Duration::ZERO,
            scale_down_delay: Duration::ZERO,
            min_scale: 0,
            max_scale: 0,
            max_scale_limit: 0,
            initial_scale: 1,
            allow_zero_initial_scale: false,
            activation_scale: 1,
            progress_deadline: Duration::from_secs(600),
            reachable: true,
        }
    }
}

/// A knob's name, and what is wrong with it.
pub type Problem = (&'static str, String);

impl Settings {
    /// Whole seconds, at least one.
    pub fn panic_window(&self) -> Duration {
        let seconds = (self.window.as_secs_f64() * self.panic_window_percentage / 100.0).round();
        Duration::from_secs(seconds.max(1.0) as u64)
    }

    /// The smallest and the largest scale that may be, once the first has been reached. 0: no limit above.
    pub fn bounds(&self) -> (u32, u32) {
        (if self.reachable { self.min_scale } else { 0 }, self.max_scale)
    }

    pub fn decide(&self) -> decide::Spec {
        let target = super::target::resolve(self);
        decide::Spec {
            target: target.target,
            total: target.total,
            target_burst_capacity: self.target_burst_capacity,
            max_scale_up_rate: self.max_scale_up_rate,
            max_scale_down_rate: self.max_scale_down_rate,
            panic_threshold: self.panic_threshold_percentage / 100.0,
            window: self.window,
            scale_down_delay: self.scale_down_delay,
            activation_scale: self.activation_scale,
            reachable: self.reachable,
        }
    }

    /// All that cannot be, at once.
    pub fn problems(&self) -> Vec<Problem> {
        let mut found = Vec::new();
        self.numbers(&mut found);
        self.times(&mut found);
        self.scales(&mut found);
        found
    }

    fn numbers(&self, found: &mut Vec<Problem>) {
        let mut between = |name, value: f64, least: f64, most: f64| {
            if !(least..=most).contains(&value) {
                found.push((name, format!("{value} must be from {least} to {most}")));
            }
        };
        between("target", self.target.unwrap_or(1.0), TARGET_MIN, f64::MAX);
        // A percentage, not a fraction: 0.7 would be a hundred times as many pods.
        between("target-utilization-percentage", self.target_utilization_percentage, 1.0, 100.0);
        between("panic-window-percentage", self.panic_window_percentage, 1.0, 100.0);
        between("panic-threshold-percentage", self.panic_threshold_percentage, 110.0, 1000.0);
        between("activator-capacity", self.activator_capacity, 1.0, f64::MAX);
        if self.target_burst_capacity != -1.0 {
            between("target-burst-capacity", self.target_burst_capacity, 0.0, f64::MAX);
        }
        for (name, rate) in
            [("max-scale-up-rate", self.max_scale_up_rate), ("max-scale-down-rate", self.max_scale_down_rate)]
        {
            if !(rate > 1.0 && rate.is_finite()) {
                found.push((name, format!("{rate} must be more than 1, or nothing could ever change")));
            }
        }
    }

    fn times(&self, found: &mut Vec<Problem>) {
        let mut between = |name, value: Duration, least: Duration| {
            if value < least || value > WINDOW_MAX {
                found.push((name, format!("{value:?} must be from {least:?} to {WINDOW_MAX:?}")));
            }
        };
        between("window", self.window, WINDOW_MIN);
        between("scale-down-delay", self.scale_down_delay, Duration::ZERO);
        between("scale-to-zero-pod-retention-period", self.scale_to_zero_pod_retention_period, Duration::ZERO);
        for (name, value) in [("window", self.window), ("scale-down-delay", self.scale_down_delay)] {
            if value.subsec_nanos() != 0 {
                found.push((name, format!("{value:?} must be whole seconds")));
            }
        }
        for (name, value) in [
            ("scale-to-zero-grace-period", self.scale_to_zero_grace_period),
            ("progress-deadline", self.progress_deadline),
        ] {
            if value.is_zero() {
                found.push((name, "must be more than nothing".into()));
            }
        }
    }

    fn scales(&self, found: &mut Vec<Problem>) {
        let (min, max, limit, activation) =
            (self.min_scale, self.max_scale, self.max_scale_limit, self.activation_scale);
        if max != 0 && max < min {
            found.push(("max-scale", format!("{max} is less than min-scale={min}")));
        }
        if limit != 0 && max == 0 {
            found.push(("max-scale", format!("0 is no limit at all, and must be from 1 to {limit}")));
        } else if limit != 0 && max > limit {
            found.push(("max-scale", format!("{max} must be from 1 to {limit}")));
        }
        if self.initial_scale == 0 && !self.allow_zero_initial_scale {
            found.push(("initial-scale", "0 is not allowed here; set allow-zero-initial-scale".into()));
        }
        if activation > 1 && min > activation {
            found.push(("activation-scale", format!("{activation} is less than min-scale={min}")));
        }
        if activation > 1 && max != 0 && activation > max {
            found.push(("activation-scale", format!("{activation} is more than max-scale={max}")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn are_the_defaults_sound_and_the_table_s() {
        let settings = Settings::default();
        assert_eq!(settings.problems(), []);
        assert_eq!(settings.panic_window(), Duration::from_secs(6));
        assert_eq!(Settings { window: Duration::from_secs(6), ..settings }.panic_window(), Duration::from_secs(1));
    }

    #[test]
    fn is_what_cannot_be_told_all_at_once() {
        let settings = Settings {
            target: Some(0.001),
            target_utilization_percentage: f64::NAN,
            target_burst_capacity: -2.0,
            panic_threshold_percentage: 100.0,
            max_scale_up_rate: 1.0,
            window: Duration::from_millis(5500),
            scale_down_delay: Duration::from_secs(7200),
            min_scale: 3,
            max_scale: 2,
            initial_scale: 0,
            ..Settings::default()
        };
        let names: Vec<&str> = settings.problems().into_iter().map(|(name, _)| name).collect();
        let expected = [
            "target",
            "target-utilization-percentage",
            "panic-threshold-percentage",
            "target-burst-capacity",
            "max-scale-up-rate",
            "window",
            "scale-down-delay",
            "window",
            "max-scale",
            "initial-scale",
        ];
        assert_eq!(names, expected);
    }
}
