//! How much runs at once, in requests and in what they cost, and how fast places come free. Pure: time is an argument.
//!
//! Whoever costs more than the worker can hold at all still runs, alone: refusing it is the worker's to do, in words that
//! say why. Limits may change at any time; what runs meanwhile runs to its end.

use std::time::Duration;

/// Weight of the newest interval in the running mean: about the last twenty requests count.
const NEWEST: f64 = 0.1;

#[derive(Debug)]
pub struct Breaker {
    limit: usize,
    /// What those who run may cost together; `None`: only their number counts.
    capacity: Option<u64>,
    running: usize,
    cost: u64,
    /// When a place last came free while others were wanted, or when they began to be.
    busy_since: Option<Duration>,
    /// Mean seconds between two places that come free while there is none.
    interval_seconds: Option<f64>,
}

impl Breaker {
    pub fn new(limit: usize) -> Self {
        Breaker { limit: limit.max(1), capacity: None, running: 0, cost: 0, busy_since: None, interval_seconds: None }
    }

    /// Takes a place if one is free.
    pub fn acquire(&mut self, cost: u64, now: Duration) -> bool {
        let fits = self.capacity.is_none_or(|capacity| self.cost.saturating_add(cost) <= capacity);
        let free = self.running < self.limit && (fits || self.running == 0);
        if free {
            self.running += 1;
            self.cost = self.cost.saturating_add(cost);
        }
        if !free || self.running >= self.limit {
            // From here on, places that come free say how fast the worker is; before, they say how much it is asked.
            self.busy_since.get_or_insert(now);
        }
        free
    }

    /// Gives a place back.
    pub fn release(&mut self, cost: u64, now: Duration) {
        self.running = self.running.checked_sub(1).expect("a place is given back once");
        self.cost = if self.running == 0 { 0 } else { self.cost.saturating_sub(cost) };
        if let Some(before) = self.busy_since.take() {
            let newest = now.saturating_sub(before).as_secs_f64();
            let mean = self.interval_seconds.get_or_insert(newest);
            *mean += NEWEST * (newest - *mean);
        }
    }

    /// From now on so much at once.
    pub fn set_capacity(&mut self, capacity: Option<u64>) {
        self.capacity = capacity;
    }

    pub fn running(&self) -> usize {
        self.running
    }

    /// Of all who run.
    pub fn cost(&self) -> u64 {
        self.cost
    }

    pub fn capacity(&self) -> Option<u64> {
        self.capacity
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
    use proptest::prelude::*;

    const NOW: Duration = Duration::ZERO;

    #[test]
    fn does_the_limit_hold() {
        let mut breaker = Breaker::new(2);
        assert!(breaker.acquire(1, NOW) && breaker.acquire(1, NOW) && !breaker.acquire(1, NOW));
        breaker.release(1, NOW);
        assert!(breaker.acquire(1, NOW) && !breaker.acquire(1, NOW));
    }

    #[test]
    fn does_the_capacity_hold_and_the_largest_run_alone() {
        let mut breaker = Breaker::new(8);
        breaker.set_capacity(Some(100));
        assert!(breaker.acquire(60, NOW) && !breaker.acquire(41, NOW) && breaker.acquire(40, NOW));
        breaker.release(60, NOW);
        breaker.release(40, NOW);
        assert!(breaker.acquire(1000, NOW), "more than the worker holds, but alone");
        assert!(!breaker.acquire(1, NOW));
        breaker.release(1000, NOW);
        assert_eq!((breaker.running(), breaker.cost()), (0, 0));
    }

    #[test]
    fn do_those_who_run_finish_when_the_limit_is_lowered() {
        let mut breaker = Breaker::new(10);
        assert!((0..10).all(|_| breaker.acquire(1, NOW)));
        breaker.resize(3);
        for left in (0..10).rev() {
            assert!(!breaker.acquire(1, NOW), "{left} too many run");
            breaker.release(1, NOW);
            if left < 3 {
                break;
            }
        }
        assert!(breaker.acquire(1, NOW) && !breaker.acquire(1, NOW));
    }

    #[test]
    fn does_retry_after_follow_the_measured_rate() {
        let mut breaker = Breaker::new(1);
        for (ahead, expected) in [(0, 1), (9, 10), (1000, 60)] {
            assert_eq!(breaker.retry_after(ahead).as_secs(), expected, "nothing measured yet, {ahead} ahead");
        }
        for second in 0..50 {
            assert!(breaker.acquire(1, Duration::from_millis(second * 100)));
            breaker.release(1, Duration::from_millis(second * 100 + 100));
        }
        assert_eq!(breaker.retry_after(99).as_secs(), 10, "a hundred at ten a second");
    }

    #[test]
    fn is_a_quiet_hour_no_slow_worker() {
        let mut breaker = Breaker::new(2);
        for hour in 0..50 {
            let now = Duration::from_secs(hour * 3600);
            assert!(breaker.acquire(1, now) && breaker.acquire(1, now));
            breaker.release(1, now + Duration::from_millis(100));
            breaker.release(1, now + Duration::from_millis(200));
        }
        assert_eq!(breaker.retry_after(9).as_secs(), 1);
    }

    proptest! {
        #[test]
        fn do_places_taken_and_given_back_agree(steps in prop::collection::vec((any::<bool>(), 1u64..80), 0..300)) {
            let mut breaker = Breaker::new(5);
            breaker.set_capacity(Some(100));
            let mut taken: Vec<u64> = Vec::new();
            for (take, cost) in steps {
                if take {
                    let fits = taken.len() < 5 && (taken.is_empty() || taken.iter().sum::<u64>() + cost <= 100);
                    prop_assert_eq!(breaker.acquire(cost, NOW), fits);
                    if fits { taken.push(cost); }
                } else if let Some(cost) = taken.pop() {
                    breaker.release(cost, NOW);
                }
                prop_assert_eq!((breaker.running(), breaker.cost()), (taken.len(), taken.iter().sum()));
            }
        }
    }
}
