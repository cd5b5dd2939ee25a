//! What the one lock guards: queue, breaker, wake and pace together, so that "nobody waits" and "stop the worker" can
//! never disagree. Nothing here waits, and nothing here takes longer the more of them wait.

use super::permit::Granted;
use super::{Admission, Breaker, Full, Place, Queue, Snapshot, Ticket, Wake};
use super::{dropped::Outcome, pace::Pace};
use crate::error::Error;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// Turns given under the lock at a time; between two such the others have theirs.
pub(super) const BATCH: usize = 64;

/// How somebody who waits is told.
pub(super) type Told = oneshot::Sender<Result<Granted, Error>>;
pub(super) type Grants = Vec<(Told, Granted)>;

pub(super) struct Gate {
    pub breaker: Breaker,
    pub queue: Queue,
    pub wake: Wake,
    pub pace: Pace,
    /// By the number of their place.
    pub callers: HashMap<u64, Told>,
    pub counts: Snapshot,
}

impl Gate {
    /// Goes on without waiting, when nobody waits and there is a place.
    pub fn at_once(&mut self, admission: &Arc<Admission>, ticket: &Ticket, now: Duration) -> Option<Granted> {
        let generation = self.wake.awake().filter(|_| self.queue.is_empty() && self.pace.allows(now))?;
        let cost = ticket.place.map_or(ticket.cost, |place| place.cost).max(1);
        if !self.breaker.acquire(cost, now) {
            return None;
        }
        self.pace.goes();
        let place = ticket.place.unwrap_or_else(|| self.queue.place(ticket.class, cost));
        Some(Granted::new(admission.clone(), generation, place))
    }

    /// Gives free places to those who wait, in order, while a worker is awake; so many at most as a batch has.
    pub fn grant(&mut self, admission: &Arc<Admission>, now: Duration) -> Grants {
        let mut grants = Vec::new();
        let Some(generation) = self.wake.awake() else { return grants };
        while grants.len() < BATCH {
            let Some((next, _)) = self.queue.peek() else {
                self.pace.end();
                break;
            };
            // Whoever is next and does not fit is waited for: were it passed over, it would never fit.
            if !self.pace.allows(now) || !self.breaker.acquire(next.cost, now) {
                break;
            }
            self.pace.goes();
            let (place, _) = self.queue.pop().expect("the queue is not empty");
            let caller = self.callers.remove(&place.number).expect("whoever waits has a caller");
            grants.push((caller, Granted::new(admission.clone(), generation, place)));
        }
        grants
    }

    /// Joins the queue; gives those who had to go for it too.
    pub fn join(&mut self, ticket: &Ticket, caller: Told, now: Duration) -> Result<(Place, Vec<Told>), Error> {
        let Some(place) = ticket.place else {
            let joined = self.queue.push(ticket.class, ticket.bytes, ticket.cost, now);
            let joined = joined.map_err(|full| self.full(full))?;
            self.callers.insert(joined.place.number, caller);
            let gone = joined.displaced.iter().filter_map(|number| self.callers.remove(number)).collect();
            self.counts.dropped.count(Outcome::EvictedDisplaced, joined.displaced.len());
            return Ok((joined.place, gone));
        };
        self.queue.push_again(place, ticket.bytes, now);
        self.callers.insert(place.number, caller);
        Ok((place, Vec::new()))
    }

    fn full(&mut self, full: Full) -> Error {
        self.counts.dropped.count(Outcome::RejectedCapacity, 1);
        let retry_after = self.retry_after();
        match full {
            Full::Requests => Error::QueueFull { waiting: self.queue.len(), retry_after },
            Full::Bytes => Error::QueueBytesFull { bytes: self.queue.bytes(), retry_after },
        }
    }

    /// When whoever comes now and waits behind all might have its turn.
    pub fn retry_after(&self) -> Duration {
        self.breaker.retry_after(self.queue.len())
    }

    /// Why somebody who waited for so long was not reached.
    pub fn too_late(&self, waited: Duration) -> Error {
        match self.wake.awake() {
            Some(_) => Error::QueueTimeout { waited, retry_after: self.retry_after() },
            None => Error::ColdTimeout { waited, retry_after: self.counts.mean_start() },
        }
    }

    /// Everybody who waits, who is to be refused; nobody waits any more.
    pub fn evict_all(&mut self) -> (Queue, HashMap<u64, Told>) {
        self.counts.dropped.count(Outcome::EvictedOther, self.queue.len());
        (self.queue.take(), std::mem::take(&mut self.callers))
    }

    /// Somebody ended or left; perhaps it was the last.
    pub fn rests(&mut self, now: Duration) {
        if self.breaker.running() == 0 && self.queue.is_empty() {
            self.wake.rests(now);
        }
    }
}
