//! The clocks of one request: total, first byte, idle. Pure: time is an argument, and somebody else waits.
//!
//! The first two of Knative's stories it tells differently: the first byte is waited for from the moment the worker was
//! given the request, and what was already begun ends in an error.

use crate::config::Timeouts;
use crate::error::{Clock, Error};
use std::time::Duration;

#[derive(Clone, Copy, Debug)]
pub struct Clocks {
    timeouts: Timeouts,
    /// When the worker was given it; `None` while it waits for its turn, again too.
    dispatched: Option<Duration>,
    /// When the answer last went on.
    written: Option<Duration>,
}

impl Clocks {
    /// A request's head is there: from then on time is counted.
    pub fn start(timeouts: Timeouts) -> Clocks {
        Clocks { timeouts, dispatched: None, written: None }
    }

    /// It is its turn.
    pub fn dispatched(&mut self, now: Duration) {
        self.dispatched = Some(now);
    }

    /// It has to wait for its turn again.
    pub fn recalled(&mut self) {
        self.dispatched = None;
    }

    /// The answer goes on.
    pub fn wrote(&mut self, now: Duration) {
        self.written = Some(now);
    }

    /// From now on it is no request with an answer, but a connection (WebSocket): only silence ends it.
    pub fn upgraded(&mut self) {
        self.timeouts = Timeouts { idle: self.timeouts.idle, ..Timeouts::default() };
    }

    /// Which clock runs out first, and when; `None` if none does.
    pub fn due(&self) -> Option<(Duration, Clock)> {
        let Timeouts { total, first_byte, idle } = self.timeouts;
        let whole = if self.dispatched.is_some() { Clock::Total } else { Clock::TotalWaiting };
        let total = total.map(|limit| (limit, whole));
        let first = first_byte.zip(self.dispatched.filter(|_| self.written.is_none()));
        let first = first.map(|(limit, since)| (since + limit, Clock::FirstByte));
        let idle = idle.zip(self.written.or(self.dispatched)).map(|(limit, since)| (since + limit, Clock::Idle));
        [total, first, idle].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    /// What is said when that clock has run out.
    pub fn error(&self, clock: Clock) -> Error {
        let Timeouts { total, first_byte, idle } = self.timeouts;
        let limit = match clock {
            Clock::Total | Clock::TotalWaiting => total,
            Clock::FirstByte => first_byte,
            Clock::Idle => idle,
        };
        Error::Overdue { clock, limit: limit.unwrap_or_default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn timeouts(total: u64, first_byte: u64, idle: u64) -> Timeouts {
        let of = |limit: u64| (limit > 0).then(|| ms(limit));
        Timeouts { total: of(total), first_byte: of(first_byte), idle: of(idle) }
    }

    /// A request whose turn is at `turn` and whose answer goes on at each of `writes`, the last of which is its end.
    fn run(timeouts: Timeouts, turn: u64, writes: &[u64]) -> Result<(), Clock> {
        let mut clocks = Clocks::start(timeouts);
        let reach = |clocks: &Clocks, at: u64| match clocks.due() {
            Some((due, clock)) if due <= ms(at) => Err(clock),
            _ => Ok(()),
        };
        reach(&clocks, turn)?;
        clocks.dispatched(ms(turn));
        for at in writes {
            reach(&clocks, *at)?;
            clocks.wrote(ms(*at));
        }
        Ok(())
    }

    #[test]
    fn are_knatives_own_cases_answered_as_it_says() {
        // timeout, first byte, idle (Knative's seconds as milliseconds); the answer's pieces; what comes of it.
        for (case, limits, writes, expected) in [
            ("before its end", (10, 0, 0), &[2][..], Ok(())),
            ("after its end", (10, 0, 0), &[12], Err(Clock::Total)),
            ("first byte in time", (10, 7, 0), &[4], Ok(())),
            ("first byte too late", (20, 7, 0), &[15], Err(Clock::FirstByte)),
            ("a pause shorter than idle", (10, 0, 5), &[0, 2], Ok(())),
            ("nothing at all for longer than idle", (15, 0, 7), &[20], Err(Clock::Idle)),
            ("always just in time", (0, 0, 5), &[4, 8, 12, 16, 20], Ok(())),
            ("one piece, then silence", (0, 0, 5), &[4, 10], Err(Clock::Idle)),
            ("begun in time, and long after that", (0, 7, 0), &[4, 100], Ok(())),
            ("total ends what runs, too", (10, 7, 5), &[2, 4, 6, 8, 11], Err(Clock::Total)),
        ] {
            assert_eq!(run(timeouts(limits.0, limits.1, limits.2), 0, writes), expected, "{case}");
        }
    }

    #[test]
    fn does_a_cold_start_eat_only_the_whole() {
        assert_eq!(run(timeouts(0, 7, 7), 1000, &[1006]), Ok(()));
        assert_eq!(run(timeouts(0, 7, 0), 1000, &[1008]), Err(Clock::FirstByte));
        assert_eq!(run(timeouts(500, 7, 0), 1000, &[1006]), Err(Clock::TotalWaiting));
    }

    #[test]
    fn does_the_first_byte_wait_anew_after_a_worker_died() {
        let mut clocks = Clocks::start(timeouts(0, 7, 0));
        clocks.dispatched(ms(0));
        clocks.recalled();
        assert_eq!(clocks.due(), None);
        clocks.dispatched(ms(50));
        assert_eq!(clocks.due(), Some((ms(57), Clock::FirstByte)));
    }

    #[test]
    fn what_ends_a_websocket() {
        let mut clocks = Clocks::start(timeouts(10, 7, 5));
        clocks.dispatched(ms(0));
        clocks.wrote(ms(1));
        clocks.upgraded();
        assert_eq!(clocks.due(), Some((ms(6), Clock::Idle)));
        let verdict = clocks.error(Clock::Idle).verdict();
        assert_eq!((verdict.status, verdict.part), (504, "worker"));
    }
}
