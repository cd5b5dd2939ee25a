//! How much of what is measured one pod should have, and how much it could.

use super::settings::{Metric, Settings, TARGET_MIN};

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    /// What one pod should have: some room is left.
    pub target: f64,
    /// What one pod can have.
    pub total: f64,
}

pub fn resolve(settings: &Settings) -> Target {
    let limit = settings.container_concurrency;
    let limited = settings.metric == Metric::Concurrency && limit > 0;
    let total = match settings.target {
        // Aiming higher than the pod takes would never be reached, and so never add a pod.
        Some(target) if limited => target.min(f64::from(limit)),
        Some(target) => target,
        None if limited => f64::from(limit),
        None => settings.metric.total_default(),
    };
    Target { target: (total * settings.target_utilization_percentage / 100.0).max(TARGET_MIN), total }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_should_one_pod_have() {
        use Metric::{Concurrency, Kv, Rps, Tokens};
        // Metric, hard limit, target, utilization; target and total.
        let rows = [
            ("defaults", Concurrency, 0, None, 100.0, 100.0, 100.0),
            ("80 %", Concurrency, 0, None, 80.0, 80.0, 100.0),
            ("a target of 2 and 30 %", Concurrency, 0, Some(2.0), 30.0, 0.6, 2.0),
            ("limit 12 and 75 %", Concurrency, 12, None, 75.0, 9.0, 12.0),
            ("limit 10 and 80 %", Concurrency, 10, None, 80.0, 8.0, 10.0),
            ("limit 1 and 80 %", Concurrency, 1, None, 80.0, 0.8, 1.0),
            ("limit 1", Concurrency, 1, None, 100.0, 1.0, 1.0),
            ("limit 10", Concurrency, 10, None, 100.0, 10.0, 10.0),
            ("target 1", Concurrency, 0, Some(1.0), 100.0, 1.0, 1.0),
            ("target 1 and 0.1 %", Concurrency, 0, Some(1.0), 0.1, 0.01, 1.0),
            ("target 1 and 75 %", Concurrency, 0, Some(1.0), 75.0, 0.75, 1.0),
            ("target 10 and 75 %", Concurrency, 0, Some(10.0), 75.0, 7.5, 10.0),
            ("limit above the target", Concurrency, 10, Some(1.0), 100.0, 1.0, 1.0),
            ("target above the default", Concurrency, 0, Some(500.0), 100.0, 500.0, 500.0),
            ("target above the limit", Concurrency, 1, Some(10.0), 100.0, 1.0, 1.0),
            ("requests a second", Rps, 1, None, 70.0, 140.0, 200.0),
            ("one request a second", Rps, 0, Some(1.0), 70.0, 0.7, 1.0),
            ("requests a second, 75 %", Rps, 0, None, 75.0, 150.0, 200.0),
            ("300 requests a second", Rps, 0, Some(300.0), 70.0, 210.0, 300.0),
            ("tokens", Tokens, 1, None, 50.0, 8192.0, 16_384.0),
            ("KV caches", Kv, 1, None, 80.0, 0.8, 1.0),
        ];
        for (name, metric, limit, target, percent, expected, total) in rows {
            let settings = Settings {
                metric,
                container_concurrency: limit,
                target,
                target_utilization_percentage: percent,
                ..Settings::default()
            };
            let got = resolve(&settings);
            assert!((got.target - expected).abs() < 1e-9 && got.total == total, "{name}: {got:?}");
        }
    }
}
