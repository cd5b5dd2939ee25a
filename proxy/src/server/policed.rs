//! The folder of Istio's policies, opened for this workload.

use super::Error;
use crate::auth::barred::Barred;
use crate::auth::jwks_fetch::RemoteKeys;
use crate::config::Config;
use crate::policy::{self, Watched, Workload};
use std::sync::Arc;

/// A folder of policies, and the keys of the issuers they name.
pub type Policed = (Arc<Watched>, Arc<RemoteKeys>);

/// The folder of policies, if there is one. `barred`: tokens that ended before their time.
pub fn policies(config: &Config, barred: Arc<Barred>) -> Result<Option<Policed>, Error> {
    let Some(policy) = &config.policy else { return Ok(None) };
    let workload = Workload {
        namespace: policy.namespace.clone(),
        labels: policy.labels.clone(),
        root_namespace: policy.root_namespace.clone(),
        trust_domain: config.tls.trust_domain.clone(),
        trust_domain_aliases: policy.trust_domain_aliases.clone(),
    };
    let keys = Arc::new(RemoteKeys::new(policy.jwks_authorities.clone()));
    let watched = policy::watch::open(&policy.folder, workload, keys.clone(), barred).map_err(Error::Policy)?;
    Ok(Some((Arc::new(watched), keys)))
}
