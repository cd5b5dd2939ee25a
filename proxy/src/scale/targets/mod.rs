//! What can be woken and put to sleep. An open set: a target is a file and a line in [`TARGETS`].

mod external;
mod kubernetes;
mod process;
mod standby;
mod vllm_sleep;

pub use external::{Address, External};
pub use kubernetes::Kubernetes;
pub use process::Process;
pub use standby::Standby;
pub use vllm_sleep::{Level, VllmSleep};

use super::device::{Clock, Group};
use super::progress::{Progress, Split, Stage, Told};
use async_trait::async_trait;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Names of all targets, sorted; each is a file of this folder.
pub static TARGETS: &[&str] = &["external", "kubernetes", "process", "standby", "vllm_sleep"];

/// A worker as something that starts and ends. Called by one task, never twice at once.
#[async_trait]
pub trait Target: Send + Sync {
    /// Starts the worker; returns when it serves. Dropping the future gives the attempt up.
    /// The error is told to callers who wait: words for them, not a dump.
    async fn start(&self) -> Result<(), String>;

    /// Ends the worker; returns when its memory is free again. Nothing to do if there is none.
    async fn stop(&self);

    /// We go, and come back no more: a worker of our own ends with us.
    async fn leave(&self) {
        self.stop().await;
    }

    /// Resolves when a started worker ends by itself, and says how. Where nobody tells, a broken connection does.
    async fn exited(&self) -> String {
        std::future::pending().await
    }

    /// What its starts say of themselves, if they do.
    fn told(&self) -> Option<&Told> {
        None
    }

    /// Where the start under way stands; `None` if there is none, or it does not say.
    fn progress(&self) -> Option<Progress> {
        self.told()?.latest()
    }

    /// How long each stage of the last start took; empty where nobody says.
    fn split(&self) -> Split {
        self.told().map(Told::split).unwrap_or_default()
    }

    /// Those it shares a device with, who must be told how it is used.
    fn group(&self) -> Option<(Arc<Group>, Clock)> {
        None
    }
}

/// A whole start, told from its beginning to its end; `None` if it took longer than that.
async fn within<T>(told: &Told, limit: Duration, start: impl Future<Output = T>) -> Option<T> {
    told.begin(Stage::Starting, Instant::now());
    let done = tokio::time::timeout(limit, start).await.ok();
    told.end(Instant::now());
    done
}
