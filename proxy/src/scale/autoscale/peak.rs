//! The largest number of a sliding stretch of time: what a delayed scale-down holds on to.

use std::collections::VecDeque;
use std::time::Duration;

#[derive(Clone, Debug)]
pub struct Peak {
    granularity: Duration,
    /// How many steps of the granularity a number lasts.
    steps: u64,
    /// Falling numbers of rising steps: whatever is older and no larger can never be the largest again.
    held: VecDeque<(u64, u32)>,
}

impl Peak {
    pub fn new(length: Duration, granularity: Duration) -> Peak {
        let steps = length.as_nanos().div_ceil(granularity.as_nanos().max(1)).max(1);
        Peak { granularity, steps: steps.try_into().unwrap_or(u64::MAX), held: VecDeque::new() }
    }

    /// Takes a number, and gives the largest of those that still last.
    pub fn record(&mut self, now: Duration, number: u32) -> u32 {
        let step = (now.as_nanos() / self.granularity.as_nanos().max(1)) as u64;
        self.put(step, number)
    }

    fn put(&mut self, step: u64, number: u32) -> u32 {
        // From a clock that stepped back, numbers would come before those that are held; they count as now.
        let step = self.held.back().map_or(step, |(last, _)| step.max(*last));
        while self.held.front().is_some_and(|(first, _)| step - first >= self.steps) {
            self.held.pop_front();
        }
        if !self.held.back().is_some_and(|(last, held)| *last == step && *held >= number) {
            while self.held.back().is_some_and(|(_, held)| *held <= number) {
                self.held.pop_back();
            }
            self.held.push_back((step, number));
        }
        self.held.front().map_or(number, |(_, held)| *held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_the_largest_of_five() {
        type Row<'a> = (&'a str, &'a [u32], &'a [u32]);
        let rows: &[Row<'_>] = &[
            ("single value", &[1], &[1]),
            ("ascending", &[1, 2], &[1, 2]),
            ("descending", &[2, 1], &[2, 2]),
            ("up, down, up", &[1, 2, 1], &[1, 2, 2]),
            ("out of the window", &[5, 6, 5, 5, 5, 5, 5], &[5, 6, 6, 6, 6, 6, 5]),
            ("out, 2", &[5, 6, 5, 7, 5, 5, 1], &[5, 6, 6, 7, 7, 7, 7]),
            ("out, 3", &[5, 8, 5, 7, 5, 5], &[5, 8, 8, 8, 8, 8]),
            ("out, 4", &[5, 8, 5, 7, 5, 5, 1], &[5, 8, 8, 8, 8, 8, 7]),
            (
                "out, 8",
                &[5, 8, 5, 7, 5, 5, 1, 4, 4, 4, 4, 9, 3, 4, 2, 1, 0],
                &[5, 8, 8, 8, 8, 8, 7, 7, 5, 5, 4, 9, 9, 9, 9, 9, 4],
            ),
        ];
        for (name, values, expected) in rows {
            let mut peak = Peak::new(Duration::from_secs(5), Duration::from_secs(1));
            let got: Vec<u32> = values.iter().enumerate().map(|(step, value)| peak.put(step as u64, *value)).collect();
            assert_eq!(got, *expected, "{name}");
        }
    }

    #[test]
    fn what_if_steps_are_left_out_or_taken_twice() {
        let mut peak = Peak::new(Duration::from_secs(5), Duration::from_secs(1));
        let got = [(0, 6), (1, 5), (2, 2), (6, 1)].map(|(step, value)| peak.put(step, value));
        assert_eq!(got, [6, 6, 6, 2]);
        let mut peak = Peak::new(Duration::from_secs(5), Duration::from_secs(1));
        assert_eq!([1, 2, 3, 4, 5, 6, 7].map(|value| peak.put(1, value)), [1, 2, 3, 4, 5, 6, 7]);
        let mut peak = Peak::new(Duration::from_secs(5), Duration::from_secs(1));
        assert_eq!([7, 6, 5, 4, 3, 2, 1].map(|value| peak.put(1, value)), [7; 7]);
    }

    proptest! {
        #[test]
        fn is_it_the_largest_of_those_that_last(steps in prop::collection::vec((0u64..4, 0u32..20), 1..80)) {
            let mut peak = Peak::new(Duration::from_secs(10), Duration::from_secs(2));
            let (mut list, mut now) = (Vec::new(), 0);
            for (forward, value) in steps {
                now += forward;
                list.push((now, value));
                let lasting = list.iter().filter(|(step, _)| now - step < 5);
                prop_assert_eq!(peak.put(now, value), lasting.map(|(_, value)| *value).max().unwrap());
                prop_assert!(peak.held.len() <= 5);
            }
        }
    }
}
