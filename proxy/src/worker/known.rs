//! What is known of the models without asking: their names by the configuration, the rest as the worker last said.

use super::Worker;
use crate::dialects::{Facts, ModelFacts};
use crate::error::Error;
use arc_swap::ArcSwap;
use outrider_protos::worker::v1;
use std::sync::atomic::{AtomicU64, Ordering};

pub struct Known {
    names: Vec<String>,
    started_unix_seconds: u64,
    models: ArcSwap<Vec<v1::Model>>,
    /// The last worker that was asked; 0: none yet.
    generation: AtomicU64,
}

impl Known {
    /// `names`: as configured. `started_unix_seconds`: when this server started.
    pub fn new(names: Vec<String>, started_unix_seconds: u64) -> Self {
        Known { names, started_unix_seconds, models: ArcSwap::default(), generation: AtomicU64::new(0) }
    }

    /// Whether any worker has told yet.
    pub fn has_met(&self) -> bool {
        !self.models.load().is_empty()
    }

    /// Claims the task of asking this worker: true for one caller per generation.
    pub fn is_news(&self, generation: u64) -> bool {
        self.generation.fetch_max(generation, Ordering::AcqRel) < generation
    }

    /// Asks the worker and remembers.
    pub async fn learn(&self, worker: &dyn Worker, generation: u64) -> Result<(), Error> {
        let models = worker.models().await?;
        for name in self.names.iter().filter(|name| !models.iter().any(|model| &model.name == *name)) {
            tracing::warn!(name, "worker.models names a model that the worker does not have");
        }
        self.models.store(models.into());
        self.generation.fetch_max(generation, Ordering::AcqRel);
        Ok(())
    }

    /// What all its models hold together; `None` if it did not say.
    pub fn kv_capacity_tokens(&self) -> Option<u64> {
        let sum = self.models.load().iter().map(|model| model.kv_capacity_tokens).fold(0, u64::saturating_add);
        (sum > 0).then_some(sum)
    }

    pub fn facts(&self, ready: bool) -> Facts {
        let seen = self.models.load();
        let info = |name: &String| seen.iter().find(|model| &model.name == name).cloned();
        let models = self.names.iter().map(|name| ModelFacts { name: name.clone(), info: info(name) }).collect();
        Facts { ready, models, started_unix_seconds: self.started_unix_seconds }
    }
}
