//! Those who wait: crowds that leave, clocks that run out, turns that are shared.

use super::*;
use crate::admission::Snapshot;

const CROWD: usize = 1000;

fn snapshot(sidecar: &Sidecar) -> Snapshot {
    sidecar.exchange.admission.snapshot()
}

fn never(yaml: &str) -> Sidecar {
    start(yaml, vec![generated(&["x"])], Sleepy { never: true, ..Sleepy::default() })
}

#[track_caller]
fn must_be_empty(sidecar: &Sidecar) {
    wait_for(|| snapshot(sidecar).waiting == 0);
    let after = snapshot(sidecar);
    assert_eq!((after.running, after.waiting_bytes, after.flows, after.cost), (0, 0, 0, 0));
    assert_eq!(after.dropped.of(crate::admission::Outcome::EvictedContextCancelled), CROWD as u64);
    wait_for(|| sidecar.exchange.journal.metrics.in_flight.get() == 0);
}

#[test]
fn does_a_crowd_that_is_killed_leave_nothing_behind_on_http1() {
    let sidecar = never(PLAIN);
    let crowd: Vec<TcpStream> = (0..CROWD)
        .map(|_| {
            let mut tcp = sidecar.connect();
            tcp.write_all(post("hello", "").as_bytes()).unwrap();
            tcp
        })
        .collect();
    wait_for(|| snapshot(&sidecar).waiting == CROWD);
    assert_eq!(snapshot(&sidecar).waiting_bytes, CROWD * 5);
    assert!(sidecar.post("hi").starts_with("HTTP/1.1 429"), "one more than may wait, of the same caller");
    drop(crowd);
    must_be_empty(&sidecar);
}

#[tokio::test]
async fn does_a_crowd_that_is_killed_leave_nothing_behind_on_http2() {
    let sidecar = never(PLAIN);
    let mut crowd = Vec::new();
    for _ in 0..10 {
        let tcp = tokio::net::TcpStream::connect(sidecar.running.listen).await.unwrap();
        let (mut client, connection) = h2::client::handshake(tcp).await.unwrap();
        crowd.push(tokio::spawn(async move { drop(connection.await) }));
        for _ in 0..CROWD / 10 {
            client = client.ready().await.unwrap();
            let request = http::Request::post("http://x/toy").body(()).unwrap();
            let (answer, mut body) = client.send_request(request, false).unwrap();
            body.send_data(bytes::Bytes::from_static(b"hello"), true).unwrap();
            crowd.push(tokio::spawn(async move { drop(answer.await) }));
        }
    }
    for _ in 0..1000 {
        if snapshot(&sidecar).waiting == CROWD {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!((snapshot(&sidecar).waiting, snapshot(&sidecar).waiting_bytes), (CROWD, CROWD * 5));
    crowd.iter().for_each(tokio::task::JoinHandle::abort);
    for gone in crowd {
        let _ = gone.await;
    }
    must_be_empty(&sidecar);
}

#[test]
fn which_clock_ends_a_request_and_how() {
    let yaml = PLAIN.to_owned() + "timeouts: {first_byte: 150ms, idle: 150ms}\n";
    let sidecar = start(&yaml, vec![vec![Line::Hang]], Sleepy::default());
    let answer = sidecar.post("hi");
    assert!(answer.starts_with("HTTP/1.1 504") && answer.contains("refused-by: worker"), "{answer}");
    assert_eq!(sidecar.labelled("first_byte_timeout")["status"], 504);
    wait_for(|| snapshot(&sidecar).running == 0);

    let mut script = generated(&["one"]);
    script.truncate(2);
    script.push(Line::Hang);
    let sidecar = start(&yaml, vec![script], Sleepy::default());
    let answer = sidecar.post("hi");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("one") && answer.contains("broken: idle_timeout"));

    let yaml = PLAIN.to_owned() + "timeouts: {total: 200ms, first_byte: 100ms}\n";
    let sidecar = never(&yaml);
    let answer = sidecar.post("hi");
    assert!(answer.starts_with("HTTP/1.1 504") && answer.contains("refused-by: queue"), "{answer}");
    assert_eq!(sidecar.labelled("total_timeout")["tries"], 0, "its first byte was nobody's to send yet");
    wait_for(|| snapshot(&sidecar).waiting == 0);
}

#[test]
fn who_is_told_to_come_again_and_by_whom() {
    let yaml = PLAIN.to_owned() + "queue: {wait_max: 100ms}\n";
    let sidecar = never(&yaml);
    let answer = sidecar.post("hi");
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("refused-by: cold"), "{answer}");
    assert!(answer.contains("retry-after: 1"), "{answer}");

    let sidecar = start(&yaml, vec![vec![Line::Hang]], Sleepy::default());
    let hold = || {
        let mut tcp = sidecar.connect();
        tcp.write_all(post("hi", "").as_bytes()).unwrap();
        tcp
    };
    let _running = [hold(), hold()];
    wait_for(|| snapshot(&sidecar).running == 2);
    let answer = sidecar.post("hi");
    assert!(answer.starts_with("HTTP/1.1 504") && answer.contains("refused-by: queue"), "{answer}");
    assert!(answer.contains("retry-after: "), "{answer}");
    assert!(sidecar.admin("GET /metrics").contains("outrider_queue_dropped_total{outcome=\"EvictedTTL\"} 1"));
    sidecar.exchange.admission.drain();
    assert!(sidecar.post("hi").contains("refused-by: proxy"));
}

#[test]
fn whose_word_of_its_priority_is_taken() {
    for (trusted, depths) in [("[\"*\"]", [1, 0]), ("[https://issuer.test/ada]", [0, 1])] {
        let fairness = format!("{{priorities: {{chat: 10}}, trusted: {trusted}}}");
        let sidecar = never(&(PLAIN.to_owned() + &format!("queue: {{fairness: {fairness}}}\n")));
        let mut tcp = sidecar.connect();
        tcp.write_all(post("hi", "x-gateway-inference-objective: chat\r\n").as_bytes()).unwrap();
        wait_for(|| snapshot(&sidecar).waiting == 1);
        assert_eq!(snapshot(&sidecar).depths[..2], depths, "{trusted}");
    }
}

#[test]
fn which_clock_ends_what_a_foreign_server_answers() {
    let clocks = "timeouts: {first_byte: 150ms, idle: 150ms}";
    let silent = forward::foreign(Some(""));
    let sidecar = forward::behind(&format!("{{to: '{}'}}", silent.address), clocks);
    let answer = sidecar.post("hi");
    assert!(answer.starts_with("HTTP/1.1 504") && answer.contains("refused-by: worker"), "{answer}");
    sidecar.labelled("first_byte_timeout");

    let slow = forward::foreign(Some("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n"));
    let sidecar = forward::behind(&format!("{{to: '{}'}}", slow.address), clocks);
    let answer = sidecar.post("hi");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("hi"), "{answer}");
    assert!(!answer.contains("0\r\n\r\n"), "never as if it were complete: {answer}");
    sidecar.labelled("idle_timeout");
    wait_for(|| snapshot(&sidecar).running == 0);
}

#[test]
fn does_a_server_behind_hear_only_whom_we_trust_of_turns() {
    for (trusted, heard) in [("", false), ("queue: {fairness: {trusted: ['*']}}", true)] {
        let foreign = forward::foreign(Some(forward::OK));
        let sidecar = forward::behind(&format!("{{to: '{}'}}", foreign.address), trusted);
        let says = "x-gateway-inference-fairness-id: ada\r\nx-llm-d-inference-objective: chat\r\nconnection: close\r\n";
        assert!(sidecar.call(&post("hi", says)).starts_with("HTTP/1.1 200"));
        let sent = foreign.heard();
        assert_eq!(sent.contains("inference-fairness-id: ada"), heard, "{sent}");
        assert_eq!(sent.contains("inference-objective: chat"), heard, "{sent}");
    }
}
