//! Where identity comes from. An open set: a source is one file and a line in [`SOURCES`].
//!
//! A source yields [`Material`] and keeps it fresh; it never decides what happens without any.

pub mod files;
pub mod istio_ca;
pub mod self_signed;
pub mod workload_api;

use super::pem::SourceError;
use super::rotate::Life;
use super::{Identity, Material, provider};
use crate::config::{self, IdentitySource};
use crate::record::unix_now;
use async_trait::async_trait;
use std::sync::Arc;
use std::time::Duration;

#[async_trait]
pub trait Source: Send + Sync {
    /// What is there without waiting for anybody; `None` where somebody must be asked. An error: nothing will come of
    /// this until an operator has changed something.
    fn first(&self) -> Result<Option<Material>, SourceError>;

    /// Keeps `identity` fresh for ever. Start it on one runtime only.
    async fn run(self: Box<Self>, identity: Arc<Identity>);
}

/// A line of the table.
pub struct Kind {
    /// As in the configuration and in [`Status::source`](super::Status::source).
    pub name: &'static str,
    /// `None` if the configuration asks for another one.
    pub open: fn(&config::Tls) -> Option<Box<dyn Source>>,
}

/// All sources, sorted by name.
pub static SOURCES: &[Kind] = &[
    Kind { name: files::NAME, open: files::open },
    Kind { name: istio_ca::NAME, open: istio_ca::open },
    Kind { name: self_signed::NAME, open: self_signed::open },
    Kind { name: workload_api::NAME, open: workload_api::open },
];

/// The identity that is configured, with what is there at once already in force, and the source that keeps it fresh.
pub type Opened = (Arc<Identity>, Box<dyn Source>);

/// `None` if no source is configured.
pub fn open(tls: &config::Tls) -> Result<Option<Opened>, SourceError> {
    let Some(source) = &tls.source else { return Ok(None) };
    let kind = kind(source);
    let source = (kind.open)(tls).expect("the line of the table is chosen by the source");
    let identity = Identity::new(kind.name);
    if let Some(material) = source.first()? {
        put(&identity, material);
    }
    Ok(Some((identity, source)))
}

/// The line of [`SOURCES`] that a setting asks for.
fn kind(source: &IdentitySource) -> &'static Kind {
    let name = match source {
        IdentitySource::Files(_) => files::NAME,
        IdentitySource::IstioCa(_) => istio_ca::NAME,
        IdentitySource::SelfSigned(_) => self_signed::NAME,
        IdentitySource::WorkloadApi(_) => workload_api::NAME,
    };
    SOURCES.iter().find(|kind| kind.name == name).expect("every source has its line: tested")
}

/// Puts material in force, and says so if a revocation list in it is old.
fn put(identity: &Identity, material: Material) {
    let now = i64::try_from(unix_now().as_secs()).unwrap_or(i64::MAX);
    let stale = material.trust().crls_stale(now);
    if stale > 0 {
        tracing::warn!(stale, "revocation lists are past their nextUpdate; they stay in force, get newer ones");
    }
    identity.install(material);
}

/// The life of a certificate that came just now, for the schedule of its renewal. Authorities date certificates back, for
/// clocks that are behind; what is left of the life is what counts.
fn life(material: &Material) -> Life {
    let at = |unix: i64| Duration::from_secs(u64::try_from(unix).unwrap_or(0));
    Life { begin: at(material.not_before_unix()).max(unix_now()), end: at(material.not_after_unix()) }
}

/// From -1 to 1, for the schedule.
fn chance() -> f64 {
    let mut bytes = [0; 4];
    match provider().secure_random.fill(&mut bytes) {
        Ok(()) => f64::from(i32::from_le_bytes(bytes)) / f64::from(i32::MAX),
        // A fleet without random numbers is late or early together; nothing worse.
        Err(_) => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_table_sorted_and_chance_within_its_bounds() {
        let names: Vec<_> = SOURCES.iter().map(|kind| kind.name).collect();
        assert!(names.is_sorted());
        assert_eq!(names, ["files", "istio_ca", "self_signed", "workload_api"]);
        assert!((0..100).map(|_| chance()).all(|chance| (-1.001..=1.001).contains(&chance)));
    }
}
