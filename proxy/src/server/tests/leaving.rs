//! The end, the succession, and Knative's view of both.

use super::*;
use crate::leaving::Stage;
use bytes::Bytes;
use http::StatusCode;

/// Settles in a third of a second.
fn settling(more: &str) -> String {
    PLAIN.replace("concurrency: 2", "concurrency: 3000") + "drain: {quiet: 300ms, settle_max: 3s}\n" + more
}

fn slow(pause: u64) -> Vec<Line> {
    let mut script = generated(&["one", "two"]);
    script.insert(2, Line::Pause(Duration::from_millis(pause)));
    script
}

#[test]
fn is_whoever_still_comes_served_after_the_word_to_end() {
    let mut sidecar = start(&settling(""), vec![generated(&["x"])], Sleepy::default());
    let mut kept = sidecar.connect();
    kept.write_all(post("hi", "").as_bytes()).unwrap();
    read_until(&mut kept, "0\r\n\r\n");
    sidecar.stop.send(()).unwrap();
    wait_for(|| sidecar.exchange.leaving.has_begun());
    assert!(sidecar.admin("GET /healthz/ready").contains("503"), "endpoints are to forget us");
    for _ in 0..3 {
        assert!(sidecar.post("hi").starts_with("HTTP/1.1 200"), "who comes by an old endpoint is answered");
        kept.write_all(post("hi", "").as_bytes()).unwrap();
        assert!(read_until(&mut kept, "0\r\n\r\n").starts_with("HTTP/1.1 200"));
    }
    assert_eq!(read_all(&mut kept), "", "at last the idle one is closed");
    sidecar.thread.take().unwrap().join().unwrap();
    assert!(TcpStream::connect(sidecar.running.listen).is_err());
}

#[test]
fn does_a_hook_drain_without_ending_the_process() {
    let mut sidecar = start(&settling(""), vec![slow(300)], Sleepy::default());
    let mut busy = sidecar.connect();
    busy.write_all(post("hi", "").as_bytes()).unwrap();
    read_until(&mut busy, "one");
    assert!(sidecar.admin("GET /drain-complete").contains("pending requests: 1"));
    let admin = sidecar.running.admin;
    let app = std::thread::spawn(move || {
        let mut tcp = TcpStream::connect(admin).unwrap();
        write!(tcp, "GET /wait-for-drain HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        read_all(&mut tcp)
    });
    assert!(sidecar.admin("GET /drain/wait").contains("405"));
    assert!(sidecar.admin("POST /drain/wait").contains("drained"));
    assert!(app.join().unwrap().contains("drained"), "the app's own hook ends with it");
    assert!(read_all(&mut busy).contains("two"));
    assert!(TcpStream::connect(sidecar.running.listen).is_err(), "nobody new");
    assert!(sidecar.admin("GET /drain-complete").ends_with("drained"), "but operators are answered until it is told");
    sidecar.stop.send(()).unwrap();
    sidecar.thread.take().unwrap().join().unwrap();
}

#[test]
fn does_a_hook_of_a_container_that_only_restarts_end_at_once() {
    let sidecar = plain(vec![generated(&["x"])]);
    assert!(sidecar.admin("GET /wait-for-drain").contains("nobody ends this pod"));
    assert!(sidecar.post("hi").starts_with("HTTP/1.1 200"));
}

/// An HTTP/2 client, as many streams as asked for; each answer's status and text, or what went wrong.
async fn streams(
    address: SocketAddr,
    count: usize,
) -> Vec<tokio::task::JoinHandle<Result<(StatusCode, String), h2::Error>>> {
    let tcp = tokio::net::TcpStream::connect(address).await.unwrap();
    let (client, connection) = h2::client::handshake(tcp).await.unwrap();
    tokio::spawn(connection);
    let mut all = Vec::new();
    for _ in 0..count {
        let mut client = client.clone().ready().await.unwrap();
        let request = http::Request::post("http://x/toy").body(()).unwrap();
        let (answer, mut body) = client.send_request(request, false).unwrap();
        body.send_data(Bytes::from_static(b"hi"), true).unwrap();
        all.push(tokio::spawn(async move {
            let _client = client;
            let (head, mut body) = answer.await?.into_parts();
            let mut text = Vec::new();
            while let Some(piece) = body.data().await {
                let piece = piece?;
                let _ = body.flow_control().release_capacity(piece.len());
                text.extend_from_slice(&piece);
            }
            Ok((head.status, String::from_utf8(text).unwrap()))
        }));
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn do_a_thousand_streams_end_properly_while_new_ones_still_come() {
    let mut sidecar = start(&settling(""), vec![slow(1500)], Sleepy::default());
    let listen = sidecar.running.listen;
    let mut all = Vec::new();
    for _ in 0..10 {
        all.extend(streams(listen, 100).await);
    }
    wait_for(|| sidecar.exchange.admission.snapshot().running == 1000);
    sidecar.stop.send(()).unwrap();
    let mut late = Vec::new();
    for _ in 0..10 {
        late.extend(streams(listen, 5).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for stream in all.into_iter().chain(late) {
        let (status, text) = stream.await.unwrap().expect("no stream is broken");
        assert_eq!((status.as_u16(), text.as_str()), (200, "onetwo"));
    }
    let thread = sidecar.thread.take().unwrap();
    tokio::task::block_in_place(|| thread.join().unwrap());
}

#[test]
fn is_a_knative_pod_probed_where_its_callers_come() {
    let mut sidecar = start(&settling("knative: {}\n"), vec![slow(400)], Sleepy::default());
    let probe = |headers: &str| {
        sidecar.call(&format!("GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n"))
    };
    let queue = probe("k-network-probe: queue\r\n");
    assert!(queue.starts_with("HTTP/1.1 200") && queue.ends_with("\r\n\r\nqueue"), "{queue}");
    let other = probe("K-Network-Probe: activator\r\n");
    assert!(
        other.starts_with("HTTP/1.1 400") && other.ends_with("unexpected probe header value: activator\n"),
        "{other}"
    );
    let hash = probe("k-network-probe: probe\r\nk-network-hash: h1\r\n");
    assert!(hash.starts_with("HTTP/1.1 200") && hash.to_lowercase().contains("k-network-hash: h1\r\n"), "{hash}");
    assert!(probe("user-agent: kube-probe/1.33\r\n").starts_with("HTTP/1.1 404"), "a kubelet's own is a request");
    assert_eq!(sidecar.exchange.admission.snapshot().starts, 0, "a probe wakes nobody");
    let mut busy = sidecar.connect();
    busy.write_all(post("hi", "").as_bytes()).unwrap();
    read_until(&mut busy, "one");
    sidecar.stop.send(()).unwrap();
    wait_for(|| sidecar.exchange.leaving.has_begun());
    for headers in ["k-network-probe: queue\r\n", "k-network-probe: x\r\n", "k-network-probe: probe\r\n"] {
        let told = probe(headers);
        assert!(told.starts_with("HTTP/1.1 503") && told.ends_with("\r\n\r\nshutting down\n"), "{told}");
    }
    assert!(read_all(&mut busy).contains("two"));
    let thread = sidecar.thread.take().unwrap();
    thread.join().unwrap();
}

#[test]
fn is_the_sidecar_as_ready_as_the_app() {
    let app = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = app.local_addr().unwrap().port();
    let probe = format!("{{\"tcpSocket\":{{\"port\":{port}}},\"timeoutSeconds\":1}}");
    let sidecar =
        start(&settling(&format!("knative: {{}}\nreadiness: {{probe: '{probe}'}}\n")), vec![], Sleepy::default());
    let queue = || sidecar.call("GET / HTTP/1.1\r\nhost: x\r\nk-network-probe: queue\r\nconnection: close\r\n\r\n");
    assert!(queue().ends_with("queue") && sidecar.admin("GET /healthz/ready").contains("200 OK"));
    drop(app);
    assert!(queue().starts_with("HTTP/1.1 503"));
    assert!(sidecar.admin("GET /healthz/ready").contains("the app is not ready"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn does_a_newer_sidecar_take_over_without_a_caller_noticing() {
    let folder = tempfile::tempdir().unwrap();
    let upgrade = format!("upgrade: {{socket: {}/upgrade.sock}}\n", folder.path().display());
    let config = settling(&upgrade);
    let mut old = start(&config, vec![slow(1500)], Sleepy::default());
    let (listen, admin) = (old.running.listen, old.running.admin);
    let config = config.replacen("127.0.0.1:0", &listen.to_string(), 1).replacen("127.0.0.1:0", &admin.to_string(), 1);
    wait_for(|| folder.path().join("upgrade.sock").exists());
    let mut running = streams(listen, 100).await;
    running.extend(streams(listen, 100).await);
    wait_for(|| old.exchange.admission.snapshot().running == 200);
    let over = Arc::new(std::sync::atomic::AtomicBool::default());
    let load: Vec<_> = (0..2)
        .map(|_| {
            let over = over.clone();
            std::thread::spawn(move || {
                let mut count = 0;
                while !over.load(SeqCst) {
                    let mut tcp = TcpStream::connect(listen).expect("nobody is refused");
                    tcp.write_all(post("hi", "connection: close\r\n").as_bytes()).unwrap();
                    let answer = read_all(&mut tcp);
                    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("one"), "{answer:?}");
                    count += 1;
                }
                count
            })
        })
        .collect();
    let new = tokio::task::block_in_place(|| start(&config, vec![generated(&["one"])], Sleepy::default()));
    assert_eq!((new.running.listen, new.running.admin), (listen, admin));
    old.exchange.leaving.reached(Stage::Closing).await;
    let told = tokio::task::block_in_place(|| new.admin("GET /healthz/ready"));
    assert!(told.contains("200 OK"), "operators are answered by the newer one: {told}");
    for stream in running {
        let (status, text) = stream.await.unwrap().expect("no stream is broken");
        assert_eq!((status.as_u16(), text.as_str()), (200, "onetwo"));
    }
    let ended = old.thread.take().unwrap();
    tokio::task::block_in_place(|| ended.join().unwrap());
    over.store(true, SeqCst);
    let count: usize = load.into_iter().map(|one| one.join().expect("no caller noticed")).sum();
    assert!(count > 0);
    wait_for(|| new.exchange.journal.metrics.in_flight.get() == 0);
}

#[test]
fn do_two_thousand_held_callers_who_are_killed_leave_nothing() {
    let config = settling("queue: {requests_max: 5000}\n");
    let sidecar = start(&config, vec![generated(&["x"])], Sleepy { never: true, ..Sleepy::default() });
    let callers: Vec<TcpStream> = (0..2000)
        .map(|_| {
            let mut tcp = sidecar.connect();
            tcp.write_all(post("hi", "").as_bytes()).unwrap();
            tcp
        })
        .collect();
    wait_for(|| sidecar.exchange.admission.snapshot().waiting == 2000);
    drop(callers);
    wait_for(|| {
        let left = sidecar.exchange.admission.snapshot();
        (left.waiting, left.waiting_bytes, left.running) == (0, 0, 0)
    });
    wait_for(|| sidecar.exchange.journal.metrics.in_flight.get() == 0);
}
