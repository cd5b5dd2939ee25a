//! A pod: its gate, its worker as it really is, and who is inside. What is really so is counted here once more, apart from
//! the rooms that are tried, and compared with what they say after every event.

use crate::gate::{Gate, Request};
use outrider::scale::stats::Reporter;
use std::collections::BTreeSet;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Starting,
    Ready,
    /// Taken off the scale; stays until callers have forgotten it and nobody is inside.
    Leaving {
        since: Duration,
    },
    /// It went as it was asked to.
    Gone,
    /// Its node is lost, with all who were inside.
    Lost,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worker {
    Down,
    Starting,
    Up(u64),
    Stopping,
}

pub struct Pod {
    pub gate: Gate,
    pub reporter: Reporter,
    pub phase: Phase,
    pub born: Duration,
    pub worker: Worker,
    pub running: BTreeSet<Request>,
    pub waiting: BTreeSet<Request>,
    pub granted: u64,
    pub released: u64,
}

impl Pod {
    pub fn new(gate: Gate, now: Duration) -> Pod {
        Pod {
            gate,
            reporter: Reporter::new(now),
            phase: Phase::Starting,
            born: now,
            worker: Worker::Down,
            running: BTreeSet::new(),
            waiting: BTreeSet::new(),
            granted: 0,
            released: 0,
        }
    }

    pub fn inside(&self) -> usize {
        self.running.len() + self.waiting.len()
    }

    pub fn is_here(&self) -> bool {
        matches!(self.phase, Phase::Starting | Phase::Ready | Phase::Leaving { .. })
    }

    /// What must hold after whatever happened.
    pub fn check(&self) {
        let (running, waiting) = (self.running.len(), self.waiting.len());
        assert!(running <= self.gate.limit(), "in-flight: {running} run where {} may", self.gate.limit());
        assert_eq!(self.gate.running(), running, "permits: the breaker counts others than run");
        assert_eq!(self.granted - self.released, running as u64, "permits in are not permits out");
        assert_eq!(self.gate.waiting(), waiting, "lost: the queue holds others than wait");
        assert_eq!(self.reporter.running(), self.inside() as u64, "statistics count others than are inside");
        match self.worker {
            Worker::Up(_) => assert!(waiting == 0 || running == self.gate.limit(), "lost: {waiting} wait for nothing"),
            Worker::Down => assert_eq!(waiting, 0, "lost: nobody starts what they wait for"),
            Worker::Starting | Worker::Stopping => {
                assert_eq!(running, 0, "lost: {running} run on a worker that is not up");
            }
        }
        let up = if let Worker::Up(generation) = self.worker { Some(generation) } else { None };
        assert_eq!(up, self.gate.awake(), "the gate does not know its worker");
    }
}
