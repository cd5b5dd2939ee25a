//! How fast those who waited for a start are let go: never as a herd. Pure: time is an argument.
//!
//! A worker's own concurrency holds them back anyway. A foreign server without a limit would get ten thousand connections
//! in one moment, right after its start: measured, one in fifteen then fails. So the first [`FIRST`] go at once, and every
//! [`STEP`] doubles how many have gone: ten thousand are gone after nine steps, and nobody who was alone waits at all.

use std::time::Duration;

/// What a server that has just started certainly takes.
pub const FIRST: usize = 32;
/// Several round trips on the machine: enough for what was let go to be accepted.
pub const STEP: Duration = Duration::from_millis(10);
/// By then more have gone than can wait.
const STEPS: u32 = 20;

#[derive(Debug, Default)]
pub struct Pace {
    /// Since when and how many were let go; `None`: as fast as places come free.
    ramp: Option<(Duration, usize)>,
}

impl Pace {
    /// A worker has just started.
    pub fn begin(&mut self, now: Duration) {
        self.ramp = Some((now, 0));
    }

    /// Nobody waits any more, or nobody can be let go.
    pub fn end(&mut self) {
        self.ramp = None;
    }

    /// Whether one more may go now.
    pub fn allows(&mut self, now: Duration) -> bool {
        let Some((since, gone)) = self.ramp else { return true };
        let steps = now.saturating_sub(since).as_nanos() / STEP.as_nanos();
        if steps >= u128::from(STEPS) {
            self.ramp = None;
            return true;
        }
        gone < FIRST << steps
    }

    /// One goes.
    pub fn goes(&mut self) {
        if let Some((_, gone)) = &mut self.ramp {
            *gone += 1;
        }
    }

    /// When more may go; `None`: nothing is held back.
    pub fn next(&self, now: Duration) -> Option<Duration> {
        let (since, _) = self.ramp?;
        let steps = u32::try_from(now.saturating_sub(since).as_nanos() / STEP.as_nanos()).ok()?;
        (steps < STEPS).then(|| since + STEP * (steps + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn let_go(pace: &mut Pace, now: Duration) -> usize {
        let mut gone = 0;
        while gone < 1 << 20 && pace.allows(now) {
            pace.goes();
            gone += 1;
        }
        gone
    }

    #[test]
    fn how_many_go_in_each_step() {
        let mut pace = Pace::default();
        assert_eq!(let_go(&mut pace, Duration::ZERO), 1 << 20, "nothing is held back before a start");
        let start = Duration::from_secs(7);
        pace.begin(start);
        let mut sum = 0;
        for (step, expected) in [32, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192].into_iter().enumerate() {
            let now = start + STEP * step as u32;
            assert_eq!(let_go(&mut pace, now), expected, "step {step}");
            assert_eq!(let_go(&mut pace, now + STEP / 2), 0, "only once in a step");
            assert_eq!(pace.next(now), Some(now + STEP));
            sum += expected;
        }
        assert!(sum >= 10_000);
        assert_eq!(let_go(&mut pace, start + STEP * STEPS), 1 << 20);
        assert_eq!(pace.next(start), None);
    }

    #[test]
    fn does_it_end_with_the_last_who_waited() {
        let mut pace = Pace::default();
        pace.begin(Duration::ZERO);
        assert_eq!(let_go(&mut pace, Duration::ZERO), FIRST);
        pace.end();
        assert!(pace.allows(Duration::ZERO));
    }
}
