//! The same key goes to the same endpoint, and when endpoints come or go, few keys move: a ring of points, some for
//! each endpoint (Karger 1997). With `overload_percent`, an endpoint far above the mean load is passed over (Mirrokni,
//! Thorup, Zadimoghaddam 2017), so that one popular prompt does not bury one server. Never keeps a table of keys.

use super::{Ask, Balancer, Settings, hash};
use crate::chance::mix;
use crate::outbound::endpoint::Endpoint;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

struct Ring {
    /// Position and endpoint, sorted.
    points: Vec<(u64, u32)>,
    overload_percent: Option<u32>,
}

/// For a weight of 1: shares then differ by about a tenth.
const POINTS: u32 = 128;
/// Beyond it, weights get fewer points each.
const POINTS_MAX: u64 = 1 << 20;

pub fn make(endpoints: &[Arc<Endpoint>], settings: &Settings) -> Box<dyn Balancer> {
    let weight: u64 = endpoints.iter().map(|endpoint| u64::from(endpoint.weight)).sum();
    let points = POINTS.min((POINTS_MAX / weight.max(1)) as u32).max(1);
    let mut ring: Vec<(u64, u32)> = Vec::new();
    for (at, endpoint) in endpoints.iter().enumerate() {
        // By address: an endpoint that comes back finds its keys again.
        let own = hash(endpoint.address.to_string().as_bytes());
        ring.extend((0..u64::from(points * endpoint.weight)).map(|point| (mix(own ^ mix(point + 1)), at as u32)));
    }
    ring.sort_unstable();
    Box::new(Ring { points: ring, overload_percent: settings.overload_percent })
}

impl Ring {
    /// Load an endpoint may have before it is passed over.
    fn bound(&self, ask: &Ask<'_>) -> usize {
        let Some(percent) = self.overload_percent else { return usize::MAX };
        let all: usize = ask.endpoints.iter().map(|endpoint| endpoint.stats.in_flight.load(Relaxed)).sum();
        ((all + 1) * percent as usize).div_ceil(100 * ask.endpoints.len())
    }
}

impl Balancer for Ring {
    fn pick(&self, ask: &mut Ask<'_>) -> Option<usize> {
        if self.points.is_empty() {
            return None;
        }
        // Nothing to hash: anywhere will do.
        let key = ask.key.unwrap_or_else(|| (ask.chance)());
        let start = self.points.partition_point(|(position, _)| *position < key);
        let bound = self.bound(ask);
        let walk = (0..self.points.len()).map(|step| self.points[(start + step) % self.points.len()].1 as usize);
        let fits = |at: &usize| ask.fresh(*at) && ask.endpoints[*at].stats.in_flight.load(Relaxed) < bound;
        let first = self.points[start % self.points.len()].1 as usize;
        Some(walk.into_iter().find(fits).unwrap_or_else(|| ask.next_fresh(first)))
    }
}
