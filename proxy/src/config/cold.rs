//! What becomes of callers who are held while the worker wakes.

use super::quantity::Quantity;
use super::raw::Problems;
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cold {
    /// A stream that was asked for begins after so long, whatever it will say. `None`: never before its answer does.
    pub after: Option<Duration>,
    /// From then on there is a sign of life this often.
    pub every: Duration,
    /// It is an event that clients must know of, and not a comment.
    pub events: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCold {
    #[serde(default)]
    keep_alive: RawKeepAlive,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawKeepAlive {
    after: Option<Quantity>,
    every: Option<Quantity>,
    events: Option<bool>,
}

impl Default for Cold {
    fn default() -> Self {
        Cold {
            // Once a stream has begun its status is said, and a failed start is an event that no client tries again after.
            // So a start of the usual length still fails with a status, and only callers whose connection something on
            // the way would soon call idle (load balancers do after 30 to 60 s) are told anything early.
            after: Some(Duration::from_secs(15)),
            every: Duration::from_secs(10),
            events: false,
        }
    }
}

impl RawCold {
    pub(super) fn validate(self, p: &mut Problems) -> Cold {
        let (given, default) = (self.keep_alive, Cold::default());
        Cold {
            after: p.optional("cold.keep_alive.after", &given.after, default.after),
            every: p.duration("cold.keep_alive.every", &given.every, default.every),
            events: given.events.unwrap_or(default.events),
        }
    }
}

impl Cold {
    pub(super) fn dump(&self) -> Value {
        json!({"keep_alive": {
            "after_seconds": self.after.map(|after| after.as_secs_f64()),
            "every_seconds": self.every.as_secs_f64(),
            "events": self.events,
        }})
    }
}
