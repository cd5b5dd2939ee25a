//! Whether a worker is there: asleep → waking → awake → stopping. Pure: time is an argument, and what is to be done
//! is told, not done.
//!
//! However many wait, there is one start. A failed start is told to everybody who waited, once, and the next is put
//! off, longer each time. A worker is stopped only while nobody runs or waits; whoever comes after that waits for the
//! next start. It may be wished for before anybody comes, and it may be sent to sleep before its time: both are wishes, and
//! whoever runs or waits comes first.

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
    /// Somebody wants it there before the first request.
    wished: bool,
    /// Somebody wants it gone, if it is idle.
    sent: bool,
    /// The last one was lost, and perhaps only its connection: something of it may be there until the next start or stop.
    remains: bool,
    /// Counts the workers that were started; the current one while awake.
    generation: u64,
}

impl Wake {
    pub fn new(idle_timeout: Option<Duration>) -> Self {
        Wake {
            state: State::Asleep,
            idle_timeout,
            failures: 0,
            wished: false,
            sent: false,
            remains: false,
            generation: 0,
        }
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
        let may_start = (waiting > 0 || self.wished) && self.refuses(now).is_none();
        let sent = std::mem::take(&mut self.sent);
        match &mut self.state {
            State::Asleep | State::Backoff { .. } if may_start => {
                self.state = State::Waking { since: now };
                self.wished = false;
                Next::Start
            }
            State::Asleep if sent && self.remains => {
                self.state = State::Stopping;
                Next::Stop
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
                    end if sent || end.is_some_and(|end| end <= now) => {
                        self.state = State::Stopping;
                        Next::Stop
                    }
                    end => Next::Wait(end),
                }
            }
            _ => Next::Wait(None),
        }
    }

    /// It is wanted before anybody waits for it: once, however the start goes. An awake one is idle from now.
    ///
    /// # Errors
    /// How long nobody can be helped, and why.
    pub fn wish(&mut self, now: Duration) -> Result<(), (Duration, String)> {
        if let Some((pause, reason)) = self.refuses(now) {
            return Err((pause, reason.to_owned()));
        }
        match &mut self.state {
            State::Awake { idle_since: Some(since) } => *since = now,
            State::Awake { .. } | State::Waking { .. } => {}
            State::Asleep | State::Stopping | State::Backoff { .. } => self.wished = true,
        }
        Ok(())
    }

    /// It may sleep now, if nobody runs or waits when the keeper looks.
    pub fn send(&mut self) {
        self.sent = matches!(self.state, State::Awake { .. }) || self.remains;
    }

    /// How long it has been idle; `None` unless it is awake and nobody has come since.
    pub fn idle(&self, now: Duration) -> Option<Duration> {
        match &self.state {
            State::Awake { idle_since } => idle_since.map(|since| now.saturating_sub(since)),
            _ => None,
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
        self.remains = false;
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
            self.remains = true;
        }
        news
    }

    pub fn stopped(&mut self) {
        self.remains = false;
        self.state = State::Asleep;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
        assert_eq!(wake.next(at(1), 0, 0), Next::Wait(None));
        wake.send();
        assert_eq!(wake.next(at(1), 0, 0), Next::Stop, "perhaps only its connection was lost");
        wake.stopped();
        wake.send();
        assert_eq!(wake.next(at(1), 0, 0), Next::Wait(None));
        assert_eq!(wake.next(at(1), 0, 1), Next::Start);
        wake.started();
        assert!(!wake.lost(1), "the new one is not the one that was lost");
        assert_eq!(wake.awake(), Some(2));
    }

    #[test]
    fn is_a_wish_granted_once_and_an_idle_one_sent_to_sleep() {
        let mut wake = Wake::new(Some(at(60)));
        wake.wish(at(0)).unwrap();
        assert_eq!(wake.next(at(0), 0, 0), Next::Start, "before anybody waits");
        wake.wish(at(0)).unwrap();
        assert_eq!(wake.next(at(0), 0, 0), Next::Wait(None), "one start");
        wake.started();
        assert_eq!(wake.next(at(1), 0, 0), Next::Wait(Some(at(61))));
        wake.send();
        assert_eq!(wake.next(at(2), 1, 0), Next::Wait(Some(at(62))), "whoever runs comes first");
        wake.rests(at(3));
        assert_eq!(wake.next(at(3), 0, 0), Next::Wait(Some(at(63))), "and the wish was for that moment only");
        wake.send();
        assert_eq!(wake.next(at(4), 0, 0), Next::Stop);
        wake.wish(at(4)).unwrap();
        assert_eq!(wake.next(at(4), 0, 0), Next::Wait(None), "it still stops");
        wake.stopped();
        assert_eq!(wake.next(at(5), 0, 0), Next::Start);
        wake.start_failed(at(6), "no memory".into());
        assert_eq!(wake.wish(at(6)), Err((at(1), "no memory".into())));
        assert_eq!(wake.next(at(60), 0, 0), Next::Wait(None), "a wish is granted once");
    }

    /// What may happen, in any order.
    #[derive(Clone, Copy, Debug)]
    enum Happens {
        Comes,
        Leaves,
        Ends,
        Passes(u64),
        Wish,
        Send,
        Crash,
        /// What is under way ends: a start well or not, a stop.
        Done(bool),
    }

    fn happenings() -> impl Strategy<Value = Vec<Happens>> {
        let one = prop_oneof![
            4 => Just(Happens::Comes),
            1 => Just(Happens::Leaves),
            4 => Just(Happens::Ends),
            3 => (0u64..20).prop_map(Happens::Passes),
            1 => Just(Happens::Wish),
            1 => Just(Happens::Send),
            1 => Just(Happens::Crash),
            4 => (0u8..4).prop_map(|luck| Happens::Done(luck > 0)),
        ];
        prop::collection::vec(one, 0..200)
    }

    /// The shell around it, in virtual time: what runs, who waits, and what the target is doing.
    #[derive(Default)]
    struct World {
        now: Duration,
        running: usize,
        waiting: usize,
        starting: bool,
        stopping: bool,
        /// What really is there.
        there: bool,
    }

    proptest! {
        /// However requests, their ends, wishes, crashes and starts interleave: never two starts, never a stop while
        /// somebody runs or waits, nobody is forgotten, and whoever comes between "idle" and "stopped" is served by the
        /// next start.
        #[test]
        fn is_nobody_lost_whatever_the_order(happenings in happenings(), idle in prop::option::of(1u64..10)) {
            let mut wake = Wake::new(idle.map(at));
            let mut world = World::default();
            for happens in happenings {
                match happens {
                    Happens::Comes if wake.refuses(world.now).is_some() => {}
                    Happens::Comes => world.waiting += 1,
                    Happens::Leaves => {
                        world.waiting = world.waiting.saturating_sub(1);
                        if world.running + world.waiting == 0 { wake.rests(world.now) }
                    }
                    Happens::Ends if world.running > 0 => {
                        world.running -= 1;
                        if world.running + world.waiting == 0 { wake.rests(world.now) }
                    }
                    Happens::Ends => {}
                    Happens::Passes(seconds) => world.now += at(seconds),
                    Happens::Wish => drop(wake.wish(world.now)),
                    Happens::Send => wake.send(),
                    Happens::Crash if world.there && !world.stopping => {
                        world.there = false;
                        // Those who ran have failed or wait again; either way their places are back.
                        world.running = 0;
                        prop_assert!(wake.lost(wake.awake().expect("it was there")));
                    }
                    Happens::Crash => {}
                    Happens::Done(well) if world.starting => {
                        world.starting = false;
                        if well {
                            world.there = true;
                            wake.started();
                        } else {
                            wake.start_failed(world.now, "no".into());
                            world.waiting = 0;
                        }
                    }
                    Happens::Done(_) if world.stopping => {
                        (world.stopping, world.there) = (false, false);
                        wake.stopped();
                    }
                    Happens::Done(_) => {}
                }
                if wake.awake().is_some() {
                    prop_assert!(world.there && !world.stopping, "a place is given only at a worker that is there");
                    world.running += std::mem::take(&mut world.waiting);
                }
                // The keeper acts on one thing at a time.
                if !world.starting && !world.stopping {
                    match wake.next(world.now, world.running, world.waiting) {
                        Next::Start => {
                            prop_assert!(!world.there, "never two");
                            world.starting = true;
                        }
                        Next::Stop => {
                            prop_assert!(world.running + world.waiting == 0);
                            world.stopping = true;
                        }
                        Next::Wait(_) => {
                            let forgotten = world.waiting > 0 && wake.refuses(world.now).is_none();
                            prop_assert!(!forgotten, "{:?} while {} wait", wake.state(), world.waiting);
                        }
                    }
                }
            }
        }
    }
}
