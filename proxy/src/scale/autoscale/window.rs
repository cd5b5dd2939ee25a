//! What was measured over a window, second by second: plain or weighted averages of it.
//!
//! Several values of one second add up: each source tells of its own part. Never keeps more than the window.

use super::settings::Aggregation;
use std::time::Duration;

/// Averages are rounded to so many digits: sums of decimal fractions are not exact, and a target met exactly must not ask
/// for one pod more.
const DIGITS: f64 = 1e6;
/// All weights of the exponential average sum up to at least this.
const WEIGHTS_SUM: f64 = 0.9999;
/// The newest second's weight is at least this, or long windows would be plain averages.
const NEWEST_MIN: f64 = 0.2;

#[derive(Clone, Debug)]
pub struct Window {
    /// One for each second, at its number modulo the length.
    seconds: Vec<f64>,
    /// The oldest and the newest second written since there was last nothing.
    written: Option<(u64, u64)>,
}

impl Window {
    /// `length` is taken up to whole seconds, at least one.
    pub fn new(length: Duration) -> Window {
        Window { seconds: vec![0.0; whole_seconds(length)], written: None }
    }

    fn length(&self) -> u64 {
        self.seconds.len() as u64
    }

    fn at(&self, second: u64) -> usize {
        (second % self.length()) as usize
    }

    /// Nothing was written for a window.
    pub fn is_empty(&self, now: Duration) -> bool {
        self.written.is_none_or(|(_, last)| now.as_secs().saturating_sub(last) > self.length())
    }

    /// Adds to the second that `now` is in. What is older than the window is not taken.
    pub fn record(&mut self, now: Duration, value: f64) {
        let second = now.as_secs();
        let (first, last) = self.written.unwrap_or((second, second));
        if second + self.length() <= last {
            return;
        }
        if second >= last + self.length() {
            self.seconds.fill(0.0);
            self.written = Some((second, second));
        } else {
            for between in last + 1..=second {
                let at = self.at(between);
                self.seconds[at] = 0.0;
            }
            self.written = Some((first.min(second), last.max(second)));
        }
        let at = self.at(second);
        self.seconds[at] += value;
    }

    pub fn average(&self, now: Duration, by: Aggregation) -> f64 {
        match by {
            Aggregation::Linear => self.linear(now),
            Aggregation::WeightedExponential => self.weighted(now),
        }
    }

    /// Over the seconds between the first write and now, or the window; what has aged out is left out, and so are the
    /// seconds since the last write: nobody has told of them yet.
    fn linear(&self, now: Duration) -> f64 {
        let Some((first, last)) = self.written else { return 0.0 };
        let silent = now.as_secs().saturating_sub(last);
        if silent >= self.length() {
            return 0.0;
        }
        let counted = (last - first + 1).min(self.length() - silent);
        let sum: f64 = (0..self.length() - silent).map(|ago| self.ago(last, ago)).sum();
        (sum / counted as f64 * DIGITS).round() / DIGITS
    }

    /// Each second weighs less than the next by the same factor; silent seconds count as zeros.
    fn weighted(&self, now: Duration) -> f64 {
        let Some((_, last)) = self.written else { return 0.0 };
        let silent = now.as_secs().saturating_sub(last);
        if silent >= self.length() {
            return 0.0;
        }
        let newest = smoothing(self.seconds.len());
        let mut weight = newest * (1.0 - newest).powi(silent as i32);
        let mut sum = 0.0;
        for ago in 0..self.length() - silent {
            sum += self.ago(last, ago) * weight;
            weight *= 1.0 - newest;
        }
        sum
    }

    /// The value of the second so many before the last; nothing before time began.
    fn ago(&self, last: u64, ago: u64) -> f64 {
        last.checked_sub(ago).map_or(0.0, |second| self.seconds[self.at(second)])
    }

    /// Another length; what still fits is kept.
    pub fn resize(&mut self, length: Duration) {
        let mut resized = Window::new(length);
        if resized.length() == self.length() {
            return;
        }
        if let Some((first, last)) = self.written {
            for ago in (0..self.length().min(resized.length()).min(last + 1)).rev() {
                let at = resized.at(last - ago);
                resized.seconds[at] = self.ago(last, ago);
            }
            // Before that, nothing is known any more: a longer window must not count it as quiet.
            resized.written = Some((first.max((last + 1).saturating_sub(self.length())), last));
        }
        *self = resized;
    }
}

pub(super) fn whole_seconds(length: Duration) -> usize {
    length.as_secs_f64().ceil().max(1.0) as usize
}

/// The newest second's weight in a window of so many.
fn smoothing(seconds: usize) -> f64 {
    (1.0 - (1.0 - WEIGHTS_SUM).powf(1.0 / seconds as f64)).max(NEWEST_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Aggregation::{Linear, WeightedExponential};
    use proptest::prelude::*;

    /// Any second in the middle of time.
    const NOW: Duration = Duration::from_millis(1_000_000_200);

    fn at(millis: i64) -> Duration {
        Duration::from_millis((NOW.as_millis() as i64 + millis) as u64)
    }

    fn five() -> Window {
        Window::new(Duration::from_secs(5))
    }

    #[test]
    fn what_is_the_average_of_a_window_of_five_seconds() {
        let mut window = five();
        assert!(window.is_empty(NOW));
        window.record(at(0), 1.0);
        assert_eq!(window.average(at(0), Linear), 1.0, "of the one second there is");
        for second in 1..5 {
            window.record(at(second * 1000), (second + 1) as f64);
        }
        assert_eq!(window.average(at(4000), Linear), 3.0);
        assert_eq!(window.average(at(3600), Linear), 3.0, "asked a moment late");
        assert_eq!(window.average(at(6000), Linear), 4.0, "two seconds have aged out");
        assert_eq!(window.average(at(10_000), Linear), 0.0, "a long silence");
        window.record(at(6000), 91.0);
        assert_eq!(window.average(at(6000), Linear), 20.6, "a hole counts as quiet");
        window.record(at(60_000), 1984.0);
        assert_eq!(window.average(at(60_000), Linear), 1984.0, "after a window of silence all begins anew");
        window.record(at(57_000), 4.0);
        assert_eq!(window.average(at(60_000), Linear), 497.0, "late, but in the window");
        window.record(at(61_000), 5.0);
        assert_eq!(window.average(at(61_000), Linear), 398.6);
        window.record(at(58_000), 10.0);
        assert_eq!(window.average(at(61_000), Linear), 400.6);
        for late in [55_000, 56_000] {
            window.record(at(late), 10.0);
            assert_eq!(window.average(at(61_000), Linear), 400.6, "{late}: too old");
        }
        window.record(at(66_000), 10.0);
        assert_eq!(window.average(at(66_000), Linear), 10.0, "exactly a window of silence");
    }

    #[test]
    fn do_values_of_one_second_add_up_in_whatever_order_seconds_come() {
        for order in [[0, 1, 2, 3, 4], [0, 3, 2, 1, 4]] {
            let mut window = Window::new(Duration::from_secs(60));
            for (round, second) in order.iter().enumerate() {
                for more in 0..5 {
                    window.record(at(second * 1000), (round + more) as f64);
                }
            }
            assert_eq!(window.average(at(4000), Linear), 20.0, "a hundred over five seconds");
        }
    }

    #[test]
    fn what_if_seconds_come_in_descending_order() {
        let mut window = five();
        for second in (0..=8).rev() {
            window.record(at(second * 1000), 5.0);
        }
        assert_eq!(window.average(at(5000), Linear), 5.0, "five in each second, and none written twice");
    }

    #[test]
    fn is_a_hole_quiet() {
        let mut window = five();
        for second in 0..5 {
            window.record(at(second * 1000), (second + 1) as f64);
        }
        window.record(at(8000), 2.0);
        assert_eq!(window.average(at(8000), Linear), 1.4, "five and two are left");
    }

    #[test]
    fn how_fast_does_weight_decay() {
        for (seconds, expected) in [(100, 0.2), (60, 0.2), (40, 0.20567), (6, 0.78456), (5, 0.84151)] {
            assert!((smoothing(seconds) - expected).abs() < 1e-5, "{seconds} seconds: {}", smoothing(seconds));
        }
    }

    #[test]
    fn what_is_the_weighted_average() {
        let (mut window, c) = (five(), smoothing(5));
        let near = |got: f64, expected: f64| assert!((got - expected).abs() < 1e-12, "{got} is not {expected}");
        window.record(at(0), 2.0);
        let mut expected = 2.0 * c;
        near(window.average(at(0), WeightedExponential), expected);
        expected *= 1.0 - c;
        near(window.average(at(1000), WeightedExponential), expected);
        window.record(at(1000), 2.0);
        near(window.average(at(1000), WeightedExponential), expected + 2.0 * c);
        for second in 2..7 {
            window.record(at(second * 1000), second as f64);
        }
        let rest = 1.0 - c;
        let expected = c * (6.0 + rest * (5.0 + rest * (4.0 + rest * (3.0 + rest * 2.0))));
        near(window.average(at(6000), WeightedExponential), expected);
        assert_eq!(window.average(at(16_000), WeightedExponential), 0.0);
        assert_eq!((expected * 1000.0).round() / 1000.0, 5.812);
    }

    #[test]
    fn is_what_fits_kept_when_the_window_changes() {
        let mut window = five();
        for second in 0..6 {
            window.record(at(second * 1000), (second + 1) as f64);
        }
        assert_eq!(window.average(at(5000), Linear), 4.0);
        window.resize(Duration::from_secs(10));
        assert_eq!(window.average(at(5000), Linear), 4.0, "five seconds were known, and are");
        window.record(at(6000), 7.0);
        assert_eq!(window.average(at(6000), Linear), 4.5);
        window.resize(Duration::from_secs(4));
        assert_eq!(window.average(at(6000), Linear), 5.5, "the last four");
    }

    proptest! {
        #[test]
        fn is_the_average_that_of_the_obvious_list(
            length in 1u64..20,
            steps in prop::collection::vec((0u64..4, 0u32..100), 1..60),
        ) {
            let mut window = Window::new(Duration::from_secs(length));
            let (mut list, mut now): (Vec<(u64, f64)>, u64) = (Vec::new(), 1000);
            for (forward, value) in steps {
                let before = now;
                now += forward;
                if now - before >= length { list.clear(); }
                list.push((now, f64::from(value)));
                window.record(Duration::from_secs(now), f64::from(value));
                let sum: f64 = list.iter().filter(|(second, _)| second + length > now).map(|(_, value)| value).sum();
                let expected = sum / (now - list[0].0 + 1).min(length) as f64;
                prop_assert!((window.average(Duration::from_secs(now), Linear) - expected).abs() < 1e-5);
            }
        }
    }
}
