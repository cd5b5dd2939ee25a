//! What gateways are answered, over both protocols, whatever they send.

use super::*;
use ::http::{HeaderName, HeaderValue, StatusCode};
use outrider_protos::ext_authz::v3::attribute_context::{HeaderMap, HttpRequest, Peer, Request};
use outrider_protos::ext_authz::v3::authorization_client::AuthorizationClient;
use outrider_protos::ext_authz::v3::check_response::HttpResponse;
use outrider_protos::ext_authz::v3::{self, AttributeContext};
use prometheus::{HistogramOpts, Opts};
use proptest::prelude::*;
use prost::Message;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn http(path: &str, headers: &[(&str, &str)]) -> HttpRequest {
    let headers = headers.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    HttpRequest {
        method: "GET".into(),
        path: path.into(),
        host: "talker.test:8000".into(),
        headers,
        ..HttpRequest::default()
    }
}

fn asked(http: HttpRequest) -> CheckRequest {
    let request = Some(Request { time: None, http: Some(http) });
    CheckRequest { attributes: Some(AttributeContext { request, ..AttributeContext::default() }) }
}

fn check(request: CheckRequest) -> Result<Check, &'static str> {
    Check::of(request, 1_700_000_000, || "drawn".into())
}

#[test]
fn what_is_understood_of_a_question() {
    let mut request = asked(HttpRequest {
        scheme: "https".into(),
        protocol: "HTTP/2".into(),
        size: -1,
        ..http("/a//b?c=d", &[(":path", "/a//b?c=d"), ("authorization", "Bearer x"), ("x-request-id", "theirs")])
    });
    let attributes = request.attributes.as_mut().unwrap();
    let socket_address = Some(v3::SocketAddress { address: "10.1.2.3".into(), port_value: 4321 });
    attributes.source = Some(Peer {
        address: Some(v3::Address { socket_address }),
        principal: "spiffe://cluster.local/ns/a/sa/b".into(),
        labels: [("app".to_owned(), "gateway".to_owned())].into(),
        ..Peer::default()
    });
    let list = v3::ListValue { values: vec![v3::Value { kind: Some(v3::value::Kind::NumberValue(7.0)) }] };
    let fields = [("n".to_owned(), v3::Value { kind: Some(v3::value::Kind::ListValue(list)) })].into();
    let filter_metadata = [("filter".to_owned(), v3::Struct { fields })].into();
    attributes.metadata_context = Some(v3::Metadata { filter_metadata });
    attributes.context_extensions.insert("host".into(), "another.test".into());
    let check = check(request).unwrap();
    assert_eq!((check.host.as_str(), check.lookup.as_str()), ("talker.test:8000", "another.test"));
    assert_eq!((check.head.path.as_str(), check.head.query.as_deref()), ("/a/b", Some("c=d")));
    assert_eq!((check.head.request_id.as_str(), check.head.headers.len()), ("theirs", 2));
    assert_eq!(check.peer.address.to_string(), "10.1.2.3:4321");
    assert_eq!(check.peer.spiffe.as_ref().unwrap().service_account(), Some("b"));
    assert_eq!(check.extra["metadata"], json!({"filter_metadata": {"filter": {"n": [7]}}}));
    assert_eq!(check.extra["source"]["labels"], json!({"app": "gateway"}));
    assert_eq!(check.extra["request"]["context_extensions"], json!({"host": "another.test"}));
}

#[test]
fn which_questions_make_no_sense() {
    let line = |key: &str, value: &str| v3::HeaderValue { key: key.into(), value: value.into(), ..Default::default() };
    let mapped = |lines| asked(HttpRequest { header_map: Some(HeaderMap { headers: lines }), ..http("/", &[]) });
    for (request, why) in [
        (CheckRequest::default(), "it has no attributes"),
        (CheckRequest { attributes: Some(AttributeContext::default()) }, "it has no request.http"),
        (asked(http("no-slash", &[])), "its path can be read in two ways, or in none"),
        (asked(http("/a/../b", &[])), "its path can be read in two ways, or in none"),
        (asked(http("/a%2fb", &[])), "its path can be read in two ways, or in none"),
        (asked(http("", &[])), "its path can be read in two ways, or in none"),
        (asked(HttpRequest { method: "G T".into(), ..http("/", &[]) }), "its method is none"),
        (asked(HttpRequest { method: String::new(), ..http("/", &[]) }), "its method is none"),
        (asked(http("/", &[("a b", "c")])), "the name of a header is none"),
        (asked(http("/", &[("a", "b\r\nc: d")])), "the value of a header is none"),
        (mapped(vec![line("a", "\0")]), "the value of a header is none"),
        (mapped((0..40_000).map(|number| line(&format!("a{number}"), "b")).collect()), "it has too many headers"),
    ] {
        assert_eq!(check(request).err(), Some(why));
    }
    let two = mapped(vec![line("authorization", "Bearer a"), line("authorization", "Bearer b")]);
    assert_eq!(check(two).unwrap().head.headers.len(), 2, "whoever takes a credential sees that there are two");
    assert_eq!(check(asked(http("/", &[]))).unwrap().head.request_id, "drawn");
}

#[test]
fn how_a_decision_is_said_over_both_protocols() {
    let header = |name: &'static str, value| (HeaderName::from_static(name), HeaderValue::from_static(value));
    let allowed = || -> Decision {
        let mut dynamic_metadata = serde_json::Map::new();
        dynamic_metadata.insert("user".into(), json!({"n": 1, "list": [null, true, "x"]}));
        let remove = vec![HeaderName::from_static("authorization"), HeaderName::from_static("x-api-key")];
        let set = vec![header("x-user", "jane")];
        Allowed { set, remove, remove_parameters: vec!["key".into()], dynamic_metadata }.into()
    };
    let response = allowed().into_check_response();
    let Some(HttpResponse::OkResponse(ok)) = response.http_response else { panic!("allowed") };
    assert_eq!(response.status.unwrap().code, 0);
    assert_eq!(ok.headers[0].header.as_ref().unwrap().value, "jane");
    assert_eq!(
        (ok.headers_to_remove.join(" "), &ok.query_parameters_to_remove[0]),
        ("authorization x-api-key".into(), &"key".to_owned())
    );
    assert_eq!(response.dynamic_metadata.unwrap().fields.len(), 1);
    let response = allowed().into_http();
    assert_eq!((response.status(), &response.headers()["x-user"]), (StatusCode::OK, &HeaderValue::from_static("jane")));
    assert_eq!(response.headers()["x-envoy-auth-headers-to-remove"], "authorization,x-api-key");

    for (refused, code, status, reason) in [
        (Refused::invalid(), 3, 400, "Invalid request"),
        (Refused::unknown_host(), 5, 404, "Service not found"),
        (Refused::of(&crate::error::Error::CredentialMissing), 16, 401, "a bearer credential is required"),
        (
            Refused::of(&crate::error::Error::Forbidden { reason: "secret".into() }),
            7,
            403,
            "this caller is not allowed to do this",
        ),
        (Refused::unavailable("no decision in time"), 14, 503, "no decision in time"),
    ] {
        assert_eq!(refused.headers["x-ext-auth-reason"], reason);
        let response = Decision::from(refused).into_check_response();
        let Some(HttpResponse::DeniedResponse(denied)) = response.http_response else { panic!("denied") };
        assert_eq!((response.status.unwrap().code, denied.status.unwrap().code), (code, status));
    }
    let mut refused = Refused::new(Code::Unauthenticated, "no");
    refused.headers.append("www-authenticate", HeaderValue::from_static("Bearer realm=\"a\""));
    refused.headers.append("www-authenticate", HeaderValue::from_static("APIKEY realm=\"b\""));
    let response = Decision::from(refused).into_check_response();
    let Some(HttpResponse::DeniedResponse(denied)) = response.http_response else { panic!("denied") };
    let added = denied.headers.iter().filter(|option| option.append.is_some_and(|flag| flag.value)).count();
    assert_eq!((denied.headers.len(), added), (3, 2), "both challenges reach the caller");
}

proptest! {
    #[test]
    fn does_no_question_make_us_fall(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        if let Ok(request) = CheckRequest::decode(bytes.as_slice()) {
            let _ = check(request);
        }
    }

    #[test]
    fn does_no_path_header_or_host_make_us_fall(
        path in ".{0,40}", name in ".{0,12}", value in "\\PC{0,12}", host in ".{0,20}", method in ".{0,8}",
    ) {
        let mut http = http(&path, &[(&name, &value)]);
        (http.host, http.method) = (host, method);
        if let Ok(check) = check(asked(http)) {
            prop_assert!(check.head.path.starts_with('/') || check.head.path == "*");
        }
    }

    #[test]
    fn are_unknown_fields_passed_over(number in 100u32..1000, value in any::<u64>()) {
        let mut bytes = asked(http("/", &[])).encode_to_vec();
        prost::encoding::encode_key(number, prost::encoding::WireType::Varint, &mut bytes);
        prost::encoding::encode_varint(value, &mut bytes);
        prop_assert!(check(CheckRequest::decode(bytes.as_slice()).unwrap()).is_ok());
    }
}

/// Lets in who asks for `/ok`, tells back what it saw; never answers about `/slow`.
struct Scripted;

impl Decide for Scripted {
    fn decide<'a>(&'a self, check: &'a Check) -> BoxFuture<'a, Decision> {
        Box::pin(async move {
            match check.head.path.as_str() {
                "/ok" => {
                    let value = HeaderValue::from_str(&check.lookup).unwrap();
                    Allowed { set: vec![("x-host".parse().unwrap(), value)], ..Allowed::default() }.into()
                }
                "/slow" => std::future::pending().await,
                path => Refused::new(Code::PermissionDenied, &format!("no {path}")).into(),
            }
        })
    }
}

fn desk(change: impl FnOnce(&mut Served)) -> Arc<Desk> {
    let text = "auth: {methods: [{anonymous: {}}]}\next_authz_server: {grpc: '127.0.0.1:0', timeout: 200ms}";
    let here = std::path::Path::new("");
    let mut served = crate::config::served::Authorizer::parse(text, here, here).unwrap().served;
    change(&mut served);
    let status = IntCounterVec::new(Opts::new("status", "x"), &["status"]).unwrap();
    let seconds = HistogramVec::new(HistogramOpts::new("seconds", "x"), &["protocol"]).unwrap();
    Desk::new(Arc::new(Scripted), served, Counted { status, seconds })
}

async fn open(desk: &Arc<Desk>, protocol: Protocol) -> (std::net::SocketAddr, watch::Sender<bool>, TaskTracker) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (halt, halted) = watch::channel(false);
    let (desk, tracker) = (desk.clone(), TaskTracker::new());
    let connections = tracker.clone();
    tokio::spawn(async move { desk.serve((listener, protocol), None, halted, &connections).await });
    (address, halt, tracker)
}

#[tokio::test]
async fn does_a_grpc_client_get_decisions_and_no_stranger_more() {
    let desk = desk(|served| served.message_bytes_max = 4096);
    let (address, halt, tracker) = open(&desk, Protocol::Grpc).await;
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
    let mut client = AuthorizationClient::new(endpoint.connect().await.unwrap());
    let mut code = async |request| client.check(request).await.map(|answer| answer.into_inner().status.unwrap().code);
    assert_eq!(code(asked(http("/ok", &[]))).await.unwrap(), 0);
    assert_eq!(code(asked(http("/other", &[]))).await.unwrap(), 7);
    assert_eq!(code(asked(http("/slow", &[]))).await.unwrap(), 14, "within the timeout, and no status of gRPC's");
    assert_eq!(code(CheckRequest::default()).await.unwrap(), 3);
    let huge = code(asked(http("/ok", &[("x", &"y".repeat(5000))]))).await.unwrap_err();
    assert_eq!(huge.code(), tonic::Code::OutOfRange);
    assert_eq!(desk.counted.status.with_label_values(&["INVALID_ARGUMENT"]).get(), 1);
    // Bytes that are no HTTP/2 at all.
    let mut stranger = TcpStream::connect(address).await.unwrap();
    stranger.write_all(b"GET /check HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = stranger.read_to_end(&mut answer).await;
    assert_eq!(code(asked(http("/ok", &[]))).await.unwrap(), 0);
    halt.send_replace(true);
    drop(client);
    tracker.close();
    tracker.wait().await;
}

async fn ask(address: std::net::SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // Who sent more than is read hears the answer, and then a reset.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn what_is_answered_over_http() {
    let (address, _halt, _) = open(&desk(|_| {}), Protocol::Http).await;
    let get =
        |line: &str, more: &str| format!("{line} HTTP/1.1\r\nhost: talker.test\r\nconnection: close\r\n{more}\r\n");
    let big = "z".repeat(8193);
    for (request, status, words) in [
        (get("GET /check", ""), 403, "x-ext-auth-reason: no /check"),
        (get("POST /check", "content-length: 2\r\n") + "{}", 403, "no /check"),
        (get("PUT /check", ""), 404, "ask /check"),
        (get("GET /checked", ""), 404, "ask /check"),
        (get("GET /", ""), 404, "ask /check"),
        (get("DELETE /check/ok", ""), 200, "x-host: talker.test"),
        (get("GET /check/a%2Fb", ""), 400, "Invalid request"),
        (get("GET /check/slow", ""), 503, "no decision in time"),
        (get("POST /check/ok", "content-length: 8192\r\n") + &big[1..], 200, ""),
        (get("POST /check/ok", "content-length: 8193\r\n") + &big, 413, "body_bytes_max"),
        ("GET /check\r\n\r\n".into(), 400, ""),
    ] {
        let answer = ask(address, &request).await;
        let line = &request[..request.find('\r').unwrap()];
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(words), "{line}: {answer}");
    }
}

#[tokio::test]
async fn are_connections_and_checks_bounded() {
    let desk = desk(|served| (served.connections_max, served.checks_max) = (2, 1));
    let (address, _halt, _) = open(&desk, Protocol::Http).await;
    let slow = "GET /check/slow HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let (one, other) = tokio::join!(ask(address, slow), ask(address, slow));
    let words = [&one, &other].map(|answer| answer.contains("too many checks at once"));
    assert!(words[0] != words[1], "{one} {other}");
    let held = (TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap());
    let mut third = TcpStream::connect(address).await.unwrap();
    assert_eq!(third.read(&mut [0; 1]).await.unwrap_or(0), 0, "closed at once");
    drop(held);
}

#[tokio::test]
async fn does_a_refusal_without_words_keep_all_else() {
    use crate::auth::Authenticator;
    use crate::auth::pipeline::{DenyWith, Make, Pipeline};
    let made = |text: &'static str| -> Make { Box::new(move |_| Ok(json!(text))) };
    let unauthenticated = DenyWith {
        code: Some(StatusCode::FOUND),
        message: Some(made("")),
        headers: vec![(::http::header::LOCATION, made("/login"))],
        body: None,
    };
    // Nobody can enter.
    let pipeline = Pipeline { name: "p".into(), unauthenticated, explains: true, ..Pipeline::default() };
    let methods = Methods(Arc::new(Authenticator::of(pipeline)));
    let Decision::Refused(refused) = methods.decide(&check(asked(http("/", &[]))).unwrap()).await else {
        panic!("nobody can enter")
    };
    assert_eq!((refused.status, refused.headers["location"].as_bytes()), (StatusCode::FOUND, &b"/login"[..]));
}
