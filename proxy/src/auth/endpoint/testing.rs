//! A server on the loopback that remembers what it was asked, and a site to compile policies at.

use crate::auth::ConfigProblem;
use crate::auth::secrets::Secrets;
use crate::auth::site::{HostPattern, IdentitySource, Site};
use crate::fetch::{Client, Trust};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

pub struct Server {
    pub origin: String,
    seen: Arc<Mutex<Vec<Request<Bytes>>>>,
    _task: AbortOnDropHandle<()>,
}

impl Server {
    pub async fn start(answer: impl Fn(&Request<Bytes>) -> Response<Bytes> + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let (seen, answer) = (Arc::new(Mutex::new(Vec::new())), Arc::new(answer));
        let remembered = seen.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (seen, answer) = (remembered.clone(), answer.clone());
                let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                    let (seen, answer) = (seen.clone(), answer.clone());
                    async move {
                        let (head, body) = request.into_parts();
                        let request = Request::from_parts(head, body.collect().await.unwrap().to_bytes());
                        let answered = answer(&request).map(Full::new);
                        seen.lock().unwrap().push(request);
                        Ok::<_, Infallible>(answered)
                    }
                });
                tokio::spawn(async move {
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Server { origin, seen, _task: AbortOnDropHandle::new(task) }
    }

    /// What was asked since the last look.
    pub fn seen(&self) -> Vec<Request<Bytes>> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

pub fn json(body: serde_json::Value) -> Response<Bytes> {
    Response::builder().header("content-type", "application/json").body(body.to_string().into()).unwrap()
}

pub fn status(code: u16) -> Response<Bytes> {
    Response::builder().status(code).body("words".into()).unwrap()
}

/// Secrets by `namespace/name/key`.
pub struct Few(pub &'static [(&'static str, &'static str)]);

impl Secrets for Few {
    fn value(&self, namespace: &str, name: &str, key: &str) -> Option<Bytes> {
        let path = format!("{namespace}/{name}/{key}");
        self.0.iter().find(|(known, _)| *known == path).map(|(_, value)| Bytes::from_static(value.as_bytes()))
    }
}

/// Everything a site borrows.
pub struct Ground {
    pub secrets: Few,
    pub client: Client,
    pub hosts: Vec<HostPattern>,
    pub any_status: bool,
    pub identities: BTreeMap<String, IdentitySource>,
}

impl Ground {
    pub fn new(secrets: &'static [(&'static str, &'static str)]) -> Ground {
        let client = Client::new(Trust::default());
        Ground { secrets: Few(secrets), client, hosts: Vec::new(), any_status: false, identities: BTreeMap::new() }
    }

    pub fn site(&self) -> Site<'_> {
        Site {
            namespace: "ns",
            secrets: &self.secrets,
            client: &self.client,
            hosts: &self.hosts,
            any_status: self.any_status,
            identities: &self.identities,
        }
    }
}

/// Settings as a policy's YAML has them.
pub fn yaml<T: DeserializeOwned>(text: &str) -> T {
    serde_yaml_ng::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

pub fn words(problems: &[ConfigProblem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
