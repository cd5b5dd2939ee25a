//! A foreign server behind: what it is sent, to the byte, and what its callers see when it is not there or leaves.

use super::*;
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};

/// A server that keeps what each connection sends it, and answers each head as it is told.
pub(super) struct Foreign {
    pub(super) address: SocketAddr,
    heard: Receiver<String>,
}

pub(super) const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi";

/// `answer`: `None` closes without a word.
pub(super) fn foreign(answer: Option<&'static str>) -> Foreign {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, heard) = channel();
    std::thread::spawn(move || {
        for tcp in listener.incoming() {
            let (mut tcp, tell) = (tcp.unwrap(), tell.clone());
            std::thread::spawn(move || converse(&mut tcp, answer, &tell));
        }
    });
    Foreign { address, heard }
}

fn converse(tcp: &mut TcpStream, answer: Option<&str>, tell: &std::sync::mpsc::Sender<String>) {
    let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
    while let Ok(count @ 1..) = tcp.read(&mut piece) {
        bytes.extend_from_slice(&piece[..count]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let lower = head.to_ascii_lowercase();
        let wanted = lower.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
        let whole = match wanted {
            Some(wanted) => body.len() >= wanted,
            None => !lower.contains("transfer-encoding: chunked") || body.ends_with("0\r\n\r\n"),
        };
        if whole {
            bytes.clear();
            tell.send(text).unwrap();
            let Some(answer) = answer else { return };
            tcp.write_all(answer.as_bytes()).unwrap();
        }
    }
}

impl Foreign {
    fn sidecar(&self) -> Sidecar {
        behind(&format!("{{to: '{}'}}", self.address), "")
    }

    pub(super) fn heard(&self) -> String {
        self.heard.recv_timeout(Duration::from_secs(20)).unwrap()
    }

    pub(super) fn heard_nothing(&self) -> bool {
        self.heard.try_recv().is_err()
    }
}

/// A sidecar in front of `forward`, with further YAML.
pub(super) fn behind(forward: &str, more: &str) -> Sidecar {
    let yaml = PLAIN.replace("worker: {socket: w.sock, command: [none], models: [toy], concurrency: 2}", "");
    let config = format!("{yaml}\nforward: {forward}\n{more}\n");
    start(&config, vec![], Sleepy::default())
}

#[test]
fn is_a_request_carried_there_and_its_answer_back() {
    let foreign = foreign(Some(OK));
    let sidecar = foreign.sidecar();
    let mut tcp = sidecar.connect();
    for round in 0..2 {
        let head = format!("POST //any/path?a=%2Fb HTTP/1.1\r\nhost: model.test\r\nx-request-id: mine-{round}\r\n");
        let more =
            "x-forwarded-client-cert: URI=spiffe://lie\r\nx-forwarded-for: 9.9.9.9\r\ncontent-length: 2\r\n\r\nhi";
        tcp.write_all((head + more).as_bytes()).unwrap();
        let answer = read_until(&mut tcp, "\r\n\r\nhi");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        let heard = foreign.heard();
        // On the one canonical path, which is the one that policy saw.
        assert!(heard.starts_with("POST /any/path?a=%2Fb HTTP/1.1\r\n"), "{heard}");
        let lower = heard.to_ascii_lowercase();
        assert!(lower.contains("host: model.test\r\n") && lower.ends_with("\r\n\r\nhi"), "{heard}");
        assert!(!lower.contains("lie"), "what a caller says of itself is worth nothing: {heard}");
        assert!(lower.contains("x-forwarded-for: 9.9.9.9,127.0.0.1\r\n"), "{heard}");
        assert!(lower.contains("x-forwarded-proto: http\r\n"), "{heard}");
        assert!(lower.contains(&format!("x-request-id: mine-{round}\r\n")), "{heard}");
    }
    let line = sidecar.line(|line| line["request_id"] == "mine-1");
    assert_eq!((line["status"].as_u64(), line["label"].as_str()), (Some(200), Some("ok")));
    assert_eq!((line["request_bytes"].as_u64(), line["response_bytes"].as_u64()), (Some(2), Some(2)), "{line}");
    wait_for(|| sidecar.exchange.admission.snapshot().running == 0);
}

#[test]
fn what_is_never_sent_on() {
    let foreign = foreign(Some(OK));
    let sidecar = foreign.sidecar();
    let big = "x".repeat(2000);
    let head = "POST /a HTTP/1.1\r\nhost: x\r\nconnection: close\r\n";
    let cases = [
        ("GET /a/../b HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".into(), "400"),
        ("GET /a%2fb HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".into(), "400"),
        (format!("{head}content-length: 2000\r\n\r\n{big}"), "413"),
        (format!("{head}content-length: 2\r\ncontent-length: 3\r\n\r\nhi!"), "400"),
        (format!("{head}content-length: +2\r\n\r\nhi"), "400"),
        (format!("{head}transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n"), "400"),
        (format!("{head}bad name: x\r\n\r\n"), "400"),
        (format!("{head}content-type: application/grpc\r\n\r\n"), "415"),
    ];
    for (request, status) in cases {
        let answer = sidecar.call(&request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request}\n{answer}");
        assert!(foreign.heard_nothing(), "{request}");
    }
}

#[test]
fn what_does_a_caller_hear_when_nobody_is_there() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let sidecar = behind(&format!("{{to: '{closed}'}}"), "");
    let answer = sidecar.call("GET /a HTTP/1.1\r\nhost: x\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("refused-by: worker"), "{answer}");
    assert_eq!(sidecar.labelled("worker_gone")["status"], 503);
    let sidecar = foreign(None).sidecar();
    let answer = sidecar.call("POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nhi");
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    assert_eq!(sidecar.labelled("worker_lost")["status"], 502);
    wait_for(|| sidecar.exchange.admission.snapshot().running == 0);
}

#[test]
fn is_a_request_that_may_have_begun_never_sent_twice() {
    let foreign = foreign(None);
    let sidecar = foreign.sidecar();
    sidecar.call("POST /once HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nhi");
    assert!(foreign.heard().contains("/once"));
    sidecar.labelled("worker_lost");
    assert!(foreign.heard_nothing());
}

#[test]
fn does_an_upgrade_become_bytes_both_ways() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let sidecar = behind(&format!("{{to: '{}'}}", listener.local_addr().unwrap()), "");
    let server = std::thread::spawn(move || {
        let (mut tcp, _) = listener.accept().unwrap();
        assert!(read_until(&mut tcp, "\r\n\r\n").to_ascii_lowercase().contains("upgrade: websocket"));
        tcp.write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
            .unwrap();
        let big = "y".repeat(4000);
        tcp.write_all(format!("first {big}").as_bytes()).unwrap();
        assert_eq!(read_until(&mut tcp, "end").len(), 4003);
        tcp.write_all(b"bye").unwrap();
    });
    let mut tcp = sidecar.connect();
    let head = "GET /ws HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
    tcp.write_all(head.as_bytes()).unwrap();
    assert!(read_until(&mut tcp, "\r\n\r\n").starts_with("HTTP/1.1 101"));
    read_until(&mut tcp, &"y".repeat(4000));
    // More than a body may have: after the upgrade it is none.
    tcp.write_all(("z".repeat(4000) + "end").as_bytes()).unwrap();
    assert_eq!(read_all(&mut tcp), "bye");
    server.join().unwrap();
    assert_eq!(sidecar.line(|line| line["path"] == "/ws")["status"], 101);
}

#[test]
fn does_a_connection_end_at_its_age_and_after_its_grace() {
    let foreign = foreign(Some("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"));
    let limits = "limits: {body_bytes_max: 1KiB, connection_age_max: 100ms, connection_age_grace: 100ms}";
    let yaml = PLAIN
        .replace("worker: {socket: w.sock, command: [none], models: [toy], concurrency: 2}", "")
        .replace("limits: {body_bytes_max: 1KiB}", limits);
    let sidecar = start(&format!("{yaml}\nforward: {{to: '{}'}}", foreign.address), vec![], Sleepy::default());
    let mut tcp = sidecar.connect();
    tcp.write_all(b"GET /a HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let answer = read_all(&mut tcp);
    assert!(answer.ends_with("half"), "it was cut, not finished: {answer}");
    wait_for(|| sidecar.admin("GET /metrics").contains("{reason=\"overstayed\"} 1"));
}

/// An h2c server whose one method echoes each message and ends with trailers.
async fn grpc_echo(listener: tokio::net::TcpListener) {
    let (tcp, _) = listener.accept().await.unwrap();
    let mut connection = h2::server::handshake(tcp).await.unwrap();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        tokio::spawn(async move {
            assert_eq!(request.uri().path(), "/echo.Echo/Chat");
            let head = http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
            let mut answer = respond.send_response(head, false).unwrap();
            let mut body = request.into_body();
            while let Some(Ok(bytes)) = body.data().await {
                let _ = body.flow_control().release_capacity(bytes.len());
                answer.send_data(bytes, false).unwrap();
            }
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", "7".parse().unwrap());
            answer.send_trailers(trailers).unwrap();
        });
    }
}

#[tokio::test]
async fn do_messages_of_a_grpc_stream_pass_both_ways_at_once() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sidecar = behind(&format!("{{to: '{}'}}", listener.local_addr().unwrap()), "");
    tokio::spawn(grpc_echo(listener));
    let tcp = tokio::net::TcpStream::connect(sidecar.running.listen).await.unwrap();
    let (mut client, connection) = h2::client::handshake(tcp).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::post("http://x/echo.Echo/Chat").header("content-type", "application/grpc");
    let (answer, mut send) = client.send_request(request.body(()).unwrap(), false).unwrap();
    send.send_data("ping 0".into(), false).unwrap();
    let answer = answer.await.unwrap();
    let mut body = answer.into_body();
    for round in 0..20 {
        let echoed = body.data().await.unwrap().unwrap();
        assert_eq!(echoed, format!("ping {round}"));
        let _ = body.flow_control().release_capacity(echoed.len());
        send.send_data(format!("ping {}", round + 1).into(), round == 19).unwrap();
    }
    assert_eq!(body.data().await.unwrap().unwrap(), "ping 20");
    assert!(body.data().await.is_none());
    assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "7");
    let sidecar = tokio::task::spawn_blocking(move || {
        assert_eq!(sidecar.labelled("ok")["protocol"], "h2");
        sidecar
    });
    drop(sidecar.await.unwrap());
}
