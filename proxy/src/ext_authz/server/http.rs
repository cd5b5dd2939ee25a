//! `/check`, answered: the request's own head is the question, and the answer's status the decision.
//!
//! Below `/check/` the rest is the path that was asked for, as gateways with a path prefix send it; by itself it is asked
//! with GET or POST, and the path is `/check`. AdmissionReviews are bodies like any other here. Keys of wristbands are
//! served beside it, as Authorino serves them.

use super::answer::Decision;
use super::{Desk, Protocol};
use crate::percent;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, request};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::service::Service;
use outrider_protos::ext_authz::v3::attribute_context::{self, HttpRequest, Peer};
use outrider_protos::ext_authz::v3::{AttributeContext, CheckRequest};
use rustls::pki_types::CertificateDer;
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

const CHECK: &str = "/check";
/// Of a body that is small by its limit.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

pub struct HttpService {
    desk: Arc<Desk>,
    /// What the other end of the connection showed.
    leaf: Option<CertificateDer<'static>>,
}

pub fn service(desk: Arc<Desk>, leaf: Option<CertificateDer<'static>>) -> HttpService {
    HttpService { desk, leaf }
}

impl Service<Request<Incoming>> for HttpService {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let (desk, leaf) = (self.desk.clone(), self.leaf.clone());
        Box::pin(async move { Ok(answer(&desk, leaf, request).await) })
    }
}

async fn answer(
    desk: &Desk,
    leaf: Option<CertificateDer<'static>>,
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    if let Some(document) = document(desk, &head) {
        return document;
    }
    let Some(path) = asked_path(&head.method, head.uri.path()) else {
        return plain(StatusCode::NOT_FOUND, "ask /check, with GET or POST\n");
    };
    let body = Limited::new(body, desk.limits.body_bytes_max).collect();
    let body = match tokio::time::timeout(BODY_TIMEOUT, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            return plain(StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than ext_authz_server.body_bytes_max\n");
        }
        Ok(Err(_)) => return plain(StatusCode::BAD_REQUEST, "the body did not arrive whole\n"),
        Err(_) => return plain(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time\n"),
    };
    let decision: Decision = desk.decide(question(&head, path, body, leaf), Protocol::Http).await;
    decision.into_http()
}

/// Public keys, for whoever asks; `HEAD` is answered as hyper does.
fn document(desk: &Desk, head: &request::Parts) -> Option<Response<Full<Bytes>>> {
    let asked = matches!(head.method, Method::GET | Method::HEAD) && head.uri.path().contains("/.well-known/");
    let body = desk.decide.published(Some(head.uri.path()).filter(|_| asked)?)?;
    let mut response = Response::new(Full::new(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Some(response)
}

/// `None`: nothing is asked here, or not like this.
fn asked_path(method: &Method, path: &str) -> Option<String> {
    match path.strip_prefix(CHECK)? {
        "" => matches!(*method, Method::GET | Method::POST).then(|| CHECK.to_owned()),
        rest if rest.starts_with('/') => Some(rest.to_owned()),
        _ => None,
    }
}

/// The same as a gateway over gRPC would say it.
fn question(head: &request::Parts, path: String, body: Bytes, leaf: Option<CertificateDer<'static>>) -> CheckRequest {
    let host = head.uri.authority().map(|authority| authority.to_string());
    let host = host.or_else(|| Some(head.headers.get(HOST)?.to_str().ok()?.to_owned())).unwrap_or_default();
    let http = HttpRequest {
        method: head.method.to_string(),
        headers: joined(&head.headers),
        path,
        query: head.uri.query().unwrap_or_default().to_owned(),
        host,
        protocol: if head.version == Version::HTTP_10 { "HTTP/1.0" } else { "HTTP/1.1" }.to_owned(),
        body: String::from_utf8_lossy(&body).into_owned(),
        size: i64::try_from(body.len()).unwrap_or(i64::MAX),
        ..HttpRequest::default()
    };
    let source = leaf.map(|leaf| Peer { certificate: url_encoded_pem(&leaf), ..Peer::default() });
    let request = attribute_context::Request { time: None, http: Some(http) };
    CheckRequest {
        attributes: Some(AttributeContext { source, request: Some(request), ..AttributeContext::default() }),
    }
}

/// Lines of one name are joined by a space, as Authorino joins them: two credentials become none.
fn joined(headers: &HeaderMap) -> HashMap<String, String> {
    let line = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let lines = |name: &http::HeaderName| headers.get_all(name).iter().map(line).collect::<Vec<_>>().join(" ");
    headers.keys().filter(|name| *name != HOST).map(|name| (name.to_string(), lines(name))).collect()
}

fn url_encoded_pem(leaf: &CertificateDer<'_>) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(leaf);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    let pem = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"));
    let mut encoded = String::with_capacity(pem.len() + pem.len() / 8);
    percent::push_form(&pem, &mut encoded);
    encoded
}

fn plain(status: StatusCode, words: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(words.as_bytes())));
    *response.status_mut() = status;
    response
}
