//! The client certificate is the credential. Never looks at a header.

use super::{Known, Method, Presented, Tools};
use crate::auth::{ConfigProblem, Identity};
use crate::config;
use crate::tls::identity::Peer;
use futures_util::future::ready;
use std::sync::Arc;

pub const NAME: &str = "mtls";

struct Mtls;

pub fn open(_: &config::Method, _: &Tools) -> Result<Box<dyn Method>, ConfigProblem> {
    Ok(Box::new(Mtls))
}

impl Method for Mtls {
    fn identify<'a>(&'a self, presented: &'a Presented<'a>) -> Known<'a> {
        let identity = presented.request.peer.spiffe.as_ref().map(|id| Identity {
            subject: id.as_str().into(),
            issuer: id.trust_domain().into(),
            method: NAME,
            claims: Arc::new(serde_json::json!({})),
            spiffe: Some(id.clone()),
            expires_at_unix: None,
        });
        Box::pin(ready(Ok(identity)))
    }

    fn knows_by_connection(&self, peer: &Peer) -> bool {
        peer.spiffe.is_some()
    }
}
