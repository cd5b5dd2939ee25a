//! Key sets that live elsewhere: fetched over HTTP or HTTPS before anybody asks, kept until better ones come.
//!
//! An issuer's outage never takes keys away, never becomes another issuer's, and is never papered over with a made-up
//! key: until a first set is there, there is none. Every fetch is bounded in time and bytes; no redirect is followed.

mod source;

use super::jwks::KeySet;
use crate::fetch::{Client, FetchError, Trust};
use crate::policy::KeySource;
use arc_swap::{ArcSwapOption, Guard};
use bytes::Bytes;
pub use source::KeysError;
use source::{fetch, keep, kept, understood};
use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

/// As istiod does.
pub const REFRESH: Duration = Duration::from_secs(20 * 60);
/// A refresh comes up to this part of the period early, so that a fleet that started together does not ask together.
const JITTER_PART: u32 = 10;
/// After a failure while there are keys: twice as long each time.
const STALE_RETRY: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(60 * 60)];
/// The same while there are none and every token is refused: soon.
const FIRST_RETRY: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];
/// A token with an unknown key id asks for a look before its time, but not more often than so.
const HURRY: Duration = Duration::from_secs(10);
/// Who waits for such a look is answered without it after so long.
const HURRY_WAIT: Duration = Duration::from_secs(2);

/// All sources of keys that anybody wants.
pub struct RemoteKeys {
    authorities: Option<PathBuf>,
    sets: Mutex<BTreeMap<Wanted, Arc<Remote>>>,
    wanted: Notify,
    hurry: Duration,
}

/// A source of keys, and how it is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Wanted {
    pub source: KeySource,
    pub timeout: Duration,
    /// Between two looks.
    pub refresh: Duration,
    /// Whom to verify the server with, instead of those that all sources share.
    pub authorities: Option<PathBuf>,
    /// A file for the last good keys: a start while the issuer is away begins with them.
    pub copy: Option<PathBuf>,
}

/// What the fetching of one source does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// A look is under way, or about to be.
    Looking,
    /// One was just done: who is in a hurry comes too early.
    Resting,
    /// One would be done at once.
    Ready,
}

/// One source of keys.
pub struct Remote {
    wanted: Wanted,
    client: Client,
    keys: ArcSwapOption<KeySet>,
    /// As fetched: keys that are the same stay the same set, and with it every verdict that was reached with them.
    bytes: Mutex<Bytes>,
    phase: watch::Sender<Phase>,
    hurry: Notify,
    fetches: AtomicU64,
    failures: AtomicU64,
    last_error: Mutex<Option<KeysError>>,
}

/// How it goes with one source, for admin and metrics.
#[derive(Clone, Debug)]
pub struct RemoteStatus {
    pub source: KeySource,
    pub has_keys: bool,
    pub fetches: u64,
    pub failures: u64,
    /// Why the last fetch failed; `None` if it did not.
    pub last_error: Option<KeysError>,
}

impl Wanted {
    pub fn new(source: KeySource, timeout: Duration) -> Wanted {
        Wanted { source, timeout, refresh: REFRESH, authorities: None, copy: None }
    }
}

impl Remote {
    fn new(wanted: &Wanted, authorities: Option<PathBuf>) -> Remote {
        let keys = wanted.copy.as_deref().and_then(|path| kept(path, &wanted.source));
        Remote {
            client: Client::new(Trust { authorities: wanted.authorities.clone().or(authorities), identity: None }),
            wanted: wanted.clone(),
            keys: ArcSwapOption::from_pointee(keys),
            bytes: Mutex::default(),
            phase: watch::Sender::new(Phase::Looking),
            hurry: Notify::new(),
            fetches: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            last_error: Mutex::default(),
        }
    }

    /// The keys now; `None` until a first fetch succeeded.
    pub fn keys(&self) -> Option<Arc<KeySet>> {
        self.keys.load_full()
    }

    /// The same, to look at for a moment only.
    pub fn peek(&self) -> Guard<Option<Arc<KeySet>>> {
        self.keys.load()
    }

    /// Asks for a look before its time: keys may have been rotated.
    pub fn hurry(&self) {
        self.hurry.notify_one();
    }

    /// The same, and waits until it is done: one look for all who wait. Returns at once while the last look is too
    /// young to ask again, and after two seconds in any case. Whether there are better keys now is for the caller to see.
    pub async fn hurried(&self) {
        let mut phase = self.phase.subscribe();
        match *phase.borrow_and_update() {
            Phase::Resting => return,
            Phase::Ready => self.hurry(),
            Phase::Looking => {}
        }
        let done = phase.wait_for(|phase| *phase == Phase::Resting);
        let _ = tokio::time::timeout(HURRY_WAIT, done).await;
    }

    /// One fetch, and how long to wait for the next.
    async fn refresh(&self, failures: u32) -> (Duration, u32) {
        self.phase.send_replace(Phase::Looking);
        self.fetches.fetch_add(1, Ordering::Relaxed);
        let looked = self.look().await;
        self.phase.send_replace(Phase::Resting);
        let Err(error) = looked else {
            *lock(&self.last_error) = None;
            return (early(self.wanted.refresh), 0);
        };
        self.failures.fetch_add(1, Ordering::Relaxed);
        let has_keys = self.keys.load().is_some();
        let pause = pause(has_keys, failures);
        let retry_seconds = pause.as_secs();
        tracing::warn!(source = ?self.wanted.source, %error, has_keys, retry_seconds, "keys of an issuer not fetched");
        *lock(&self.last_error) = Some(error);
        (pause, failures.saturating_add(1))
    }

    async fn look(&self) -> Result<(), KeysError> {
        let Wanted { source, timeout, copy, .. } = &self.wanted;
        let fetched = tokio::time::timeout(*timeout, fetch(source, &self.client, *timeout)).await;
        let bytes = fetched.unwrap_or(Err(FetchError::Timeout(*timeout).into()))?;
        if *lock(&self.bytes) == bytes {
            return Ok(());
        }
        self.keys.store(Some(Arc::new(understood(source, &bytes)?)));
        if let Some(path) = copy {
            keep(path, source, &bytes);
        }
        *lock(&self.bytes) = bytes;
        Ok(())
    }
}

/// A little less than the period, by chance.
fn early(period: Duration) -> Duration {
    let mut chance = [0; 2];
    // Without chance all ask at once, which is no reason to stop.
    let _ = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut chance);
    period - period / JITTER_PART * u32::from(u16::from_le_bytes(chance)) / u32::from(u16::MAX)
}

fn pause(has_keys: bool, failures: u32) -> Duration {
    let [first, last] = if has_keys { STALE_RETRY } else { FIRST_RETRY };
    first.saturating_mul(1 << failures.min(16)).min(last)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RemoteKeys {
    /// Key servers are verified with the authorities of a PEM file; `None`: the system's.
    pub fn new(authorities: Option<PathBuf>) -> RemoteKeys {
        RemoteKeys { authorities, sets: Mutex::default(), wanted: Notify::new(), hurry: HURRY }
    }

    /// The keys of a source, the same for all who want it alike. Fetched while [`RemoteKeys::run`] runs; forgotten when
    /// nobody holds them any more.
    pub fn want(&self, wanted: &Wanted) -> Arc<Remote> {
        let new = || Arc::new(Remote::new(wanted, self.authorities.clone()));
        let remote = lock(&self.sets).entry(wanted.clone()).or_insert_with(new).clone();
        self.wanted.notify_one();
        remote
    }

    /// Fetches for ever, each source on its own. Start it on one runtime only; dropping it stops all.
    pub async fn run(self: Arc<Self>) {
        let mut tasks: JoinSet<Wanted> = JoinSet::new();
        let mut running: HashSet<Wanted> = HashSet::new();
        loop {
            let all: Vec<Arc<Remote>> = lock(&self.sets).values().cloned().collect();
            for remote in all {
                if running.insert(remote.wanted.clone()) {
                    tasks.spawn(self.clone().keep(remote));
                }
            }
            tokio::select! {
                () = self.wanted.notified() => {}
                Some(ended) = tasks.join_next() => {
                    // A task that panicked says nothing: every source is started anew rather than one forgotten.
                    match ended {
                        Ok(source) => drop(running.remove(&source)),
                        Err(_) => {
                            tasks.abort_all();
                            running.clear();
                        }
                    }
                }
            }
        }
    }

    async fn keep(self: Arc<Self>, remote: Arc<Remote>) -> Wanted {
        let mut failures = 0;
        loop {
            let pause;
            (pause, failures) = remote.refresh(failures).await;
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = async {
                    tokio::time::sleep(self.hurry).await;
                    remote.phase.send_replace(Phase::Ready);
                    remote.hurry.notified().await;
                } => {}
            }
            let mut sets = lock(&self.sets);
            // One in the map and one here: nobody wants it. Only under this lock is another one made.
            if Arc::strong_count(&remote) <= 2 {
                sets.remove(&remote.wanted);
                return remote.wanted.clone();
            }
        }
    }

    pub fn status(&self) -> Vec<RemoteStatus> {
        let status = |remote: &Arc<Remote>| RemoteStatus {
            source: remote.wanted.source.clone(),
            has_keys: remote.keys.load().is_some(),
            fetches: remote.fetches.load(Ordering::Relaxed),
            failures: remote.failures.load(Ordering::Relaxed),
            last_error: lock(&remote.last_error).clone(),
        };
        lock(&self.sets).values().map(status).collect()
    }
}

#[cfg(test)]
mod tests;
