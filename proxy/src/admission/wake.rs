//! Whether a worker is there: asleep → waking → awake → stopping. Pure: time is an argument, and what is to be done
//! is told, not done.
//!
//! However many wait, there is one start. A failed start is told to everybody who waited, once, and the next is put
//! off, longer each time. A worker is stopped only while nobody runs or waits; whoever comes after that waits for the
//! next start.

use std::time::Duration;

/// First pause after a failed start; it doubles up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, PartialEq)]
pub enum State {
    Asleep,
    Waking {
        since: Duration,
    },
    Awake {
        idle_since: Option<Duration>,
    },
    Stopping,
    /// The last start failed; nobody may ask for another before `until`.
    Backoff {
        until: Duration,
        reason: String,
    },
}

/// What the shell should do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Start,
    Stop,
    /// Look again then, or when something happens.
    Wait(Option<Duration>),
}

#[derive(Debug)]
pub struct Wake {
    state: State,
    /// `None`: never sleeps once awake.
    idle_timeout: Option<Duration>,
    failures: u32,
    /// Counts the workers that were started; the current one while awake.
    generation: u64,
}

impl Wake {
    pub fn new(idle_timeout: Option<Duration>) -> Self {
        Wake { state: State::Asleep, idle_timeout, failures: 0, generation: 0 }
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    /// The worker that is awake.
    pub fn awake(&self) -> Option<u64> {
        matches!(self.state, State::Awake { .. }).then_some(self.generation)
    }

    /// How long nobody can be helped, and why.
    pub fn refuses(&self, now: Duration) -> Option<(Duration, &str)> {
        match &self.state {
            State::Backoff { until, reason } if now < *until => Some((*until - now, reason)),
            _ => None,
        }
    }

    /// Decides, given how many run and wait.
    pub fn next(&mut self, now: Duration, running: usize, waiting: usize) -> Next {
        let may_start = waiting > 0 && self.refuses(now).is_none();
        match &mut self.state {
            State::Asleep | State::Backoff { .. } if may_start => {
                self.state = State::Waking { since: now };
                Next::Start
            }
            State::Awake { idle_since } => {
                if running + waiting > 0 {
                    *idle_since = None;
                    // It cannot have been idle for long enough before then, whenever that begins; so whoever is let in
                    // or leaves meanwhile need not wake the one who asks.
                    return Next::Wait(self.idle_timeout.map(|timeout| now + timeout));
                }
                let since = *idle_since.get_or_insert(now);
                match self.idle_timeout.map(|timeout| since + timeout) {
                    Some(end) if end <= now => {
                        self.state = State::Stopping;
                        Next::Stop
                    }
                    end => Next::Wait(end),
                }
            }
            _ => Next::Wait(None),
        }
    }

    /// Nobody runs or waits from now on.
    pub fn rests(&mut self, now: Duration) {
        if let State::Awake { idle_since } = &mut self.state {
            *idle_since = Some(now);
        }
    }

    pub fn started(&mut self) {
        self.generation += 1;
        self.failures = 0;
        self.state = State::Awake { idle_since: None };
    }

    /// Gives the pause before the next start.
    pub fn start_failed(&mut self, now: Duration, reason: String) -> Duration {
        let pause = BACKOFF_MIN.saturating_mul(1 << self.failures.min(6)).min(BACKOFF_MAX);
        self.failures += 1;
        self.state = State::Backoff { until: now + pause, reason };
        pause
    }

    /// The worker of that generation is gone. False if that is no news.
    pub fn lost(&mut self, generation: u64) -> bool {
        let news = self.awake() == Some(generation);
        if news {
            self.state = State::Asleep;
        }
        news
    }

    pub fn stopped(&mut self) {
        self.state = State::Asleep;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn awake(idle_timeout: Option<u64>) -> Wake {
        let mut wake = Wake::new(idle_timeout.map(at));
        assert_eq!(wake.next(at(0), 0, 1), Next::Start);
        wake.started();
        wake
    }

    #[test]
    fn is_there_one_start_however_many_wait() {
        let mut wake = Wake::new(None);
        assert_eq!(wake.next(at(0), 0, 0), Next::Wait(None), "nobody wants it");
        assert_eq!(wake.next(at(0), 0, 1), Next::Start);
        for waiting in 1..100 {
            assert_eq!(wake.next(at(1), 0, waiting), Next::Wait(None));
        }
    }

    #[test]
    fn when_does_an_idle_worker_stop() {
        let mut wake = awake(Some(30));
        assert_eq!(wake.next(at(10), 1, 0), Next::Wait(Some(at(40))), "it cannot be idle for long enough before");
        assert_eq!(wake.next(at(20), 0, 0), Next::Wait(Some(at(50))));
        assert_eq!(wake.next(at(40), 0, 1), Next::Wait(Some(at(70))), "a request resets the clock");
        wake.rests(at(45));
        assert_eq!(wake.next(at(70), 0, 0), Next::Wait(Some(at(75))), "since it rests, not since it was asked");
        assert_eq!(wake.next(at(75), 0, 0), Next::Stop);
        assert_eq!(wake.next(at(76), 0, 5), Next::Wait(None), "whoever comes now waits for the stop");
        wake.stopped();
        assert_eq!(wake.next(at(77), 0, 5), Next::Start);
    }

    #[test]
    fn does_a_failed_start_back_off_longer_each_time() {
        let mut wake = Wake::new(None);
        let mut now = at(0);
        for expected in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(wake.next(now, 0, 1), Next::Start);
            assert_eq!(wake.start_failed(now, "no memory".into()), at(expected));
            assert_eq!(wake.refuses(now), Some((at(expected), "no memory")));
            assert_eq!(wake.next(now, 0, 1), Next::Wait(None));
            now += at(expected);
            assert_eq!(wake.refuses(now), None);
        }
    }

    #[test]
    fn is_old_news_of_a_lost_worker_ignored() {
        let mut wake = awake(None);
        assert!(!wake.lost(0));
        assert!(wake.lost(1));
        assert!(!wake.lost(1));
        assert_eq!(wake.next(at(1), 0, 1), Next::Start);
        wake.started();
        assert!(!wake.lost(1), "the new one is not the one that was lost");
        assert_eq!(wake.awake(), Some(2));
    }
}
