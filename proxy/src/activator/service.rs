//! One service as all threads share it: who waits for it, its pods, and what each of them has.
//!
//! Requests wait in admission's queue, as in a sidecar; what admission may let through at once is what the pods there are
//! can take. Where the last pod goes, admission holds again, under the same lock.

use super::throttle::{Census, Listed, Pick, Throttle, UNLIMITED};
use super::way::Account;
use crate::admission::{self, Admission, BANDS_MAX, QueueLimits};
use crate::chance::Chance;
use crate::config::activator as config;
use crate::metrics::ActivatorMetrics;
use crate::outbound::origin::{Origin, Ourselves, Problem};
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

pub struct Service {
    pub config: config::Service,
    pub admission: Arc<Admission>,
    throttle: Mutex<Throttle>,
    /// Of those who change which pods there are.
    turn: Mutex<()>,
    /// A place came free, or a pod came or went.
    changed: Notify,
    /// Pods that have to be asked whether they answer.
    doubts: Notify,
    origin: OnceLock<Arc<Origin>>,
    /// Without it, activators that start together would begin with the same pod, and be refused more often.
    pub chance: Chance,
    /// Since when each pod that is listed has been.
    since: Mutex<Option<HashMap<SocketAddr, Duration>>>,
    metrics: OnceLock<ActivatorMetrics>,
    pub(super) account: Account,
    began: Instant,
}

/// Which way callers come to a service's pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Through us.
    Through,
    Direct,
}

/// A place at a pod, until dropped.
pub struct Seat {
    service: Arc<Service>,
    pub address: SocketAddr,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.service.lock().release(self.address);
        self.service.changed.notify_waiters();
    }
}

impl Service {
    pub fn new(config: config::Service) -> Arc<Service> {
        let chance = Chance::default();
        let limits = admission::Limits {
            concurrency: UNLIMITED,
            queue: QueueLimits {
                requests_max: config.queue.requests_max,
                bytes_max: config.queue.bytes_max,
                // Callers' priorities are the process's, whatever the service.
                bands: BANDS_MAX,
            },
            wait_max: config.queue.wait_max,
            idle_timeout: None,
        };
        Arc::new(Service {
            throttle: Mutex::new(Throttle::new(config.concurrency, chance.next() as usize)),
            turn: Mutex::default(),
            admission: Admission::new(limits),
            changed: Notify::new(),
            doubts: Notify::new(),
            origin: OnceLock::new(),
            chance,
            since: Mutex::default(),
            metrics: OnceLock::new(),
            account: Account::default(),
            began: Instant::now(),
            config,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Throttle> {
        self.throttle.lock().expect("nothing panics while it holds a service's pods")
    }

    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// With whose certificate pods are met. Before anything is served.
    pub fn secure(&self, ourselves: &Ourselves) -> Result<(), Problem> {
        let origin = Origin::open(&self.config.tls, ourselves)?;
        let _ = self.origin.set(Arc::new(origin));
        Ok(())
    }

    pub fn origin(&self) -> Arc<Origin> {
        self.origin.get().cloned().unwrap_or_else(|| Arc::new(Origin::Plain))
    }

    pub fn capacity(&self) -> usize {
        self.lock().capacity()
    }

    pub fn census(&self) -> Census {
        self.lock().census()
    }

    /// These are the pods now.
    pub fn replace(&self, listed: &[Listed]) {
        self.age(listed);
        self.change(|throttle| throttle.replace(listed));
        let census = self.census();
        tracing::info!(service = self.config.name, ready = census.ready, cold = census.cold, "pods listed");
    }

    pub fn probed(&self, address: SocketAddr, answers: bool) {
        self.change(|throttle| throttle.probed(address, answers));
    }

    /// A pod took no connection.
    pub fn failed(&self, address: SocketAddr) {
        self.moved("failed");
        self.change(|throttle| throttle.failed(address));
    }

    /// A pod had no room.
    pub fn refused(&self, address: SocketAddr) {
        let now = self.now();
        self.moved("refused");
        self.lock().refused(address, now);
    }

    /// A pod took a request.
    pub fn took(&self, address: SocketAddr) {
        self.lock().took(address);
    }

    /// Each pod, whether it takes requests, and since when it is known; `None` before anybody has listed any.
    pub fn known(&self) -> Option<Vec<(SocketAddr, bool, Duration)>> {
        let since = self.since.lock().expect("nothing panics while it holds ages");
        let ready: HashSet<SocketAddr> = self.ready().into_iter().collect();
        let ages = since.as_ref()?.iter();
        Some(ages.map(|(address, since)| (*address, ready.contains(address), *since)).collect())
    }

    /// Pods that take requests.
    pub fn ready(&self) -> Vec<SocketAddr> {
        self.lock().ready().to_vec()
    }

    fn age(&self, listed: &[Listed]) {
        let now = self.now();
        let mut since = self.since.lock().expect("nothing panics while it holds ages");
        let before = since.take().unwrap_or_default();
        let kept = |pod: &Listed| (pod.address, before.get(&pod.address).copied().unwrap_or(now));
        *since = Some(listed.iter().map(kept).collect());
    }

    pub fn has_changed(&self) {
        self.changed.notify_waiters();
    }

    /// Resolves at the next change after it was called.
    pub fn changes(&self) -> Notified<'_> {
        self.changed.notified()
    }

    pub fn counts_in(&self, metrics: &ActivatorMetrics) {
        let _ = self.metrics.set(metrics.clone());
    }

    fn moved(&self, reason: &str) {
        if let Some(metrics) = self.metrics.get() {
            metrics.moved.with_label_values(&[self.config.name.as_str(), reason]).inc();
        }
    }

    /// Whatever changes pods changes with it how many requests admission may let through.
    fn change(&self, what: impl FnOnce(&mut Throttle)) {
        // One after the other, or the older number might be told last.
        let _turn = self.turn.lock().expect("nothing panics while it changes a service's pods");
        let (before, after, doubtful) = {
            let mut throttle = self.lock();
            let before = throttle.capacity();
            what(&mut throttle);
            (before, throttle.capacity(), !throttle.to_probe().is_empty())
        };
        match after {
            _ if after == before => {}
            0 => {
                tracing::info!(service = self.config.name, "no pod is left; requests are held");
                self.admission.emptied();
            }
            _ => self.admission.resize(after),
        }
        self.changed.notify_waiters();
        if doubtful {
            self.doubts.notify_one();
        }
    }

    /// Resolves when there is a pod that takes requests.
    pub async fn has_pods(&self) {
        loop {
            let changed = self.changed.notified();
            if self.capacity() > 0 {
                return;
            }
            changed.await;
        }
    }

    /// Resolves when there are pods to be asked.
    pub async fn doubtful(&self) -> Vec<SocketAddr> {
        loop {
            let doubts = self.doubts.notified();
            let pods = self.lock().to_probe();
            if !pods.is_empty() {
                return pods;
            }
            doubts.await;
        }
    }

    /// A place at a pod, waited for until `deadline`; `Ok(None)` if there is no pod any more.
    pub async fn seat(self: &Arc<Self>, deadline: Instant) -> Result<Option<Seat>, Late> {
        loop {
            let changed = self.changed.notified();
            let now = self.now();
            let picked = self.lock().pick(now, &mut || self.chance.next());
            let until = match picked {
                Pick::Pod(address) => return Ok(Some(Seat { service: self.clone(), address })),
                Pick::Nobody => {
                    // The pods may have gone after admission was told that there are some.
                    self.admission.emptied();
                    return Ok(None);
                }
                Pick::Busy(until) => until.map(|until| self.began + until),
            };
            if Instant::now() >= deadline {
                return Err(Late);
            }
            let next = until.map_or(deadline, |until| until.min(deadline));
            let _ = tokio::time::timeout_at(next.into(), changed).await;
        }
    }
}

/// No place came free in time.
#[derive(Debug)]
pub struct Late;
