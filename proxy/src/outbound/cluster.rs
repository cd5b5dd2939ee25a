//! A cluster as all threads share it: its endpoints now, who of them is ejected, what is in flight, and how TLS to it
//! is made. Never opens a connection. Time comes as an argument.

use super::balancers::{BALANCERS, Make, Settings};
use super::endpoint::Endpoint;
use super::origin::Origin;
use super::outlier::{Ledger, Outcome};
use super::set::{Place, Set};
use crate::config::outbound as config;
use arc_swap::ArcSwap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::Semaphore;

pub struct Cluster {
    /// Position in the configuration; one past the end for what is passed through.
    pub number: usize,
    pub config: config::Cluster,
    pub origin: Origin,
    pub set: ArcSwap<Set>,
    known: Mutex<Known>,
    make: Make,
    settings: Settings,
    place: Place,
    pub active: Gauge,
    pub retrying: Gauge,
    /// Requests that wait for a connection.
    pub pending: Gauge,
    /// Of those, requests that wait because there are `connections_max` already.
    pub starving: Gauge,
    pub connections: Arc<Semaphore>,
}

#[derive(Default)]
struct Known {
    all: Vec<Arc<Endpoint>>,
    ledger: Ledger,
}

impl Cluster {
    pub fn new(number: usize, config: config::Cluster, origin: Origin, place: Place, offset: usize) -> Cluster {
        let kind = BALANCERS.iter().find(|(name, _)| *name == config.balancer.kind);
        let make = kind.expect("the configuration names only balancers of the table").1;
        let settings = Settings { overload_percent: config.balancer.overload_percent, offset };
        Cluster {
            set: ArcSwap::from_pointee(Set::new(&[], |_| false, &place, (make, settings))),
            known: Mutex::default(),
            connections: Arc::new(Semaphore::new(config.limits.connections_max)),
            active: Gauge::default(),
            retrying: Gauge::default(),
            pending: Gauge::default(),
            starving: Gauge::default(),
            number,
            config,
            origin,
            make,
            settings,
            place,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("nothing panics while it holds a cluster's endpoints")
    }

    /// These are the endpoints now. Those that were there keep their history.
    pub fn replace(&self, endpoints: Vec<Endpoint>) {
        let mut known = self.lock();
        let renewed = endpoints.into_iter().map(|mut endpoint| {
            if let Some(old) = known.all.iter().find(|old| old.address == endpoint.address) {
                endpoint.stats = old.stats.clone();
            }
            Arc::new(endpoint)
        });
        known.all = renewed.collect();
        self.rebuild(&known);
    }

    fn rebuild(&self, known: &Known) {
        let is_ejected = |address| known.ledger.is_ejected(address);
        self.set.store(Arc::new(Set::new(&known.all, is_ejected, &self.place, (self.make, self.settings))));
    }

    /// A try on this endpoint ended so. The detector's name if that ejected it.
    pub fn judge(&self, endpoint: &Endpoint, outcome: Outcome, now: Duration) -> Option<&'static str> {
        let detector = endpoint.stats.counters.note(outcome, &self.config.outlier)?;
        let mut known = self.lock();
        let count = known.all.len();
        // Not there (any more): what was passed through, or what discovery took away.
        known.all.iter().find(|known| known.address == endpoint.address)?;
        if !known.ledger.eject(endpoint.address, count, now, &self.config.outlier) {
            return None;
        }
        self.rebuild(&known);
        Some(detector)
    }

    /// Once each outlier interval.
    pub fn sweep(&self, now: Duration) {
        let mut known = self.lock();
        let Known { all, ledger } = &mut *known;
        if ledger.sweep(now, |address| all.iter().any(|endpoint| endpoint.address == address)) {
            self.rebuild(&known);
        }
    }
}

/// A number that goes up and down.
#[derive(Clone, Debug, Default)]
pub struct Gauge(Arc<AtomicUsize>);

impl Gauge {
    pub fn get(&self) -> usize {
        self.0.load(Relaxed)
    }

    /// One more, until what is returned is dropped.
    pub fn hold(&self) -> Held {
        self.0.fetch_add(1, Relaxed);
        Held(self.clone())
    }

    /// As [`Gauge::hold`], unless there are `max` already.
    pub fn hold_below(&self, max: usize) -> Option<Held> {
        let held = self.0.fetch_update(Relaxed, Relaxed, |count| (count < max).then_some(count + 1));
        held.is_ok().then(|| Held(self.clone()))
    }
}

#[derive(Debug)]
pub struct Held(Gauge);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Relaxed);
    }
}
