//! What others answered about callers, kept for a while: by a keyed hash of the question, one question at a time for
//! each, bounded in count and bytes.
//!
//! The shell around [`store`]: it waits, asks and paces. Good and bad answers have stores of their own, so that a flood
//! of unique bad credentials pushes out no good one. Errors are never kept; no credential is ever held; nothing outlives
//! the end of the credential it is about. Never reads a clock: what it measures is how long it waits.

pub mod store;
#[cfg(test)]
mod tests;

use ring::{digest, hmac};
use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use store::{Digest, Room, Store};
pub use store::{Kept, Which};
use tokio::sync::Semaphore;

/// Locks over which the entries are spread.
const SHARDS: usize = 16;

/// How much is remembered for how long, and how hard others are asked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    pub good: Room,
    pub bad: Room,
    /// For how long an allowing answer is believed; an earlier end of the credential comes first.
    pub good_seconds: u64,
    pub bad_seconds: u64,
    /// Questions under way at once.
    pub asking_max: usize,
    /// Questions begun in a second, in the long run; a burst may have `asking_max`.
    pub asked_per_second: u32,
    /// How long a caller waits for an answer, its turn included.
    pub wait_max: Duration,
}

impl Limits {
    /// For TokenReview: two minutes are what kube-rbac-proxy believes one. What is refused is remembered for less, for a
    /// caller that was just given its rights asks again soon.
    pub const TOKENS: Limits = Limits {
        // A token and its groups are some 2 KiB: the bytes are what bounds first.
        good: Room { entries: 8192, bytes: 16 << 20 },
        bad: Room { entries: 8192, bytes: 2 << 20 },
        good_seconds: 120,
        bad_seconds: 30,
        asking_max: 16,
        asked_per_second: 200,
        wait_max: Duration::from_secs(5),
    };
}

impl Default for Limits {
    fn default() -> Limits {
        Limits::TOKENS
    }
}

/// Why it is not known. None of these says anything of the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    #[error("{0}")]
    Failed(Arc<str>),
}

/// What somebody else said.
#[derive(Clone, Debug)]
pub struct Answer<V> {
    pub good: bool,
    pub value: V,
    /// About how much memory the value takes.
    pub bytes: usize,
    /// Of whom it speaks, for [`Which`]; empty where nobody knows.
    pub subject: String,
    pub issuer: String,
    /// When the credential itself ends.
    pub expires_at_unix: Option<u64>,
}

/// A question, as a keyed hash. Says nothing of what was hashed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Key {
    digest: Digest,
    /// SHA-256 of the credential, for as long as its question is under way.
    credential: Digest,
}

/// What became of questions so far, and what is kept now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub hits: u64,
    /// Questions that were put to others.
    pub misses: u64,
    /// Callers who waited for a question that somebody else had put.
    pub waits: u64,
    /// Questions without an answer.
    pub failures: u64,
    pub evictions: u64,
    pub good: u64,
    pub bad: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.hits += other.hits;
        self.misses += other.misses;
        self.waits += other.waits;
        self.failures += other.failures;
        self.evictions += other.evictions;
        self.good += other.good;
        self.bad += other.bad;
    }
}

/// Whatever remembers verdicts: what an operator can make forget, and count.
pub trait Remembers: Send + Sync {
    /// Forgets; returns how many entries.
    fn forget(&self, which: &Which) -> usize;
    fn counts(&self) -> Counts;
}

type Outcome<V> = Result<Arc<Kept<V>>, Unknown>;

/// One question and all who wait for its answer: they take turns, and whoever finds the outcome there asks nobody. A
/// caller that leaves while asking gives up its turn, and the next one asks.
struct Flight<V> {
    turn: tokio::sync::Mutex<Option<Outcome<V>>>,
}

struct Shard<V> {
    good: Store<V>,
    bad: Store<V>,
    flights: HashMap<Digest, Arc<Flight<V>>>,
    counts: Counts,
}

/// Verdicts of one kind.
pub struct Verdicts<V> {
    key: hmac::Key,
    limits: Limits,
    shards: Vec<Mutex<Shard<V>>>,
    permits: Arc<Semaphore>,
    /// Counts invalidations: an answer asked for before one is not kept after it.
    epoch: AtomicU64,
}

impl<V> Verdicts<V> {
    pub fn new(limits: Limits) -> Verdicts<V> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &ring::rand::SystemRandom::new())
            .expect("the operating system gives random bytes");
        let room = |room: Room| Room { entries: room.entries / SHARDS, bytes: room.bytes / SHARDS };
        let shard = || Shard {
            good: Store::new(room(limits.good)),
            bad: Store::new(room(limits.bad)),
            flights: HashMap::new(),
            counts: Counts::default(),
        };
        let shards = (0..SHARDS).map(|_| Mutex::new(shard())).collect();
        let permits = Arc::new(Semaphore::new(limits.asking_max.max(1)));
        Verdicts { key, limits, shards, permits, epoch: AtomicU64::new(0) }
    }

    /// The same credential in another context (other audiences, other attributes) is another question.
    pub fn key<'a>(&self, credential: &[u8], context: impl IntoIterator<Item = &'a str>) -> Key {
        let credential = sha256(credential);
        let mut whole = hmac::Context::with_key(&self.key);
        whole.update(&credential);
        for part in context {
            whole.update(&(part.len() as u64).to_le_bytes());
            whole.update(part.as_bytes());
        }
        Key { digest: digest_of(whole.sign()), credential }
    }

    /// What is known without asking.
    pub fn cached(&self, key: &Key, now_unix: u64) -> Option<Arc<Kept<V>>> {
        self.shard(&key.digest).find(&key.digest, now_unix)
    }

    /// What is known; else `question` is put, unless somebody else puts it already. At most `wait_max` is waited.
    pub async fn ask<F>(&self, key: &Key, now_unix: u64, question: impl FnOnce() -> F) -> Outcome<V>
    where
        F: Future<Output = Result<Answer<V>, String>>,
    {
        if let Some(known) = self.cached(key, now_unix) {
            return Ok(known);
        }
        let outcome = tokio::time::timeout(self.limits.wait_max, self.fly(key, now_unix, question)).await;
        let outcome = outcome.unwrap_or(Err(Unknown::Timeout(self.limits.wait_max)));
        if outcome.is_err() {
            self.shard(&key.digest).counts.failures += 1;
        }
        outcome
    }

    async fn fly<F>(&self, key: &Key, now_unix: u64, question: impl FnOnce() -> F) -> Outcome<V>
    where
        F: Future<Output = Result<Answer<V>, String>>,
    {
        let seat = match self.board(key, now_unix) {
            Ok(seat) => seat,
            Err(known) => return Ok(known),
        };
        let mut turn = seat.flight.turn.lock().await;
        if let Some(outcome) = turn.as_ref() {
            self.shard(&key.digest).counts.waits += 1;
            return outcome.clone();
        }
        let epoch = self.epoch.load(Ordering::Acquire);
        let permit = Arc::new(self.permits.clone().acquire_owned().await.expect("nobody closes the semaphore"));
        self.pace(permit.clone());
        self.shard(&key.digest).counts.misses += 1;
        let outcome = match question().await {
            Ok(answer) => Ok(self.keep(key, answer, now_unix, epoch)),
            Err(words) => Err(Unknown::Failed(words.into())),
        };
        drop(permit);
        *turn = Some(outcome.clone());
        // Who comes from now on finds the answer in the store, or asks anew if there was none.
        self.shard(&key.digest).flights.remove(&key.digest);
        outcome
    }

    /// A permit that is taken stays taken for so long that all of them together begin no more than may be begun.
    fn pace(&self, permit: Arc<tokio::sync::OwnedSemaphorePermit>) {
        let least = Duration::from_secs(1) * self.limits.asking_max as u32 / self.limits.asked_per_second.max(1);
        tokio::spawn(async move {
            tokio::time::sleep(least).await;
            drop(permit);
        });
    }

    /// A seat in the flight of this question, or its answer if that has come just now.
    fn board(&self, key: &Key, now_unix: u64) -> Result<Seat<'_, V>, Arc<Kept<V>>> {
        let mut shard = self.shard(&key.digest);
        if let Some(known) = shard.find(&key.digest, now_unix) {
            return Err(known);
        }
        let flight = shard.flights.entry(key.digest).or_insert_with(|| Arc::new(Flight { turn: Default::default() }));
        Ok(Seat { verdicts: self, digest: key.digest, flight: flight.clone() })
    }

    fn keep(&self, key: &Key, answer: Answer<V>, now_unix: u64, epoch: u64) -> Arc<Kept<V>> {
        let seconds = if answer.good { self.limits.good_seconds } else { self.limits.bad_seconds };
        let until = now_unix.saturating_add(seconds).min(answer.expires_at_unix.unwrap_or(u64::MAX));
        let kept = Arc::new(Kept {
            good: answer.good,
            value: answer.value,
            bytes: answer.bytes + answer.subject.len() + answer.issuer.len() + ENTRY_BYTES,
            subject: answer.subject,
            issuer: answer.issuer,
            credential: self.tag(&key.credential),
            until_unix: until,
        });
        let mut shard = self.shard(&key.digest);
        // Under the lock: `forget` counts first and looks at the shards after, so one of us two sees the other.
        if until > now_unix && self.epoch.load(Ordering::Acquire) == epoch {
            let store = if kept.good { &mut shard.good } else { &mut shard.bad };
            store.insert(key.digest, kept.clone());
        }
        kept
    }

    /// What an entry is found by when its credential's SHA-256 is told: keyed, for API keys may be guessable.
    fn tag(&self, credential: &Digest) -> Digest {
        digest_of(hmac::sign(&self.key, credential))
    }

    fn shard(&self, digest: &Digest) -> MutexGuard<'_, Shard<V>> {
        self.shards[usize::from(digest[0]) % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<V: Send + Sync> Remembers for Verdicts<V> {
    fn forget(&self, which: &Which) -> usize {
        self.epoch.fetch_add(1, Ordering::AcqRel);
        let which = match which {
            Which::Credential(sha256) => Which::Credential(self.tag(sha256)),
            other => other.clone(),
        };
        let shards = self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner));
        shards.map(|mut shard| shard.good.forget(&which) + shard.bad.forget(&which)).sum()
    }

    fn counts(&self) -> Counts {
        let mut all = Counts::default();
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            all.hits += shard.counts.hits;
            all.misses += shard.counts.misses;
            all.waits += shard.counts.waits;
            all.failures += shard.counts.failures;
            all.evictions += shard.good.evictions() + shard.bad.evictions();
            all.good += shard.good.len() as u64;
            all.bad += shard.bad.len() as u64;
        }
        all
    }
}

/// What an entry takes beside its value: hash, tag, times, and its place in the table.
const ENTRY_BYTES: usize = 200;

impl<V> Shard<V> {
    fn find(&mut self, digest: &Digest, now_unix: u64) -> Option<Arc<Kept<V>>> {
        let found = self.good.get(digest, now_unix).or_else(|| self.bad.get(digest, now_unix));
        self.counts.hits += u64::from(found.is_some());
        found
    }
}

/// A caller in a flight; the last one who leaves takes the flight off the board.
struct Seat<'a, V> {
    verdicts: &'a Verdicts<V>,
    digest: Digest,
    flight: Arc<Flight<V>>,
}

impl<V> Drop for Seat<'_, V> {
    fn drop(&mut self) {
        let mut shard = self.verdicts.shard(&self.digest);
        let ours = shard.flights.get(&self.digest).is_some_and(|flight| Arc::ptr_eq(flight, &self.flight));
        // The board's and this one: seats are taken and left under the shard's lock.
        if ours && Arc::strong_count(&self.flight) == 2 {
            shard.flights.remove(&self.digest);
        }
    }
}

/// What an operator names a credential by.
pub fn sha256(credential: &[u8]) -> Digest {
    digest::digest(&digest::SHA256, credential).as_ref().try_into().expect("SHA-256 gives 32 bytes")
}

fn digest_of(tag: hmac::Tag) -> Digest {
    tag.as_ref().try_into().expect("HMAC-SHA256 gives 32 bytes")
}
