//! The worker's state: loading, serving, draining, failed; what is in flight; who wished it to end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use outrider_protos::worker::v1 as wire;
use tokio::sync::{Notify, watch};
use tonic::Status;

use super::catalog::Catalog;
use crate::error::StartError;

/// What should become of the process.
#[derive(Clone, Debug)]
pub enum Wish {
    Serve,
    Drain,
    Stop,
    Failed(Arc<StartError>),
}

/// What is being loaded.
#[derive(Debug, Default)]
pub struct Progress {
    stage: Mutex<&'static str>,
    done: AtomicU64,
    total: AtomicU64,
    /// Twentieths of the weights, as last announced.
    told: AtomicU64,
}

/// As few lines as somebody who waits can tell apart.
const TOLD_STEPS: f32 = 20.0;

impl Progress {
    /// Begins a stage: "weights", "tokenizer", "warming".
    pub fn stage(&self, stage: &'static str) {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) = stage;
        self.announce();
    }

    /// One line for whoever started this process: `progress weights 0.40`.
    fn announce(&self) {
        super::announce(&format!("progress {} {:.2}", self.name(), self.share()));
    }

    /// Adds bytes that will have to be packed.
    pub fn expect(&self, bytes: u64) {
        self.total.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Adds bytes that were packed.
    pub fn packed(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
        let step = (self.share() * TOLD_STEPS) as u64;
        if self.told.fetch_max(step, Ordering::Relaxed) < step {
            self.announce();
        }
    }

    fn share(&self) -> f32 {
        let (done, total) = (self.done.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed));
        if total == 0 { 0.0 } else { (done as f32 / total as f32).min(1.0) }
    }

    fn name(&self) -> &'static str {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Shared by every call, the loader and the end of the process.
pub struct Lifecycle {
    pub progress: Progress,
    catalog: OnceLock<Catalog>,
    wish: watch::Sender<Wish>,
    in_flight: Arc<InFlight>,
}

#[derive(Default)]
struct InFlight {
    count: AtomicU64,
    left: Notify,
}

/// One call's work; the process does not end while one lives and drains.
pub struct Guard(Arc<InFlight>);

impl Drop for Guard {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.left.notify_waiters();
        }
    }
}

impl Lifecycle {
    pub fn new() -> Self {
        let progress = Progress::default();
        progress.stage("weights");
        Lifecycle {
            progress,
            catalog: OnceLock::new(),
            wish: watch::Sender::new(Wish::Serve),
            in_flight: Arc::default(),
        }
    }

    /// Everything is loaded.
    pub fn loaded(&self, catalog: Catalog) {
        if self.catalog.set(catalog).is_ok() {
            super::announce("ready");
        }
    }

    /// Loading failed or an engine died: the process ends with this.
    pub fn failed(&self, error: StartError) {
        tracing::error!(%error, "failed");
        super::announce(&format!("failed {error}"));
        self.wish.send_if_modified(|wish| {
            let first = matches!(wish, Wish::Serve);
            if first {
                *wish = Wish::Failed(Arc::new(error));
            }
            first
        });
    }

    /// Serves what is here, then ends; nothing new is taken.
    pub fn drain(&self) {
        self.wish.send_if_modified(|wish| {
            let serving = matches!(wish, Wish::Serve);
            if serving {
                *wish = Wish::Drain;
            }
            serving
        });
    }

    /// Ends as soon as aborted answers are told.
    pub fn stop(&self) {
        self.wish.send_if_modified(|wish| {
            let change = matches!(wish, Wish::Serve | Wish::Drain);
            if change {
                *wish = Wish::Stop;
            }
            change
        });
    }

    pub fn drain_or_stop(&self) {
        let serving = matches!(*self.wish.borrow(), Wish::Serve);
        if serving { self.drain() } else { self.stop() }
    }

    pub fn wishes(&self) -> watch::Receiver<Wish> {
        self.wish.subscribe()
    }

    /// Engines finish what they have, and end.
    pub fn drain_engines(&self) {
        self.catalog.get().into_iter().flat_map(Catalog::engines).for_each(|engine| engine.drain());
    }

    /// Engines abort what they have, and end.
    pub fn stop_engines(&self) {
        self.catalog.get().into_iter().flat_map(Catalog::engines).for_each(|engine| engine.stop());
    }

    /// Resolves when no call's work lives.
    pub async fn idle(&self) {
        loop {
            // Enabled before the look, so that the last guard cannot leave unheard in between.
            let left = self.in_flight.left.notified();
            tokio::pin!(left);
            left.as_mut().enable();
            if self.in_flight.count.load(Ordering::Acquire) == 0 {
                return;
            }
            left.await;
        }
    }

    /// Begins a call's work.
    ///
    /// # Errors
    /// UNAVAILABLE while loading, draining or failed.
    pub fn enter(&self) -> Result<(Guard, &Catalog), Status> {
        // Counted first, so that a drain that begins now sees it.
        self.in_flight.count.fetch_add(1, Ordering::AcqRel);
        let guard = Guard(Arc::clone(&self.in_flight));
        match self.catalog.get() {
            Some(catalog) if self.serving() => Ok((guard, catalog)),
            _ => Err(Status::unavailable(format!("the worker is not ready: {}; ask again", self.reason()))),
        }
    }

    /// What is loaded, whatever the state.
    pub fn catalog(&self) -> Option<&Catalog> {
        self.catalog.get()
    }

    fn serving(&self) -> bool {
        matches!(*self.wish.borrow(), Wish::Serve)
    }

    /// Why the worker is not ready; empty if it is.
    pub fn reason(&self) -> String {
        match &*self.wish.borrow() {
            Wish::Failed(error) => error.to_string(),
            Wish::Drain | Wish::Stop => "draining".to_string(),
            Wish::Serve => match self.catalog.get() {
                None => format!("loading {} {:.0} %", self.progress.name(), 100.0 * self.progress.share()),
                Some(catalog) if catalog.engines().any(|engine| !engine.alive()) => "an engine has ended".to_string(),
                Some(_) => String::new(),
            },
        }
    }

    pub fn report(&self) -> wire::LifecycleResponse {
        use wire::lifecycle_response::State;
        let loaded = self.catalog.get().is_some();
        let state = match &*self.wish.borrow() {
            Wish::Failed(_) => State::Failed,
            Wish::Drain | Wish::Stop => State::Draining,
            Wish::Serve if loaded => State::Serving,
            Wish::Serve => State::Loading,
        };
        let mut response = wire::LifecycleResponse {
            state: state.into(),
            stage: if loaded { String::new() } else { self.progress.name().to_string() },
            progress: if loaded { 1.0 } else { self.progress.share() },
            reason: self.reason(),
            ..Default::default()
        };
        for stats in self.catalog.get().into_iter().flat_map(Catalog::engines).map(|engine| engine.stats()) {
            response.running += stats.running;
            response.waiting += stats.waiting;
            response.kv_blocks_used += stats.kv_blocks_used;
            response.kv_blocks_total += stats.kv_blocks_total;
        }
        response
    }
}
