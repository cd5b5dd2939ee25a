//! Probes against real little servers.

use super::grpc::{HealthCheckResponse, frame};
use super::*;
use crate::config::{AppProbe, ProbeKind};
use http::{HeaderMap, Response};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
const VISIT: Visit<'static> = Visit { pod: LOCAL, dial: LOCAL, agent: "kube-probe/1.33" };

async fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// Reads a head, says what was asked, answers as scripted, closes; for as many connections as there are answers.
async fn scripted(answers: Vec<String>) -> (u16, mpsc::UnboundedReceiver<String>) {
    let (listener, port) = listener().await;
    let (tell, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        for answer in answers {
            let (tcp, _) = listener.accept().await.unwrap();
            let _ = tell.send(serve(tcp, &answer).await);
        }
    });
    (port, told)
}

async fn serve(mut io: impl AsyncRead + AsyncWrite + Unpin, answer: &str) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && io.read_buf(&mut head).await.unwrap() > 0 {}
    io.write_all(answer.as_bytes()).await.unwrap();
    let _ = io.shutdown().await;
    String::from_utf8(head).unwrap()
}

fn get(port: u16) -> HttpProbe {
    HttpProbe { host: None, port, path: "/h".into(), https: false, headers: Vec::new() }
}

fn reply(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn is_the_answer_passed_on_as_it_is() {
    for (status, body) in [(200, "fine"), (204, ""), (418, "tea"), (500, "broken"), (503, "later")] {
        let (port, mut told) = scripted(vec![reply(&format!("{status} X"), "", body)]).await;
        let answer = VISIT.http(&get(port)).await.unwrap();
        assert_eq!(answer, Answer { status, body: body.into() });
        let asked = told.recv().await.unwrap();
        assert!(asked.starts_with("GET /h HTTP/1.1\r\n"), "{asked}");
        for line in
            [format!("host: 127.0.0.1:{port}\r\n"), "user-agent: kube-probe/1.33\r\n".into(), "accept: */*\r\n".into()]
        {
            assert!(asked.contains(&line), "{asked}");
        }
    }
}

#[tokio::test]
async fn is_only_the_beginning_of_a_body_read() {
    let (port, _told) = scripted(vec![reply("200 OK", "", &"x".repeat(100_000))]).await;
    assert_eq!(VISIT.http(&get(port)).await.unwrap().body.len(), BODY_BYTES_MAX);
}

#[tokio::test]
async fn are_the_probes_own_headers_sent() {
    let (port, mut told) = scripted(vec![reply("200 OK", "", "")]).await;
    let header = |name: &str, value: &str| (name.parse().unwrap(), value.parse().unwrap());
    let headers = vec![
        header("host", "app.example"),
        header("x-a", "1"),
        header("x-a", "2"),
        header("accept", ""),
        header("user-agent", "me"),
    ];
    VISIT.http(&HttpProbe { headers, ..get(port) }).await.unwrap();
    let asked = told.recv().await.unwrap();
    for line in ["host: app.example\r\n", "x-a: 1\r\n", "x-a: 2\r\n", "user-agent: me\r\n"] {
        assert!(asked.contains(line), "{asked}");
    }
    assert!(!asked.contains("accept") && !asked.contains("kube-probe"), "{asked}");
}

#[tokio::test]
async fn which_redirects_are_followed() {
    let (port, mut told) =
        scripted(vec![reply("302 X", "location: ../ok?a=1\r\n", ""), reply("200 OK", "", "there")]).await;
    assert_eq!(VISIT.http(&HttpProbe { path: "/a/b".into(), ..get(port) }).await.unwrap().body, "there");
    told.recv().await.unwrap();
    assert!(told.recv().await.unwrap().starts_with("GET /a/../ok?a=1 HTTP/1.1\r\n"));
    // Elsewhere: the answer is the redirect itself, for the kubelet a success with a warning.
    let (port, _told) = scripted(vec![reply("301 X", "location: https://elsewhere.example/\r\n", "moved")]).await;
    assert_eq!(VISIT.http(&get(port)).await.unwrap(), Answer { status: 301, body: "moved".into() });
    let (port, _told) = scripted(vec![reply("302 X", "location: /h\r\n", ""); 11]).await;
    assert!(VISIT.http(&get(port)).await.unwrap_err().contains("redirects"));
}

#[test]
fn where_do_locations_lead() {
    let from = Hop { https: true, host: "10.0.0.1".into(), port: 8443, path: "/a/b?c".into() };
    let cases = [
        ("/x", Some((true, "10.0.0.1", 8443, "/x"))),
        ("x#y", Some((true, "10.0.0.1", 8443, "/a/x"))),
        ("?q", Some((true, "10.0.0.1", 8443, "/a/b?q"))),
        ("//h/x", Some((true, "h", 443, "/x"))),
        ("http://h", Some((false, "h", 80, "/"))),
        ("http://[::1]:81/x", Some((false, "[::1]", 81, "/x"))),
        ("ftp://h/", None),
        ("http:///", None),
        ("/ space", None),
    ];
    for (location, want) in cases {
        let hop = from.follow(location);
        assert_eq!(hop.as_ref().map(|h| (h.https, h.host.as_str(), h.port, h.path.as_str())), want, "{location}");
    }
}

#[tokio::test]
async fn does_any_certificate_do_for_https() {
    let made = rcgen::generate_simple_self_signed(vec!["nobody.example".into()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let (listener, port) = listener().await;
    let server = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let tls = tokio_rustls::TlsAcceptor::from(Arc::new(config)).accept(tcp).await.unwrap();
        serve(tls, &reply("200 OK", "", "sealed")).await
    });
    let answer = VISIT.http(&HttpProbe { https: true, ..get(port) }).await.unwrap();
    assert_eq!(answer, Answer { status: 200, body: "sealed".into() });
    server.await.unwrap();
    // A plaintext server is not there for an HTTPS probe.
    let (listener, port) = self::listener().await;
    tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let _ = tcp.read(&mut [0; 1024]).await;
        let _ = tcp.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    });
    assert!(VISIT.http(&HttpProbe { https: true, ..get(port) }).await.unwrap_err().contains("tls"));
}

/// A health service that gives this answer; what it was asked comes back.
async fn health(
    status: Option<i32>,
    trailers: &'static [(&'static str, &'static str)],
) -> (u16, mpsc::UnboundedReceiver<(String, Bytes)>) {
    let (listener, port) = listener().await;
    let (tell, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(tcp).await.unwrap();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            let tell = tell.clone();
            tokio::spawn(async move {
                let (head, mut body) = request.into_parts();
                let data = body.data().await.map_or(Bytes::new(), |data| data.unwrap());
                let _ = tell.send((head.uri.path().to_owned(), data));
                let fields = trailers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
                let fields: HeaderMap = fields.collect();
                let mut head = Response::new(());
                let Some(status) = status else {
                    *head.headers_mut() = fields;
                    respond.send_response(head, true).unwrap();
                    return;
                };
                let mut stream = respond.send_response(head, false).unwrap();
                stream.send_data(frame(&HealthCheckResponse { status }), false).unwrap();
                stream.send_trailers(fields).unwrap();
            });
        }
    });
    (port, told)
}

#[tokio::test]
async fn what_does_a_grpc_health_service_say() {
    let ok: &[(&str, &str)] = &[("grpc-status", "0")];
    type Case = (Option<i32>, &'static [(&'static str, &'static str)], Result<(u16, &'static str), &'static str>);
    let cases: [Case; 6] = [
        (Some(1), ok, Ok((200, "SERVING\n"))),
        (Some(2), ok, Ok((503, "NOT_SERVING\n"))),
        (Some(-1), ok, Ok((503, "?\n"))),
        (None, &[("grpc-status", "12")], Err("health protocol")),
        (None, &[("grpc-status", "5"), ("grpc-message", "unknown service")], Err("gRPC status 5: unknown service")),
        (Some(1), &[], Err("without grpc-status")),
    ];
    for (status, trailers, want) in cases {
        let (port, mut told) = health(status, trailers).await;
        let tcp = VISIT.connect(None, port).await.unwrap();
        let got = grpc::check(tcp, "127.0.0.1:1", "models", VISIT.agent).await;
        match want {
            Ok((status, body)) => assert_eq!(got.unwrap(), Answer { status, body: body.into() }),
            Err(words) => assert!(got.as_ref().unwrap_err().contains(words), "{got:?}"),
        }
        let (path, body) = told.recv().await.unwrap();
        assert_eq!(path, "/grpc.health.v1.Health/Check");
        assert_eq!(&body[..], b"\0\0\0\0\x08\x0a\x06models");
    }
}

async fn status(probes: &Probes, rest: &str) -> String {
    let reply = answer(probes, rest, None, LOCAL).await;
    let (mut near, far) = {
        let (listener, port) = listener().await;
        let near = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        (near, listener.accept().await.unwrap().0)
    };
    super::super::http::write(far, &reply, false).await.unwrap();
    let mut text = String::new();
    near.read_to_string(&mut text).await.unwrap();
    text.split(' ').nth(1).unwrap().to_owned()
}

#[tokio::test]
async fn can_only_configured_probes_be_asked_and_in_their_time() {
    let (taken, port) = listener().await;
    let (gone, closed) = listener().await;
    drop(gone);
    let probe = |container: &str, kind, ask| AppProbe {
        container: container.into(),
        kind,
        ask,
        timeout: Duration::from_millis(300),
    };
    let tcp = |port| ProbeAsk::Tcp { host: None, port };
    let apps = vec![
        probe("a", ProbeKind::Live, tcp(port)),
        probe("a", ProbeKind::Ready, tcp(closed)),
        probe("a", ProbeKind::Startup, ProbeAsk::Http(get(port))),
        probe("b", ProbeKind::Live, ProbeAsk::Tcp { host: Some("localhost".into()), port }),
    ];
    let probes = Probes { address: None, apps };
    let cases = [
        ("a/livez", "200"),
        ("a/readyz", "503"),
        // Takes the connection, and never answers.
        ("a/startupz", "504"),
        ("b/livez", "200"),
        ("b/readyz", "404"),
        ("a/livez/x", "404"),
        ("", "404"),
        ("a", "404"),
        ("../a/livez", "404"),
    ];
    for (rest, want) in cases {
        assert_eq!(status(&probes, rest).await, want, "{rest}");
    }
    drop(taken);
}

#[tokio::test]
async fn do_probes_come_from_where_the_redirect_lets_them_pass() {
    let (listener, port) = listener().await;
    let (tcp, accepted) = tokio::join!(VISIT.connect(None, port), listener.accept());
    tcp.unwrap();
    assert_eq!(accepted.unwrap().1.ip().to_string(), "127.0.0.6");
}
