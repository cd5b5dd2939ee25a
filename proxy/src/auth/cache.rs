//! Credentials that were verified once, so that the next request with the same one costs a hash and not a signature.
//!
//! Holds good verdicts only: a flood of bad credentials can push nothing out. Never holds a credential itself, only a
//! keyed hash of it. Bounded by count and by bytes.

use ring::hmac;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

const SHARDS: usize = 16;
/// Per shard and generation: 2 × 16 × 256 = 8,192 callers at most.
const ENTRIES_MAX: usize = 256;
/// Of credentials, per shard and generation: claims in memory are a few times their text, so some 10 MiB at most.
const BYTES_MAX: usize = 128 * 1024;

type Digest = [u8; 32];

/// By credential, what became of it.
pub struct Cache<T> {
    key: hmac::Key,
    shards: [Mutex<Shard<T>>; SHARDS],
}

/// Two generations: what was not asked for during the whole life of the younger one is forgotten with the older.
struct Shard<T> {
    young: HashMap<Digest, Arc<T>>,
    old: HashMap<Digest, Arc<T>>,
    young_bytes: usize,
}

impl<T> Default for Shard<T> {
    fn default() -> Shard<T> {
        Shard { young: HashMap::new(), old: HashMap::new(), young_bytes: 0 }
    }
}

impl<T> Cache<T> {
    pub fn new() -> Cache<T> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &ring::rand::SystemRandom::new())
            .expect("the operating system gives random bytes");
        Cache { key, shards: Default::default() }
    }

    /// The verdict on a credential, if there is one. Whether it still holds is for the caller to check.
    pub fn get(&self, credential: &str) -> Option<Arc<T>> {
        let digest = self.digest(credential);
        let mut shard = self.shard(&digest);
        if let Some(found) = shard.young.get(&digest) {
            return Some(found.clone());
        }
        let found = shard.old.remove(&digest)?;
        shard.insert(digest, found.clone(), credential.len());
        Some(found)
    }

    pub fn put(&self, credential: &str, verified: Arc<T>) {
        let digest = self.digest(credential);
        self.shard(&digest).insert(digest, verified, credential.len());
    }

    fn digest(&self, credential: &str) -> Digest {
        let tag = hmac::sign(&self.key, credential.as_bytes());
        tag.as_ref().try_into().expect("HMAC-SHA256 gives 32 bytes")
    }

    fn shard(&self, digest: &Digest) -> std::sync::MutexGuard<'_, Shard<T>> {
        self.shards[usize::from(digest[0]) % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Shard<T> {
    fn insert(&mut self, digest: Digest, verified: Arc<T>, bytes: usize) {
        if self.young.len() >= ENTRIES_MAX || self.young_bytes + bytes > BYTES_MAX {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        if self.young.insert(digest, verified).is_none() {
            self.young_bytes += bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::jwt::Verified;

    fn verified(subject: &str) -> Arc<Verified> {
        Arc::new(Verified {
            subject: subject.into(),
            issuer: String::new(),
            claims: Arc::default(),
            begins_unix: 0,
            ends_unix: 0,
        })
    }

    #[test]
    fn is_only_the_very_same_credential_found() {
        let cache = Cache::new();
        cache.put("a.b.c", verified("one"));
        assert_eq!(cache.get("a.b.c").unwrap().subject, "one");
        assert!(cache.get("a.b.d").is_none());
        assert!(Cache::<Verified>::new().get("a.b.c").is_none());
    }

    #[test]
    fn does_it_stay_bounded_and_keep_what_is_used() {
        let cache = Cache::new();
        cache.put("busy", verified("busy"));
        for i in 0..100_000 {
            cache.put(&format!("token {i}"), verified("x"));
            if i % 100 == 0 {
                assert!(cache.get("busy").is_some(), "forgotten after {i}");
            }
        }
        for shard in &cache.shards {
            let shard = shard.lock().unwrap();
            assert!(shard.young.len() <= ENTRIES_MAX && shard.old.len() <= ENTRIES_MAX);
            assert!(shard.young_bytes <= BYTES_MAX);
        }
        let big = "x".repeat(16 * 1024);
        for i in 0..200 {
            cache.put(&format!("{big}{i}"), verified("x"));
        }
        for shard in &cache.shards {
            assert!(shard.lock().unwrap().young_bytes <= BYTES_MAX);
        }
    }
}
