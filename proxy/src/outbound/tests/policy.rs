//! Retries, budgets, timeouts, ejection, limits, faults, mirrors, and where endpoints come from.

use super::harness::*;
use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Frame, Incoming};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

/// Answers with these statuses in turn, the last one for ever; echoes bodies.
async fn moody(statuses: &'static [u16]) -> Server {
    let count = Arc::new(AtomicUsize::new(0));
    Server::start(move |request: Request<Incoming>| {
        let at = count.fetch_add(1, SeqCst).min(statuses.len() - 1);
        async move {
            let (text, _) = read(request.into_body()).await.unwrap();
            Response::builder().status(statuses[at]).body(full(text)).unwrap()
        }
    })
    .await
}

#[tokio::test]
async fn is_a_failed_connection_made_up_for() {
    let server = moody(&[200]).await;
    let way = Way::to(&[nobody().await, server.address], "", "balancer: {kind: round_robin}").await;
    for _ in 0..6 {
        assert_eq!(way.get().await.0, 200);
    }
    let retries = &way.outbound.journal.metrics.outbound.retries;
    assert!(retries.with_label_values(&["c", "connect_failure"]).get() >= 1);
    let alone = Way::to(&[nobody().await], "", "").await;
    let (status, ours, text) = alone.get().await;
    assert_eq!((status, ours), (503, true));
    assert!(text.contains("refused"), "{text}");
    assert_eq!(alone.await_lines(1).await[0]["tries"], 3);
}

#[tokio::test]
async fn is_a_body_sent_again_if_it_is_small_enough() {
    let post = |size: usize| Request::post("/").header("host", "m").body(full("x".repeat(size))).unwrap();
    for (size, status) in [(1000, 200), (70_000, 503)] {
        let way = Way::to(&[moody(&[503, 503, 200]).await.address], "", "").await;
        let (got, ours, text) = way.ask(post(size)).await;
        assert_eq!((got, ours, text.len()), (status, false, size));
    }
}

#[tokio::test]
async fn does_the_budget_end_retries() {
    let server = moody(&[503]).await;
    let way = Way::to(&[server.address], "retries: {budget: {percent: 0, min: 0}}", "").await;
    assert_eq!(way.get().await.0, 503);
    assert_eq!(server.count().1, 1);
    let way = Way::to(&[server.address], "retries: {on: [5xx], attempts: 4}", "outlier: {consecutive_5xx: 0}").await;
    assert_eq!(way.get().await.0, 503);
    assert_eq!(server.count().1, 6);
}

#[tokio::test]
async fn is_a_request_that_may_have_been_worked_on_left_alone() {
    // Reads the request, then hangs up.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let seen = count.clone();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            seen.fetch_add(1, SeqCst);
            tcp.readable().await.unwrap();
            let _ = tcp.try_read(&mut [0; 4096]);
        }
    });
    let way = Way::to(&[address], "retries: {on: [reset, reset-before-request]}", "").await;
    let post = Request::post("/").header("host", "m").body(full("x")).unwrap();
    assert_eq!(way.ask(post).await.0, 502);
    assert_eq!(count.load(SeqCst), 1, "a POST is not idempotent");
    assert_eq!(way.get().await.0, 502);
    assert_eq!(count.load(SeqCst), 4, "a GET is");
}

#[tokio::test]
async fn does_nobody_notice_that_a_server_hangs_up_between_requests() {
    // One answer for each connection, and no word that it was the last.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                if tcp.read(&mut [0; 4096]).await.is_ok_and(|count| count > 0) {
                    let _ = tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                }
            });
        }
    });
    let way = Way::to(&[address], "retries: {attempts: 0}", "outlier: {consecutive_local_origin: 1}").await;
    let mut sender = way.h1().await;
    for _ in 0..50 {
        sender.ready().await.unwrap();
        let request = Request::get("/").header("host", "m").body(full("")).unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status().as_u16(), 200);
        read(response.into_body()).await.unwrap();
    }
}

/// Answers its head at once or never, its body never.
async fn slow(head: bool) -> Server {
    Server::start(move |_| async move {
        if !head {
            std::future::pending::<()>().await;
        }
        let (pipe, body) = piped();
        pipe.send(Ok(Frame::data(Bytes::from("begun")))).await.unwrap();
        tokio::spawn(async move { pipe.closed().await });
        Response::builder().header("content-type", "application/grpc").body(body).unwrap()
    })
    .await
}

#[tokio::test]
async fn is_an_answer_that_never_comes_given_up() {
    let server = slow(false).await;
    let way = Way::to(&[server.address], "timeout: 100ms", "").await;
    let (status, ours, text) = way.get().await;
    assert_eq!((status, ours, text.contains("timeout")), (504, true, true));
    assert_eq!(server.count().1, 1);
    let retries = "retries: {on: [per-try-timeout], attempts: 1}, per_try_timeout: 50ms";
    let way = Way::to(&[server.address], retries, "").await;
    assert_eq!(way.get().await.0, 504);
    assert_eq!(server.count().1, 3);
}

#[tokio::test]
async fn how_does_a_stream_end_when_time_is_over() {
    let server = slow(true).await;
    for rule in ["timeout: 200ms", "idle_timeout: 200ms"] {
        let way = Way::to(&[server.address], rule, "").await;
        let request = Request::post("http://m/s/M").header("content-type", "application/grpc").body(full("")).unwrap();
        let (text, trailers) = read(way.h2().await.send_request(request).await.unwrap().into_body()).await.unwrap();
        assert_eq!((text.as_str(), &trailers["grpc-status"]), ("begun", &"4".parse().unwrap()), "{rule}");
        assert_eq!(way.await_lines(1).await[0]["label"], "timeout");
    }
}

#[tokio::test]
async fn is_a_sick_endpoint_left_alone_until_it_may_come_back() {
    let (sick, well) = (moody(&[500]).await, moody(&[200]).await);
    let rules = "balancer: {kind: round_robin}, outlier: {consecutive_5xx: 3, base_ejection: 300ms, interval: 50ms}";
    let way = Way::to(&[sick.address, well.address], "retries: {attempts: 0}", rules).await;
    let mut statuses = Vec::new();
    for _ in 0..20 {
        statuses.push(way.get().await.0);
    }
    assert_eq!(statuses.iter().filter(|status| **status == 500).count(), 3, "{statuses:?}");
    assert_eq!(way.outbound.journal.metrics.outbound.ejections.with_label_values(&["c", "5xx"]).get(), 1);
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        if way.get().await.0 == 500 {
            return;
        }
    }
    panic!("it never came back");
}

#[tokio::test]
async fn does_a_full_cluster_say_so() {
    let server = slow(false).await;
    for (limits, limit) in [
        ("requests_max: 2", "requests_max"),
        ("connections_max: 2, connect_timeout: 100ms", "connections_max"),
        ("connections_max: 2, pending_max: 1, connect_timeout: 1h", "pending_max"),
    ] {
        let way = Arc::new(Way::to(&[server.address], "", &format!("limits: {{{limits}}}")).await);
        let waiting = if limit == "pending_max" { 3 } else { 2 };
        for at in 1..=waiting {
            let asking = way.clone();
            tokio::spawn(async move { asking.get().await });
            // One after the other: a request whose connection is being opened is pending too.
            let cluster = &way.outbound.clusters[0];
            let settled = || cluster.active.get() == at && cluster.pending.get() == at.saturating_sub(2);
            for _ in 0..500 {
                if settled() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert!(settled(), "{limits}: {at}");
        }
        let (status, ours, text) = way.get().await;
        assert_eq!((status, ours, text.contains(limit)), (503, true, true), "{limits}: {text}");
    }
}

#[tokio::test]
async fn does_a_starving_request_get_the_next_free_connection() {
    let server = Server::start(|_| async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Response::new(full("x"))
    })
    .await;
    let way = Arc::new(Way::to(&[server.address], "", "limits: {connections_max: 2}").await);
    let asks = (0..20).map(|_| {
        let way = way.clone();
        async move { way.get().await.0 }
    });
    let statuses = futures_util::future::join_all(asks).await;
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    assert!(server.count().0 <= 2, "{:?}", server.count());
}

#[tokio::test]
async fn do_faults_happen_and_shadows_follow() {
    let (first, second) = (moody(&[200]).await, moody(&[200]).await);
    let clusters = format!(
        "  clusters: [{{name: a, endpoints: ['{}']}}, {{name: b, endpoints: ['{}']}}]\n",
        first.address, second.address
    );
    let routes = "  routes:
    - {hosts: [late], cluster: a, fault: {delay: {fixed: 1h}}, timeout: 50ms}
    - {hosts: [teapot], cluster: a, fault: {abort: {http: 418}}}
    - {hosts: [never], cluster: a, fault: {abort: {http: 418, percent: 0}}}
    - {hosts: [both], cluster: a, mirror: {cluster: b}}
    - {hosts: [split], clusters: [{name: a, weight: 0}, {name: b, weight: 5}]}
";
    let way = Way::open(&format!("{routes}{clusters}")).await;
    let post =
        |host: &str| Request::post("/").header("host", host).header("content-length", "4").body(full("body")).unwrap();
    assert_eq!(way.ask(post("late")).await.0, 504);
    assert_eq!(way.ask(post("teapot")).await.0, 418);
    assert_eq!(first.count().1 + second.count().1, 0);
    assert_eq!(way.ask(post("never")).await.0, 200);
    assert_eq!(way.ask(post("split")).await.0, 200);
    assert_eq!((first.count().1, second.count().1), (1, 1));
    assert_eq!(way.ask(post("both")).await.2, "body");
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        if second.count().1 == 2 {
            return;
        }
    }
    panic!("no shadow");
}

#[tokio::test]
async fn do_equal_beginnings_go_to_the_same_server() {
    let servers = [moody(&[200]).await, moody(&[200]).await, moody(&[200]).await];
    let addresses = servers.each_ref().map(|server| server.address);
    let way = Way::to(&addresses, "", "balancer: {kind: consistent_hash, prompt_bytes: 12}").await;
    let ask = async |prompt: &str| {
        let body = format!("{{\"model\":\"m\",\"prompt\":\"{prompt}\"}}");
        let request = Request::post("/").header("host", "m").header("content-type", "application/json");
        assert_eq!(way.ask(request.body(full(body.clone())).unwrap()).await.2, body);
    };
    for end in ["a", "b", "c", "d", "e", "f"] {
        ask(&format!("You are a helpful {end}")).await;
    }
    let counts = servers.each_ref().map(|server| server.count().1);
    assert!(counts.contains(&6), "{counts:?}");
    // Far larger than what is kept: still by its beginning, still whole.
    ask(&format!("You are a helpful {}", "x".repeat(200_000))).await;
    let counts = servers.each_ref().map(|server| server.count().1);
    assert!(counts.contains(&7), "{counts:?}");
    for at in 0..30 {
        ask(&format!("{at} is another beginning")).await;
    }
    let counts = servers.each_ref().map(|server| server.count().1);
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
}

#[tokio::test]
async fn are_endpoints_followed() {
    let (one, two) = (moody(&[201]).await, moody(&[202]).await);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("slice.yaml");
    let slice = |port: u16| {
        format!(
            "kind: EndpointSlice\naddressType: IPv4\nports: [{{name: http, port: {port}}}]\n\
             endpoints: [{{addresses: [127.0.0.1], conditions: {{ready: true}}}}]\n"
        )
    };
    std::fs::write(&file, slice(one.address.port())).unwrap();
    let yaml = format!(
        "  routes: [{{hosts: [dns], cluster: dns}}, {{cluster: slice}}]\n  clusters:\n  \
         - {{name: slice, endpoint_slice: {{files: ['{}'], port: http}}}}\n  \
         - {{name: dns, dns: {{name: localhost, port: {}}}}}\n",
        file.display(),
        two.address.port()
    );
    let way = Way::open(&yaml).await;
    assert_eq!(way.get().await.0, 201);
    std::fs::write(&file, "kind: Service").unwrap();
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(way.get().await.0, 201, "a bad file changes nothing");
    let other = folder.path().join("other");
    std::fs::write(&other, slice(two.address.port())).unwrap();
    std::fs::rename(&other, &file).unwrap();
    for _ in 0..300 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        if way.get().await.0 == 202 {
            break;
        }
    }
    assert_eq!(way.get().await.0, 202);
    let request = || Request::get("/").header("host", "dns").body(full("")).unwrap();
    for _ in 0..300 {
        if way.ask(request()).await.0 == 202 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("localhost does not resolve");
}
