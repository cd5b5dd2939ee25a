//! How many run at once, and how fast they finish. Pure: time is an argument.

use std::time::Duration;

/// Weight of the newest interval in the running mean: about the last twenty requests count.
const NEWEST: f64 = 0.1;

/// A hard limit on concurrency that also measures how fast places come free.
#[derive(Debug)]
pub struct Breaker {
    limit: usize,
    running: usize,
    released: Option<Duration>,
    /// Mean seconds between two releases.
    interval_seconds: Option<f64>,
}

impl Breaker {
    pub fn new(limit: usize) -> Self {
        Breaker { limit: limit.max(1), running: 0, released: None, interval_seconds: None }
    }

    /// From now on so many; who runs beyond it may finish.
    pub fn resize(&mut self, limit: usize) {
        self.limit = limit.max(1);
    }

    /// Takes a place if one is free.
    pub fn acquire(&mut self) -> bool {
        let free = self.running < self.limit;
        self.running += usize::from(free);
        free
    }

    /// Gives a place back.
    pub fn release(&mut self, now: Duration) {
        self.running = self.running.checked_sub(1).expect("a place is given back once");
        if let Some(before) = self.released.replace(now) {
            let newest = now.saturating_sub(before).as_secs_f64();
            let mean = self.interval_seconds.get_or_insert(newest);
            *mean += NEWEST * (newest - *mean);
        }
    }

    pub fn running(&self) -> usize {
        self.running
    }

    pub fn limit(&self) -> usize {
        self.limit
    }

    /// When somebody behind `ahead` others may hope for a place: from one second to one minute, whole seconds.
    pub fn retry_after(&self, ahead: usize) -> Duration {
        let seconds = self.interval_seconds.unwrap_or(1.0) * (ahead + 1) as f64;
        Duration::from_secs(seconds.ceil().clamp(1.0, 60.0) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn does_the_limit_hold() {
        let mut breaker = Breaker::new(2);
        assert!(breaker.acquire() && breaker.acquire() && !breaker.acquire());
        breaker.release(Duration::ZERO);
        assert!(breaker.acquire() && !breaker.acquire());
    }

    #[test]
    fn does_retry_after_follow_the_measured_rate() {
        let mut breaker = Breaker::new(1);
        for (ahead, expected) in [(0, 1), (9, 10), (1000, 60)] {
            assert_eq!(breaker.retry_after(ahead).as_secs(), expected, "nothing measured yet, {ahead} ahead");
        }
        for second in 0..50 {
            assert!(breaker.acquire());
            breaker.release(Duration::from_millis(second * 100));
        }
        assert_eq!(breaker.retry_after(99).as_secs(), 10, "a hundred at ten a second");
    }
}
