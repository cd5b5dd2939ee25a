//! Certificate, key, trust bundles and revocation lists from files, reread when any of them changes.
//!
//! A rotation is taken whole or not at all: files that do not fit together, or cannot be read, leave the old identity
//! in force and say why in the log. Symbolic links are followed at every look, for Kubernetes swaps `..data` and not
//! the files.

use super::{Source, put};
use crate::config::{self, IdentitySource, TrustFiles};
use crate::files::Stamp;
use crate::tls::pem::{SourceError, certificates, key, with_trust_files};
use crate::tls::{Identity, Material, Trust};
use async_trait::async_trait;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub const NAME: &str = "files";

/// Changes are seen this late at most. A handful of `stat`s per look cost some microseconds.
pub const WATCH_PERIOD: Duration = Duration::from_millis(100);
/// Files that changed must have been at rest for so long: certificate and key are two writes …
const DEBOUNCE: Duration = Duration::from_millis(100);
/// … but somebody who writes without end is not waited for without end.
const DEBOUNCES_MAX: usize = 10;

/// Where the parts of an identity are.
#[derive(Clone, Debug, PartialEq)]
pub struct Files {
    /// The chain, leaf first.
    pub certificate: PathBuf,
    /// PKCS #8, SEC 1 or PKCS #1.
    pub key: PathBuf,
    /// Every authority of the trust domain; `None`: nobody is believed.
    pub trust_bundle: Option<PathBuf>,
    /// Ours.
    pub trust_domain: String,
    /// Other domains, and what is revoked.
    pub trust: TrustFiles,
}

pub fn open(tls: &config::Tls) -> Option<Box<dyn Source>> {
    let Some(IdentitySource::Files(files)) = &tls.source else { return None };
    Some(Box::new(Files {
        certificate: files.certificate.clone(),
        key: files.key.clone(),
        trust_bundle: files.trust_bundle.clone(),
        trust_domain: tls.trust_domain.clone(),
        trust: tls.trust.clone(),
    }))
}

#[async_trait]
impl Source for Files {
    fn first(&self) -> Result<Option<Material>, SourceError> {
        self.load().map(Some)
    }

    async fn run(self: Box<Self>, identity: Arc<Identity>) {
        self.watch(identity, WATCH_PERIOD).await;
    }
}

impl Files {
    pub fn load(&self) -> Result<Material, SourceError> {
        let chain = certificates(&self.certificate)?;
        let key = key(&self.key)?;
        let trust = match &self.trust_bundle {
            Some(path) => Trust::new()
                .with_bundle(&self.trust_domain, &certificates(path)?)
                .map_err(|error| SourceError::Bundle { path: path.clone(), error })?,
            None => Trust::new().with_nobody(&self.trust_domain),
        };
        let trust = with_trust_files(trust, &self.trust)?;
        Material::new(chain, key, trust, &self.trust_domain).map_err(|error| SourceError::Material {
            certificate: self.certificate.clone(),
            key: self.key.clone(),
            error,
        })
    }

    /// Puts new material in force whenever the files have changed, for ever. Start it on one runtime only.
    pub async fn watch(self, identity: Arc<Identity>, period: Duration) {
        let own = [&self.certificate, &self.key].into_iter().chain(&self.trust_bundle).cloned();
        let mut watch = Watch::new(own.chain(self.trust.paths()).collect());
        // Between the first load and this moment a change may have gone unseen: the first look loads once more.
        let mut seen = false;
        loop {
            let stamps = watch.settled(period, seen).await;
            seen = true;
            let files = self.clone();
            // A slow disk must not hold up the connections of this thread.
            let Ok(loaded) = tokio::task::spawn_blocking(move || files.load()).await else { continue };
            if watch.now().await != stamps {
                // Changed while being read: the parts may be of two generations. The next look finds them at rest.
                continue;
            }
            watch.known = stamps;
            match loaded {
                Ok(new) if identity.load().is_some_and(|held| held.same_as(&new)) => {}
                Ok(new) => put(&identity, new),
                Err(error) => identity.failed(&error),
            }
        }
    }
}

impl TrustFiles {
    /// Every file of them.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.crl.iter().chain(self.federated.values()).cloned().collect()
    }
}

/// Files whose changes somebody waits for.
pub struct Watch {
    paths: Arc<Vec<PathBuf>>,
    known: Vec<Option<Stamp>>,
}

impl Watch {
    pub fn new(paths: Vec<PathBuf>) -> Watch {
        let known = stamps(&paths);
        Watch { paths: Arc::new(paths), known }
    }

    /// Resolves when the files are other than before and at rest; without any file, never. What it saw counts as known.
    pub async fn changed(&mut self, period: Duration) {
        if self.paths.is_empty() {
            return std::future::pending().await;
        }
        self.known = self.settled(period, true).await;
    }

    /// The stamps of files at rest: at once, or when they differ from what is known.
    async fn settled(&self, period: Duration, wait: bool) -> Vec<Option<Stamp>> {
        let mut stamps = self.now().await;
        while wait && stamps == self.known {
            tokio::time::sleep(period).await;
            stamps = self.now().await;
        }
        for _ in 0..DEBOUNCES_MAX {
            if stamps == self.known {
                break;
            }
            tokio::time::sleep(DEBOUNCE.min(period)).await;
            let later = self.now().await;
            if later == stamps {
                break;
            }
            stamps = later;
        }
        stamps
    }

    async fn now(&self) -> Vec<Option<Stamp>> {
        let paths = self.paths.clone();
        tokio::task::spawn_blocking(move || stamps(&paths)).await.unwrap_or_default()
    }
}

fn stamps(paths: &[PathBuf]) -> Vec<Option<Stamp>> {
    paths.iter().map(|path| Stamp::of(path).ok()).collect()
}
