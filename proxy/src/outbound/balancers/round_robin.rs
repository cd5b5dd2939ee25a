//! Each in turn, in proportion to its weight. Never looks at load.

use super::{Ask, Balancer, Settings};
use crate::outbound::endpoint::Endpoint;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

struct RoundRobin {
    /// Who is next, at every step of one round.
    turns: Vec<u32>,
    at: AtomicUsize,
}

/// Turns of one round: beyond it weights are rounded, for who has ten thousand endpoints does not miss the last digit.
const TURNS_MAX: u64 = 65_536;

pub fn make(endpoints: &[Arc<Endpoint>], settings: &Settings) -> Box<dyn Balancer> {
    Box::new(RoundRobin { turns: turns(endpoints), at: AtomicUsize::new(settings.offset) })
}

/// Smooth weighted round robin, as nginx spreads it: each step everybody gains its weight, the richest goes and pays
/// the sum. So 5, 1, 1 is a a b a c a a and not a a a a a b c.
fn turns(endpoints: &[Arc<Endpoint>]) -> Vec<u32> {
    let divisor = endpoints.iter().fold(0, |divisor, endpoint| gcd(divisor, endpoint.weight));
    if endpoints.iter().all(|endpoint| endpoint.weight == divisor) {
        return (0..endpoints.len() as u32).collect();
    }
    let mut weights: Vec<i64> = endpoints.iter().map(|endpoint| i64::from(endpoint.weight / divisor)).collect();
    let sum: i64 = weights.iter().sum();
    // Making the turns takes turns × endpoints steps.
    let turns_max = (TURNS_MAX as i64).min(16_000_000 / endpoints.len() as i64).max(endpoints.len() as i64);
    if sum > turns_max {
        for weight in &mut weights {
            *weight = (*weight * turns_max / sum).max(1);
        }
    }
    let sum: i64 = weights.iter().sum();
    let mut wealth = vec![0; weights.len()];
    let turn = |_| {
        wealth.iter_mut().zip(&weights).for_each(|(wealth, weight)| *wealth += weight);
        let richest = (0..wealth.len()).max_by_key(|at| (wealth[*at], usize::MAX - at)).expect("somebody has weight");
        wealth[richest] -= sum;
        richest as u32
    };
    (0..sum).map(turn).collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl Balancer for RoundRobin {
    fn pick(&self, ask: &mut Ask<'_>) -> Option<usize> {
        if self.turns.is_empty() {
            return None;
        }
        let at = self.at.fetch_add(1, Ordering::Relaxed) % self.turns.len();
        Some(ask.next_fresh(self.turns[at] as usize))
    }
}
