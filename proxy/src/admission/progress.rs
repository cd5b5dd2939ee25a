//! What those who wait for a sleeper are told: what its start is doing, for how long, and for how long still.
//!
//! Only asked for now and then, by callers whose patience is tried; nothing here is on the path of a request that is
//! answered at once.

use super::{Admission, State};
use crate::scale::progress::{Split, Stage};
use crate::scale::targets::Target;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

/// Weight of the newest start in the running mean: starts are few, and the last ones resemble each other most.
const NEWEST: f64 = 0.3;

/// How it looks for whoever waits.
#[derive(Clone, Debug, PartialEq)]
pub struct Outlook {
    /// `None`: the worker is awake, and busy with others.
    pub stage: Option<Stage>,
    /// Of the stage, in [0, 1].
    pub share: Option<f32>,
    /// Since the start began.
    pub elapsed: Duration,
    /// By starts of the past; `None` if there were none, or this one takes longer than they did.
    pub remaining: Option<Duration>,
}

/// Starts, as the keeper knows them.
#[derive(Default)]
pub(super) struct Starts {
    target: OnceLock<Arc<dyn Target>>,
    past: Mutex<Past>,
}

#[derive(Default)]
struct Past {
    mean_seconds: Option<f64>,
    stages: [f64; Stage::ALL.len()],
}

impl Starts {
    /// Whose starts they are.
    pub(super) fn are_of(&self, target: &Arc<dyn Target>) {
        let _ = self.target.set(target.clone());
    }

    /// One went well, and took so long.
    pub(super) fn went_well(&self, took: Duration, split: &Split) {
        let mut past = self.past.lock().expect("nothing panics while it holds the past");
        let newest = took.as_secs_f64();
        let mean = past.mean_seconds.get_or_insert(newest);
        *mean += NEWEST * (newest - *mean);
        for (sum, stage) in past.stages.iter_mut().zip(Stage::ALL) {
            let spent = split.iter().filter(|(one, _)| *one == stage).map(|(_, spent)| spent.as_secs_f64());
            *sum += spent.sum::<f64>();
        }
    }

    fn remaining(&self, elapsed: Duration) -> Option<Duration> {
        let mean = self.past.lock().expect("nothing panics while it holds the past").mean_seconds?;
        Duration::from_secs_f64(mean).checked_sub(elapsed).filter(|remaining| !remaining.is_zero())
    }

    /// Seconds of each stage, over all successful starts.
    fn stages(&self) -> [(&'static str, f64); Stage::ALL.len()] {
        let past = self.past.lock().expect("nothing panics while it holds the past");
        std::array::from_fn(|at| (Stage::ALL[at].name(), past.stages[at]))
    }
}

impl Admission {
    /// How it looks now.
    pub fn outlook(&self) -> Outlook {
        let now = self.now();
        let state = self.lock().wake.state().clone();
        let since = match state {
            State::Waking { since } => since,
            State::Awake { .. } => {
                return Outlook { stage: None, share: None, elapsed: Duration::ZERO, remaining: None };
            }
            // The keeper is about to start it.
            State::Asleep | State::Stopping | State::Backoff { .. } => now,
        };
        let elapsed = now.saturating_sub(since);
        let progress = self.starts.target.get().and_then(|target| target.progress());
        Outlook {
            stage: Some(progress.map_or(Stage::Starting, |progress| progress.stage)),
            share: progress.and_then(|progress| progress.share),
            elapsed,
            remaining: self.starts.remaining(elapsed),
        }
    }

    /// Seconds that successful starts spent in each stage, in sum.
    pub fn wake_stages(&self) -> [(&'static str, f64); Stage::ALL.len()] {
        self.starts.stages()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn does_the_estimate_follow_the_starts_there_were() {
        let starts = Starts::default();
        let (zero, second) = (Duration::ZERO, Duration::from_secs(1));
        assert_eq!(starts.remaining(zero), None, "nothing is known yet");
        starts.went_well(second * 10, &vec![(Stage::Starting, second), (Stage::Loading, second * 9)]);
        assert_eq!(starts.remaining(second * 4), Some(second * 6));
        assert_eq!(starts.remaining(second * 10), None, "it takes longer than it ever did");
        starts.went_well(second * 20, &Split::new());
        assert_eq!(starts.remaining(zero), Some(second * 13));
        assert_eq!(starts.stages(), [("room", 0.0), ("starting", 1.0), ("loading", 9.0), ("warming", 0.0)]);
    }
}
