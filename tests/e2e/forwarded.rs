//! A foreign server behind the sidecar: every protocol it may speak passes as it came, what could be read in two ways does
//! not, and when it dies, is slow, or its caller leaves, everybody is told.

use crate::mesh::{Pod, request};
use outrider_tests::authority::CALLER;
use outrider_tests::client::{Connection, Protocol, metric, wait_for_metric};
use outrider_tests::proxy::Sidecar;
use outrider_tests::python;
use outrider_tests::upstream::{Echo, Recorder};
use outrider_tests::wire::statuses;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn do_bodies_of_any_size_pass_both_ways() {
    let echo = Echo::start().await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let unix = Echo::start_unix(&folder.path().join("app.sock")).await;
    for to in [&echo, &unix] {
        let pod = Pod::before(&to.address, "", &[]);
        for protocol in [Protocol::Http1, Protocol::H2] {
            let mut connection = pod.connect(protocol).await;
            for length in [0, 1, 70_000, 8 << 20] {
                let body: String = "0123456789abcdef".chars().cycle().take(length).collect();
                let answer = connection.ask(request("POST", "/whole", &body)).await;
                assert_eq!(answer.status, 200, "{protocol:?} {length}");
                assert!(
                    answer.complete && answer.body == body.as_bytes(),
                    "{protocol:?} {length}: {}",
                    answer.body.len()
                );
            }
        }
    }
}

/// Refused, or forwarded as one request that cannot be read as two.
#[tokio::test]
async fn is_nothing_ambiguous_ever_forwarded() {
    let recorder = Recorder::start().await;
    let pod = Pod::before(&recorder.address, "", &[]);
    let caller = pod.who(Some(&pod.caller), "http/1.1");
    let last = "GET /last HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    for (what, form, _) in crate::hostile::forms() {
        let mut wire = caller.wire(pod.proxy.address()).await.expect("a handshake");
        wire.write(format!("{form}{last}")).await;
        let answers = statuses(&wire.read_to_end().await);
        // What was forwarded of a broken body may still be on its way to the recorder.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let seen = recorder.take();
        let heads: Vec<&str> = seen.match_indices(" HTTP/1.1\r\n").map(|(at, _)| &seen[..at]).collect();
        let accepted = answers.iter().filter(|status| **status == 200).count();
        // A body that breaks on its way has begun to pass: then the server behind is left with less than a request.
        assert_eq!(recorder.answered(), accepted, "{what}: {answers:?}, forwarded:\n{seen}");
        assert!(heads.len() <= accepted.max(1), "{what}: {answers:?}, forwarded:\n{seen}");
        for request in seen.split_inclusive("\r\n\r\n").filter(|part| part.contains(" HTTP/1.1\r\n")) {
            let head = request.to_ascii_lowercase();
            let count = |name: &str| head.matches(&format!("\r\n{name}:")).count();
            let framed = count("content-length") + count("transfer-encoding");
            assert!(framed <= 1, "{what}: its length is given {framed} times:\n{seen}");
            assert_eq!(count("host"), 1, "{what}:\n{seen}");
            assert!(!head.replace("\r\n", "").contains(['\r', '\n', '\0']), "{what}:\n{seen:?}");
            assert!(!head.contains("\r\n ") && !head.contains("\r\n\t"), "{what} is folded:\n{seen}");
            assert!(head.lines().next().is_some_and(|line| line.split(' ').count() == 3), "{what}:\n{seen}");
        }
        assert!(!seen.contains(";a="), "{what}: an extension passed:\n{seen}");
    }
}

/// `Connection` names headers that are for the next hop only; it must not take away what we say of the caller, nor
/// carry an upgrade that the server behind would read as HTTP/2.
#[tokio::test]
async fn can_a_caller_have_our_own_headers_dropped() {
    let recorder = Recorder::start().await;
    let pod = Pod::before(&recorder.address, "xfcc: sanitize_set\n", &[]);
    let caller = pod.who(Some(&pod.caller), "http/1.1");
    for lines in [
        "connection: close, x-forwarded-client-cert, x-forwarded-for, host, content-length\r\ncontent-length: 2\r\n",
        "connection: upgrade, http2-settings, close\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\
         content-length: 2\r\n",
    ] {
        let mut wire = caller.wire(pod.proxy.address()).await.expect("a handshake");
        wire.write(format!("POST / HTTP/1.1\r\nhost: localhost\r\n{lines}\r\n{{}}")).await;
        let (said, _) = wire.read(Duration::from_secs(2)).await;
        let seen = recorder.take().to_ascii_lowercase();
        if seen.is_empty() {
            assert!(!statuses(&said).contains(&200), "{lines}: answered by nobody");
            continue;
        }
        assert!(seen.contains("\r\nhost: localhost"), "{seen}");
        assert!(seen.contains("\r\nx-forwarded-client-cert:") && seen.contains(&format!("uri={CALLER}")), "{seen}");
        assert!(!seen.contains("upgrade: h2c") && !seen.contains("http2-settings"), "{seen}");
        assert!(seen.contains("content-length: 2") || seen.contains("transfer-encoding: chunked"), "{seen}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn do_callers_wait_while_the_server_is_away_and_hear_when_it_dies() {
    let echo = Echo::start().await;
    let address = echo.address.clone();
    let pod = Pod::before(&address, "", &[]);
    assert_eq!(pod.ask(Protocol::H2, "POST", "/", "a").await.status, 200);
    // It dies over a request: the caller is told, and nothing is sent a second time.
    let slow = async { pod.ask(Protocol::Http1, "POST", "/slow", "b").await };
    let (answer, ()) = tokio::join!(slow, async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        echo.stop().await;
    });
    assert!(answer.status.is_server_error(), "{}", answer.status);
    // It is away: whoever comes is held, the first to find out too, and answered once it is back.
    let held = tokio::spawn({
        let mut connection = pod.connect(Protocol::Http1).await;
        async move { connection.ask(request("POST", "/", "c")).await }
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    if held.is_finished() {
        let answer = held.await.expect("no panic");
        panic!("answered while nobody was there: {} {:?} {}", answer.status, answer.headers, answer.text());
    }
    let back = Echo::start_on(&address).await;
    let answer = held.await.expect("no panic");
    assert_eq!((answer.status.as_u16(), &*answer.text()), (200, "c"));
    back.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn is_a_server_that_takes_too_long_given_up() {
    let echo = Echo::start().await;
    let config = format!("forward: {{to: \"{}\", response_timeout: 200ms}}\n", echo.address);
    let pod = Pod::with_forward(&config);
    for protocol in [Protocol::Http1, Protocol::H2] {
        let answer = pod.ask(protocol, "POST", "/slow", "x").await;
        assert_eq!(answer.status, 504, "{protocol:?} {}", answer.text());
    }
    assert_eq!(pod.ask(Protocol::H2, "POST", "/", "x").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn is_nothing_left_of_callers_who_leave() {
    let echo = Echo::start().await;
    let pod = Pod::before(&echo.address, "", &[]);
    for protocol in [Protocol::Http1, Protocol::H2] {
        let mut leaving = Vec::new();
        for _ in 0..20 {
            let mut connection: Connection = pod.connect(protocol).await;
            leaving.push(tokio::spawn(async move {
                let _ = connection.send(request("POST", "/slow", "x")).await;
            }));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        for one in leaving {
            one.abort();
        }
    }
    wait_for_metric(&pod.proxy, "outrider_requests_in_flight", &[], |count| count == 0.0).await;
    wait_for_metric(&pod.proxy, "outrider_connections_open", &[], |count| count == 0.0).await;
    assert_eq!(pod.ask(Protocol::H2, "POST", "/", "x").await.status, 200);
    assert!(metric(&pod.proxy, "outrider_requests_total", &[]).await >= 1.0);
}

/// The real clients: grpcio with all four kinds of calls, and `websockets`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn do_grpc_and_websocket_clients_work_through_us() {
    let echo = Echo::start().await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let unix = Echo::start_unix(&folder.path().join("app.sock")).await;
    for to in [&echo, &unix] {
        let pod = Pod::before(&to.address, "", &[]);
        run(&pod, "grpc_peer.py", "").await;
    }
    // The script starts the server itself, on a port that was free a moment ago.
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = free.local_addr().expect("an address").to_string();
    drop(free);
    let pod = Pod::before(&address, "", &[]);
    run(&pod, "websocket_peer.py", &address).await;
}

async fn run(pod: &Pod, script: &'static str, upstream: &str) {
    let folder = pod.proxy.folder().to_owned();
    pod.caller.write(&folder, "caller");
    let file = |name: &str| folder.join(name).display().to_string();
    let environment = [
        ("ADDRESS".to_owned(), pod.proxy.address().to_owned()),
        ("UPSTREAM".to_owned(), upstream.to_owned()),
        ("CA".to_owned(), file("ca.pem")),
        ("CERT".to_owned(), file("caller.pem")),
        ("KEY".to_owned(), file("caller.key")),
    ];
    tokio::task::spawn_blocking(move || python::run(script, environment)).await.expect("the script succeeds");
}
