//! Of two drawn by weight, the one with fewer requests for its weight. Never remembers how fast anybody was.

use super::{Ask, Balancer, Settings, TwoChoices};
use crate::outbound::endpoint::Endpoint;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

struct LeastRequest(TwoChoices);

pub fn make(endpoints: &[Arc<Endpoint>], _: &Settings) -> Box<dyn Balancer> {
    Box::new(LeastRequest(TwoChoices::new(endpoints)))
}

impl Balancer for LeastRequest {
    fn pick(&self, ask: &mut Ask<'_>) -> Option<usize> {
        let (a, b) = self.0.two(ask)?;
        // load(a) / weight(a) <= load(b) / weight(b), without the division.
        let load = |at: usize| ask.endpoints[at].stats.in_flight.load(Relaxed) as u64;
        let weight = |at: usize| u64::from(ask.endpoints[at].weight);
        Some(if load(a) * weight(b) <= load(b) * weight(a) { a } else { b })
    }
}
