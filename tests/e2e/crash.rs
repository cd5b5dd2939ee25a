//! A worker that is killed again and again, and a sidecar that ends under load: who began hears of it, nobody else does.

use crate::{CHAT, alone, chat};
use outrider_tests::client::{Connection, Protocol, Security, metric, read, request, wait_for_metric};
use outrider_tests::places::smollm2;
use outrider_tests::up::{Up, send};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

const KILLS: usize = 50;

fn model() -> String {
    format!("smollm2={}", smollm2().display())
}

/// Asks one whole question after the other until it is over; gives how many were answered. None may fail: before its answer
/// began, nobody has seen anything of it.
async fn whole(up: Arc<Up>, over: Arc<AtomicBool>) -> usize {
    let mut count = 0;
    let mut connection = Connection::open(&up, Protocol::H2, Security::Mtls).await.expect("a connection");
    while !over.load(Relaxed) {
        // One token, not streamed: its answer begins with its end, so it always is one that had not begun.
        let answer = connection.ask(request(&up, "POST", CHAT, chat("Say hi.", 1, false))).await;
        let lost_on_the_way = answer.status == 502 && answer.text().contains("in the middle of the answer");
        assert!(answer.status == 200 || lost_on_the_way, "{} {}", answer.status, answer.text());
        count += usize::from(answer.status == 200);
    }
    count
}

/// Streams until it is over; each ends with its end or with an error, never with silence.
async fn streamed(up: Arc<Up>, over: Arc<AtomicBool>, broken: Arc<AtomicUsize>) {
    let body = serde_json::json!({"model": "smollm2", "prompt": "Once upon a time", "max_tokens": 400,
        "ignore_eos": true, "stream": true, "temperature": 0});
    let mut connection = Connection::open(&up, Protocol::H2, Security::Mtls).await.expect("a connection");
    while !over.load(Relaxed) {
        let response =
            connection.send(request(&up, "POST", "/v1/completions", body.to_string())).await.expect("a head");
        assert_eq!(response.status(), 200);
        let answer = read(response).await;
        let last = answer.events().pop().expect("a stream says something");
        let told = last.contains("\"error\"");
        assert!(answer.complete && (told || last == "[DONE]"), "the last event is {last}");
        broken.fetch_add(usize::from(told), Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn does_only_who_had_begun_hear_of_fifty_killed_workers() {
    let _alone = alone().await;
    let up = Arc::new(Up::start(&["--model", &model(), "--concurrency", "8"]));
    let (over, broken) = (Arc::new(AtomicBool::default()), Arc::new(AtomicUsize::default()));
    let asking: Vec<_> = (0..8).map(|_| tokio::spawn(whole(up.clone(), over.clone()))).collect();
    let streaming: Vec<_> = (0..4).map(|_| tokio::spawn(streamed(up.clone(), over.clone(), broken.clone()))).collect();
    for kill in 0..KILLS {
        let pids = tokio::task::block_in_place(|| up.wait_for_workers("a worker", |pids| pids.len() == 1));
        // One that still loads has not been given anybody: its end is a failed start, which all who wait are told of.
        wait_for_metric(up.as_ref(), "outrider_worker_state", &["state=\"awake\""], |awake| awake == 1.0).await;
        // At another moment of its life each time.
        tokio::time::sleep(Duration::from_millis(50 + 37 * (kill as u64 % 20))).await;
        send(pids[0], libc::SIGKILL);
    }
    over.store(true, Relaxed);
    let mut answered = 0;
    for one in asking {
        answered += one.await.expect("no caller that had not begun noticed");
    }
    for one in streaming {
        one.await.expect("every stream ended with its end or an error");
    }
    assert!(answered > 0 && broken.load(Relaxed) > 0, "{answered} answered, {} broken", broken.load(Relaxed));
    assert!(metric(up.as_ref(), "outrider_worker_crashes_total", &[]).await > 0.0);
    assert_eq!(metric(up.as_ref(), "outrider_requests_in_flight", &[]).await, 0.0);
}

/// A thousand streams over a slow app, SIGTERM in the middle, and callers who still come until the door closes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn does_no_stream_of_a_thousand_break_when_the_sidecar_ends() {
    let _alone = alone().await;
    let app = slow_app().await;
    let config = format!(
        "tls: {{mode: disable}}\nauth: {{methods: [{{anonymous: {{}}}}]}}\nforward: {{to: \"{app}\"}}\n\
         drain: {{quiet: 300ms, settle_max: 3s, timeout: 30s}}\naccess_log: false\n"
    );
    let proxy = Arc::new(outrider_tests::proxy::Proxy::start(&config, &[]));
    let address = outrider_tests::proxy::Sidecar::address(&proxy).to_owned();
    let get = move || {
        let address = address.clone();
        async move {
            let tcp = tokio::net::TcpStream::connect(&address).await.ok()?;
            let mut connection = Connection::handshake(tcp, Protocol::Http1).await.ok()?;
            let request = http::Request::get("/").header("host", "app").body(http_body_util::Full::default()).unwrap();
            let answer = read(connection.send(request).await.expect("whoever got in is answered")).await;
            Some((answer.status.as_u16(), answer.complete, answer.body.len()))
        }
    };
    let streams: Vec<_> = (0..1000).map(|_| tokio::spawn(get())).collect();
    wait_for_metric(&proxy, "outrider_requests_in_flight", &[], |count| count == 1000.0).await;
    send(proxy.pid(), libc::SIGTERM);
    let (start, mut late) = (Instant::now(), Vec::new());
    while start.elapsed() < Duration::from_secs(1) {
        late.push(tokio::spawn(get()));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for (at, stream) in streams.into_iter().chain(late).enumerate() {
        match stream.await.expect("no panic") {
            Some(answer) => assert_eq!(answer, (200, true, PIECES), "stream {at}"),
            None => assert!(at >= 1000, "stream {at} was refused before anybody said to end"),
        }
    }
}

const PIECES: usize = 20;

/// Answers every connection with a byte each tenth of a second, chunked.
async fn slow_app() -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = [0; 4096];
                while tcp.read(&mut head).await.is_ok_and(|bytes| bytes > 0) {
                    let _ = tcp.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
                    for _ in 0..PIECES {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        let _ = tcp.write_all(b"1\r\nx\r\n").await;
                    }
                    let _ = tcp.write_all(b"0\r\n\r\n").await;
                }
            });
        }
    });
    address
}
