//! How far the server is with leaving, and who has come since: what probes, readiness, the drain and `preStop` hooks ask.
//!
//! [`Settle`] is pure: time is an argument. Never closes anything itself: `server/drain.rs` does.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;

/// Each begins after the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    Here,
    /// Not ready any more, so that everybody elsewhere forgets us; whoever still comes is served.
    Settling,
    /// Nobody new can connect; what runs may finish.
    Closing,
    /// The last caller is gone.
    Gone,
}

/// Shared by all threads.
#[derive(Debug)]
pub struct Leaving {
    stage: watch::Sender<Stage>,
    /// The same as a stage beyond `Here`: asked by each request, which must not take the watch's lock.
    begun: AtomicBool,
    /// No endpoint names this pod any more.
    forgotten: AtomicBool,
    /// Requests since leaving began.
    arrivals: AtomicU64,
}

impl Default for Leaving {
    fn default() -> Self {
        let stage = watch::Sender::new(Stage::Here);
        Leaving { stage, begun: AtomicBool::default(), forgotten: AtomicBool::default(), arrivals: AtomicU64::new(0) }
    }
}

impl Leaving {
    /// From now on nothing here is ready. Told again, it is no news.
    pub fn begin(&self) {
        self.begun.store(true, Ordering::Relaxed);
        self.reach(Stage::Settling);
    }

    /// Stages only go on, never back.
    pub fn reach(&self, stage: Stage) {
        self.stage.send_if_modified(|now| std::mem::replace(now, stage.max(*now)) != *now);
    }

    pub fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    /// A request came. Costs one look at a flag that nobody writes, until leaving began.
    pub fn arrived(&self) {
        if self.has_begun() {
            self.arrivals.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub fn arrivals(&self) -> u64 {
        self.arrivals.load(Ordering::Relaxed)
    }

    /// Whoever watches endpoints says that none of them is this pod.
    pub fn forget(&self) {
        self.forgotten.store(true, Ordering::Relaxed);
    }

    pub fn is_forgotten(&self) -> bool {
        self.forgotten.load(Ordering::Relaxed)
    }

    pub async fn reached(&self, stage: Stage) {
        let mut watch = self.stage.subscribe();
        // The sender is in `self`, so it outlives this wait.
        let _ = watch.wait_for(|now| *now >= stage).await.map(drop);
    }
}

/// When nobody is to be expected any more.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settle {
    quiet: Duration,
    max: Duration,
    arrivals: u64,
    /// When somebody last came.
    heard: Duration,
}

/// A pod that no endpoint names may still be known to a proxy that is slow to hear of it: so much of the quiet is kept.
const FORGOTTEN_SHARE: u32 = 4;

impl Settle {
    /// `quiet`: without a request for so long, it is over; `max`: and after so long in any case.
    pub fn new(quiet: Duration, max: Duration) -> Self {
        Settle { quiet, max, arrivals: 0, heard: Duration::ZERO }
    }

    /// At `now` since the beginning, so many had come in all.
    pub fn is_over(&mut self, now: Duration, arrivals: u64, forgotten: bool) -> bool {
        if arrivals != self.arrivals {
            (self.arrivals, self.heard) = (arrivals, now);
        }
        let quiet = if forgotten { self.quiet / FORGOTTEN_SHARE } else { self.quiet };
        now >= self.max || now.saturating_sub(self.heard) >= quiet
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn when_is_nobody_expected_any_more() {
        // (now, arrivals, forgotten) → over
        let story: [(u64, u64, bool, bool); 8] = [
            (0, 0, false, false),
            (999, 0, false, false),
            (1000, 1, false, false),
            (1900, 1, false, false),
            (1950, 2, false, false),
            (2199, 2, true, false),
            (2200, 2, true, true),
            (2950, 2, false, true),
        ];
        let mut settle = Settle::new(ms(1000), ms(5000));
        for (now, arrivals, forgotten, over) in story {
            assert_eq!(settle.is_over(ms(now), arrivals, forgotten), over, "at {now} ms");
        }
        assert!(Settle::new(ms(0), ms(5000)).is_over(ms(0), 0, false), "without quiet it is over at once");
    }

    proptest! {
        #[test]
        fn does_steady_traffic_never_hold_it_longer_than_allowed(gaps in prop::collection::vec(1u64..900, 1..100)) {
            let mut settle = Settle::new(ms(1000), ms(5000));
            let mut now = 0;
            for (count, gap) in gaps.into_iter().enumerate() {
                now += gap;
                prop_assert_eq!(settle.is_over(ms(now), count as u64 + 1, false), now >= 5000);
            }
        }
    }

    #[tokio::test]
    async fn do_stages_only_go_on() {
        let leaving = Leaving::default();
        leaving.arrived();
        leaving.begin();
        leaving.arrived();
        leaving.reach(Stage::Gone);
        leaving.begin();
        leaving.reached(Stage::Gone).await;
        assert_eq!((leaving.arrivals(), leaving.has_begun()), (1, true));
    }
}
