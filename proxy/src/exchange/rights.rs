//! How long a caller's rights last: until its credential ends, or somebody says that they have ended.

use crate::auth::revocations::{Watch, Whose};
use crate::error::Error;
use crate::record::unix_now;
use crate::until::until;
use std::time::Duration;
use tokio::time::Instant;

/// Of one exchange; at first without end.
#[derive(Default)]
pub struct Rights {
    expires: Option<Instant>,
    watch: Option<Watch>,
}

impl Rights {
    /// Revocations are heard from now on. Before anybody is asked who calls: what is revoked meanwhile must not be missed.
    pub fn listen(&mut self, watch: Watch) {
        self.watch = Some(watch);
    }

    /// Whose they are; a caller may be known by more than one thing.
    pub fn of(&mut self, whose: Whose) {
        if let Some(watch) = &mut self.watch {
            watch.of(whose);
        }
    }

    /// They end then, if not before.
    pub fn end_at(&mut self, unix_seconds: Option<u64>) {
        let left = |at: u64| Duration::from_secs(at).saturating_sub(unix_now());
        // `checked_add`: a credential may claim to be good for ever.
        let end = unix_seconds.and_then(|at| Instant::now().checked_add(left(at)));
        self.expires = [self.expires, end].into_iter().flatten().min();
    }

    /// Waits until they have ended, and says how.
    pub async fn ended(&mut self) -> Error {
        let revoked = async {
            match &mut self.watch {
                Some(watch) => watch.revoked().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = until(self.expires) => Error::CredentialRefused { reason: "expired" },
            () = revoked => Error::CredentialRefused { reason: "revoked" },
        }
    }

    /// Looks once.
    pub fn must_last(&mut self) -> Result<(), Error> {
        if self.expires.is_some_and(|at| Instant::now() >= at) {
            return Err(Error::CredentialRefused { reason: "expired" });
        }
        if self.watch.as_mut().is_some_and(Watch::is_revoked) {
            return Err(Error::CredentialRefused { reason: "revoked" });
        }
        Ok(())
    }
}
