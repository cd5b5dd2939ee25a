//! One key's budget: a bucket that fills steadily and is emptied by what is asked of it.
//!
//! Exact in whole numbers: the level is kept in units times the window's nanoseconds, so that nothing is lost to rounding
//! however often it is looked at. Never reads a clock; a clock that goes backwards stands still here.

use std::time::Duration;

/// `limit` in each `window`, and `burst` at once after a rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub limit: u64,
    pub burst: u64,
    window_nanos: u64,
}

impl Rate {
    pub fn new(limit: u64, burst: u64, window: Duration) -> Rate {
        Rate { limit, burst, window_nanos: u64::try_from(window.as_nanos()).unwrap_or(u64::MAX).max(1) }
    }

    pub fn window(&self) -> Duration {
        Duration::from_nanos(self.window_nanos)
    }

    /// Below the nanoseconds of 366 days times 2^64 in all that configurations allow: far within 128 bits.
    fn scaled(&self, count: u64) -> i128 {
        i128::from(count).saturating_mul(i128::from(self.window_nanos))
    }
}

#[derive(Clone, Debug)]
pub struct Bucket {
    rate: Rate,
    level: i128,
    /// Filled until then, nanoseconds of the clock that all moments here are of.
    at: u64,
}

fn nanos(now: Duration) -> u64 {
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

impl Bucket {
    /// A full one.
    pub fn new(rate: Rate, now: Duration) -> Bucket {
        Bucket { rate, level: rate.scaled(rate.burst), at: nanos(now) }
    }

    /// Goes on under another rate: what was used stays used.
    pub fn tune(&mut self, rate: Rate, now: Duration) {
        if rate == self.rate {
            return;
        }
        self.fill(now);
        let used = (self.rate.scaled(self.rate.burst) - self.level) / i128::from(self.rate.window_nanos);
        self.rate = rate;
        let used = used.saturating_mul(i128::from(rate.window_nanos));
        self.level = rate.scaled(rate.burst).saturating_sub(used).max(self.floor());
    }

    fn fill(&mut self, now: Duration) {
        let now = nanos(now);
        let passed = now.saturating_sub(self.at);
        self.at = self.at.max(now);
        let more = i128::from(self.rate.limit).saturating_mul(i128::from(passed));
        self.level = self.level.saturating_add(more).min(self.rate.scaled(self.rate.burst));
    }

    /// The deepest debt: what one window brings. One answer far over the limit must not shut its caller out for days.
    fn floor(&self) -> i128 {
        -self.rate.scaled(self.rate.limit)
    }

    /// All of it, or nothing and `false`.
    pub fn take(&mut self, count: u64, now: Duration) -> bool {
        self.fill(now);
        let wanted = self.rate.scaled(count);
        let enough = self.level >= wanted;
        if enough {
            self.level -= wanted;
        }
        enough
    }

    /// What was used already, and cannot be refused any more: the level may fall below nothing.
    pub fn charge(&mut self, count: u64, now: Duration) {
        self.fill(now);
        self.level = self.level.saturating_sub(self.rate.scaled(count)).max(self.floor());
    }

    /// What was taken or charged, and was not used.
    pub fn give_back(&mut self, count: u64, now: Duration) {
        self.fill(now);
        self.level = self.level.saturating_add(self.rate.scaled(count)).min(self.rate.scaled(self.rate.burst));
    }

    /// Whole units that are left.
    pub fn left(&mut self, now: Duration) -> u64 {
        self.fill(now);
        u64::try_from(self.level.max(0) / i128::from(self.rate.window_nanos)).unwrap_or(u64::MAX)
    }

    /// Until `count` can be taken; a window where that is never.
    pub fn wait(&mut self, count: u64, now: Duration) -> Duration {
        self.until(self.rate.scaled(count), now)
    }

    /// Until it is full.
    pub fn rest(&mut self, now: Duration) -> Duration {
        self.until(self.rate.scaled(self.rate.burst), now)
    }

    fn until(&mut self, level: i128, now: Duration) -> Duration {
        self.fill(now);
        let missing = level - self.level;
        if missing <= 0 {
            return Duration::ZERO;
        }
        if self.rate.limit == 0 || level > self.rate.scaled(self.rate.burst) {
            return self.rate.window();
        }
        let limit = i128::from(self.rate.limit);
        Duration::from_nanos(u64::try_from((missing + limit - 1) / limit).unwrap_or(u64::MAX))
    }

    /// Whether it is as if it had never been used.
    pub fn is_full(&mut self, now: Duration) -> bool {
        self.fill(now);
        self.level >= self.rate.scaled(self.rate.burst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn when_may_a_caller_come_again() {
        let mut bucket = Bucket::new(Rate::new(60, 2, 60 * SECOND), SECOND);
        assert!(bucket.take(1, SECOND) && bucket.take(1, SECOND));
        assert!(!bucket.take(1, SECOND));
        assert_eq!((bucket.left(SECOND), bucket.wait(1, SECOND), bucket.rest(SECOND)), (0, SECOND, 2 * SECOND));
        assert!(!bucket.take(1, 2 * SECOND - Duration::from_nanos(1)));
        assert!(bucket.take(1, 2 * SECOND));
        // More than there ever is, and nothing at all.
        assert_eq!(bucket.wait(3, 2 * SECOND), 60 * SECOND);
        let mut never = Bucket::new(Rate::new(0, 0, 60 * SECOND), SECOND);
        assert!(!never.take(1, 1000 * SECOND));
        assert_eq!(never.wait(1, 1000 * SECOND), 60 * SECOND);
    }

    #[test]
    fn how_deep_can_a_debt_be() {
        let mut bucket = Bucket::new(Rate::new(100, 100, 60 * SECOND), SECOND);
        bucket.charge(1_000_000, SECOND);
        assert_eq!(bucket.wait(0, SECOND), 60 * SECOND);
        bucket.give_back(u64::MAX, SECOND);
        assert!(bucket.is_full(SECOND));
    }

    #[test]
    fn what_is_left_under_another_rate() {
        let mut bucket = Bucket::new(Rate::new(10, 10, 60 * SECOND), SECOND);
        assert!(bucket.take(4, SECOND));
        bucket.tune(Rate::new(100, 100, 60 * SECOND), SECOND);
        assert_eq!(bucket.left(SECOND), 96);
        bucket.tune(Rate::new(3, 3, SECOND), SECOND);
        assert_eq!(bucket.left(SECOND), 0);
    }

    proptest! {
        /// In no window is more taken than its limit and a burst, whatever the clock does.
        #[test]
        fn is_no_more_taken_than_the_limit_and_a_burst(
            limit in 0u64..50, burst in 0u64..50, window in 1u64..10_000,
            steps in prop::collection::vec((-500i64..2000, 0u64..10), 1..200),
        ) {
            let mut bucket = Bucket::new(Rate::new(limit, burst, Duration::from_nanos(window)), Duration::ZERO);
            let (mut clock, mut latest, mut taken) = (0i64, 0u64, Vec::new());
            for (passed, count) in steps {
                clock = (clock + passed).max(0);
                latest = latest.max(clock as u64);
                if bucket.take(count, Duration::from_nanos(clock as u64)) {
                    taken.push((latest, count));
                }
            }
            for (from, _) in &taken {
                let within = taken.iter().filter(|(at, _)| (*from..from + window).contains(at));
                let sum: u64 = within.map(|(_, count)| count).sum();
                prop_assert!(sum <= limit + burst, "{sum} in one window");
            }
        }

        /// Who may take much may take less, and who may now may later.
        #[test]
        fn is_patience_never_punished(limit in 1u64..1000, burst in 1u64..1000, used in 0u64..2000, count in 0u64..1000,
                                      later in 0u64..1_000_000) {
            let mut bucket = Bucket::new(Rate::new(limit, burst, Duration::from_micros(300)), Duration::ZERO);
            bucket.charge(used, Duration::ZERO);
            let now = bucket.clone().take(count, Duration::ZERO);
            prop_assert!(!now || bucket.clone().take(count / 2, Duration::ZERO));
            prop_assert!(!now || bucket.clone().take(count, Duration::from_nanos(later)));
            let wait = bucket.wait(count, Duration::ZERO);
            prop_assert!(count > burst || bucket.take(count, wait), "it was told to wait {wait:?}");
        }
    }
}
