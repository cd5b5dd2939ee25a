//! Against authorizers written from the standard: what they are asked, and what becomes of their answers.

use super::*;
use crate::policy::Hit;
use crate::tls::Peer;
use ::http::{HeaderMap, HeaderName, HeaderValue, Method, Version};
use futures_util::stream;
use outrider_protos::ext_authz::v3;
use outrider_protos::ext_authz::v3::authorization_server::{Authorization, AuthorizationServer};
use outrider_protos::ext_authz::v3::check_response::HttpResponse;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Answers every check with the same, and keeps what it was asked.
#[derive(Clone)]
struct Fake {
    answer: Result<v3::CheckResponse, tonic::Status>,
    asked: Arc<Mutex<Vec<v3::CheckRequest>>>,
}

#[tonic::async_trait]
impl Authorization for Fake {
    async fn check(
        &self,
        request: tonic::Request<v3::CheckRequest>,
    ) -> Result<tonic::Response<v3::CheckResponse>, tonic::Status> {
        self.asked.lock().unwrap().push(request.into_inner());
        self.answer.clone().map(tonic::Response::new)
    }
}

async fn grpc(answer: Result<v3::CheckResponse, tonic::Status>) -> (SocketAddr, Arc<Mutex<Vec<v3::CheckRequest>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(Mutex::default());
    let service = AuthorizationServer::new(Fake { answer, asked: asked.clone() });
    let incoming = Box::pin(stream::unfold(listener, async |listener| {
        let connection = listener.accept().await.map(|(tcp, _)| tcp);
        Some((connection, listener))
    }));
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(async move { drop(server.serve_with_incoming(incoming).await) });
    (address, asked)
}

/// Answers every request with the same bytes, and keeps the heads; `None` never answers.
async fn http(answer: Option<&'static str>) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(Mutex::<Vec<String>>::default());
    let kept = asked.clone();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let kept = kept.clone();
            tokio::spawn(async move {
                let mut bytes = Vec::new();
                while !bytes.ends_with(b"\r\n\r\n") && tcp.read_buf(&mut bytes).await.unwrap() > 0 {}
                kept.lock().unwrap().push(String::from_utf8(bytes).unwrap().to_ascii_lowercase());
                match answer {
                    Some(answer) => tcp.write_all(answer.as_bytes()).await.unwrap(),
                    None => std::future::pending().await,
                }
            });
        }
    });
    (address, asked)
}

fn counter() -> IntCounterVec {
    crate::metrics::Metrics::new().ext_authz()
}

/// One provider, `x`, configured as in the file.
fn authorizers(provider: &str) -> Authorizers {
    let yaml = format!(
        "{{tls: {{mode: disable}}, auth: {{methods: [{{anonymous: {{}}}}]}}, forward: {{to: '127.0.0.1:1'}}, \
         policy: {{folder: x, providers: {{x: {provider}}}}}}}"
    );
    let config = crate::config::Config::parse(&yaml, "/tmp".as_ref(), "test.yaml".as_ref()).unwrap();
    Authorizers::new(config.policy.unwrap().providers, 1, Xfcc::Sanitize, counter())
}

fn custom(provider: &str) -> Custom {
    Custom { provider: provider.into(), hit: Hit { policy: "ns/p".into(), rule: 0 } }
}

fn connection() -> Question {
    let peer = Peer::plaintext("10.0.0.1:4711".parse().unwrap());
    let told = Question::of_connection(&peer, "10.0.0.2:8080".parse().unwrap());
    Question { principal: Some("spiffe://td/ns/a/sa/b".into()), tls: true, sni: Some("m.test".into()), ..told }
}

fn question() -> Question {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("host", "model.test"),
        ("authorization", "Bearer secret"),
        ("cookie", "a=1"),
        ("cookie", "b=2"),
        ("x-many", "a"),
        ("x-many", "b"),
        ("content-length", "12"),
        ("x-forwarded-for", "10.0.0.1"),
    ] {
        headers.append(name, HeaderValue::from_static(value));
    }
    let http = Asked {
        id: "id-1".into(),
        method: Method::POST,
        host: "model.test".into(),
        target: "/v1/models?x=1".into(),
        version: Version::HTTP_11,
        headers,
        unix_seconds: 1_700_000_000,
    };
    Question { http: Some(http), ..connection() }
}

fn option(key: &str, value: &str, append: bool) -> v3::HeaderValueOption {
    let header = v3::HeaderValue { key: key.into(), value: value.into(), raw_value: Default::default() };
    v3::HeaderValueOption { header: Some(header), append: append.then_some(v3::Flag { value: true }) }
}

fn ok(headers: Vec<v3::HeaderValueOption>, remove: &[&str]) -> v3::CheckResponse {
    let headers_to_remove = remove.iter().map(ToString::to_string).collect();
    let response = HttpResponse::OkResponse(v3::OkHttpResponse { headers, headers_to_remove, ..Default::default() });
    v3::CheckResponse { status: Some(v3::Status::default()), http_response: Some(response), dynamic_metadata: None }
}

fn denied(code: i32, status: i32, headers: Vec<v3::HeaderValueOption>, body: &str) -> v3::CheckResponse {
    let status = Some(v3::HttpStatus { code: status });
    let response = HttpResponse::DeniedResponse(v3::DeniedHttpResponse { status, headers, body: body.into() });
    let status = Some(v3::Status { code, message: String::new() });
    v3::CheckResponse { status, http_response: Some(response), dynamic_metadata: None }
}

#[tokio::test]
async fn what_is_an_authorizer_over_grpc_asked() {
    let (address, asked) = grpc(Ok(ok(vec![], &[]))).await;
    let them = authorizers(&format!("{{grpc: '{address}', timeout: 20s}}"));
    assert!(them.ask(&[custom("x")], question()).await.told.unwrap().is_empty());
    assert!(them.ask(&[custom("x")], connection()).await.told.unwrap().is_empty());
    assert_eq!(them.asked.with_label_values(&["x", "allowed"]).get(), 2);
    let asked = std::mem::take(&mut *asked.lock().unwrap());
    let attributes = asked[0].attributes.clone().unwrap();
    let source = attributes.source.unwrap();
    assert_eq!(source.principal, "spiffe://td/ns/a/sa/b");
    let socket = source.address.unwrap().socket_address.unwrap();
    assert_eq!((socket.address.as_str(), socket.port_value), ("10.0.0.1", 4711));
    assert_eq!(attributes.tls_session.unwrap().sni, "m.test");
    let request = attributes.request.unwrap();
    assert_eq!(request.time.unwrap().seconds, 1_700_000_000);
    let http = request.http.unwrap();
    assert_eq!((http.method.as_str(), http.path.as_str()), ("POST", "/v1/models?x=1"));
    assert_eq!((http.host.as_str(), http.scheme.as_str(), http.size), ("model.test", "https", 12));
    assert_eq!((http.id.as_str(), http.protocol.as_str()), ("id-1", "HTTP/1.1"));
    for (name, value) in [
        ("authorization", "Bearer secret"),
        ("cookie", "a=1; b=2"),
        ("x-many", "a,b"),
        (":authority", "model.test"),
        (":path", "/v1/models?x=1"),
        (":method", "POST"),
    ] {
        assert_eq!(http.headers.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert!(!http.headers.contains_key("host"));
    let attributes = asked[1].attributes.clone().unwrap();
    assert!(attributes.request.is_none(), "a connection without HTTP");
    assert_eq!(attributes.destination.unwrap().address.unwrap().socket_address.unwrap().port_value, 8080);
}

#[tokio::test]
async fn what_may_an_authorizer_change() {
    let headers = vec![
        option("X-User", "ada", false),
        option("x-many", "c", true),
        option("x-absent", "d", true),
        option(":path", "/else", false),
        option("host", "else", false),
        option("content-length", "0", false),
        option("x-forwarded-client-cert", "URI=spiffe://lie", false),
        option("x bad", "e", false),
    ];
    let (address, _) = grpc(Ok(ok(headers, &["authorization", "host", ":method"]))).await;
    let them = authorizers(&format!("{{grpc: '{address}', timeout: 20s}}"));
    let changes = them.ask(&[custom("x")], question()).await.told.unwrap();
    let mut headers = question().http.unwrap().headers;
    let edits = apply(&changes, &mut headers);
    let set = |name: &'static str, value| {
        crate::forward::Edit::Set(HeaderName::from_static(name), HeaderValue::from_static(value))
    };
    let remove = crate::forward::Edit::Remove(HeaderName::from_static("authorization"));
    assert_eq!(edits, vec![remove, set("x-user", "ada"), set("x-many", "a,b,c")]);
    assert!(headers.get("authorization").is_none() && headers["x-many"] == "a,b,c" && headers["host"] == "model.test");
}

#[tokio::test]
async fn what_becomes_of_each_answer_over_grpc() {
    let plain = |code| v3::CheckResponse {
        status: Some(v3::Status { code, message: "no".into() }),
        http_response: None,
        dynamic_metadata: None,
    };
    let page = vec![option("location", "https://login.test", false), option("content-length", "9", false)];
    let cases = [
        (Ok(plain(0)), "allowed"),
        (Ok(v3::CheckResponse::default()), "allowed"),
        (Ok(plain(7)), "403 "),
        (Ok(denied(16, 401, vec![], "who?")), "401 who?"),
        (Ok(denied(7, 302, page, "")), "302  location"),
        (Ok(denied(7, 0, vec![], "x")), "403 x"),
        (Ok(denied(7, 9999, vec![], "x")), "403 x"),
        // It contradicts itself.
        (Ok(denied(0, 418, vec![], "x")), "418 x"),
        (Ok(v3::CheckResponse { status: Some(v3::Status { code: 7, message: "".into() }), ..ok(vec![], &[]) }), "403 "),
        (Err(tonic::Status::permission_denied("x")), "could not be asked: PermissionDenied"),
    ];
    for (answer, want) in cases {
        let (address, _) = grpc(answer.clone()).await;
        let them = authorizers(&format!("{{grpc: '{address}', timeout: 20s}}"));
        let told = them.ask(&[custom("x")], question()).await.told;
        let got = match told {
            Ok(_) => "allowed".to_owned(),
            Err(Error::Denied { refusal, .. }) => {
                let names: Vec<&str> = refusal.headers.keys().map(HeaderName::as_str).collect();
                let body = String::from_utf8_lossy(&refusal.body).into_owned();
                format!("{} {body} {}", refusal.status.as_u16(), names.join(",")).trim_end_matches(' ').to_owned()
            }
            Err(error) => error.to_string(),
        };
        assert!(got.contains(want.trim_end()), "{answer:?}: {got}");
    }
}

#[tokio::test]
async fn what_is_an_authorizer_over_http_asked_and_told() {
    let allow = "HTTP/1.1 200 OK\r\nx-user: ada\r\nx-user-role: a\r\nx-user-role: b\r\nother: o\r\n\
                 x-envoy-auth-headers-to-remove: cookie, x-many\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
    let (address, asked) = http(Some(allow)).await;
    let them =
        authorizers(&format!("{{http: 'http://{address}/check/', headers_to_upstream: [x-user*], timeout: 20s}}"));
    let changes = them.ask(&[custom("x")], question()).await.told.unwrap();
    let mut headers = question().http.unwrap().headers;
    apply(&changes, &mut headers);
    assert!(headers["x-user"] == "ada" && headers["x-user-role"] == "a,b" && !headers.contains_key("other"));
    assert!(
        !headers.contains_key("cookie") && !headers.contains_key("x-many") && headers.contains_key("authorization")
    );
    let asked = asked.lock().unwrap()[0].clone();
    assert!(asked.starts_with("post /check/v1/models?x=1 http/1.1\r\n"), "{asked}");
    for line in ["host: model.test", "authorization: bearer secret", "cookie: a=1", "x-forwarded-for: 10.0.0.1"] {
        assert!(asked.contains(&format!("{line}\r\n")), "{line}: {asked}");
    }
    assert!(!asked.contains("x-many") && !asked.contains("content-length: 12"), "{asked}");
}

#[tokio::test]
async fn what_becomes_of_each_answer_over_http() {
    let big: &'static str = format!("HTTP/1.1 403 No\r\ncontent-length: 100000\r\n\r\n{}", "x".repeat(100_000)).leak();
    for (answer, want) in [
        ("HTTP/1.1 401 No\r\nwww-authenticate: Basic\r\ncontent-length: 4\r\n\r\nwho?", "401 who? www-authenticate"),
        ("HTTP/1.1 302 Go\r\nlocation: /login\r\ncontent-length: 0\r\n\r\n", "302  location"),
        ("HTTP/1.1 201 Made\r\ncontent-length: 0\r\n\r\n", "201"),
        ("HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n", "it answered 500"),
        ("nonsense\r\n\r\n", "could not be asked"),
        (big, "could not be asked"),
    ] {
        let (address, _) = http(Some(answer)).await;
        let them = authorizers(&format!("{{http: 'http://{address}', timeout: 20s}}"));
        let got = match them.ask(&[custom("x")], question()).await.told {
            Ok(_) => "allowed".to_owned(),
            Err(Error::Denied { refusal, .. }) => {
                let names: Vec<&str> = refusal.headers.keys().map(HeaderName::as_str).collect();
                let body = String::from_utf8_lossy(&refusal.body).into_owned();
                format!("{} {body} {}", refusal.status.as_u16(), names.join(","))
            }
            Err(error) => error.to_string(),
        };
        assert!(got.contains(want), "{want}: {got}");
    }
}

#[tokio::test]
async fn what_if_an_authorizer_cannot_be_asked() {
    let (silent, _) = http(None).await;
    // Bound and let go: nobody listens there.
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for provider in [
        format!("grpc: '{nobody}', timeout: 20s"),
        format!("http: 'http://{nobody}', timeout: 20s"),
        format!("grpc: '{silent}', timeout: 100ms"),
        format!("http: 'http://{silent}', timeout: 100ms"),
    ] {
        let them = authorizers(&format!("{{{provider}}}"));
        let consulted = them.ask(&[custom("x")], question()).await;
        assert!(matches!(consulted.told, Err(Error::Forbidden { .. })), "{provider}");
        assert_eq!(them.asked.with_label_values(&["x", "error"]).get(), 1);
        let them = authorizers(&format!("{{{provider}, fail_open: true}}"));
        let consulted = them.ask(&[custom("x")], question()).await;
        assert!(consulted.told.unwrap().is_empty() && consulted.notes[0].starts_with("x: failed open: "), "{provider}");
        assert_eq!(them.asked.with_label_values(&["x", "failed_open"]).get(), 1);
    }
}

#[tokio::test]
async fn who_denies_whatever_else_is_said() {
    let them = authorizers("{http: 'http://127.0.0.1:1', fail_open: true}");
    let told = them.ask(&[custom("x")], connection()).await.told;
    assert!(told.unwrap_err().to_string().contains("speaks none"), "HTTP is not for connections without it");
    let told = them.ask(&[custom("unknown")], question()).await.told;
    assert!(told.unwrap_err().to_string().contains("add it to policy.providers"));
    let (address, asked) = grpc(Ok(ok(vec![], &[]))).await;
    let them = authorizers(&format!("{{grpc: '{address}', timeout: 20s}}"));
    let both = [custom("x"), custom("unknown"), custom("x")];
    let consulted = them.ask(&both, question()).await;
    assert!(consulted.told.is_err() && asked.lock().unwrap().len() == 1, "after a refusal nobody is asked");
    assert_eq!(consulted.notes, ["x: allowed", "unknown: not configured"]);
}
