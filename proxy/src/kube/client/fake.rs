//! An API server for tests: answers as the API's documentation says the real one does, and keeps what it was asked.
//!
//! Written from the API reference (authentication.k8s.io/v1 TokenReview, authorization.k8s.io/v1 SubjectAccessReview,
//! lists and watches); `make e2e-kubernetes` shows that the real one does so. Knows a handful of tokens.

mod kept;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;

const REVIEW: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
pub const ACCESS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";

/// How it behaves; may be changed while it runs.
#[derive(Default)]
pub struct World {
    /// By token: the user and the audiences it is for.
    pub tokens: HashMap<String, (Value, Vec<String>)>,
    /// Names of users who may do everything.
    pub may: Vec<String>,
    /// Collections that change while they are watched.
    pub kept: kept::Kept,
    /// Answered to everything, once one is there.
    pub fault: Option<StatusCode>,
    /// Before every answer.
    pub delay: Duration,
    /// By path and query, in the order in which they are given.
    pub told: Vec<(String, Answer)>,
    /// Method, path with query, body, `authorization`.
    pub asked: Vec<(Method, String, Value, String)>,
}

#[derive(Clone)]
pub enum Answer {
    Json(StatusCode, Value),
    /// Lines, and then the end of the answer.
    Lines(Vec<Value>),
}

pub struct Fake {
    pub address: SocketAddr,
    pub world: Arc<Mutex<World>>,
}

impl Fake {
    /// On the loopback, for as long as the runtime of the test lives.
    pub async fn start() -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let world = Arc::new(Mutex::new(World::default()));
        let shared = world.clone();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let world = shared.clone();
                let service = service_fn(move |request| answer(world.clone(), request));
                let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tcp), service);
                tokio::spawn(async move { drop(served.await) });
            }
        });
        Fake { address, world }
    }

    pub fn kubernetes(&self) -> crate::config::Kubernetes {
        crate::config::Kubernetes {
            server: format!("http://{}", self.address),
            authorities: None,
            token_file: None,
            identity: None,
            timeout: Duration::from_secs(5),
        }
    }

    pub fn knows(&self, token: &str, name: &str, audiences: &[&str]) {
        let user = json!({"username": name, "uid": "7", "groups": ["system:authenticated", "models"]});
        let audiences = audiences.iter().map(|audience| audience.to_string()).collect();
        self.world.lock().unwrap().tokens.insert(token.into(), (user, audiences));
    }

    pub fn tells(&self, path: &str, answer: Answer) {
        self.world.lock().unwrap().told.push((path.into(), answer));
    }

    pub fn asked(&self) -> usize {
        self.world.lock().unwrap().asked.len()
    }
}

type Body = BoxBody<Bytes, Infallible>;

fn whole(status: StatusCode, value: &Value) -> Response<Body> {
    let body = http_body_util::Full::new(Bytes::from(value.to_string())).boxed();
    Response::builder().status(status).header("content-type", "application/json").body(body).unwrap()
}

fn status(code: StatusCode, reason: &str) -> Value {
    let message = format!("the server says {reason}");
    json!({"kind": "Status", "status": "Failure", "message": message, "reason": reason, "code": code.as_u16()})
}

async fn answer(world: Arc<Mutex<World>>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let target = head.uri.to_string();
    let authorization = head.headers.get("authorization").map_or("", |value| value.to_str().unwrap()).to_owned();
    let (fault, delay, told) = {
        let mut world = world.lock().unwrap();
        world.asked.push((head.method.clone(), target.clone(), body.clone(), authorization));
        let told = world.told.iter().position(|(path, _)| *path == target);
        let told = told.map(|at| world.told.remove(at).1);
        (world.fault, world.delay, told)
    };
    tokio::time::sleep(delay).await;
    if let Some(code) = fault {
        return Ok(whole(code, &status(code, "InternalError")));
    }
    Ok(match (told, target.as_str()) {
        (Some(Answer::Json(code, value)), _) => whole(code, &value),
        (Some(Answer::Lines(lines)), _) => {
            let lines = lines.into_iter().map(|line| Ok(Frame::data(Bytes::from(format!("{line}\n")))));
            let body = StreamBody::new(futures_util::stream::iter(lines));
            Response::new(BodyExt::boxed(body))
        }
        (None, target) if world.lock().unwrap().kept.has(path(target)) => kept_answer(&world, target),
        (None, REVIEW) => whole(StatusCode::CREATED, &review(&world.lock().unwrap(), &body["spec"])),
        (None, ACCESS) => {
            let user = body["spec"]["user"].as_str().unwrap_or_default();
            let may = world.lock().unwrap().may.iter().any(|name| name == user);
            let reason = if may { "RBAC: allowed by RoleBinding \"models\"" } else { "" };
            whole(StatusCode::CREATED, &json!({"spec": body["spec"], "status": {"allowed": may, "reason": reason}}))
        }
        _ => whole(StatusCode::NOT_FOUND, &status(StatusCode::NOT_FOUND, "NotFound")),
    })
}

fn path(target: &str) -> &str {
    target.split('?').next().unwrap_or_default()
}

/// A list, or a watch from the version that it names until it is cut.
fn kept_answer(world: &Arc<Mutex<World>>, target: &str) -> Response<Body> {
    let at = path(target).to_owned();
    if !target.contains("watch=1") {
        return whole(StatusCode::OK, &world.lock().unwrap().kept.list(&at));
    }
    let version = target.split("resourceVersion=").nth(1).and_then(|rest| rest.split('&').next()).unwrap();
    let (mut version, mut told) = (version.parse::<usize>().unwrap(), world.lock().unwrap().kept.told());
    let world = world.clone();
    let (send, lines) = tokio::sync::mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok(newest) = told.wait_for(|newest| *newest > version).await.map(|newest| *newest) {
            let events = world.lock().unwrap().kept.since(&at, version);
            version = newest;
            for event in events {
                drop(send.send(Ok(Frame::data(Bytes::from(format!("{event}\n"))))).await);
            }
        }
    });
    let lines = futures_util::stream::unfold(lines, |mut lines| async { lines.recv().await.map(|line| (line, lines)) });
    Response::new(BodyExt::boxed(StreamBody::new(lines)))
}

/// `status.authenticated`, and which of the audiences asked for the token has; without any, the API's own.
fn review(world: &World, spec: &Value) -> Value {
    let known = world.tokens.get(spec["token"].as_str().unwrap_or_default());
    let asked: Vec<&str> = spec["audiences"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let both = |(user, own): &(Value, Vec<String>)| {
        let common: Vec<&String> = own.iter().filter(|one| asked.is_empty() || asked.contains(&one.as_str())).collect();
        (!common.is_empty()).then(|| json!({"authenticated": true, "user": user, "audiences": common}))
    };
    let refused = || json!({"user": {}, "error": "invalid bearer token"});
    json!({"spec": spec, "status": known.and_then(both).unwrap_or_else(refused)})
}
