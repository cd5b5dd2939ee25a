//! Key sets that live elsewhere: fetched over HTTP or HTTPS before anybody asks, kept until better ones come.
//!
//! An issuer's outage never takes keys away, never becomes another issuer's, and is never papered over with a made-up
//! key: until a first set is there, there is none. Every fetch is bounded in time and bytes; no redirect is followed.

use super::jwks::KeySet;
use crate::fetch::{Client, FetchError, Trust};
use crate::policy::KeySource;
use arc_swap::ArcSwapOption;
use bytes::Bytes;
use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// As istiod does.
const REFRESH: Duration = Duration::from_secs(20 * 60);
/// After a failure while there are keys: twice as long each time.
const STALE_RETRY: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(60 * 60)];
/// The same while there are none and every token is refused: soon.
const FIRST_RETRY: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];
/// A token with an unknown key id asks for a look before its time, but not more often than so.
const HURRY: Duration = Duration::from_secs(30);
const BODY_BYTES_MAX: usize = 1 << 20;
/// Longer than any source's own timeout.
const TIMEOUT_MAX: Duration = Duration::from_secs(300);

/// Why there are no new keys.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("answered {0}; 200 is needed")]
    Status(u16),
    #[error("the answer is {0}")]
    Keys(String),
    #[error("the OpenID configuration {0}")]
    Discovery(String),
}

/// All sources of keys that anybody wants.
pub struct RemoteKeys {
    client: Client,
    sets: Mutex<BTreeMap<KeySource, Arc<Remote>>>,
    wanted: Notify,
}

/// One source of keys.
pub struct Remote {
    source: KeySource,
    timeout: Duration,
    keys: ArcSwapOption<KeySet>,
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

impl Remote {
    fn new(source: &KeySource, timeout: Duration) -> Remote {
        Remote {
            source: source.clone(),
            timeout,
            keys: ArcSwapOption::empty(),
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

    /// Asks for a look before its time: keys may have been rotated.
    pub fn hurry(&self) {
        self.hurry.notify_one();
    }

    /// One fetch, and how long to wait for the next.
    async fn refresh(&self, client: &Client, failures: u32) -> (Duration, u32) {
        self.fetches.fetch_add(1, Ordering::Relaxed);
        let fetched = tokio::time::timeout(self.timeout, fetch(&self.source, client)).await;
        let error = match fetched.unwrap_or(Err(FetchError::Timeout(self.timeout).into())) {
            Ok(keys) => {
                self.keys.store(Some(Arc::new(keys)));
                *lock(&self.last_error) = None;
                return (REFRESH, 0);
            }
            Err(error) => error,
        };
        self.failures.fetch_add(1, Ordering::Relaxed);
        let has_keys = self.keys.load().is_some();
        let pause = pause(has_keys, failures);
        let retry_seconds = pause.as_secs();
        tracing::warn!(source = ?self.source, %error, has_keys, retry_seconds, "keys of an issuer not fetched");
        *lock(&self.last_error) = Some(error);
        (pause, failures.saturating_add(1))
    }
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
        let client = Client::new(Trust { authorities, identity: None });
        RemoteKeys { client, sets: Mutex::default(), wanted: Notify::new() }
    }

    /// The keys of a source, the same for all who want it. Fetched while [`RemoteKeys::run`] runs; forgotten when
    /// nobody holds them any more.
    pub fn want(&self, source: &KeySource, timeout: Duration) -> Arc<Remote> {
        let new = || Arc::new(Remote::new(source, timeout));
        let remote = lock(&self.sets).entry(source.clone()).or_insert_with(new).clone();
        self.wanted.notify_one();
        remote
    }

    /// Fetches for ever, each source on its own. Start it on one runtime only; dropping it stops all.
    pub async fn run(self: Arc<Self>) {
        let mut tasks: JoinSet<KeySource> = JoinSet::new();
        let mut running: HashSet<KeySource> = HashSet::new();
        loop {
            let all: Vec<Arc<Remote>> = lock(&self.sets).values().cloned().collect();
            for remote in all {
                if running.insert(remote.source.clone()) {
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

    async fn keep(self: Arc<Self>, remote: Arc<Remote>) -> KeySource {
        let mut failures = 0;
        loop {
            let pause;
            (pause, failures) = remote.refresh(&self.client, failures).await;
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = async {
                    tokio::time::sleep(HURRY).await;
                    remote.hurry.notified().await;
                } => {}
            }
            let mut sets = lock(&self.sets);
            // One in the map and one here: nobody wants it. Only under this lock is another one made.
            if Arc::strong_count(&remote) <= 2 {
                sets.remove(&remote.source);
                return remote.source.clone();
            }
        }
    }

    pub fn status(&self) -> Vec<RemoteStatus> {
        let status = |remote: &Arc<Remote>| RemoteStatus {
            source: remote.source.clone(),
            has_keys: remote.keys.load().is_some(),
            fetches: remote.fetches.load(Ordering::Relaxed),
            failures: remote.failures.load(Ordering::Relaxed),
            last_error: lock(&remote.last_error).clone(),
        };
        lock(&self.sets).values().map(status).collect()
    }
}

async fn fetch(source: &KeySource, client: &Client) -> Result<KeySet, KeysError> {
    let bytes = match source {
        KeySource::Inline(text) => Bytes::copy_from_slice(text.as_bytes()),
        KeySource::Uri(uri) => get(client, uri).await?,
        KeySource::Discovery(issuer) => {
            let address = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
            let uri = discovered(issuer, &get(client, &address).await?)?;
            get(client, &uri).await?
        }
    };
    let (keys, skipped) = KeySet::parse(&bytes).map_err(KeysError::Keys)?;
    for reason in skipped {
        tracing::debug!(?source, %reason, "key not used");
    }
    Ok(keys)
}

/// OpenID Connect Discovery 1.0, section 4.3: the issuer in the answer must be the one that was asked.
fn discovered(issuer: &str, answer: &[u8]) -> Result<String, KeysError> {
    let bad = |words: &str| KeysError::Discovery(words.into());
    let answer: serde_json::Value = serde_json::from_slice(answer).map_err(|_| bad("is not JSON"))?;
    if answer["issuer"].as_str() != Some(issuer) {
        return Err(bad("is another issuer's"));
    }
    let uri = answer["jwks_uri"].as_str().ok_or_else(|| bad("has no jwks_uri"))?;
    if issuer.starts_with("https://") && !uri.starts_with("https://") {
        return Err(bad("leads away from https"));
    }
    Ok(uri.to_owned())
}

async fn get(client: &Client, address: &str) -> Result<Bytes, KeysError> {
    let request = http::Request::get(address).header(http::header::ACCEPT, "application/json").body(Bytes::new());
    let request = request.map_err(|_| FetchError::Address(address.into()))?;
    let answer = client.send(request, TIMEOUT_MAX, BODY_BYTES_MAX).await?;
    match answer.status() {
        http::StatusCode::OK => Ok(answer.into_body()),
        other => Err(KeysError::Status(other.as_u16())),
    }
}

#[cfg(test)]
mod tests;
