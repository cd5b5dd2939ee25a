//! Who judges callers, from the configuration to the last word about them.

use super::{CALLBACKS_END, Error, WORKER_END};
use crate::auth::Authenticator;
use crate::auth::audit::trail::Trail;
use crate::config::Auth;
use crate::config::audit::Audit;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// Whoever is to enter is said in one place: `by`, in our own list, or in policies that others wrote.
pub(super) fn open(auth: &Auth, audit: Option<&Audit>, by: Option<Authenticator>) -> Result<Arc<Authenticator>, Error> {
    let authenticator = match (by, &auth.authconfig) {
        (Some(by), _) => by,
        (None, Some(policies)) => Authenticator::of_policies(policies).map_err(Error::AuthConfig)?,
        (None, None) => Authenticator::from_config(&auth.methods)?,
    };
    let trail = Trail::open(audit).map_err(Error::Audit)?;
    Ok(Arc::new(authenticator.with_trail(trail)))
}

/// The very end: the worker's, and of what is to be told of requests. Bounded in time.
pub(super) async fn end(worker_ended: JoinHandle<()>, authenticator: &Authenticator) {
    let worker = tokio::time::timeout(WORKER_END, worker_ended);
    let _ = tokio::join!(worker, authenticator.drain(CALLBACKS_END));
}
