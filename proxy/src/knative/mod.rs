//! What a Knative pod expects of its queue-proxy: answers to Knative's probes on the serving port, and the headers that
//! are for the sidecar and not for the app.
//!
//! Its probes are answered before anybody is identified, for activators and ingresses have no credential: a stranger
//! learns what a connection would have told it, whether we are ready. Facts from Knative Serving's `pkg/queue`.

mod forwarded;
mod headers;
mod probe;

pub use headers::prepare;
pub use probe::{Kind, Words};

use crate::admin::Prober;
use crate::admin::stats::{Counted, Stats};
use crate::config;
use crate::leaving::Leaving;
use http::HeaderMap;
use std::sync::Arc;

/// The queue-proxy's outer face.
pub struct Knative {
    /// Whether its probes and headers are ours to hear.
    pub probes: bool,
    /// How much there is to do, where somebody asks that.
    pub stats: Option<Arc<Stats>>,
    leaving: Arc<Leaving>,
    /// Whether the app is ready, where that is asked of it.
    prober: Option<Arc<Prober>>,
}

impl Knative {
    pub fn new(config: &config::Knative, leaving: Arc<Leaving>, prober: Option<Arc<Prober>>) -> Self {
        Knative { probes: config.probes, stats: config.stats.map(|_| Arc::default()), leaving, prober }
    }

    /// Counts a request until what is given is dropped.
    pub fn count(&self, proxied: bool) -> Option<Counted> {
        self.stats.as_ref().map(|stats| stats.enter(proxied))
    }

    /// The answer to a probe; `None` for a request that is none.
    pub async fn answer(&self, headers: &HeaderMap) -> Option<Words> {
        let kind = Kind::of(headers)?;
        if self.leaving.has_begun() {
            return Some(Words::shutting_down());
        }
        let ready = match &self.prober {
            // Only this probe is about the app; all others are answered by whoever is there.
            Some(prober) if kind.asks_for_the_app() => prober.is_ready().await,
            _ => true,
        };
        Some(kind.answer(ready))
    }
}
