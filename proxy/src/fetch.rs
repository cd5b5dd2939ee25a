//! Questions to servers that are no callers' business: key sets, authorization servers, the Kubernetes API.
//!
//! Every answer is bounded in time and bytes. No redirect is followed, no cookie kept, no proxy asked. Connections are
//! kept alive and shared by all threads.

mod connect;
#[cfg(test)]
mod tests;

use crate::files::{Stamp, read_bounded};
use arc_swap::ArcSwapOption;
use bytes::Bytes;
use connect::Connector;
use http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// An idle connection is closed after so long: less than most servers wait.
const IDLE: Duration = Duration::from_secs(30);
const IDLE_CONNECTIONS_MAX: usize = 16;
const PEM_BYTES_MAX: u64 = 8 << 20;
/// Where distributions keep the authorities of the public web.
const SYSTEM_ROOTS: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    #[error("{0} is no address; write https://host[:port]/path")]
    Address(String),
    #[error("no authority to verify the server with, or no certificate to show it: {0}")]
    Trust(String),
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    #[error("cannot connect to {0}")]
    Connect(String),
    #[error("the TLS handshake failed: {0}")]
    Tls(String),
    #[error("HTTP failed: {0}")]
    Http(String),
    #[error("the answer has more than {0} bytes")]
    TooLarge(usize),
}

/// Whom to believe, and who we are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Trust {
    /// A PEM file of authorities to verify servers with; `None`: the system's.
    pub authorities: Option<PathBuf>,
    /// PEM files of a chain and its key, to show to servers that ask.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// A client for any number of servers. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    inner: legacy::Client<Connector, Full<Bytes>>,
}

impl Client {
    pub fn new(trust: Trust) -> Client {
        let mut builder = legacy::Client::builder(TokioExecutor::new());
        builder.pool_idle_timeout(IDLE).pool_max_idle_per_host(IDLE_CONNECTIONS_MAX).pool_timer(TokioTimer::new());
        Client { inner: builder.build(Connector::new(trust)) }
    }

    /// Asks once, and reads the whole answer.
    ///
    /// A kept-alive connection that closes under the question is replaced, and the question asked again only if nothing
    /// of it was sent.
    pub async fn send(
        &self,
        request: Request<Bytes>,
        timeout: Duration,
        bytes_max: usize,
    ) -> Result<Response<Bytes>, FetchError> {
        let whole = async {
            let (head, body) = self.ask(request).await?.into_parts();
            let body = Limited::new(body, bytes_max).collect().await.map_err(|error| {
                let too_large = error.is::<http_body_util::LengthLimitError>();
                if too_large { FetchError::TooLarge(bytes_max) } else { FetchError::Http(error.to_string()) }
            })?;
            Ok(Response::from_parts(head, body.to_bytes()))
        };
        tokio::time::timeout(timeout, whole).await.unwrap_or(Err(FetchError::Timeout(timeout)))
    }

    /// Asks once; the answer's body is for the caller to read, as it comes. The timeout is for its head.
    pub async fn stream(&self, request: Request<Bytes>, timeout: Duration) -> Result<Response<Incoming>, FetchError> {
        tokio::time::timeout(timeout, self.ask(request)).await.unwrap_or(Err(FetchError::Timeout(timeout)))
    }

    async fn ask(&self, request: Request<Bytes>) -> Result<Response<Incoming>, FetchError> {
        let (mut head, body) = request.into_parts();
        check(&head.uri)?;
        head.headers.entry(header::USER_AGENT).or_insert(HeaderValue::from_static("outrider"));
        let asked = self.inner.request(Request::from_parts(head, Full::new(body))).await;
        asked.map_err(|error| connect::reason(&error).unwrap_or_else(|| FetchError::Http(words(&error))))
    }
}

/// Names and passwords in an address would end in a log; a relative address leads nowhere.
fn check(uri: &http::Uri) -> Result<(), FetchError> {
    let sound = matches!(uri.scheme_str(), Some("http" | "https"))
        && uri.host().is_some_and(|host| !host.is_empty())
        && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
    if sound { Ok(()) } else { Err(FetchError::Address(uri.path().into())) }
}

/// An error and what is behind it: hyper's own words say little.
fn words(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(deeper) = source {
        words = format!("{words}: {deeper}");
        source = deeper.source();
    }
    words
}

/// TLS as the files say now: authorities and certificates rotate while we run.
pub struct Live {
    trust: Trust,
    config: ArcSwapOption<(Vec<Option<Stamp>>, Arc<ClientConfig>)>,
}

impl Live {
    pub fn new(trust: Trust) -> Live {
        Live { trust, config: ArcSwapOption::empty() }
    }

    pub fn current(&self) -> Result<Arc<ClientConfig>, FetchError> {
        let authorities = match &self.trust.authorities {
            Some(path) => path.as_path(),
            None => SYSTEM_ROOTS
                .iter()
                .map(Path::new)
                .find(|path| path.exists())
                .ok_or_else(|| FetchError::Trust("this system has no bundle; name a file".into()))?,
        };
        let identity = self.trust.identity.iter().flat_map(|(chain, key)| [chain.as_path(), key.as_path()]);
        let stamps: Vec<_> = std::iter::once(authorities).chain(identity).map(|path| Stamp::of(path).ok()).collect();
        if let Some(known) = self.config.load().as_ref().filter(|known| known.0 == stamps) {
            return Ok(known.1.clone());
        }
        let config = Arc::new(client_config(authorities, self.trust.identity.as_ref())?);
        self.config.store(Some(Arc::new((stamps, config.clone()))));
        Ok(config)
    }
}

fn client_config(authorities: &Path, identity: Option<&(PathBuf, PathBuf)>) -> Result<ClientConfig, FetchError> {
    let read = |path: &Path| {
        read_bounded(path, PEM_BYTES_MAX).map_err(|error| FetchError::Trust(format!("{}: {error}", path.display())))
    };
    let bad = |path: &Path, words: &str| FetchError::Trust(format!("{}: {words}", path.display()));
    let mut roots = RootCertStore::empty();
    let bundle = read(authorities)?;
    let (added, _) = roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&bundle).filter_map(Result::ok));
    if added == 0 {
        return Err(bad(authorities, "holds no certificate in PEM"));
    }
    let builder = ClientConfig::builder_with_provider(crate::tls::provider()).with_safe_default_protocol_versions();
    let builder = builder.expect("ring speaks TLS 1.2 and 1.3").with_root_certificates(roots);
    let Some((chain, key)) = identity else { return Ok(builder.with_no_client_auth()) };
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&read(chain)?).filter_map(Result::ok).collect();
    let secret = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|_| bad(key, "holds no private key in PEM"))?;
    builder.with_client_auth_cert(certificates, secret).map_err(|error| bad(chain, &error.to_string()))
}
