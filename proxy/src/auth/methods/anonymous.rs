//! Everybody may enter, nameless. Never forgives a credential that another method refused.

use super::{Method, Presented};
use crate::auth::{ConfigProblem, Identity, Reason};
use crate::config;
use std::sync::Arc;

pub const NAME: &str = "anonymous";

struct Anonymous;

pub fn open(_: &config::Method) -> Result<Box<dyn Method>, ConfigProblem> {
    Ok(Box::new(Anonymous))
}

impl Method for Anonymous {
    fn identify(&self, presented: &Presented<'_>) -> Result<Option<Identity>, Reason> {
        Ok(Some(Identity {
            subject: NAME.into(),
            issuer: String::new(),
            method: NAME,
            claims: Arc::new(serde_json::json!({})),
            spiffe: presented.peer.spiffe.clone(),
            expires_at_unix: None,
        }))
    }

    fn takes_strangers(&self) -> bool {
        true
    }
}
