//! `timeouts`: how long a request may take, by three clocks, each off unless it is set.
//!
//! Knative's three, with two differences: the clock of the first byte starts when the worker is given the request, so a
//! cold start or a queue is not taken for a slow worker; and a stream that is cut ends with an error, never as if it were
//! complete. Its defaults would be `total: 5m, first_byte: 5m` and no `idle`.

use super::quantity::Quantity;
use super::raw::Problems;
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// From the head of the request to the end of its answer (`timeoutSeconds`).
    pub total: Option<Duration>,
    /// From its turn to the first byte of the answer (`responseStartTimeoutSeconds`).
    pub first_byte: Option<Duration>,
    /// Since the answer last went on, or since its turn (`idleTimeoutSeconds`).
    pub idle: Option<Duration>,
}

impl Timeouts {
    pub(super) fn dump(&self) -> Value {
        let seconds = |it: Option<Duration>| it.map(|it| it.as_secs_f64());
        json!({
            "total_seconds": seconds(self.total),
            "first_byte_seconds": seconds(self.first_byte),
            "idle_seconds": seconds(self.idle),
        })
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTimeouts {
    total: Option<Quantity>,
    first_byte: Option<Quantity>,
    idle: Option<Quantity>,
}

impl RawTimeouts {
    pub(super) fn validate(self, p: &mut Problems) -> Timeouts {
        let timeouts = Timeouts {
            total: p.optional("timeouts.total", &self.total, None),
            first_byte: p.optional("timeouts.first_byte", &self.first_byte, None),
            idle: p.optional("timeouts.idle", &self.idle, None),
        };
        for (path, clock) in [("timeouts.first_byte", timeouts.first_byte), ("timeouts.idle", timeouts.idle)] {
            if clock.zip(timeouts.total).is_some_and(|(clock, total)| clock > total) {
                p.add(path, "must not be longer than timeouts.total, which would always be first");
            }
        }
        timeouts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_clocks_contradict_each_other() {
        for (yaml, words) in [
            ("{}", ""),
            ("{total: 5m, first_byte: 5m, idle: never}", ""),
            ("{total: 1s, first_byte: 2s}", "timeouts.first_byte: must not be longer than timeouts.total"),
            ("{total: 1s, idle: 2s}", "timeouts.idle: must not be longer"),
            ("{total: 0s}", "timeouts.total: must be more than nothing"),
        ] {
            let raw: RawTimeouts = serde_yaml_ng::from_str(yaml).unwrap();
            let mut problems = Problems::default();
            raw.validate(&mut problems);
            assert!(problems.words().starts_with(words) && problems.words().is_empty() == words.is_empty(), "{yaml}");
        }
    }
}
