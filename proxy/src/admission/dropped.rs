//! How requests left the queue that were not given to the worker, in the inference gateway's words (`QueueOutcome` of its
//! flow control), so that one dashboard reads both.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There was no room: 429.
    RejectedCapacity,
    /// Nobody is let in at the moment: draining, or the pause after a failed start.
    RejectedOther,
    /// It waited too long.
    EvictedTtl,
    /// Its caller left.
    EvictedContextCancelled,
    /// It had to go for somebody who asks less, or whose priority is higher: 429.
    EvictedDisplaced,
    /// The worker did not start.
    EvictedOther,
}

const OUTCOMES: [(Outcome, &str); 6] = [
    (Outcome::RejectedCapacity, "RejectedCapacity"),
    (Outcome::RejectedOther, "RejectedOther"),
    (Outcome::EvictedTtl, "EvictedTTL"),
    (Outcome::EvictedContextCancelled, "EvictedContextCancelled"),
    (Outcome::EvictedDisplaced, "EvictedDisplaced"),
    (Outcome::EvictedOther, "EvictedOther"),
];

/// How many of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped([u64; OUTCOMES.len()]);

impl Dropped {
    pub fn count(&mut self, outcome: Outcome, requests: usize) {
        let at = OUTCOMES.iter().position(|(known, _)| *known == outcome).expect("the table has them all");
        self.0[at] += requests as u64;
    }

    pub fn of(&self, outcome: Outcome) -> u64 {
        self.named().find(|(name, _)| OUTCOMES.contains(&(outcome, name))).map_or(0, |(_, requests)| requests)
    }

    /// By the names that metrics have.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
        OUTCOMES.iter().zip(self.0).map(|((_, name), requests)| (*name, requests))
    }
}
