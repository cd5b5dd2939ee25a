//! A pod's admission in virtual time: the real queue, breaker and wake, put together as the asynchronous shell does, without
//! its channels and its clock.

use outrider::admission::{Breaker, Class, Next, Place, Queue, QueueLimits, State, Wake};
use std::collections::HashMap;
use std::time::Duration;

pub type Request = usize;

pub struct Gate {
    breaker: Breaker,
    queue: Queue,
    wake: Wake,
    /// By the number of their place.
    waiting: HashMap<u64, (Request, Place)>,
}

/// A place taken for a request.
#[derive(Clone, Copy, Debug)]
pub struct Grant {
    pub request: Request,
    pub place: Place,
    pub generation: u64,
}

/// Who may go on now that somebody came, and who had to go for it.
pub struct Entered {
    pub grants: Vec<Grant>,
    pub displaced: Vec<Request>,
}

/// Callers of several names and two priorities, each request costing as much.
const FLOWS: usize = 5;
const BANDS: usize = 2;
const COST: u64 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    Full,
    /// The last start failed a moment ago.
    Backoff,
}

impl Gate {
    pub fn new(limit: usize, requests_max: usize, idle_timeout: Option<Duration>) -> Gate {
        Gate {
            breaker: Breaker::new(limit),
            queue: Queue::new(QueueLimits { requests_max, bytes_max: 1 << 30, bands: BANDS }),
            wake: Wake::new(idle_timeout),
            waiting: HashMap::new(),
        }
    }

    pub fn running(&self) -> usize {
        self.breaker.running()
    }

    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    pub fn limit(&self) -> usize {
        self.breaker.limit()
    }

    /// The worker that is awake.
    pub fn awake(&self) -> Option<u64> {
        self.wake.awake()
    }

    pub fn is_backing_off(&self) -> bool {
        matches!(self.wake.state(), State::Backoff { .. })
    }

    /// Joins the queue, at its old place if it had one.
    pub fn enter(&mut self, now: Duration, request: Request, place: Option<Place>) -> Result<Entered, Refused> {
        if self.wake.refuses(now).is_some() {
            return Err(Refused::Backoff);
        }
        let (place, displaced) = match place {
            Some(place) => {
                self.queue.push_again(place, 1, now);
                (place, Vec::new())
            }
            None => {
                let class = Class { band: (request % BANDS) as u8, flow: (request % FLOWS) as u64, weight: 1 };
                let joined = self.queue.push(class, 1, COST, now).map_err(|_| Refused::Full)?;
                (joined.place, joined.displaced)
            }
        };
        self.waiting.insert(place.number, (request, place));
        let displaced = displaced.iter().map(|number| self.forget(*number)).collect();
        Ok(Entered { grants: self.grant(now), displaced })
    }

    fn forget(&mut self, number: u64) -> Request {
        self.waiting.remove(&number).expect("whoever waits is known").0
    }

    fn grant(&mut self, now: Duration) -> Vec<Grant> {
        let mut grants = Vec::new();
        let Some(generation) = self.wake.awake() else { return grants };
        while !self.queue.is_empty() && self.breaker.acquire(COST, now) {
            let (place, _) = self.queue.pop().expect("it is not empty");
            let request = self.forget(place.number);
            grants.push(Grant { request, place, generation });
        }
        grants
    }

    /// A caller that waits leaves.
    pub fn leave(&mut self, now: Duration, request: Request) {
        let place = self.waiting.values().find(|(waiting, _)| *waiting == request).map(|(_, place)| *place);
        let place = place.expect("whoever leaves was waiting");
        self.forget(place.number);
        assert!(self.queue.remove(place), "whoever waits has a place");
        self.rest(now);
    }

    /// Whoever ran has ended.
    pub fn release(&mut self, now: Duration) -> Vec<Grant> {
        self.breaker.release(COST, now);
        let grants = self.grant(now);
        self.rest(now);
        grants
    }

    fn rest(&mut self, now: Duration) {
        if self.breaker.running() == 0 && self.queue.is_empty() {
            self.wake.rests(now);
        }
    }

    /// What the keeper should do.
    pub fn next(&mut self, now: Duration) -> Next {
        self.wake.next(now, self.breaker.running(), self.queue.len())
    }

    pub fn started(&mut self, now: Duration) -> Vec<Grant> {
        self.wake.started();
        self.grant(now)
    }

    /// Everybody who waits is refused. They are told apart by when they came, never by chance.
    pub fn start_failed(&mut self, now: Duration) -> Vec<Request> {
        self.wake.start_failed(now, "it would not start".into());
        let mut refused = Vec::new();
        while let Some((place, _)) = self.queue.pop() {
            refused.push(self.forget(place.number));
        }
        refused
    }

    pub fn stopped(&mut self) {
        self.wake.stopped();
    }

    pub fn lost(&mut self, generation: u64) -> bool {
        self.wake.lost(generation)
    }
}
