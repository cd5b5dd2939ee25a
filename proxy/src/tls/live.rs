//! The identity in force, and how its renewal goes: what every connection, gauge and probe looks at.
//!
//! One handle for the whole process. A source puts [`Material`] in; handshakes take what is there at that moment; a
//! failed renewal changes nothing but the status. Never reads a clock.

use super::material::Material;
use arc_swap::ArcSwapOption;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// Who we are, from now on and until the next change.
#[derive(Debug)]
pub struct Identity {
    source: &'static str,
    material: ArcSwapOption<Material>,
    notes: Mutex<Notes>,
    generation: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Notes {
    renewal_failures: u64,
    last_error: Option<String>,
}

/// The identity at one moment, for people and gauges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The source's name, as in the configuration.
    pub source: &'static str,
    pub spiffe: Option<String>,
    pub not_after_unix: Option<i64>,
    /// Counts every material there was: 0 before the first.
    pub generation: u64,
    /// Changes after the first material.
    pub rotations: u64,
    pub renewal_failures: u64,
    /// Of the last try, if that failed.
    pub last_error: Option<String>,
    /// Revocation lists in force, and how many of them are past their `nextUpdate`.
    pub crls: usize,
    pub crls_stale: usize,
}

impl Identity {
    /// Nobody yet: handshakes fail with the label `no_identity`.
    pub fn new(source: &'static str) -> Arc<Identity> {
        let generation = watch::Sender::new(0);
        Arc::new(Identity { source, material: ArcSwapOption::empty(), notes: Mutex::default(), generation })
    }

    /// What the next handshake will use.
    pub fn load(&self) -> Option<Arc<Material>> {
        self.material.load_full()
    }

    /// Puts material in force for every handshake from now on; connections that are open stay.
    pub fn install(&self, material: Material) {
        let (spiffe, not_after_unix) = (material.spiffe().map(ToString::to_string), material.not_after_unix());
        self.material.store(Some(Arc::new(material)));
        self.notes().last_error = None;
        self.generation.send_modify(|generation| *generation += 1);
        let generation = *self.generation.borrow();
        tracing::info!(source = self.source, spiffe, not_after_unix, generation, "identity in force");
    }

    /// A renewal failed. What is in force stays in force.
    pub fn failed(&self, error: &dyn std::fmt::Display) {
        let words = error.to_string();
        let kept = self.material.load().is_some();
        tracing::error!(source = self.source, error = words, kept, "identity not renewed; an old one stays in force");
        let mut notes = self.notes();
        notes.renewal_failures += 1;
        notes.last_error = Some(words);
    }

    /// Changes with each [`install`](Self::install): for those who keep connections that should follow.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    pub fn status(&self, now_unix: u64) -> Status {
        let material = self.load();
        let generation = *self.generation.borrow();
        let now = i64::try_from(now_unix).unwrap_or(i64::MAX);
        let notes = self.notes();
        Status {
            source: self.source,
            spiffe: material.as_ref().and_then(|material| material.spiffe()).map(ToString::to_string),
            not_after_unix: material.as_ref().map(|material| material.not_after_unix()),
            generation,
            rotations: generation.saturating_sub(1),
            renewal_failures: notes.renewal_failures,
            last_error: notes.last_error.clone(),
            crls: material.as_ref().map_or(0, |material| material.trust().crls()),
            crls_stale: material.as_ref().map_or(0, |material| material.trust().crls_stale(now)),
        }
    }

    fn notes(&self) -> std::sync::MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Status {
    /// Whether anybody would believe us at this moment; else, in words, why not.
    pub fn ready(&self, now_unix: u64) -> Result<(), String> {
        let because = match &self.last_error {
            Some(error) => format!("; {error}"),
            None => String::new(),
        };
        match self.not_after_unix {
            None => Err(format!("no identity yet from {}{because}", self.source)),
            Some(end) if u64::try_from(end).unwrap_or(0) < now_unix => {
                Err(format!("the certificate from {} expired at {end} (seconds since 1970){because}", self.source))
            }
            Some(_) => Ok(()),
        }
    }
}
