//! A clock that never goes back, made of one that may.
//!
//! All windows and delays here measure with it, so that a step of the system's clock ends no panic and forgets no load.
//! A step forward cannot be told from a pause; what it costs is that the windows are empty, and nothing is decided then.

use std::time::Duration;

#[derive(Clone, Copy, Debug, Default)]
pub struct Steady {
    /// What the clock said last.
    last: Duration,
    /// What it has taken back, in sum.
    taken: Duration,
}

impl Steady {
    /// The time that is `now` by the clock.
    pub fn at(&mut self, now: Duration) -> Duration {
        self.taken += self.last.saturating_sub(now);
        self.last = now;
        now.saturating_add(self.taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn does_it_go_on_when_the_clock_steps_back() {
        let mut steady = Steady::default();
        let clock = [10, 11, 12, 2, 3, 4, 100, 99];
        let got = clock.map(|second| steady.at(Duration::from_secs(second)).as_secs());
        assert_eq!(got, [10, 11, 12, 12, 13, 14, 110, 110]);
    }
}
