//! How a service's requests ended, and what happened to it on the way: counts, and nothing else.

/// How requests ended, and what happened on the way.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ends {
    pub requests: u64,
    pub(super) served: u64,
    pub(super) full: u64,
    pub(super) cold: u64,
    pub(super) left: u64,
    pub(super) crashed: u64,
    pub(super) broken: u64,
    pub(super) direct: u64,
    /// Came between "idle" and "stopped".
    pub(super) between: u64,
    /// Pods there ever were, and the most at once, summed over services.
    pub(super) pods: u64,
    pub peak: u64,
    pub(super) starts: u64,
    pub(super) start_failures: u64,
    pub(super) stops: u64,
    pub(super) crashes: u64,
    pub(super) nodes_lost: u64,
    pub(super) clock_steps: u64,
    pub(super) panics: u64,
    pub(super) to_zero: u64,
    pub(super) from_zero: u64,
    pub(super) events: u64,
}

impl Ends {
    pub fn happened(&self) -> [(&'static str, u64); 18] {
        [
            ("served", self.served),
            ("full", self.full),
            ("cold", self.cold),
            ("left", self.left),
            ("crashed", self.crashed),
            ("broken", self.broken),
            ("direct", self.direct),
            ("between", self.between),
            ("peak", self.peak),
            ("starts", self.starts),
            ("start failures", self.start_failures),
            ("stops", self.stops),
            ("crashes", self.crashes),
            ("nodes lost", self.nodes_lost),
            ("clock steps", self.clock_steps),
            ("panics", self.panics),
            ("to zero", self.to_zero),
            ("from zero", self.from_zero),
        ]
    }

    fn sums(&mut self) -> [&mut u64; 21] {
        [
            &mut self.requests,
            &mut self.served,
            &mut self.full,
            &mut self.cold,
            &mut self.left,
            &mut self.crashed,
            &mut self.broken,
            &mut self.direct,
            &mut self.between,
            &mut self.pods,
            &mut self.peak,
            &mut self.starts,
            &mut self.start_failures,
            &mut self.stops,
            &mut self.crashes,
            &mut self.nodes_lost,
            &mut self.clock_steps,
            &mut self.panics,
            &mut self.to_zero,
            &mut self.from_zero,
            &mut self.events,
        ]
    }

    pub fn add(&mut self, other: &Ends) {
        let mut other = other.clone();
        for (sum, more) in self.sums().into_iter().zip(other.sums()) {
            *sum += *more;
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Served,
    /// The pod's queue was full.
    Full,
    /// The worker would not start.
    Cold,
    Left,
    /// The worker died under it, and it was told so.
    Crashed,
    /// Its node is lost.
    Broken,
}
