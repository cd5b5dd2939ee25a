//! The client certificate is the credential. Never looks at a header.

use super::{Method, Presented};
use crate::auth::{ConfigProblem, Identity, Reason};
use crate::config;
use std::sync::Arc;

pub const NAME: &str = "mtls";

struct Mtls;

pub fn open(_: &config::Method) -> Result<Box<dyn Method>, ConfigProblem> {
    Ok(Box::new(Mtls))
}

impl Method for Mtls {
    fn identify(&self, presented: &Presented<'_>) -> Result<Option<Identity>, Reason> {
        let Some(id) = presented.peer.spiffe.as_ref() else { return Ok(None) };
        Ok(Some(Identity {
            subject: id.as_str().into(),
            issuer: id.trust_domain().into(),
            method: NAME,
            claims: Arc::new(serde_json::json!({})),
            spiffe: Some(id.clone()),
            expires_at_unix: None,
        }))
    }
}
