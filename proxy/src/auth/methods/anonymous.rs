//! Everybody may enter, nameless. Never forgives a credential that another method refused.

use super::{Known, Method, Presented, Tools};
use crate::auth::{ConfigProblem, Identity};
use crate::config;
use crate::tls::identity::Peer;
use futures_util::future::ready;
use std::sync::Arc;

pub const NAME: &str = "anonymous";

struct Anonymous;

pub fn open(_: &config::Method, _: &Tools) -> Result<Box<dyn Method>, ConfigProblem> {
    Ok(Box::new(Anonymous))
}

impl Method for Anonymous {
    fn identify<'a>(&'a self, presented: &'a Presented<'a>) -> Known<'a> {
        let identity = Identity {
            subject: NAME.into(),
            issuer: String::new(),
            method: NAME,
            claims: Arc::new(serde_json::json!({"anonymous": true})),
            spiffe: presented.request.peer.spiffe.clone(),
            expires_at_unix: None,
        };
        Box::pin(ready(Ok(Some(identity))))
    }

    fn takes_strangers(&self) -> bool {
        true
    }

    fn knows_by_connection(&self, _: &Peer) -> bool {
        true
    }
}
