//! A device that this sidecar's model shares with others.

use super::quantity::Quantity;
use super::raw::Problems;
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// The folder that all who share it see.
    pub group: PathBuf,
    /// Bytes for all of them together.
    pub memory: u64,
    /// Bytes for this one, when awake.
    pub needs: u64,
    /// How long a wake may wait for others to sleep.
    pub wait: Duration,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDevice {
    group: PathBuf,
    memory: Quantity,
    needs: Quantity,
    wait: Option<Quantity>,
}

impl RawDevice {
    pub(super) fn validate(self, base: &Path, p: &mut Problems) -> Device {
        let memory = p.size("device.memory", &Some(self.memory), 1) as u64;
        let needs = p.size("device.needs", &Some(self.needs), 1) as u64;
        if needs > memory {
            p.add("device.needs", "is more than device.memory: it could never wake");
        }
        // Longer than most answers: a model that is never idle keeps its part, and callers are told.
        let wait = p.duration("device.wait", &self.wait, Duration::from_secs(60));
        Device { group: base.join(self.group), memory, needs, wait }
    }
}

impl Device {
    pub(super) fn dump(&self) -> Value {
        let wait = self.wait.as_secs_f64();
        json!({"group": self.group, "memory": self.memory, "needs": self.needs, "wait_seconds": wait})
    }
}
