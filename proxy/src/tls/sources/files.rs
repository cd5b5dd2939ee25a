//! Certificate, key and trust bundle from PEM files, reread when any of them changes.
//!
//! A rotation is taken whole or not at all: files that do not fit together, or cannot be read, leave the old identity
//! in force and say why in the log.

use crate::files::{Stamp, read_bounded};
use crate::tls::{Identity, Material, MaterialError, Trust};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const FILE_BYTES_MAX: u64 = 4 << 20;

/// Rotations are known this late at most. Three `stat`s per period cost nothing.
pub const WATCH_PERIOD: Duration = Duration::from_secs(2);

/// Where the three parts of an identity are.
#[derive(Clone, Debug, PartialEq)]
pub struct Files {
    /// The chain, leaf first.
    pub certificate: PathBuf,
    /// PKCS #8, SEC 1 or PKCS #1.
    pub key: PathBuf,
    /// Every authority of the trust domain.
    pub trust_bundle: PathBuf,
    /// Whose clients may come.
    pub trust_domain: String,
}

/// Why the files do not make an identity; names the file.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("cannot read {}: {error}", path.display())]
    Read { path: PathBuf, error: io::Error },
    #[error("{} holds no {what} in PEM", path.display())]
    Nothing { path: PathBuf, what: &'static str },
    #[error("{} is not PEM: {reason}", path.display())]
    Pem { path: PathBuf, reason: String },
    #[error("{} and {} do not serve: {error}", certificate.display(), key.display())]
    Material { certificate: PathBuf, key: PathBuf, error: MaterialError },
    #[error("{} does not serve as trust bundle: {error}", path.display())]
    Bundle { path: PathBuf, error: MaterialError },
}

impl Files {
    pub fn load(&self) -> Result<Material, SourceError> {
        let chain = certificates(&self.certificate)?;
        let roots = certificates(&self.trust_bundle)?;
        let key = key(&self.key)?;
        let trust = Trust::new()
            .with_bundle(&self.trust_domain, &roots)
            .map_err(|error| SourceError::Bundle { path: self.trust_bundle.clone(), error })?;
        Material::new(chain, key, trust, &self.trust_domain).map_err(|error| SourceError::Material {
            certificate: self.certificate.clone(),
            key: self.key.clone(),
            error,
        })
    }

    /// Swaps new material in whenever the files have changed, for ever. Start it on one runtime only.
    pub async fn watch(self, identity: Arc<Identity>, period: Duration) {
        // Nothing is known of the moment they were first loaded, so the first look loads them once more.
        let mut known = None;
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let files = self.clone();
            // A slow disk must not hold up the connections of this thread.
            let Ok(Some((stamps, loaded))) = tokio::task::spawn_blocking(move || files.look(known)).await else {
                continue;
            };
            match loaded {
                Ok(new) => identity.install(new),
                Err(error) => identity.failed(&error),
            }
            known = Some(stamps);
        }
    }

    fn stamps(&self) -> Stamps {
        [&self.certificate, &self.key, &self.trust_bundle].map(|path| Stamp::of(path).ok())
    }

    /// What the files hold now, unless they are as known.
    fn look(&self, known: Option<Stamps>) -> Option<(Stamps, Result<Material, SourceError>)> {
        let before = self.stamps();
        if Some(before) == known {
            return None;
        }
        let loaded = self.load();
        // Changed while being read: the parts may be of two generations. The next look will find them at rest.
        (self.stamps() == before).then_some((before, loaded))
    }
}

type Stamps = [Option<Stamp>; 3];

fn read(path: &Path) -> Result<Vec<u8>, SourceError> {
    read_bounded(path, FILE_BYTES_MAX).map_err(|error| SourceError::Read { path: path.into(), error })
}

/// Every certificate of a PEM file, in its order; at least one.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, SourceError> {
    let bytes = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let found = found.map_err(|error| bad_pem(path, "certificate", error))?;
    if found.is_empty() {
        return Err(SourceError::Nothing { path: path.into(), what: "certificate" });
    }
    Ok(found)
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, SourceError> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|error| bad_pem(path, "private key", error))
}

fn bad_pem(path: &Path, what: &'static str, error: pem::Error) -> SourceError {
    match error {
        pem::Error::NoItemsFound => SourceError::Nothing { path: path.into(), what },
        error => SourceError::Pem { path: path.into(), reason: error.to_string() },
    }
}
