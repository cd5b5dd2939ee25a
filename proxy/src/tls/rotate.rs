//! When to renew a certificate: at half of its life, and after a failure again and again, until it works.
//!
//! Pure: moments are durations since 1970, and chance is an argument. Never gives a certificate up: whether one that
//! has expired may still be shown is not decided here.

use std::time::Duration;

/// Fleets that started together shall not ask together: the moment of renewal is spread by this much of the life.
const JITTER: f64 = 0.05;
const BACKOFF_FIRST: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(150);
/// Between two tries in any case: an authority that hands out expired certificates must not be asked in a circle.
const WAIT_MIN: Duration = Duration::from_millis(500);

/// From when to when a certificate is valid, since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    pub begin: Duration,
    pub end: Duration,
}

/// How the renewal of one certificate goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    held: Option<Life>,
    failures: u32,
}

impl Schedule {
    /// A new certificate is there.
    pub fn renewed(&mut self, life: Life) {
        *self = Schedule { held: Some(life), failures: 0 };
    }

    /// A try failed.
    pub fn failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
    }

    /// How long to wait from `now` until the next try. `chance` is a new number from -1 to 1 each time.
    pub fn wait(&self, now: Duration, chance: f64) -> Duration {
        let chance = if chance.is_finite() { chance.clamp(-1.0, 1.0) } else { 0.0 };
        match (self.failures, self.held) {
            (0, None) => Duration::ZERO,
            (0, Some(life)) => {
                let length = life.end.saturating_sub(life.begin);
                let due = life.begin.saturating_add(length.mul_f64(0.5 + JITTER * chance));
                due.saturating_sub(now).max(WAIT_MIN)
            }
            (failures, held) => {
                let doubled = BACKOFF_FIRST.saturating_mul(1 << (failures - 1).min(16)).min(BACKOFF_MAX);
                // Half of it certain, half of it chance: those who failed together come back spread.
                let spread = doubled.mul_f64(0.75 + 0.25 * chance);
                // A short life must not end while we are being patient.
                let left = held.map_or(Duration::ZERO, |life| life.end.saturating_sub(now));
                let patience = if left.is_zero() { BACKOFF_MAX } else { left / 2 };
                spread.min(patience).max(WAIT_MIN / 2)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn when_is_the_next_try() {
        let mut schedule = Schedule::default();
        assert_eq!(schedule.wait(s(100), 0.0), Duration::ZERO);
        schedule.failed();
        assert_eq!(schedule.wait(s(100), 1.0), BACKOFF_FIRST);
        for _ in 0..100 {
            schedule.failed();
        }
        assert_eq!(schedule.wait(s(100), 1.0), BACKOFF_MAX);
        schedule.renewed(Life { begin: s(100), end: s(300) });
        assert_eq!(schedule.wait(s(100), 0.0), s(100));
        assert_eq!(schedule.wait(s(150), 0.0), s(50));
        assert_eq!(schedule.wait(s(100), 1.0), s(110));
        assert_eq!(schedule.wait(s(1000), 0.0), WAIT_MIN, "expired when it came");
        for _ in 0..100 {
            schedule.failed();
        }
        assert_eq!(schedule.wait(s(296), 1.0), s(2), "half of what is left");
        assert_eq!(schedule.wait(s(301), 1.0), BACKOFF_MAX, "nothing is left to hurry for");
    }

    proptest! {
        #[test]
        fn is_a_renewal_never_late_and_never_a_circle(
            begin in 0u64..4_000_000_000,
            length in 0u64..400_000_000,
            after in 0u64..500_000_000,
            failures in 0u32..200,
            chance in -1.5f64..1.5,
        ) {
            let life = Life { begin: s(begin), end: s(begin + length) };
            let mut schedule = Schedule::default();
            schedule.renewed(life);
            let fresh = schedule.wait(life.begin, chance);
            prop_assert!(fresh >= WAIT_MIN);
            prop_assert!(fresh <= s(length).mul_f64(0.55 + 1e-9).max(WAIT_MIN));
            prop_assert!(fresh >= s(length).mul_f64(0.45 - 1e-9));
            for _ in 0..failures {
                schedule.failed();
            }
            let now = s(begin + after);
            let wait = schedule.wait(now, chance);
            prop_assert!(wait >= WAIT_MIN / 2);
            if failures > 0 {
                prop_assert!(wait <= BACKOFF_MAX);
                let left = life.end.saturating_sub(now);
                prop_assert!(left < WAIT_MIN || wait <= left, "the next try comes before the end");
            }
        }

        #[test]
        fn does_patience_grow_and_end_with_a_success(failures in 1u32..40) {
            let mut schedule = Schedule::default();
            let mut before = Duration::ZERO;
            for _ in 0..failures {
                schedule.failed();
                let wait = schedule.wait(s(0), 1.0);
                prop_assert!(wait >= before);
                before = wait;
            }
            let life = Life { begin: s(0), end: s(1000) };
            schedule.renewed(life);
            let mut new = Schedule::default();
            new.renewed(life);
            prop_assert_eq!(schedule, new);
        }
    }
}
