//! What a caller holds while it waits and while it runs. Whatever ends either, dropping it puts all in order.

use super::dropped::Outcome;
use super::{Admission, Place};
use std::sync::Arc;
use std::time::Duration;

/// A place taken for somebody, who may be gone before it hears of it: dropping it gives the place back.
pub(super) struct Granted {
    admission: Arc<Admission>,
    pub generation: u64,
    pub place: Place,
    /// Given back by somebody else.
    spent: bool,
}

impl Granted {
    pub fn new(admission: Arc<Admission>, generation: u64, place: Place) -> Granted {
        Granted { admission, generation, place, spent: false }
    }

    /// What its place cost, to be given back by whoever asks: were it dropped, each of a crowd of callers that have left
    /// would give its place to the next of them, one inside the other.
    pub fn spend(mut self) -> u64 {
        self.spent = true;
        self.place.cost
    }
}

impl Drop for Granted {
    fn drop(&mut self) {
        if !self.spent {
            self.admission.settle(Some(self.place.cost));
        }
    }
}

/// The right to use the worker, until dropped.
pub struct Permit {
    pub(super) granted: Granted,
    /// How long the request waited.
    pub waited: Duration,
}

impl Permit {
    /// Which worker this permit is for.
    pub fn generation(&self) -> u64 {
        self.granted.generation
    }

    /// The place in the queue, for trying again.
    pub fn place(&self) -> Place {
        self.granted.place
    }
}

/// Leaves the queue when a caller stops waiting for whatever reason.
pub(super) struct Stay<'a> {
    pub admission: &'a Arc<Admission>,
    pub place: Place,
    /// What is counted if it was still waiting then.
    pub outcome: Outcome,
}

impl Drop for Stay<'_> {
    fn drop(&mut self) {
        let now = self.admission.now();
        let mut gate = self.admission.lock();
        if !gate.queue.remove(self.place) {
            return;
        }
        gate.callers.remove(&self.place.number);
        gate.counts.dropped.count(self.outcome, 1);
        gate.rests(now);
        // It may have been next and too large for what is free: those behind it may fit.
        let blocked = !gate.queue.is_empty();
        drop(gate);
        if blocked {
            self.admission.settle(None);
        }
    }
}
