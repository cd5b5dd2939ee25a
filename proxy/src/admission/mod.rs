//! When a request may go on: the asynchronous shell around the pure queue, breaker and wake.
//!
//! One lock guards all three, so that "nobody waits" and "stop the worker" can never disagree. It never knows what a
//! request says; it knows how many bytes it holds.

mod breaker;
mod capacity;
mod prewarm;
mod progress;
mod queue;
pub mod rate;
mod wake;

pub use breaker::Breaker;
pub use prewarm::WeekTime;
pub use progress::Outlook;
pub use queue::{Full, Place, Queue, QueueLimits};
pub use wake::{Next, State, Wake};

use crate::error::Error;
use crate::scale::targets::Target;
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
    /// How long a request may wait.
    pub wait_max: Duration,
    /// How long a worker may be idle before it is stopped. `None`: for ever.
    pub idle_timeout: Option<Duration>,
}

/// What a request costs while it waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ticket {
    pub bytes: usize,
    /// Set for a request that has to try again: it keeps its place.
    pub place: Option<Place>,
}

/// For metrics, the status page and readiness.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    pub running: usize,
    pub waiting: usize,
    pub waiting_bytes: usize,
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

/// The gate between callers and the worker. One for each worker; shared by all runtime threads.
pub struct Admission {
    gate: Mutex<Gate>,
    changed: Notify,
    epoch: Instant,
    wait_max: Duration,
    starts: progress::Starts,
}

struct Gate {
    breaker: Breaker,
    queue: Queue,
    wake: Wake,
    callers: HashMap<Place, oneshot::Sender<Result<Granted, Error>>>,
    counts: Snapshot,
}

/// A place taken for somebody, who may be gone before it hears of it: dropping it gives the place back.
struct Granted {
    admission: Arc<Admission>,
    generation: u64,
    place: Place,
}

/// The right to use the worker, until dropped.
pub struct Permit {
    granted: Granted,
    /// How long the request waited.
    pub waited: Duration,
}

impl Permit {
    /// Which worker this permit is for.
    pub fn generation(&self) -> u64 {
        self.granted.generation
    }

    /// The place in the queue, for trying again.
    pub fn place(&self) -> Place {
        self.granted.place
    }
}

impl Drop for Granted {
    fn drop(&mut self) {
        let now = self.admission.now();
        let mut gate = self.admission.lock();
        gate.breaker.release(now);
        let grants = gate.grant(&self.admission);
        if gate.breaker.running() == 0 && gate.queue.is_empty() {
            gate.wake.rests(now);
        }
        drop(gate);
        deliver(grants);
    }
}

type Grants = Vec<(oneshot::Sender<Result<Granted, Error>>, Granted)>;

/// Tells callers outside the lock: a caller that has left gives its place back, which takes the lock.
fn deliver(grants: Grants) {
    for (caller, granted) in grants {
        let _ = caller.send(Ok(granted));
    }
}

impl Gate {
    /// Gives free places to those who wait, in order, while a worker is awake.
    fn grant(&mut self, admission: &Arc<Admission>) -> Grants {
        let mut grants = Vec::new();
        let Some(generation) = self.wake.awake() else { return grants };
        while !self.queue.is_empty() && self.breaker.acquire() {
            let (place, _) = self.queue.pop().expect("the queue is not empty");
            let caller = self.callers.remove(&place).expect("whoever waits has a caller");
            grants.push((caller, Granted { admission: admission.clone(), generation, place }));
        }
        grants
    }

    fn refuse_all(&mut self, error: &Error) -> Vec<oneshot::Sender<Result<Granted, Error>>> {
        while self.queue.pop().is_some() {}
        tracing::warn!(waiting = self.callers.len(), %error, "everybody who waits is refused");
        self.callers.drain().map(|(_, caller)| caller).collect()
    }

    fn full(&self, full: Full) -> Error {
        let retry_after = self.breaker.retry_after(self.queue.len());
        match full {
            Full::Requests => Error::QueueFull { waiting: self.queue.len(), retry_after },
            Full::Bytes => Error::QueueBytesFull { bytes: self.queue.bytes(), retry_after },
        }
    }
}

/// Leaves the queue when a caller stops waiting for whatever reason.
struct Stay<'a> {
    admission: &'a Arc<Admission>,
    place: Place,
}

impl Drop for Stay<'_> {
    fn drop(&mut self) {
        let mut gate = self.admission.lock();
        if gate.queue.remove(self.place) {
            gate.callers.remove(&self.place);
            let now = self.admission.now();
            if gate.breaker.running() == 0 && gate.queue.is_empty() {
                gate.wake.rests(now);
            }
        }
    }
}

impl Admission {
    pub fn new(limits: Limits) -> Arc<Self> {
        let gate = Gate {
            breaker: Breaker::new(limits.concurrency),
            queue: Queue::new(limits.queue),
            wake: Wake::new(limits.idle_timeout),
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
        let (place, answer) = self.enter(ticket, since)?;
        let _place = Stay { admission: self, place };
        let answer = tokio::time::timeout(self.wait_max, answer).await;
        let waited = self.now() - since;
        match answer {
            Ok(Ok(granted)) => Ok(Permit { granted: granted?, waited }),
            Ok(Err(_)) => Err(Error::Draining),
            Err(_) => Err(Error::QueueTimeout { waited }),
        }
    }

    /// Joins the queue; when a place is free and nobody is before it, the answer is there at once.
    fn enter(
        self: &Arc<Self>,
        ticket: Ticket,
        now: Duration,
    ) -> Result<(Place, oneshot::Receiver<Result<Granted, Error>>), Error> {
        let mut gate = self.lock();
        if gate.counts.draining && ticket.place.is_none() {
            return Err(Error::Draining);
        }
        if let Some((retry_after, reason)) = gate.wake.refuses(now) {
            return Err(Error::WakeFailed { reason: reason.to_owned(), retry_after });
        }
        let place = ticket.place.unwrap_or_else(|| gate.queue.place());
        gate.queue.push(place, ticket.bytes, now).map_err(|full| gate.full(full))?;
        let (caller, answer) = oneshot::channel();
        gate.callers.insert(place, caller);
        let grants = gate.grant(self);
        let asleep = gate.wake.awake().is_none();
        drop(gate);
        deliver(grants);
        if asleep {
            // Only a sleeper's keeper has something to do: waking it for every request would cost each of them two
            // switches of threads, a quarter of all its CPU.
            self.changed.notify_one();
        }
        Ok((place, answer))
    }

    /// The connection to that worker broke: the next request wakes another.
    pub fn lost(&self, generation: u64) {
        let mut gate = self.lock();
        if gate.wake.lost(generation) {
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
            let next = {
                let mut gate = self.lock();
                let (running, waiting) = (gate.breaker.running(), gate.queue.len());
                gate.wake.next(self.now(), running, waiting)
            };
            let step = async {
                match next {
                    Next::Start => self.start(target.as_ref()).await,
                    Next::Stop => {
                        target.stop().await;
                        self.lock().wake.stopped();
                    }
                    Next::Wait(until) => self.wait(target.as_ref(), until).await,
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
                let grants = gate.grant(self);
                drop(gate);
                tracing::info!(
                    wake_seconds = (now - since).as_secs_f64(),
                    ?split,
                    released = grants.len(),
                    "the worker is awake"
                );
                deliver(grants);
            }
            Err(reason) => {
                gate.counts.start_failures += 1;
                let retry_after = gate.wake.start_failed(now, reason.clone());
                let error = Error::WakeFailed { reason, retry_after };
                let callers = gate.refuse_all(&error);
                drop(gate);
                for caller in callers {
                    let _ = caller.send(Err(error.clone()));
                }
            }
        }
    }

    async fn wait(&self, target: &dyn Target, until: Option<Duration>) {
        let generation = self.lock().wake.awake();
        let deadline = async {
            match until {
                Some(until) => tokio::time::sleep(until.saturating_sub(self.now())).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.changed.notified() => {}
            () = deadline => {}
            reason = target.exited(), if generation.is_some() => {
                tracing::error!(reason, "the worker ended by itself");
                self.lost(generation.expect("checked by the guard"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_trait::async_trait;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    /// A worker that starts as the test says.
    #[derive(Default)]
    struct Scripted {
        starts: AtomicUsize,
        stops: AtomicUsize,
        /// The first so many starts fail.
        failing: usize,
    }

    #[async_trait]
    impl Target for Scripted {
        async fn start(&self) -> Result<(), String> {
            tokio::time::sleep(Duration::from_millis(20)).await;
            if self.starts.fetch_add(1, SeqCst) < self.failing { Err("out of memory".into()) } else { Ok(()) }
        }

        async fn stop(&self) {
            self.stops.fetch_add(1, SeqCst);
        }

        async fn exited(&self) -> String {
            std::future::pending().await
        }
    }

    const LIMITS: Limits = Limits {
        concurrency: 4,
        queue: QueueLimits { requests_max: 100, bytes_max: 1 << 20 },
        wait_max: Duration::from_secs(5),
        idle_timeout: None,
    };

    fn begin(limits: Limits, target: Scripted) -> (Arc<Admission>, Arc<Scripted>) {
        let (admission, target) = (Admission::new(limits), Arc::new(target));
        tokio::spawn(admission.clone().run(target.clone(), std::future::pending()));
        (admission, target)
    }

    #[tokio::test]
    async fn do_a_hundred_callers_share_one_start_and_the_limit() {
        let (admission, target) = begin(LIMITS, Scripted::default());
        let most = Arc::new(AtomicUsize::new(0));
        let callers: Vec<_> = (0..100)
            .map(|_| {
                let (admission, most) = (admission.clone(), most.clone());
                tokio::spawn(async move {
                    let _permit = admission.admit(Ticket::default()).await.unwrap();
                    most.fetch_max(admission.snapshot().running, SeqCst);
                    tokio::task::yield_now().await;
                })
            })
            .collect();
        for caller in callers {
            caller.await.unwrap();
        }
        assert_eq!(target.starts.load(SeqCst), 1);
        assert_eq!(most.load(SeqCst), 4);
        let after = admission.snapshot();
        assert_eq!((after.running, after.waiting, after.waiting_bytes), (0, 0, 0));
    }

    #[tokio::test]
    async fn is_everybody_told_once_when_a_start_fails() {
        let (admission, target) = begin(LIMITS, Scripted { failing: 1, ..Default::default() });
        let callers: Vec<_> = (0..10)
            .map(|_| {
                let admission = admission.clone();
                tokio::spawn(async move { admission.admit(Ticket::default()).await.map(drop) })
            })
            .collect();
        for caller in callers {
            let error = caller.await.unwrap().unwrap_err();
            assert!(error.to_string().contains("out of memory"), "{error}");
        }
        assert_eq!(target.starts.load(SeqCst), 1);
        let refused = admission.admit(Ticket::default()).await.map(drop).unwrap_err();
        assert!(refused.verdict().retry_after.is_some(), "in the pause nobody starts another: {refused}");
        tokio::time::sleep(Duration::from_millis(1050)).await;
        admission.admit(Ticket::default()).await.map(drop).expect("after the pause it works");
    }

    #[tokio::test]
    async fn does_an_idle_worker_sleep_and_wake_again() {
        let limits = Limits { idle_timeout: Some(Duration::from_millis(30)), ..LIMITS };
        let (admission, target) = begin(limits, Scripted::default());
        for round in 1..4 {
            admission.admit(Ticket::default()).await.map(drop).unwrap();
            while target.stops.load(SeqCst) < round || admission.snapshot().worker != "asleep" {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            assert_eq!(target.starts.load(SeqCst), round);
        }
    }

    #[tokio::test]
    async fn does_a_caller_that_leaves_free_its_place() {
        let (admission, _) = begin(Limits { concurrency: 1, ..LIMITS }, Scripted::default());
        let held = admission.admit(Ticket::default()).await.unwrap();
        let waits = tokio::spawn({
            let admission = admission.clone();
            async move { admission.admit(Ticket { bytes: 10, place: None }).await.map(drop) }
        });
        while admission.snapshot().waiting_bytes != 10 {
            tokio::task::yield_now().await;
        }
        waits.abort();
        let _ = waits.await;
        assert_eq!(admission.snapshot().waiting, 0);
        drop(held);
        admission.admit(Ticket::default()).await.map(drop).unwrap();
        assert_eq!(admission.snapshot().running, 0);
    }

    #[tokio::test]
    async fn is_a_lost_worker_replaced_and_the_place_kept() {
        let (admission, target) = begin(LIMITS, Scripted::default());
        let permit = admission.admit(Ticket::default()).await.unwrap();
        let (generation, place) = (permit.generation(), permit.place());
        drop(permit);
        admission.lost(generation);
        admission.lost(generation);
        let again = admission.admit(Ticket { bytes: 0, place: Some(place) }).await.unwrap();
        assert_eq!((again.place(), again.generation()), (place, generation + 1));
        assert_eq!((target.starts.load(SeqCst), admission.snapshot().crashes), (2, 1));
    }
}
