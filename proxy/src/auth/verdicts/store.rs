//! A bounded table of verdicts by digest. Pure: time is an argument.
//!
//! Two generations: what was not asked for during the whole life of the younger one is forgotten with the older. Never
//! holds more than its [`Room`], and never gives out what has ended.

use std::collections::HashMap;
use std::sync::Arc;

pub type Digest = [u8; 32];

/// At most so much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    pub entries: usize,
    pub bytes: usize,
}

/// An answer as it is remembered.
#[derive(Debug)]
pub struct Kept<V> {
    pub good: bool,
    pub value: V,
    pub subject: String,
    pub issuer: String,
    /// Seconds since 1970; from then on it is worth nothing.
    pub until_unix: u64,
    pub(super) bytes: usize,
    /// A keyed hash of the credential's SHA-256.
    pub(super) credential: Digest,
}

/// What to forget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    All,
    Subject(String),
    Issuer(String),
    /// By the SHA-256 of the credential.
    Credential(Digest),
    /// By a token's `jti`. No answer says of which it was, so all of them may be it.
    TokenId(String),
}

impl Which {
    fn means<V>(&self, kept: &Kept<V>) -> bool {
        match self {
            Which::All => true,
            Which::Subject(subject) => kept.subject == *subject,
            Which::Issuer(issuer) => kept.issuer == *issuer,
            Which::Credential(digest) => kept.credential == *digest,
            Which::TokenId(_) => true,
        }
    }
}

struct Generation<V> {
    entries: HashMap<Digest, Arc<Kept<V>>>,
    bytes: usize,
}

impl<V> Default for Generation<V> {
    fn default() -> Generation<V> {
        Generation { entries: HashMap::new(), bytes: 0 }
    }
}

impl<V> Generation<V> {
    fn remove(&mut self, digest: &Digest) -> Option<Arc<Kept<V>>> {
        let removed = self.entries.remove(digest)?;
        self.bytes -= removed.bytes;
        Some(removed)
    }
}

pub struct Store<V> {
    /// Of each generation: half of the whole.
    room: Room,
    young: Generation<V>,
    old: Generation<V>,
    evictions: u64,
}

impl<V> Store<V> {
    pub fn new(room: Room) -> Store<V> {
        let room = Room { entries: room.entries / 2, bytes: room.bytes / 2 };
        Store { room, young: Generation::default(), old: Generation::default(), evictions: 0 }
    }

    pub fn get(&mut self, digest: &Digest, now_unix: u64) -> Option<Arc<Kept<V>>> {
        if let Some(found) = self.young.entries.get(digest) {
            if now_unix < found.until_unix {
                return Some(found.clone());
            }
            self.young.remove(digest);
            return None;
        }
        let found = self.old.remove(digest).filter(|found| now_unix < found.until_unix)?;
        self.insert(*digest, found.clone());
        Some(found)
    }

    /// What is too large for the room is not kept, and nothing is pushed out for it.
    pub fn insert(&mut self, digest: Digest, kept: Arc<Kept<V>>) {
        self.young.remove(&digest);
        self.old.remove(&digest);
        if kept.bytes > self.room.bytes || self.room.entries == 0 {
            return;
        }
        let full = self.young.entries.len() >= self.room.entries || self.young.bytes + kept.bytes > self.room.bytes;
        if full {
            self.evictions += self.old.entries.len() as u64;
            self.old = std::mem::take(&mut self.young);
        }
        self.young.bytes += kept.bytes;
        self.young.entries.insert(digest, kept);
    }

    /// Returns how many it forgot.
    pub fn forget(&mut self, which: &Which) -> usize {
        let before = self.len();
        for generation in [&mut self.young, &mut self.old] {
            let bytes = &mut generation.bytes;
            generation.entries.retain(|_, kept| {
                let stays = !which.means(kept);
                *bytes -= if stays { 0 } else { kept.bytes };
                stays
            });
        }
        before - self.len()
    }

    pub fn len(&self) -> usize {
        self.young.entries.len() + self.old.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn bytes(&self) -> usize {
        self.young.bytes + self.old.bytes
    }

    pub fn evictions(&self) -> u64 {
        self.evictions
    }
}
