//! Of two drawn by weight, the one where a request is expected to cost less: recent latency times requests in flight.
//! Never punishes for ever: what nobody reports fades.

use super::{Ask, Balancer, Settings, TwoChoices};
use crate::outbound::endpoint::Endpoint;
use std::sync::Arc;

struct PeakEwma(TwoChoices);

pub fn make(endpoints: &[Arc<Endpoint>], _: &Settings) -> Box<dyn Balancer> {
    Box::new(PeakEwma(TwoChoices::new(endpoints)))
}

impl Balancer for PeakEwma {
    fn pick(&self, ask: &mut Ask<'_>) -> Option<usize> {
        let (a, b) = self.0.two(ask)?;
        let cost = |at: usize| ask.endpoints[at].stats.cost(ask.now) / f64::from(ask.endpoints[at].weight);
        Some(if cost(a) <= cost(b) { a } else { b })
    }
}
