//! Knative's annotations on top of what holds by default: `autoscaling.knative.dev/…`, read unchanged.
//!
//! What is wrong is told all at once, each with its key. A key nobody knows is left alone, as Knative leaves it; a value
//! nobody understands is not.

use super::settings::{Aggregation, Metric, Settings};
use crate::go_time;

const DOMAIN: &str = "autoscaling.knative.dev/";
/// A deployment's, not the autoscaler's.
const PROGRESS_DEADLINE: &str = "serving.knative.dev/progress-deadline";
const CLASS: &str = "kpa.autoscaling.knative.dev";

/// Takes what concerns scaling from a service's annotations.
pub fn annotated<'a>(
    defaults: &Settings,
    annotations: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<Settings, Vec<String>> {
    let (mut settings, mut problems) = (defaults.clone(), Vec::new());
    for (key, value) in annotations {
        let read = if key == PROGRESS_DEADLINE {
            go_time::duration(value).map(|deadline| settings.progress_deadline = deadline)
        } else if let Some(name) = key.strip_prefix(DOMAIN) {
            one(&mut settings, &kebab(name), value)
        } else {
            Ok(())
        };
        problems.extend(read.err().map(|words| format!("{key}: {words}")));
    }
    // A value that was not understood has changed nothing, so what is found here is wrong as well.
    problems.extend(settings.problems().into_iter().map(|(name, words)| format!("{DOMAIN}{name}: {words}")));
    if problems.is_empty() { Ok(settings) } else { Err(problems) }
}

fn one(settings: &mut Settings, name: &str, value: &str) -> Result<(), String> {
    match name {
        "class" if value == CLASS => {}
        "class" => return Err(format!("`{value}` is another autoscaler's; this one is {CLASS}")),
        "metric" => settings.metric = metric(value)?,
        "metric-aggregation-algorithm" => settings.metric_aggregation_algorithm = aggregation(value)?,
        "target" => settings.target = Some(number(value)?),
        "target-utilization-percentage" => settings.target_utilization_percentage = number(value)?,
        "target-burst-capacity" => settings.target_burst_capacity = number(value)?,
        "window" => settings.window = go_time::duration(value)?,
        "panic-window-percentage" => settings.panic_window_percentage = number(value)?,
        "panic-threshold-percentage" => settings.panic_threshold_percentage = number(value)?,
        "min-scale" => settings.min_scale = count(value)?,
        "max-scale" => settings.max_scale = count(value)?,
        "initial-scale" => settings.initial_scale = count(value)?,
        "activation-scale" => settings.activation_scale = activation(value)?,
        "scale-down-delay" => settings.scale_down_delay = go_time::duration(value)?,
        "scale-to-zero-pod-retention-period" => settings.scale_to_zero_pod_retention_period = go_time::duration(value)?,
        _ => {}
    }
    Ok(())
}

/// `minScale`, as it was written once, is `min-scale`.
fn kebab(name: &str) -> String {
    let mut kebab = String::with_capacity(name.len() + 4);
    for c in name.chars() {
        if c.is_ascii_uppercase() {
            kebab.push('-');
        }
        kebab.push(c.to_ascii_lowercase());
    }
    kebab
}

fn number(value: &str) -> Result<f64, String> {
    let number = value.parse().ok().filter(|number: &f64| number.is_finite());
    number.ok_or_else(|| format!("`{value}` is no number"))
}

/// Up to what Knative counts to.
fn count(value: &str) -> Result<u32, String> {
    let count = value.parse().ok().filter(|count| *count <= i32::MAX as u32);
    count.ok_or_else(|| format!("`{value}` must be a whole number from 0 to {}", i32::MAX))
}

fn activation(value: &str) -> Result<u32, String> {
    match count(value)? {
        0 | 1 => Err(format!("{value} would change nothing; it must be more than 1")),
        pods => Ok(pods),
    }
}

fn metric(value: &str) -> Result<Metric, String> {
    let known = Metric::ALL.map(Metric::name).join(", ");
    Metric::named(value).ok_or_else(|| format!("`{value}` is not measured; one of {known} is"))
}

fn aggregation(value: &str) -> Result<Aggregation, String> {
    let known = if value.is_empty() { Some(Aggregation::Linear) } else { Aggregation::named(value) };
    known.ok_or_else(|| format!("`{value}` is no average; `linear` and `weighted-exponential` are"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn read(annotations: &[(&str, &str)]) -> Result<Settings, Vec<String>> {
        let keys: Vec<(String, &str)> =
            annotations.iter().map(|(name, value)| (format!("{DOMAIN}{name}"), *value)).collect();
        annotated(&Settings::default(), keys.iter().map(|(key, value)| (key.as_str(), *value)))
    }

    #[test]
    fn is_every_annotation_understood() {
        let settings = read(&[
            ("class", CLASS),
            ("metric", "rps"),
            ("metric-aggregation-algorithm", "weighted-exponential"),
            ("target", "12.5"),
            ("target-utilization-percentage", "75"),
            ("target-burst-capacity", "-1"),
            ("window", "1m30s"),
            ("panic-window-percentage", "20"),
            ("panic-threshold-percentage", "150.0"),
            ("min-scale", "2"),
            ("maxScale", "9"),
            ("initial-scale", "3"),
            ("activation-scale", "4"),
            ("scaleDownDelay", "15m"),
            ("scale-to-zero-pod-retention-period", "1m1.5s"),
            ("somebody-elses", "?"),
        ]);
        let expected = Settings {
            metric: Metric::Rps,
            metric_aggregation_algorithm: Aggregation::WeightedExponential,
            target: Some(12.5),
            target_utilization_percentage: 75.0,
            target_burst_capacity: -1.0,
            window: Duration::from_secs(90),
            panic_window_percentage: 20.0,
            panic_threshold_percentage: 150.0,
            min_scale: 2,
            max_scale: 9,
            initial_scale: 3,
            activation_scale: 4,
            scale_down_delay: Duration::from_secs(900),
            scale_to_zero_pod_retention_period: Duration::from_millis(61_500),
            ..Settings::default()
        };
        assert_eq!(settings, Ok(expected));
        let others = [("serving.knative.dev/progress-deadline", "5s"), ("app.kubernetes.io/name", "x")];
        let settings = annotated(&Settings::default(), others).unwrap();
        assert_eq!(settings.progress_deadline, Duration::from_secs(5));
    }

    #[test]
    fn which_values_are_refused() {
        let rows: &[(&str, &[&str], &[&str])] = &[
            ("class", &[CLASS], &["hpa.autoscaling.knative.dev", ""]),
            ("metric", &["concurrency", "rps", "tokens", "kv"], &["cpu", ""]),
            ("target", &["0.01", "100"], &["0.009", "0", "-1", "NaN", "inf", "x"]),
            ("target-utilization-percentage", &["1", "100"], &["0.9", "100.1", "70%"]),
            ("target-burst-capacity", &["-1", "0", "0.5"], &["-2", "-0.5", "x"]),
            ("window", &["6s", "1h"], &["5s", "1h1s", "6500ms", "60", "x"]),
            ("panic-window-percentage", &["1", "100"], &["0.9", "101", ""]),
            ("panic-threshold-percentage", &["110", "1000"], &["109", "1001"]),
            ("min-scale", &["0", "10"], &["-1", "1.5", "2147483648", ""]),
            ("max-scale", &["0", "2147483647"], &["-1", "x"]),
            ("initial-scale", &["1"], &["0", "-1"]),
            ("activation-scale", &["2"], &["0", "1", "-2"]),
            ("scale-down-delay", &["0", "1h"], &["1h1s", "500ms", "-1s"]),
            ("scale-to-zero-pod-retention-period", &["0", "500ms", "1h"], &["2h", "x"]),
            ("metric-aggregation-algorithm", &["linear", "weightedExponential"], &["median"]),
        ];
        for (name, good, bad) in rows {
            for value in *good {
                assert!(read(&[(name, value)]).is_ok(), "{name}={value}: {:?}", read(&[(name, value)]));
            }
            for value in *bad {
                let problems = read(&[(name, value)]).unwrap_err();
                assert!(problems[0].contains(name), "{name}={value}: {problems:?}");
            }
        }
    }

    #[test]
    fn is_what_contradicts_itself_told_beside_what_is_not_understood() {
        let problems = read(&[("target", "x"), ("min-scale", "3"), ("max-scale", "2")]).unwrap_err();
        let expected = [
            "autoscaling.knative.dev/target: `x` is no number",
            "autoscaling.knative.dev/max-scale: 2 is less than min-scale=3",
        ];
        assert_eq!(problems, expected);
        assert!(read(&[("min-scale", "3"), ("activation-scale", "2")]).is_err());
        assert!(read(&[("max-scale", "3"), ("activation-scale", "4")]).is_err());
    }

    proptest! {
        #[test]
        fn does_no_annotation_of_a_stranger_break_anything(key in "[a-zA-Z-]{0,30}", value in ".{0,20}") {
            if let Ok(settings) = read(&[(&key, &value)]) {
                prop_assert!(settings.problems().is_empty());
            }
        }
    }
}
