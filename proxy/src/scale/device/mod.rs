//! Several models on one device: each is woken only when there is room, and the one that nobody has used for longest
//! sleeps for another.
//!
//! Sidecars of one node or pod agree over a folder; there is no arbiter that could be down. What each needs is declared,
//! never measured: a model that takes more than it says takes it from all.

mod group;
mod plan;

pub use group::Group;
use plan::Hold;

use super::progress::{Progress, Split, Stage, Told};
use super::targets::Target;
use crate::admission::Admission;
use async_trait::async_trait;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How soon another's wish is seen, and how old what others see of us may be.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Since 1970.
pub type Clock = fn() -> Duration;

/// A target that shares its device.
pub struct Shared {
    inner: Arc<dyn Target>,
    group: Arc<Group>,
    clock: Clock,
    told: Told,
}

impl Shared {
    pub fn new(inner: Arc<dyn Target>, group: Group, clock: Clock) -> Self {
        Shared { inner, group: Arc::new(group), clock, told: Told::default() }
    }
}

#[async_trait]
impl Target for Shared {
    async fn start(&self) -> Result<(), String> {
        self.told.begin(Stage::Room, Instant::now());
        let taken = self.group.take((self.clock)().as_millis() as u64).await;
        self.told.end(Instant::now());
        taken?;
        let started = self.inner.start().await;
        if started.is_err() {
            self.inner.stop().await;
            self.group.give_back().await;
        }
        started
    }

    async fn stop(&self) {
        self.inner.stop().await;
        self.group.give_back().await;
    }

    async fn exited(&self) -> String {
        self.inner.exited().await
    }

    /// Our part is free when we are gone, and what we started with us.
    async fn leave(&self) {
        self.inner.leave().await;
    }

    fn progress(&self) -> Option<Progress> {
        self.told.latest().or_else(|| self.inner.progress())
    }

    fn split(&self) -> Split {
        let mut split = self.told.split();
        split.extend(self.inner.split());
        split
    }

    fn group(&self) -> Option<(Arc<Group>, Clock)> {
        Some((self.group.clone(), self.clock))
    }
}

/// Tells the group how we use our part, and gives it up when another asks and nobody uses it. For ever.
pub async fn attend(admission: Arc<Admission>, group: Arc<Group>, clock: Clock) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if group.tell(|told| hold(told, &admission, clock)).await && admission.sleep() {
            tracing::info!("sent to sleep for another model on the device");
        }
    }
}

/// How our part is used; `None` while the keeper is at it, who tells by taking and giving back.
fn hold(told: Hold, admission: &Admission, clock: Clock) -> Option<Hold> {
    match admission.snapshot().worker {
        "awake" => Some(match admission.idle() {
            Some(idle) => Hold::Idle { since: clock().saturating_sub(idle).as_millis() as u64 },
            None => Hold::Busy,
        }),
        // It was lost, and perhaps only its connection: until it is stopped it may have the memory still.
        "asleep" if matches!(told, Hold::Busy | Hold::Idle { .. }) => Some(Hold::Idle { since: 0 }),
        "asleep" | "backoff" => Some(Hold::Nothing),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
