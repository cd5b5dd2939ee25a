//! The section `autoscale:` of a service: the knobs of its autoscaler, by Knative's names, and its annotations unchanged.

use super::quantity::Quantity;
use crate::scale::autoscale::{Aggregation, Metric, Settings, annotated};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// Queue-proxy's port for statistics, and a sidecar's in its place.
const STATS_PORT: u16 = 9090;

#[derive(Clone, Debug, PartialEq)]
pub struct Autoscale {
    pub settings: Settings,
    /// Where each pod tells its statistics.
    pub stats_port: u16,
}

/// As it stands in the file. What is absent is as Knative has it by default.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawAutoscale {
    /// A service's annotations, as they are; they win over what stands beside them.
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    stats_port: Option<u16>,
    metric: Option<String>,
    metric_aggregation_algorithm: Option<String>,
    target: Option<f64>,
    target_utilization_percentage: Option<f64>,
    target_burst_capacity: Option<f64>,
    activator_capacity: Option<f64>,
    window: Option<Quantity>,
    panic_window_percentage: Option<f64>,
    panic_threshold_percentage: Option<f64>,
    max_scale_up_rate: Option<f64>,
    max_scale_down_rate: Option<f64>,
    enable_scale_to_zero: Option<bool>,
    scale_to_zero_grace_period: Option<Quantity>,
    scale_to_zero_pod_retention_period: Option<Quantity>,
    scale_down_delay: Option<Quantity>,
    min_scale: Option<u32>,
    max_scale: Option<u32>,
    max_scale_limit: Option<u32>,
    initial_scale: Option<u32>,
    allow_zero_initial_scale: Option<bool>,
    activation_scale: Option<u32>,
    progress_deadline: Option<Quantity>,
}

impl RawAutoscale {
    /// `at` is where the section stands in the file, for what is wrong with it; `container_concurrency` is what one pod
    /// takes at once, 0 without a limit.
    pub fn validate(self, at: &str, container_concurrency: u32) -> Result<Autoscale, Vec<String>> {
        let mut problems = Vec::new();
        let stats_port = self.stats_port.unwrap_or(STATS_PORT);
        if stats_port == 0 {
            problems.push("stats_port: must be a port".into());
        }
        let defaults = self.plain(container_concurrency, &mut problems);
        let named = |(name, words): (&str, String)| format!("{}: {words}", name.replace('-', "_"));
        problems.extend(defaults.problems().into_iter().map(named));
        let annotations = self.annotations.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let settings = match annotated(&defaults, annotations) {
            Ok(settings) => settings,
            // What is wrong without them is told already.
            Err(_) if !problems.is_empty() => defaults,
            Err(words) => {
                problems.extend(words.into_iter().map(|words| format!("annotations.{words}")));
                defaults
            }
        };
        let problems: Vec<String> = problems.into_iter().map(|words| format!("{at}.{words}")).collect();
        if problems.is_empty() { Ok(Autoscale { settings, stats_port }) } else { Err(problems) }
    }

    fn plain(&self, container_concurrency: u32, problems: &mut Vec<String>) -> Settings {
        let none = Settings::default();
        let mut time = |name: &str, given: &Option<Quantity>, default: Duration| match given.as_ref() {
            None => default,
            Some(given) => given.duration().unwrap_or_else(|words| {
                problems.push(format!("{name}: {words}"));
                default
            }),
        };
        let times = [
            time("window", &self.window, none.window),
            time("scale_to_zero_grace_period", &self.scale_to_zero_grace_period, none.scale_to_zero_grace_period),
            time("scale_to_zero_pod_retention_period", &self.scale_to_zero_pod_retention_period, Duration::ZERO),
            time("scale_down_delay", &self.scale_down_delay, none.scale_down_delay),
            time("progress_deadline", &self.progress_deadline, none.progress_deadline),
        ];
        let [
            window,
            scale_to_zero_grace_period,
            scale_to_zero_pod_retention_period,
            scale_down_delay,
            progress_deadline,
        ] = times;
        let number = |given: Option<f64>, default: f64| given.unwrap_or(default);
        Settings {
            metric: self.metric(problems),
            metric_aggregation_algorithm: self.aggregation(problems),
            container_concurrency,
            target: self.target,
            target_utilization_percentage: number(
                self.target_utilization_percentage,
                none.target_utilization_percentage,
            ),
            target_burst_capacity: number(self.target_burst_capacity, none.target_burst_capacity),
            activator_capacity: number(self.activator_capacity, none.activator_capacity),
            window,
            panic_window_percentage: number(self.panic_window_percentage, none.panic_window_percentage),
            panic_threshold_percentage: number(self.panic_threshold_percentage, none.panic_threshold_percentage),
            max_scale_up_rate: number(self.max_scale_up_rate, none.max_scale_up_rate),
            max_scale_down_rate: number(self.max_scale_down_rate, none.max_scale_down_rate),
            enable_scale_to_zero: self.enable_scale_to_zero.unwrap_or(none.enable_scale_to_zero),
            scale_to_zero_grace_period,
            scale_to_zero_pod_retention_period,
            scale_down_delay,
            min_scale: self.min_scale.unwrap_or(none.min_scale),
            max_scale: self.max_scale.unwrap_or(none.max_scale),
            max_scale_limit: self.max_scale_limit.unwrap_or(none.max_scale_limit),
            initial_scale: self.initial_scale.unwrap_or(none.initial_scale),
            allow_zero_initial_scale: self.allow_zero_initial_scale.unwrap_or(none.allow_zero_initial_scale),
            activation_scale: self.activation_scale.unwrap_or(none.activation_scale),
            progress_deadline,
            reachable: true,
        }
    }

    fn metric(&self, problems: &mut Vec<String>) -> Metric {
        let name = self.metric.as_deref().unwrap_or(Metric::Concurrency.name());
        Metric::named(name).unwrap_or_else(|| {
            problems.push(format!("metric: `{name}` is none of {}", Metric::ALL.map(Metric::name).join(", ")));
            Metric::Concurrency
        })
    }

    fn aggregation(&self, problems: &mut Vec<String>) -> Aggregation {
        let name = self.metric_aggregation_algorithm.as_deref().unwrap_or(Aggregation::Linear.name());
        Aggregation::named(name).unwrap_or_else(|| {
            problems.push(format!("metric_aggregation_algorithm: `{name}` is neither linear nor weighted-exponential"));
            Aggregation::Linear
        })
    }
}

/// For the configuration's dump.
pub fn shown(autoscale: &Autoscale) -> Value {
    let settings = &autoscale.settings;
    json!({
        "stats_port": autoscale.stats_port,
        "metric": settings.metric.name(),
        "metric_aggregation_algorithm": settings.metric_aggregation_algorithm.name(),
        "target": settings.target,
        "target_utilization_percentage": settings.target_utilization_percentage,
        "target_burst_capacity": settings.target_burst_capacity,
        "activator_capacity": settings.activator_capacity,
        "window_seconds": settings.window.as_secs_f64(),
        "panic_window_percentage": settings.panic_window_percentage,
        "panic_threshold_percentage": settings.panic_threshold_percentage,
        "max_scale_up_rate": settings.max_scale_up_rate,
        "max_scale_down_rate": settings.max_scale_down_rate,
        "enable_scale_to_zero": settings.enable_scale_to_zero,
        "scale_to_zero_grace_period_seconds": settings.scale_to_zero_grace_period.as_secs_f64(),
        "scale_to_zero_pod_retention_period_seconds": settings.scale_to_zero_pod_retention_period.as_secs_f64(),
        "scale_down_delay_seconds": settings.scale_down_delay.as_secs_f64(),
        "min_scale": settings.min_scale,
        "max_scale": settings.max_scale,
        "initial_scale": settings.initial_scale,
        "activation_scale": settings.activation_scale,
        "progress_deadline_seconds": settings.progress_deadline.as_secs_f64(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Autoscale, Vec<String>> {
        serde_yaml_ng::from_str::<RawAutoscale>(text).unwrap().validate("services[0].autoscale", 4)
    }

    #[test]
    fn is_nothing_said_knative_s_default() {
        let settings = Settings { container_concurrency: 4, ..Settings::default() };
        assert_eq!(read("{}"), Ok(Autoscale { settings, stats_port: 9090 }));
    }

    #[test]
    fn do_annotations_win_over_what_stands_beside_them() {
        let text = "
            metric: rps
            window: 2m
            min_scale: 1
            scale_to_zero_pod_retention_period: 90s
            metric_aggregation_algorithm: weighted-exponential
            annotations:
              autoscaling.knative.dev/min-scale: '2'
              autoscaling.knative.dev/target: '50'
        ";
        let autoscale = read(text).unwrap();
        assert_eq!(shown(&autoscale)["metric_aggregation_algorithm"], "weighted-exponential");
        let settings = autoscale.settings;
        assert_eq!((settings.metric, settings.min_scale, settings.target), (Metric::Rps, 2, Some(50.0)));
        assert_eq!(settings.window, Duration::from_secs(120));
        assert_eq!(settings.scale_to_zero_pod_retention_period, Duration::from_secs(90));
    }

    #[test]
    fn is_all_that_is_wrong_told_at_once_and_where() {
        let text = "{metric: cpu, window: 5s, scale_down_delay: x, max_scale_up_rate: 1, annotations: {}}";
        let problems = read(text).unwrap_err().join("\n");
        for place in ["metric", "window", "scale_down_delay", "max_scale_up_rate"] {
            assert!(problems.contains(&format!("services[0].autoscale.{place}: ")), "{place}: {problems}");
        }
        let problems = read("annotations: {autoscaling.knative.dev/window: 5s}").unwrap_err();
        assert_eq!(
            problems,
            ["services[0].autoscale.annotations.autoscaling.knative.dev/window: 5s must be from 6s to 3600s"]
        );
        assert!(serde_yaml_ng::from_str::<RawAutoscale>("windw: 1m").is_err());
    }
}
