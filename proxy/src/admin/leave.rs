//! Leaving, as the pod's other containers and their kubelet take part in it: hooks that begin it, and hooks that wait.
//!
//! Whoever waits holds a connection, so only so many may. Never ends the process: SIGTERM does.

use super::http::Reply;
use crate::leaving::{Leaving, Stage};
use std::time::Duration;
use tokio::sync::Semaphore;

/// A `preStop` hook that runs while nobody ends us is one of a container that is only restarted: it must not wait.
const SIGTERM_PATIENCE: Duration = Duration::from_secs(1);
/// A pod has a few containers, each with one hook.
const WAITING_MAX: usize = 16;

/// Those who wait for the end.
pub struct Waiting(Semaphore);

impl Default for Waiting {
    fn default() -> Self {
        Waiting(Semaphore::new(WAITING_MAX))
    }
}

impl Waiting {
    /// `/wait-for-drain`: the `preStop` hook of an app that must outlive our callers. As queue-proxy's.
    pub async fn drained(&self, leaving: &Leaving) -> Reply {
        let Ok(_place) = self.0.try_acquire() else { return too_many() };
        if tokio::time::timeout(SIGTERM_PATIENCE, leaving.reached(Stage::Settling)).await.is_err() {
            return Reply::text(200, "nobody ends this pod\n");
        }
        leaving.reached(Stage::Gone).await;
        Reply::text(200, "drained\n")
    }

    /// `/drain/wait`: our own `preStop` hook. Leaving begins; this returns when the last caller is gone.
    pub async fn leave(&self, leaving: &Leaving) -> Reply {
        leaving.begin();
        let Ok(_place) = self.0.try_acquire() else { return too_many() };
        leaving.reached(Stage::Gone).await;
        Reply::text(200, "drained\n")
    }
}

fn too_many() -> Reply {
    Reply::text(503, "too many wait for the drain already\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_the_drain_and_who_does_not() {
        let (leaving, waiting) = (Leaving::default(), Waiting::default());
        assert!(waiting.drained(&leaving).await.says("nobody ends"));
        let ends = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            leaving.begin();
            tokio::time::sleep(Duration::from_secs(20)).await;
            leaving.reach(Stage::Gone);
        };
        let (hook, late, ()) = tokio::join!(waiting.drained(&leaving), waiting.leave(&leaving), ends);
        assert!(hook.says("drained") && late.says("drained"));
        assert!(waiting.drained(&leaving).await.says("drained"), "whoever asks afterwards need not wait");
    }
}
