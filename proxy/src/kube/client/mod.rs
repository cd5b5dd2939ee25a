//! A client of the Kubernetes API: create, get, list, replace, patch, delete, and watch, on plain JSON.
//!
//! The client itself knows no resource: a path goes in, a `serde_json::Value` comes out; [`scale`], [`slices`] and
//! [`leases`] know one each. Every answer is bounded in time and bytes, and the API's own words come with an error. Never
//! logs a token, and never caches anything.
//!
//! Not `kube-rs`: with `k8s-openapi` it brings some two hundred types per API version, a second TLS set-up and a tower
//! stack that assumes one runtime for the whole process, for four verbs on five resources. This is the bounded client
//! that the rest of `auth` uses, with two hundred lines around it.

#[cfg(test)]
pub mod fake;
pub mod kubeconfig;
pub mod leases;
pub mod mirror;
pub mod scale;
pub mod slices;
#[cfg(test)]
mod tests;
mod watch;

pub use watch::Change;

use crate::config::Kubernetes;
use crate::fetch::{self, FetchError, Trust};
use crate::files::{Stamp, read_bounded};
use crate::percent;
use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response};
use serde::Deserialize;
use serde_json::Value;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// etcd takes objects of 1.5 MiB; a page of them is asked for in pieces of [`PAGE`].
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Objects in one page of a list: what client-go asks for.
const PAGE: usize = 500;
/// A list longer than this is an error and not an empty memory.
const ITEMS_MAX: usize = 50_000;
const TOKEN_BYTES_MAX: u64 = 64 << 10;
/// Of what the API says of an error.
const WORDS_MAX: usize = 512;

/// Why the API did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    #[error("the Kubernetes API: {0}")]
    Fetch(#[from] FetchError),
    /// Its own `Status`.
    #[error("the Kubernetes API answered {code} {reason}: {message}")]
    Refused { code: u16, reason: String, message: String },
    #[error("the Kubernetes API's answer makes no sense: {0}")]
    Nonsense(String),
    #[error("cannot read the service account token {path}: {words}")]
    Token { path: PathBuf, words: String },
    #[error("{0} has more than {ITEMS_MAX} objects; narrow it down with a selector")]
    TooMany(String),
}

impl ApiError {
    pub fn code(&self) -> Option<u16> {
        match self {
            ApiError::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Its words, and what to do about it where the commonest cause is meant.
    pub fn advice(&self) -> String {
        match self.code() {
            Some(401 | 403) => {
                format!("{self}; bind this sidecar's service account to the ClusterRole system:auth-delegator")
            }
            _ => self.to_string(),
        }
    }

    /// The resourceVersion or page asked for is older than what the server remembers.
    fn is_gone(&self) -> bool {
        self.code() == Some(410)
    }
}

/// `metav1.Status`, as much of it as is read.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    message: String,
    reason: String,
    code: u16,
}

/// How a patch is to be understood (`application/…-patch+json`, `apply-patch+yaml` written as JSON).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patch {
    Json,
    Merge,
    StrategicMerge,
    /// Server-side apply; the path needs `?fieldManager=`.
    Apply,
}

impl Patch {
    fn media_type(self) -> &'static str {
        match self {
            Patch::Json => "application/json-patch+json",
            Patch::Merge => "application/merge-patch+json",
            Patch::StrategicMerge => "application/strategic-merge-patch+json",
            Patch::Apply => "application/apply-patch+yaml",
        }
    }
}

/// Objects of one kind in one place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collection {
    /// `/api/v1/namespaces/models/secrets`
    pub path: String,
    /// Empty: all.
    pub labels: String,
    pub fields: String,
}

impl Collection {
    fn query(&self, more: &[(&str, &str)]) -> String {
        let own = [("labelSelector", self.labels.as_str()), ("fieldSelector", self.fields.as_str())];
        let all = own.iter().chain(more).filter(|(_, value)| !value.is_empty());
        let pairs: Vec<String> = all.map(|(name, value)| format!("{name}={}", percent::part(value))).collect();
        format!("{}?{}", self.path, pairs.join("&"))
    }
}

/// Objects, and the version after which a watch goes on. Not to be shown: they may be Secrets.
pub struct List {
    pub items: Vec<Value>,
    pub resource_version: String,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Client {
    fetch: fetch::Client,
    inner: Arc<Inner>,
}

struct Inner {
    access: Kubernetes,
    /// As the file says now: the kubelet replaces it before it ends.
    token: ArcSwapOption<(Option<Stamp>, HeaderValue)>,
}

impl Client {
    pub fn new(access: Kubernetes) -> Client {
        let trust = Trust { authorities: access.authorities.clone(), identity: access.identity.clone() };
        let inner = Arc::new(Inner { access, token: ArcSwapOption::empty() });
        Client { fetch: fetch::Client::new(trust), inner }
    }

    pub fn timeout(&self) -> Duration {
        self.inner.access.timeout
    }

    pub async fn get(&self, path: &str) -> Result<Value, ApiError> {
        self.ask(Method::GET, path, None).await
    }

    pub async fn create(&self, path: &str, object: &Value) -> Result<Value, ApiError> {
        self.ask(Method::POST, path, Some((object, "application/json"))).await
    }

    /// With a `resourceVersion` in the object: only if it is still that one, else 409.
    pub async fn replace(&self, path: &str, object: &Value) -> Result<Value, ApiError> {
        self.ask(Method::PUT, path, Some((object, "application/json"))).await
    }

    pub async fn patch(&self, path: &str, kind: Patch, patch: &Value) -> Result<Value, ApiError> {
        self.ask(Method::PATCH, path, Some((patch, kind.media_type()))).await
    }

    pub async fn delete(&self, path: &str) -> Result<Value, ApiError> {
        self.ask(Method::DELETE, path, None).await
    }

    /// All of them, page by page. A list that grows too old between two pages is begun once more.
    pub async fn list(&self, what: &Collection) -> Result<List, ApiError> {
        match self.pages(what).await {
            Err(error) if error.is_gone() => self.pages(what).await,
            told => told,
        }
    }

    async fn pages(&self, what: &Collection) -> Result<List, ApiError> {
        let (mut items, mut next) = (Vec::new(), String::new());
        loop {
            let query = what.query(&[("limit", &PAGE.to_string()), ("continue", &next)]);
            let mut page = self.get(&query).await?;
            match page["items"].take() {
                Value::Array(more) => items.extend(more),
                // A list of nothing is written so by some servers.
                Value::Null => {}
                _ => return Err(ApiError::Nonsense(format!("{} is no list", what.path))),
            }
            if items.len() > ITEMS_MAX {
                return Err(ApiError::TooMany(what.path.clone()));
            }
            let about = |name: &str| page["metadata"][name].as_str().unwrap_or_default().to_owned();
            next = about("continue");
            if next.is_empty() {
                return Ok(List { items, resource_version: about("resourceVersion") });
            }
        }
    }

    async fn ask(&self, method: Method, path: &str, body: Option<(&Value, &str)>) -> Result<Value, ApiError> {
        let request = self.request(method, path, body)?;
        let answer = self.fetch.send(request, self.timeout(), ANSWER_BYTES_MAX).await?;
        let (head, body) = answer.into_parts();
        if !head.status.is_success() {
            return Err(refused(head.status.as_u16(), &body));
        }
        serde_json::from_slice(&body).map_err(|error| ApiError::Nonsense(format!("{path}: {error}")))
    }

    fn request(&self, method: Method, path: &str, body: Option<(&Value, &str)>) -> Result<Request<Bytes>, ApiError> {
        let uri = format!("{}{path}", self.inner.access.server.trim_end_matches('/'));
        let mut request = Request::builder().method(method).uri(&uri).header("accept", "application/json");
        if let Some(token) = self.inner.token()? {
            request = request.header(AUTHORIZATION, token);
        }
        let bytes = match body {
            Some((body, media_type)) => {
                request = request.header(CONTENT_TYPE, media_type);
                Bytes::from(body.to_string())
            }
            None => Bytes::new(),
        };
        request.body(bytes).map_err(|_| ApiError::Fetch(FetchError::Address(uri)))
    }

    /// As [`Client::ask`], the body to be read as it comes.
    async fn open(&self, path: &str) -> Result<Response<hyper::body::Incoming>, ApiError> {
        let request = self.request(Method::GET, path, None)?;
        let answer = self.fetch.stream(request, self.timeout()).await?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let code = answer.status().as_u16();
        let body = http_body_util::Limited::new(answer.into_body(), WORDS_MAX << 4);
        let body = tokio::time::timeout(self.timeout(), http_body_util::BodyExt::collect(body)).await;
        Err(refused(code, &body.ok().and_then(Result::ok).map(|body| body.to_bytes()).unwrap_or_default()))
    }
}

impl Inner {
    fn token(&self) -> Result<Option<HeaderValue>, ApiError> {
        let Some(path) = &self.access.token_file else { return Ok(None) };
        let stamp = Stamp::of(path).ok();
        if let Some(known) = self.token.load().as_ref().filter(|known| stamp.is_some() && known.0 == stamp) {
            return Ok(Some(known.1.clone()));
        }
        let fault = |words: String| ApiError::Token { path: path.clone(), words };
        let bytes = read_bounded(path, TOKEN_BYTES_MAX).map_err(|error| fault(error.to_string()))?;
        let text = String::from_utf8_lossy(&bytes);
        let mut value = HeaderValue::from_str(&format!("Bearer {}", text.trim()))
            .map_err(|_| fault("it holds what no token holds".into()))?;
        value.set_sensitive(true);
        self.token.store(Some(Arc::new((stamp, value.clone()))));
        Ok(Some(value))
    }
}

fn refused(code: u16, body: &[u8]) -> ApiError {
    let status: Status = serde_json::from_slice(body).unwrap_or_default();
    let message = match status.message.is_empty() {
        true => "it gave no reason".into(),
        false => status.message.chars().take(WORDS_MAX).collect(),
    };
    let reason = status.reason.chars().take(64).collect();
    // A watch's error comes in an answer of 200 and has its code inside.
    let code = if status.code == 0 { code } else { status.code };
    ApiError::Refused { code, reason, message }
}
