//! When a request may go on: the asynchronous shell around the pure queue, breaker, wake and pace.
//!
//! One lock guards them all, so that "nobody waits" and "stop the worker" can never disagree. It never knows what a
//! request says; it knows how many bytes it holds, what it costs, and in which flow and band it waits.

mod breaker;
mod capacity;
mod dropped;
mod gate;
mod pace;
mod permit;
mod prewarm;
mod progress;
mod queue;
pub mod rate;
mod wake;

pub use breaker::Breaker;
pub use dropped::{Dropped, Outcome};
pub use permit::Permit;
pub use prewarm::WeekTime;
pub use progress::Outlook;
pub use queue::{BANDS_MAX, Class, Full, Place, Queue, QueueLimits};
pub use wake::{Next, State, Wake};

use crate::error::Error;
use crate::scale::targets::Target;
use crate::until::until;
use gate::{BATCH, Gate, Grants};
use pace::Pace;
use permit::{Granted, Stay};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, oneshot};

/// What admission may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests the worker is given at once.
    pub concurrency: usize,
    pub queue: QueueLimits,
    /// How long a request may wait, unless its ticket says.
    pub wait_max: Duration,
    /// How long a worker may be idle before it is stopped. `None`: for ever.
    pub idle_timeout: Option<Duration>,
}

/// What a request asks for when it comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ticket {
    /// It holds while it waits.
    pub bytes: usize,
    /// It takes of the worker while it runs: 1, or LLM tokens; 0 counts as 1.
    pub cost: u64,
    pub class: Class,
    /// How long it may wait; `None`: as long as all.
    pub wait_max: Option<Duration>,
    /// Set for a request that has to try again: it keeps its place, its class and its cost.
    pub place: Option<Place>,
}

/// For metrics, the status page and readiness.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    pub running: usize,
    pub waiting: usize,
    pub waiting_bytes: usize,
    /// From the highest of so many bands.
    pub bands: usize,
    pub depths: [usize; BANDS_MAX],
    /// Flows with somebody waiting.
    pub flows: usize,
    /// Of those who run, and what it may be at most.
    pub cost: u64,
    pub capacity: Option<u64>,
    pub dropped: Dropped,
    /// `asleep`, `waking`, `awake`, `stopping`, `backoff`.
    pub worker: &'static str,
    /// Why the last start failed, while in `backoff`.
    pub reason: Option<String>,
    pub generation: u64,
    pub draining: bool,
    pub starts: u64,
    pub start_failures: u64,
    /// Times a worker went away by itself.
    pub crashes: u64,
    /// Over all successful starts.
    pub wake_seconds_sum: f64,
}

impl Snapshot {
    /// What a start took so far, from one second to one minute.
    fn mean_start(&self) -> Duration {
        let good = self.starts.saturating_sub(self.start_failures).max(1);
        Duration::from_secs_f64((self.wake_seconds_sum / good as f64).clamp(1.0, 60.0))
    }
}

/// The gate between callers and the worker. One for each worker; shared by all runtime threads.
pub struct Admission {
    gate: Mutex<Gate>,
    changed: Notify,
    epoch: Instant,
    wait_max: Duration,
    starts: progress::Starts,
}

/// Whoever came.
enum Entered<'a> {
    Granted(Granted),
    Waits(Stay<'a>, oneshot::Receiver<Result<Granted, Error>>),
}

impl Admission {
    pub fn new(limits: Limits) -> Arc<Self> {
        let gate = Gate {
            breaker: Breaker::new(limits.concurrency),
            queue: Queue::new(limits.queue),
            wake: Wake::new(limits.idle_timeout),
            pace: Pace::default(),
            callers: HashMap::new(),
            counts: Snapshot::default(),
        };
        Arc::new(Admission {
            gate: Mutex::new(gate),
            changed: Notify::new(),
            epoch: Instant::now(),
            wait_max: limits.wait_max,
            starts: progress::Starts::default(),
        })
    }

    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().expect("nothing panics while it holds the gate")
    }

    /// Waits for a place, waking the worker if it sleeps. Dropping the future leaves the queue.
    pub async fn admit(self: &Arc<Self>, ticket: Ticket) -> Result<Permit, Error> {
        let since = self.now();
        let (mut stay, answer) = match self.enter(ticket, since)? {
            Entered::Granted(granted) => return Ok(Permit { granted, waited: Duration::ZERO }),
            Entered::Waits(stay, answer) => (stay, answer),
        };
        let answer = tokio::time::timeout(ticket.wait_max.unwrap_or(self.wait_max), answer).await;
        let waited = self.now() - since;
        match answer {
            Ok(Ok(granted)) => Ok(Permit { granted: granted?, waited }),
            Ok(Err(_)) => Err(Error::Draining),
            Err(_) => {
                stay.outcome = Outcome::EvictedTtl;
                Err(self.lock().too_late(waited))
            }
        }
    }

    /// Goes on at once if a place is free and nobody is before it; else joins the queue.
    fn enter(self: &Arc<Self>, ticket: Ticket, now: Duration) -> Result<Entered<'_>, Error> {
        let mut gate = self.lock();
        if gate.counts.draining && ticket.place.is_none() {
            gate.counts.dropped.count(Outcome::RejectedOther, 1);
            return Err(Error::Draining);
        }
        if let Some((retry_after, reason)) = gate.wake.refuses(now) {
            let error = Error::WakeFailed { reason: reason.to_owned(), retry_after };
            gate.counts.dropped.count(Outcome::RejectedOther, 1);
            return Err(error);
        }
        if let Some(granted) = gate.at_once(self, &ticket, now) {
            return Ok(Entered::Granted(granted));
        }
        let (caller, answer) = oneshot::channel();
        let (place, gone) = gate.join(&ticket, caller, now)?;
        let displaced = Error::QueueDisplaced { retry_after: gate.retry_after() };
        // Whoever was next may not fit where this one does, and this one may be before it.
        let grants = gate.grant(self, now);
        let asleep = gate.wake.awake().is_none();
        drop(gate);
        for caller in gone {
            let _ = caller.send(Err(displaced.clone()));
        }
        if self.tell(grants) {
            self.settle(None);
        }
        if asleep {
            // Only a sleeper's keeper has something to do: waking it for every request would cost each of them two
            // switches of threads, a quarter of all its CPU.
            self.changed.notify_one();
        }
        Ok(Entered::Waits(Stay { admission: self, place, outcome: Outcome::EvictedContextCancelled }, answer))
    }

    /// Gives back a place of this cost, and it and other free places to those who wait, in batches.
    fn settle(self: &Arc<Self>, cost: Option<u64>) {
        let mut owed = cost;
        loop {
            let now = self.now();
            let mut gate = self.lock();
            if let Some(cost) = owed.take() {
                gate.breaker.release(cost, now);
            }
            let grants = gate.grant(self, now);
            if cost.is_some() {
                gate.rests(now);
            }
            drop(gate);
            let more = grants.len() == BATCH;
            if !self.tell(grants) && !more {
                return;
            }
        }
    }

    /// Tells callers outside the lock. True if some had left, whose places are free again.
    fn tell(&self, grants: Grants) -> bool {
        let mut left = Vec::new();
        for (caller, granted) in grants {
            if let Err(Ok(granted)) = caller.send(Ok(granted)) {
                left.push(granted.spend());
            }
        }
        if left.is_empty() {
            return false;
        }
        let now = self.now();
        let mut gate = self.lock();
        left.iter().for_each(|cost| gate.breaker.release(*cost, now));
        gate.rests(now);
        true
    }

    /// What those who run may cost together from now on, as the worker says of itself.
    pub fn holds(self: &Arc<Self>, capacity: Option<u64>) {
        self.lock().breaker.set_capacity(capacity);
        self.settle(None);
    }

    /// The connection to that worker broke: the next request wakes another.
    pub fn lost(&self, generation: u64) {
        let mut gate = self.lock();
        if gate.wake.lost(generation) {
            gate.pace.end();
            gate.counts.crashes += 1;
            drop(gate);
            tracing::error!(generation, "the worker went away");
            self.changed.notify_one();
        }
    }

    /// Nobody new is let in. Those who run or wait may finish.
    pub fn drain(&self) {
        self.lock().counts.draining = true;
    }

    pub fn snapshot(&self) -> Snapshot {
        let gate = self.lock();
        let (worker, reason) = match gate.wake.state() {
            State::Asleep => ("asleep", None),
            State::Waking { .. } => ("waking", None),
            State::Awake { .. } => ("awake", None),
            State::Stopping => ("stopping", None),
            State::Backoff { reason, .. } => ("backoff", Some(reason.clone())),
        };
        Snapshot {
            running: gate.breaker.running(),
            waiting: gate.queue.len(),
            waiting_bytes: gate.queue.bytes(),
            bands: gate.queue.bands(),
            depths: gate.queue.depths(),
            flows: gate.queue.flows(),
            cost: gate.breaker.cost(),
            capacity: gate.breaker.capacity(),
            worker,
            reason,
            generation: gate.wake.awake().unwrap_or(0),
            ..gate.counts.clone()
        }
    }

    /// Starts and stops the worker as the gate decides, until `stop` resolves; then stops the worker for good.
    pub async fn run(self: Arc<Self>, target: Arc<dyn Target>, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        self.starts.are_of(&target);
        loop {
            let (next, ramp) = {
                let now = self.now();
                let mut gate = self.lock();
                let (running, waiting) = (gate.breaker.running(), gate.queue.len());
                (gate.wake.next(now, running, waiting), gate.pace.next(now))
            };
            let step = async {
                match next {
                    Next::Start => self.start(target.as_ref()).await,
                    Next::Stop => {
                        target.stop().await;
                        self.lock().wake.stopped();
                    }
                    Next::Wait(until) => {
                        let until = until.into_iter().chain(ramp).min();
                        self.wait(target.as_ref(), until).await;
                        if ramp.is_some() {
                            self.settle(None);
                        }
                    }
                }
            };
            tokio::select! {
                () = step => {}
                () = &mut stop => break,
            }
        }
        target.leave().await;
    }

    async fn start(self: &Arc<Self>, target: &dyn Target) {
        let since = self.now();
        let outcome = target.start().await;
        let now = self.now();
        let mut gate = self.lock();
        gate.counts.starts += 1;
        match outcome {
            Ok(()) => {
                gate.counts.wake_seconds_sum += (now - since).as_secs_f64();
                let split = target.split();
                self.starts.went_well(now - since, &split);
                gate.wake.started();
                gate.pace.begin(now);
                let waiting = gate.queue.len();
                drop(gate);
                tracing::info!(wake_seconds = (now - since).as_secs_f64(), ?split, waiting, "the worker is awake");
                self.settle(None);
            }
            Err(reason) => {
                gate.counts.start_failures += 1;
                let retry_after = gate.wake.start_failed(now, reason.clone());
                let error = Error::WakeFailed { reason, retry_after };
                let (_waiting, callers) = gate.evict_all();
                drop(gate);
                tracing::warn!(waiting = callers.len(), %error, "everybody who waits is refused");
                for caller in callers.into_values() {
                    let _ = caller.send(Err(error.clone()));
                }
            }
        }
    }

    async fn wait(&self, target: &dyn Target, moment: Option<Duration>) {
        let generation = self.lock().wake.awake();
        tokio::select! {
            () = self.changed.notified() => {}
            () = until(moment.map(|moment| (self.epoch + moment).into())) => {}
            reason = target.exited(), if generation.is_some() => {
                tracing::error!(reason, "the worker ended by itself");
                self.lost(generation.expect("checked by the guard"));
            }
        }
    }
}

#[cfg(test)]
mod tests;
