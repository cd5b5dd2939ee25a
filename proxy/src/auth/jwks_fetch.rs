//! Key sets that live elsewhere: fetched over HTTP or HTTPS before anybody asks, kept until better ones come.
//!
//! An issuer's outage never takes keys away, never becomes another issuer's, and is never papered over with a made-up
//! key: until a first set is there, there is none. Every fetch is bounded in time and bytes; no redirect is followed.

use super::jwks::KeySet;
use crate::files::read_bounded;
use crate::policy::KeySource;
use crate::tls::provider;
use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::Uri;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

/// As istiod does.
const REFRESH: Duration = Duration::from_secs(20 * 60);
/// After a failure while there are keys: twice as long each time.
const STALE_RETRY: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(60 * 60)];
/// The same while there are none and every token is refused: soon.
const FIRST_RETRY: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];
/// A token with an unknown key id asks for a look before its time, but not more often than so.
const HURRY: Duration = Duration::from_secs(30);
const BODY_BYTES_MAX: usize = 1 << 20;
const ROOTS_BYTES_MAX: u64 = 8 << 20;
/// Where distributions keep the authorities of the public web.
const SYSTEM_ROOTS: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Why there are no new keys.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    #[error("{0} is no address; write https://host[:port]/path")]
    Address(String),
    #[error("no authority to verify the server with: {0}")]
    Roots(String),
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    #[error("cannot connect to {0}")]
    Connect(String),
    #[error("the TLS handshake failed: {0}")]
    Tls(String),
    #[error("HTTP failed: {0}")]
    Http(String),
    #[error("answered {0}; 200 is needed")]
    Status(u16),
    #[error("the answer is {0}")]
    Keys(String),
    #[error("the OpenID configuration {0}")]
    Discovery(String),
}

/// All sources of keys that anybody wants.
pub struct RemoteKeys {
    /// A PEM file to verify servers with; `None`: the system's.
    authorities: Option<PathBuf>,
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
    last_error: Mutex<Option<FetchError>>,
}

/// How it goes with one source, for admin and metrics.
#[derive(Clone, Debug)]
pub struct RemoteStatus {
    pub source: KeySource,
    pub has_keys: bool,
    pub fetches: u64,
    pub failures: u64,
    /// Why the last fetch failed; `None` if it did not.
    pub last_error: Option<FetchError>,
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
    async fn refresh(&self, authorities: Option<&Path>, failures: u32) -> (Duration, u32) {
        self.fetches.fetch_add(1, Ordering::Relaxed);
        let fetched = tokio::time::timeout(self.timeout, fetch(&self.source, authorities)).await;
        let error = match fetched.unwrap_or(Err(FetchError::Timeout(self.timeout))) {
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
    pub fn new(authorities: Option<PathBuf>) -> RemoteKeys {
        RemoteKeys { authorities, sets: Mutex::default(), wanted: Notify::new() }
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
            (pause, failures) = remote.refresh(self.authorities.as_deref(), failures).await;
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

async fn fetch(source: &KeySource, authorities: Option<&Path>) -> Result<KeySet, FetchError> {
    let bytes = match source {
        KeySource::Inline(text) => Bytes::copy_from_slice(text.as_bytes()),
        KeySource::Uri(uri) => get(uri, authorities).await?,
        KeySource::Discovery(issuer) => {
            let address = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
            let uri = discovered(issuer, &get(&address, authorities).await?)?;
            get(&uri, authorities).await?
        }
    };
    let (keys, skipped) = KeySet::parse(&bytes).map_err(FetchError::Keys)?;
    for reason in skipped {
        tracing::debug!(?source, %reason, "key not used");
    }
    Ok(keys)
}

/// OpenID Connect Discovery 1.0, section 4.3: the issuer in the answer must be the one that was asked.
fn discovered(issuer: &str, answer: &[u8]) -> Result<String, FetchError> {
    let bad = |words: &str| FetchError::Discovery(words.into());
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

async fn get(address: &str, authorities: Option<&Path>) -> Result<Bytes, FetchError> {
    let bad = || FetchError::Address(address.into());
    let uri: Uri = address.parse().map_err(|_| bad())?;
    let (Some(scheme), Some(host)) = (uri.scheme_str(), uri.host()) else { return Err(bad()) };
    let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
    let name = host.trim_start_matches('[').trim_end_matches(']');
    let tcp = TcpStream::connect((name, port)).await.map_err(|e| FetchError::Connect(format!("{host}:{port}: {e}")))?;
    match scheme {
        "http" => exchange(tcp, &uri).await,
        "https" => {
            let config = client_config(authorities)?;
            let name = ServerName::try_from(name.to_owned()).map_err(|_| bad())?;
            let tls = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await;
            exchange(tls.map_err(|error| FetchError::Tls(error.to_string()))?, &uri).await
        }
        _ => Err(bad()),
    }
}

/// Read anew each time: authorities rotate too, and this is once in twenty minutes.
fn client_config(authorities: Option<&Path>) -> Result<ClientConfig, FetchError> {
    let found = authorities.or_else(|| SYSTEM_ROOTS.iter().map(Path::new).find(|path| path.exists()));
    let path = found.ok_or_else(|| FetchError::Roots("this system has no bundle; name a file".into()))?;
    let bad = |words: String| FetchError::Roots(format!("{}: {words}", path.display()));
    let bytes = read_bounded(path, ROOTS_BYTES_MAX).map_err(|error| bad(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&bytes).filter_map(Result::ok));
    if added == 0 {
        return Err(bad("holds no certificate in PEM".into()));
    }
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder = builder.expect("ring speaks TLS 1.2 and 1.3");
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// One question and its answer on a connection of its own.
async fn exchange<S>(stream: S, uri: &Uri) -> Result<Bytes, FetchError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |error: hyper::Error| FetchError::Http(error.to_string());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let authority = uri.authority().map(|authority| authority.as_str()).unwrap_or_default();
    // Names and passwords of an address never leave for a header.
    let host = authority.rsplit('@').next().unwrap_or(authority);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = http::Request::get(path)
        .header(http::header::HOST, host)
        .header(http::header::ACCEPT, "application/json")
        .header(http::header::USER_AGENT, "outrider")
        .header(http::header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| FetchError::Http(error.to_string()))?;
    let answer = sender.send_request(request).await.map_err(failed)?;
    if answer.status() != http::StatusCode::OK {
        return Err(FetchError::Status(answer.status().as_u16()));
    }
    let body = Limited::new(answer.into_body(), BODY_BYTES_MAX).collect().await;
    Ok(body.map_err(|error| FetchError::Http(error.to_string()))?.to_bytes())
}

#[cfg(test)]
mod tests;
