//! When requests come: silence for hours, bursts of minutes, and now and then a flood.

use crate::chance::Chance;
use std::time::Duration;

pub struct Traffic {
    now: f64,
    /// Until when the burst lasts, and the mean seconds between two of its requests.
    burst: (f64, f64),
    /// Of a flood, still to come.
    flood: usize,
    silence_mean: f64,
    rate_max: f64,
    end: f64,
}

impl Traffic {
    /// `rate_max`: requests a second in the fullest bursts.
    pub fn new(chance: &mut Chance, rate_max: f64, week: Duration) -> Traffic {
        let silence_mean = chance.one_of(&[3600.0, 7200.0, 20_000.0]);
        Traffic { now: 0.0, burst: (0.0, 1.0), flood: 0, silence_mean, rate_max, end: week.as_secs_f64() }
    }

    /// The next request; `None` once the week is over.
    pub fn next(&mut self, chance: &mut Chance) -> Option<Duration> {
        if self.flood > 0 {
            self.flood -= 1;
            self.now += chance.exponential(0.002);
        } else {
            self.now += chance.exponential(self.burst.1);
            if self.now > self.burst.0 {
                self.now += chance.exponential(self.silence_mean);
                let length = chance.exponential(90.0) + 1.0;
                let rate = self.rate_max * 0.02f64.powf(chance.below(100) as f64 / 100.0);
                self.burst = (self.now + length, 1.0 / rate);
                self.flood = if chance.hits(4) { chance.from(50, 1000) as usize } else { 0 };
            }
        }
        (self.now < self.end).then(|| Duration::from_secs_f64(self.now))
    }
}
