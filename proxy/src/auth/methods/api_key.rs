//! API keys: long texts drawn by chance, each given to somebody. Known by their hashes, in a file or in Secrets.
//!
//! Never asks anybody, and never keeps a key.

use super::{Known, Method, Presented, Tools};
use crate::auth::api_keys::{ApiKeys, Holder, Ring, load};
use crate::auth::reread::Reread;
use crate::auth::{ConfigProblem, Identity, Reason};
use crate::config;
use futures_util::future::ready;
use std::sync::Arc;

pub const NAME: &str = "api_key";

struct ApiKey {
    keys: Arc<dyn ApiKeys>,
}

pub fn open(config: &config::Method, _: &Tools) -> Result<Box<dyn Method>, ConfigProblem> {
    let config::Method::ApiKey(config) = config else { unreachable!("METHODS pairs this with config::Method::ApiKey") };
    let file = Reread::open(&config.keys_file, load);
    let file = file.map_err(|message| ConfigProblem { path: ".keys_file".into(), message })?;
    Ok(of(Arc::new(file)))
}

/// With keys from anywhere.
pub fn of(keys: Arc<dyn ApiKeys>) -> Box<dyn Method> {
    Box::new(ApiKey { keys })
}

impl ApiKeys for Reread<Ring> {
    fn find(&self, key: &str, now_unix: u64) -> Option<Arc<Holder>> {
        self.current(now_unix).find(key)
    }
}

impl Method for ApiKey {
    fn identify<'a>(&'a self, presented: &'a Presented<'a>) -> Known<'a> {
        Box::pin(ready(presented.credential.map(|key| self.known(key, presented)).transpose()))
    }
}

impl ApiKey {
    fn known(&self, key: &str, presented: &Presented<'_>) -> Result<Identity, Reason> {
        let now_unix = presented.request.now_unix;
        let holder = self.keys.find(key, now_unix).ok_or(Reason::Rejected)?;
        if holder.expires_at_unix.is_some_and(|end| now_unix >= end) {
            return Err(Reason::Expired);
        }
        Ok(Identity {
            subject: holder.subject.clone(),
            issuer: String::new(),
            method: NAME,
            claims: holder.claims.clone(),
            spiffe: presented.request.peer.spiffe.clone(),
            expires_at_unix: holder.expires_at_unix,
        })
    }
}
