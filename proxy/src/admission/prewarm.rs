//! Waking before anybody asks: at an operator's word, at times of the week, or when a caller connects. And sleeping before
//! the time.

use super::Admission;
use crate::error::Error;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

const MINUTE: u64 = 60;
const DAY: u64 = 24 * 60 * MINUTE;
const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

impl Admission {
    /// Wakes the worker, if it sleeps. An awake one begins its idle time anew.
    ///
    /// # Errors
    /// [`Error::WakeFailed`] while a failed start is being waited out, [`Error::Draining`].
    pub fn wake(&self) -> Result<(), Error> {
        let now = self.now();
        let mut gate = self.lock();
        if gate.counts.draining {
            return Err(Error::Draining);
        }
        let wished = gate.wake.wish(now);
        let asleep = gate.wake.awake().is_none();
        drop(gate);
        if asleep {
            self.changed.notify_one();
        }
        wished.map_err(|(retry_after, reason)| Error::WakeFailed { reason, retry_after })
    }

    /// Sends the worker to sleep, if nobody runs or waits. False if somebody does.
    pub fn sleep(&self) -> bool {
        let mut gate = self.lock();
        let idle = gate.breaker.running() == 0 && gate.queue.is_empty();
        if idle {
            gate.wake.send();
            drop(gate);
            self.changed.notify_one();
        }
        idle
    }

    /// How long nobody has run or waited; `None` while somebody does, or nobody could.
    pub fn idle(&self) -> Option<Duration> {
        let now = self.now();
        let gate = self.lock();
        let idle = gate.breaker.running() == 0 && gate.queue.is_empty();
        idle.then(|| gate.wake.idle(now)).flatten()
    }

    /// Wakes the worker at these times, for ever. `unix` is the clock of the world.
    pub async fn prewarm(self: Arc<Self>, times: Vec<WeekTime>, unix: impl Fn() -> Duration) {
        loop {
            let now = unix();
            let Some(pause) = times.iter().map(|time| time.after(now)).min() else { return };
            // The clock of the world may be set, and machines sleep: so never far ahead without another look.
            if pause > Duration::from_secs(MINUTE) {
                tokio::time::sleep(Duration::from_secs(MINUTE / 2)).await;
                continue;
            }
            tokio::time::sleep(pause).await;
            match self.wake() {
                Ok(()) => tracing::info!("woken by the clock"),
                Err(error) => tracing::warn!(%error, "it is time to wake, and it cannot be"),
            }
            // Past the minute it was for.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

/// Days of the week and a time of them, UTC: `Mon-Fri 07:55`, `Sat,Sun 9:00`, `daily 06:00`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeekTime {
    /// From Monday.
    days: [bool; 7],
    /// Since midnight.
    minute: u64,
    text: String,
}

impl WeekTime {
    /// How long from then (since 1970) until the next such time; never nothing.
    pub fn after(&self, unix: Duration) -> Duration {
        let today = unix.as_secs() / DAY;
        let moments =
            (today..=today + 7).filter(|day| self.days[weekday(*day)]).map(|day| day * DAY + self.minute * MINUTE);
        let next = moments.map(Duration::from_secs).find(|moment| *moment > unix);
        next.expect("there is one within a week of any moment") - unix
    }
}

/// From Monday. The first day of 1970 was a Thursday.
fn weekday(day: u64) -> usize {
    ((day + 3) % 7) as usize
}

impl std::fmt::Display for WeekTime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for WeekTime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || {
            format!("`{text}` is no time of the week; write `Mon-Fri 07:55`, `Sat,Sun 09:00` or `daily 06:00` (UTC)")
        };
        let (days, time) = text.trim().split_once(' ').ok_or_else(bad)?;
        let (hour, minute) = time.trim().split_once(':').ok_or_else(bad)?;
        let number = |text: &str, below: u64| text.parse::<u64>().ok().filter(|number| *number < below);
        let minute = number(hour, 24).zip(number(minute, 60)).map(|(hour, minute)| hour * 60 + minute);
        let days = self::days(days).ok_or_else(bad)?;
        Ok(WeekTime { days, minute: minute.ok_or_else(bad)?, text: text.trim().to_owned() })
    }
}

/// `daily`, `Mon`, `Mon-Fri`, `Sat-Mon`, and several of them with commas between.
fn days(text: &str) -> Option<[bool; 7]> {
    if text.eq_ignore_ascii_case("daily") {
        return Some([true; 7]);
    }
    let place = |name: &str| DAYS.iter().position(|day| day.eq_ignore_ascii_case(name));
    let mut days = [false; 7];
    for part in text.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to) = (place(from)?, place(to)?);
        // Over the end of the week too.
        for step in 0..=(to + 7 - from) % 7 {
            days[(from + step) % 7] = true;
        }
    }
    Some(days)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// 2026-11-23 was a Monday.
    const MONDAY: u64 = 20_780 * DAY;

    #[test]
    fn when_is_the_next_time() {
        let at = |day: u64, hour: u64, minute: u64| Duration::from_secs(MONDAY + day * DAY + hour * 3600 + minute * 60);
        for (text, now, next) in [
            ("Mon-Fri 07:55", at(0, 0, 0), at(0, 7, 55)),
            ("Mon-Fri 07:55", at(0, 7, 55), at(1, 7, 55)),
            ("Mon-Fri 07:55", at(4, 8, 0), at(7, 7, 55)),
            ("Sat,Sun 9:00", at(2, 9, 0), at(5, 9, 0)),
            ("sat-mon 00:00", at(5, 0, 0), at(6, 0, 0)),
            ("daily 23:59", at(6, 23, 59), at(7, 23, 59)),
            ("Mon 10:00", at(0, 10, 0), at(7, 10, 0)),
        ] {
            let time: WeekTime = text.parse().unwrap();
            assert_eq!(time.after(now), next - now, "{text}");
        }
    }

    #[test]
    fn which_times_are_none() {
        for bad in
            ["", "Mon", "07:55", "Mon 24:00", "Mon 07:60", "Mon-Fry 07:55", "Mon 7", "Mon- 07:00", "weekly 07:00"]
        {
            assert!(bad.parse::<WeekTime>().unwrap_err().contains("Mon-Fri 07:55"), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn is_the_next_time_on_such_a_day_and_within_a_week(now in 0u64..4_000_000_000, bits in 1u8..128, minute in 0u64..1440) {
            let days: [bool; 7] = std::array::from_fn(|day| bits & (1 << day) != 0);
            let time = WeekTime { days, minute, text: String::new() };
            let pause = time.after(Duration::from_secs(now)).as_secs();
            prop_assert!(pause > 0 && pause <= 7 * DAY);
            let then = now + pause;
            prop_assert!(days[weekday(then / DAY)]);
            prop_assert_eq!(then % DAY, minute * MINUTE);
        }

        #[test]
        fn is_any_text_harmless(text in ".{0,24}") {
            let _ = text.parse::<WeekTime>();
        }
    }
}
