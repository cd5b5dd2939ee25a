//! An authorizer over HTTP: the request's own method and path, below a prefix and without the body.

use super::answer::Answer;
use super::question::{Asked, Question};
use crate::config::HeaderPattern;
use crate::worker::seat;
use bytes::Bytes;
use http::{HeaderValue, Request, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use std::sync::OnceLock;
use std::time::Duration;

/// Of a refusal's page; more is no answer.
const BODY_BYTES_MAX: usize = 64 << 10;
/// Small servers close idle connections after five seconds: whoever is later meets a reset.
const IDLE: Duration = Duration::from_secs(4);

type Connections = Pool<HttpConnector, Empty<Bytes>>;

pub struct Client {
    authority: String,
    prefix: String,
    to_check: Vec<HeaderPattern>,
    to_upstream: Vec<HeaderPattern>,
    /// By seat. A connection is bound to the runtime it was made in.
    seats: Box<[OnceLock<Connections>]>,
}

impl Client {
    pub fn new(
        (authority, prefix): (String, String),
        to_check: Vec<HeaderPattern>,
        to_upstream: Vec<HeaderPattern>,
        seats: usize,
    ) -> Client {
        let seats = (0..seats.max(1)).map(|_| OnceLock::new()).collect();
        Client { authority, prefix, to_check, to_upstream, seats }
    }

    pub async fn ask(&self, question: &Question) -> Answer {
        let Some(asked) = &question.http else {
            return Answer::Unfit("it is asked over HTTP, and the connection speaks none; name one over gRPC");
        };
        let request = match self.request(asked) {
            Ok(request) => request,
            Err(error) => return Answer::Failed(error.to_string()),
        };
        let seat = seat().min(self.seats.len() - 1);
        let response = match self.seats[seat].get_or_init(pool).request(request).await {
            Ok(response) => response,
            Err(error) => return Answer::Failed(innermost(&error)),
        };
        let (head, body) = response.into_parts();
        match Limited::new(body, BODY_BYTES_MAX).collect().await {
            Ok(body) => Answer::of_http(head.status, &head.headers, body.to_bytes(), &self.to_upstream),
            Err(error) => Answer::Failed(innermost(error.as_ref())),
        }
    }

    fn request(&self, asked: &Asked) -> Result<Request<Empty<Bytes>>, http::Error> {
        let target = format!("{}{}", self.prefix, asked.target);
        let uri = Uri::builder().scheme("http").authority(self.authority.as_str()).path_and_query(target).build()?;
        let mut request = Request::builder().method(asked.method.clone()).uri(uri).body(Empty::new())?;
        let headers = request.headers_mut();
        for (name, value) in &asked.headers {
            if self.to_check.iter().any(|pattern| pattern.matches(name)) && !FRAMING.contains(&name.as_str()) {
                headers.append(name, value.clone());
            }
        }
        // The authorizer decides about the host that was asked for, not about itself.
        headers.insert(http::header::HOST, HeaderValue::from_str(&asked.host)?);
        Ok(request)
    }
}

/// Of the caller's connection and its body, neither of which goes there.
const FRAMING: &[&str] =
    &["connection", "content-length", "expect", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"];

fn pool() -> Pool<HttpConnector, Empty<Bytes>> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    Pool::builder(TokioExecutor::new()).pool_idle_timeout(IDLE).build(connector)
}

/// The innermost cause says what the operating system said.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(cause) = error.source() {
        error = cause;
    }
    error.to_string()
}
