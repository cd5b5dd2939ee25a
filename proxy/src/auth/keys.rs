//! The keys that a method or a rule checks tokens with, wherever they come from.
//!
//! Never fetches anything: `jwks_fetch` does, before anybody asks.

use super::jwks::KeySet;
use super::jwks_fetch::Remote;
use super::reread::Reread;
use std::sync::Arc;

pub enum Keys {
    Fixed(Arc<KeySet>),
    File(Reread<KeySet>),
    Remote(Arc<Remote>),
}

impl Keys {
    /// `None` until they were fetched once.
    pub fn current(&self, now_unix: u64) -> Option<Arc<KeySet>> {
        match self {
            Keys::Fixed(keys) => Some(keys.clone()),
            Keys::File(file) => Some(file.current(now_unix).clone()),
            Keys::Remote(remote) => remote.keys(),
        }
    }

    /// Whether these are still the ones: what was verified with others must be verified anew.
    pub fn are(&self, keys: &Arc<KeySet>, now_unix: u64) -> bool {
        match self {
            Keys::Fixed(fixed) => Arc::ptr_eq(fixed, keys),
            Keys::File(file) => Arc::ptr_eq(&file.current(now_unix), keys),
            Keys::Remote(remote) => remote.peek().as_ref().is_some_and(|now| Arc::ptr_eq(now, keys)),
        }
    }
}
