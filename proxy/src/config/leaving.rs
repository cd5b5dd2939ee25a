//! How the sidecar ends, and how it gives way to a newer one: the sections `drain` and `upgrade`.

use super::quantity::Quantity;
use super::raw::Problems;
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Clone, Debug, PartialEq)]
pub struct Drain {
    /// What still runs this long after the doors closed is cut.
    pub timeout: Duration,
    /// After SIGTERM whoever still comes is served, until nobody came for so long. Nothing: the doors close at once.
    pub quiet: Duration,
    /// The doors close after so long, whoever comes.
    pub settle_max: Duration,
}

/// A newer sidecar may take over the listening sockets.
#[derive(Clone, Debug, PartialEq)]
pub struct Upgrade {
    /// Where the older one is asked, and the newer one will be.
    pub socket: PathBuf,
    /// What still runs in the older one this long after the newer one is ready is cut.
    pub timeout: Duration,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDrain {
    timeout: Option<Quantity>,
    quiet: Option<Quantity>,
    settle_max: Option<Quantity>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawUpgrade {
    socket: PathBuf,
    timeout: Option<Quantity>,
}

impl RawDrain {
    pub(super) fn validate(self, p: &mut Problems) -> Drain {
        let seconds = Duration::from_secs;
        Drain {
            timeout: p.duration("drain.timeout", &self.timeout, seconds(5)),
            // Endpoints reach proxies elsewhere within a fraction of a second; callers that come one after the other come
            // more often than that.
            quiet: p.duration_or_none("drain.quiet", &self.quiet, seconds(1)),
            settle_max: p.duration("drain.settle_max", &self.settle_max, seconds(5)),
        }
    }
}

impl RawUpgrade {
    pub(super) fn validate(self, base: &Path, p: &mut Problems) -> Upgrade {
        let socket = p.socket("upgrade.socket", base.join(&self.socket));
        // Two sidecars side by side cost little: as long as a long answer takes.
        Upgrade { socket, timeout: p.duration("upgrade.timeout", &self.timeout, Duration::from_secs(600)) }
    }
}

impl Drain {
    pub(super) fn dump(&self) -> Value {
        json!({
            "timeout_seconds": self.timeout.as_secs_f64(),
            "quiet_seconds": self.quiet.as_secs_f64(),
            "settle_max_seconds": self.settle_max.as_secs_f64(),
        })
    }
}

impl Upgrade {
    pub(super) fn dump(&self) -> Value {
        json!({"socket": self.socket, "timeout_seconds": self.timeout.as_secs_f64()})
    }
}
