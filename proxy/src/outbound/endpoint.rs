//! One endpoint of a cluster, and what all threads know of it. Pure: time comes as an argument.
//!
//! Numbers are relaxed atomics: a balancer that reads one a moment late chooses a little worse, and nothing else.

use super::outlier::Counters;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

#[derive(Clone, Debug)]
pub struct Endpoint {
    pub address: SocketAddr,
    /// At least 1.
    pub weight: u32,
    pub zone: Option<String>,
    /// Zones whose callers the endpoint is meant for (EndpointSlice `hints.forZones`).
    pub for_zones: Vec<String>,
    /// Survives a refresh of the list it is in.
    pub stats: Arc<Stats>,
}

impl Endpoint {
    pub fn new(address: SocketAddr) -> Endpoint {
        Endpoint { address, weight: 1, zone: None, for_zones: Vec::new(), stats: Arc::default() }
    }
}

#[derive(Debug, Default)]
pub struct Stats {
    pub in_flight: AtomicUsize,
    pub counters: Counters,
    latency: Ewma,
}

/// A moving average of latencies that believes bad news at once and good news slowly.
#[derive(Debug, Default)]
struct Ewma {
    nanoseconds: AtomicU64,
    at_nanoseconds: AtomicU64,
}

/// After so long without news the average has lost two thirds of its say, as in Finagle's and Linkerd's peak EWMA.
const DECAY: Duration = Duration::from_secs(10);

impl Stats {
    /// An answer's head took so long.
    pub fn observe(&self, latency: Duration, now: Duration) {
        let latency = latency.as_nanos() as f64;
        let average = self.latency.at(now);
        let peak = if latency > average || self.latency.at_nanoseconds.load(Relaxed) == 0 {
            latency
        } else {
            let keep = self.latency.decay(now);
            self.latency.nanoseconds.load(Relaxed) as f64 * keep + latency * (1.0 - keep)
        };
        self.latency.nanoseconds.store(peak as u64, Relaxed);
        self.latency.at_nanoseconds.store(now.as_nanos().max(1) as u64, Relaxed);
    }

    /// What one more request is expected to cost: latency times those who share it.
    pub fn cost(&self, now: Duration) -> f64 {
        let load = self.in_flight.load(Relaxed) as f64;
        let average = self.latency.at(now);
        // Never heard of and already busy: as costly as the worst, or a dead endpoint would attract everything.
        if average == 0.0 && load > 0.0 { f64::MAX / 4.0 + load } else { average * (load + 1.0) }
    }
}

impl Ewma {
    fn decay(&self, now: Duration) -> f64 {
        let silent = now.as_nanos() as f64 - self.at_nanoseconds.load(Relaxed) as f64;
        (-silent.max(0.0) / DECAY.as_nanos() as f64).exp()
    }

    fn at(&self, now: Duration) -> f64 {
        self.nanoseconds.load(Relaxed) as f64 * self.decay(now)
    }
}

/// Counts a request on an endpoint while it lives.
#[derive(Debug)]
pub struct InFlight(Arc<Stats>);

impl InFlight {
    pub fn new(stats: &Arc<Stats>) -> InFlight {
        stats.in_flight.fetch_add(1, Relaxed);
        InFlight(stats.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn does_bad_news_count_at_once_and_fade() {
        let stats = Stats::default();
        let second = Duration::from_secs(1);
        stats.observe(second / 100, second);
        stats.observe(second, second * 2);
        let peak = stats.cost(second * 2);
        assert_eq!(peak, 1e9);
        stats.observe(second / 100, second * 2);
        assert!(stats.cost(second * 2) > 0.9 * peak, "one good answer changes little");
        assert!(stats.cost(second * 32) < 0.06 * peak, "silence forgives");
        let busy = InFlight::new(&Arc::new(Stats::default()));
        assert!(busy.0.cost(second) > peak, "busy and unheard of");
    }
}
