//! Limits as callers of the whole sidecar meet them: before our own worker, and before a foreign server.

use super::forward::{OK, behind, foreign};
use super::*;
use crate::dialects::DIALECTS;
use bytes::Bytes;
use std::net::TcpListener;

const CLOSE: &str = "connection: close\r\n";

fn limited(limits: &str, scripts: Vec<Vec<Line>>) -> Sidecar {
    start(&format!("{PLAIN}\nrate_limits: {limits}\n"), scripts, Sleepy::default())
}

/// One that speaks OpenAI's API before a scripted worker.
fn openai(limits: &str, scripts: Vec<Vec<Line>>) -> Sidecar {
    start_speaking(DIALECTS, &format!("{PLAIN}\nrate_limits: {limits}\n"), scripts, Sleepy::default())
}

fn chat(more: &str) -> String {
    let body = format!(r#"{{"model":"toy","messages":[{{"role":"user","content":"hi"}}]{more}}}"#);
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close";
    format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn status(answer: &str) -> &str {
    answer.get(9..12).unwrap_or("")
}

#[test]
fn what_does_a_caller_over_its_limit_hear() {
    let limits = "{limits: [{name: calls, limit: 2, window: 1h, key: {header: x-user}}]}";
    let sidecar = limited(limits, vec![generated(&["x"])]);
    let ann = format!("{CLOSE}x-user: ann\r\n");
    for _ in 0..2 {
        let answer = sidecar.call(&post("hi", &ann));
        assert!(answer.starts_with("HTTP/1.1 200") && !answer.contains("x-ratelimit"), "{answer}");
    }
    let answer = sidecar.call(&post("hi", &ann));
    assert!(answer.starts_with("HTTP/1.1 429"), "{answer}");
    for line in [
        "x-outrider-refused-by: rate_limit",
        "retry-after: 1800",
        "x-ratelimit-limit: 2, 2;w=3600;name=\"calls\"",
        "x-ratelimit-remaining: 0",
        "x-ratelimit-reset: 3600",
        "x-ratelimit-remaining-requests: 0",
    ] {
        assert!(answer.contains(line), "{line} is not in {answer}");
    }
    assert!(sidecar.post("hi").starts_with("HTTP/1.1 200"), "another's budget is another");
    let open = sidecar.call(&format!("GET /toy/health HTTP/1.1\r\nhost: x\r\n{ann}\r\n"));
    assert!(open.contains("ready: true"), "health is never limited: {open}");
    sidecar.labelled("rate_limited");
    assert_eq!(sidecar.fake.asked().len(), 3);
    let metrics = sidecar.admin("GET /metrics");
    for line in [
        "outrider_rate_limit_decisions_total{limit=\"calls\",outcome=\"allowed\"} 3",
        "outrider_rate_limit_decisions_total{limit=\"calls\",outcome=\"limited\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
    assert!(sidecar.admin("GET /config_dump").contains("\"calls\""));
}

#[test]
fn is_a_body_of_one_over_its_limit_ever_read() {
    let sidecar = limited("{limits: [{name: none, limit: 0, window: 1m, key: global}]}", vec![generated(&["x"])]);
    let answer = sidecar.call("POST /toy HTTP/1.1\r\nhost: x\r\ncontent-length: 500\r\n\r\nonly the beginning");
    assert!(answer.starts_with("HTTP/1.1 429") && answer.contains("retry-after: 60"), "{answer}");
}

#[test]
fn what_does_an_openai_client_hear() {
    let limits = "{headers: true, limits: [{name: calls, limit: 9, window: 1h, key: identity, when: {model: toy}}, \
                  {name: words, unit: total_tokens, limit: 20, window: 1h, key: identity}]}";
    let sidecar = openai(limits, vec![generated(&["a"; 20])]);
    let answer = sidecar.call(&chat(""));
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // Its prompt is estimated until it is counted, and an answer that comes whole is counted before its head is sent.
    for line in
        ["x-ratelimit-limit-requests: 9", "x-ratelimit-remaining-requests: 8", "x-ratelimit-remaining-tokens: 0"]
    {
        assert!(answer.contains(line), "{line} is not in {answer}");
    }
    let refused = sidecar.call(&chat(""));
    assert_eq!(status(&refused), "429", "{refused}");
    assert!(refused.contains(r#""type":"tokens""#) && refused.contains(r#""code":"rate_limit_exceeded""#), "{refused}");
    assert!(refused.contains("x-ratelimit-limit-tokens: 20") && refused.contains("retry-after: 1"), "{refused}");
    let models = "GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    assert_eq!(status(&sidecar.call(models)), "200", "what needs no tokens goes on");
    let metrics = sidecar.admin("GET /metrics");
    assert!(metrics.contains("rate_limit_tokens_total{limit=\"words\",unit=\"total_tokens\"} 25"), "{metrics}");
    let calls = openai("{limits: [{name: calls, limit: 0, window: 1m, key: identity}]}", vec![]);
    assert!(calls.call(&chat("")).contains(r#""type":"requests""#));
}

#[test]
fn how_does_a_stream_without_budget_end() {
    let words = |cut| {
        format!("{{limits: [{{name: w, unit: completion_tokens, limit: 3, window: 1h, key: identity, cut: {cut}}}]}}")
    };
    let stream = chat(r#","stream":true"#);
    let answer = openai(&words(true), vec![generated(&["one", "two", "three", "four"])]).call(&stream);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("three") && !answer.contains("four"), "{answer}");
    assert!(answer.contains("rate_limit_exceeded") && !answer.contains("[DONE]"), "{answer}");
    let answer = openai(&words(false), vec![generated(&["one", "two", "three", "four"])]).call(&stream);
    assert!(answer.contains("four") && answer.contains("[DONE]"), "{answer}");
    let whole = openai(&words(true), vec![generated(&["one", "two", "three", "four"])]).call(&chat(""));
    assert!(whole.contains("onetwothreefour"), "an answer that comes whole is not cut: {whole}");
}

/// A sidecar that speaks OpenAI's API before a foreign server.
fn before(address: SocketAddr, limits: &str) -> Sidecar {
    let yaml = PLAIN.replace("worker: {socket: w.sock, command: [none], models: [toy], concurrency: 2}", "");
    let config = format!("{yaml}\nforward: {{to: '{address}'}}\nrate_limits: {limits}\n");
    start_speaking(DIALECTS, &config, vec![], Sleepy::default())
}

const WORDS: &str = "{limits: [{name: w, unit: total_tokens, limit: 40, window: 1h, key: identity, cut: true}]}";

#[test]
fn are_the_tokens_of_a_foreign_answer_counted() {
    let whole = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 75\r\n\r\n\
                 {\"choices\":[],\"usage\":{\"prompt_tokens\":30,\"completion_tokens\":7,\"total\":1}}";
    let foreign = foreign(Some(whole));
    let sidecar = before(foreign.address, WORDS);
    let asked = chat("").replace("host: x\r\n", "host: x\r\naccept-encoding: gzip\r\n");
    assert_eq!(status(&sidecar.call(&asked)), "200");
    assert!(!foreign.heard().to_ascii_lowercase().contains("accept-encoding"), "what is compressed cannot be read");
    let line = sidecar.labelled("ok");
    assert_eq!((line["prompt_tokens"].as_u64(), line["completion_tokens"].as_u64()), (Some(30), Some(7)), "{line}");
    assert_eq!(status(&sidecar.call(&chat(""))), "200", "three are left");
    let refused = sidecar.call(&chat(""));
    assert!(refused.starts_with("HTTP/1.1 429") && refused.contains(r#""type":"tokens""#), "{refused}");
    assert!(sidecar.admin("GET /metrics").contains("rate_limit_guessed_total 0"));
}

#[test]
fn does_a_foreign_failure_cost_anything() {
    for failing in [
        "HTTP/1.1 500 No\r\ncontent-type: application/json\r\ncontent-length: 26\r\n\r\n{\"usage\":{\"total_tokens\":9}",
        "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 26\r\n\r\n{\"usage\":{\"total_tokens\":9}",
        OK,
    ] {
        let failing = foreign(Some(failing));
        let sidecar = before(failing.address, WORDS);
        for _ in 0..20 {
            assert_ne!(status(&sidecar.call(&chat(""))), "429");
        }
    }
}

#[test]
fn is_a_foreign_stream_cut_between_its_events() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let sidecar = before(listener.local_addr().unwrap(), &WORDS.replace("limit: 40", "limit: 30"));
    let server = std::thread::spawn(move || {
        // The first connection only asks whether anybody is there, if it comes at all.
        for tcp in listener.incoming() {
            let mut tcp = tcp.unwrap();
            let mut seen = [0; 4096];
            if tcp.read(&mut seen).unwrap() == 0 {
                continue;
            }
            tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
                .unwrap();
            let event = "data: {\"choices\":[{\"delta\":{\"content\":\"word\"}}]}\n\n";
            let chunk = format!("{:x}\r\n{event}\r\n", event.len());
            let mut sent = 0;
            while sent < 1000 && tcp.write_all(chunk.as_bytes()).is_ok() {
                sent += 1;
                std::thread::sleep(Duration::from_millis(20));
            }
            return sent;
        }
        unreachable!("a listener never ends")
    });
    let answer = sidecar.call(&chat(r#","stream":true"#));
    // Some 18 of the prompt by its bytes, for nobody counted it, and the rest by pieces.
    let words = answer.matches("\"word\"").count();
    assert!((5..30).contains(&words), "{words}: {answer}");
    let (_, end) = answer.rsplit_once("\"word\"}}]}\n\n").unwrap();
    assert!(end.starts_with("data: {\"error\":") && end.contains("rate_limit_exceeded"), "{answer}");
    assert!(answer.ends_with("0\r\n\r\n"), "the stream has an end: {answer}");
    assert!(server.join().unwrap() < 1000, "the server behind was let go");
    let line = sidecar.labelled("rate_limited");
    assert_eq!(line["completion_tokens"].as_u64(), Some(words as u64), "{line}");
    wait_for(|| sidecar.admin("GET /metrics").contains("rate_limit_guessed_total 1"));
    assert_eq!(status(&sidecar.call(&chat(""))), "429");
}

#[test]
fn does_a_caller_hear_why_even_if_all_came_at_once() {
    let event = "data: {\"choices\":[{\"delta\":{\"content\":\"word\"}}]}\n\n";
    let chunks = format!("{:x}\r\n{event}\r\n", event.len()).repeat(60);
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    let foreign = foreign(Some(Box::leak(format!("{head}{chunks}0\r\n\r\n").into_boxed_str())));
    let sidecar = before(foreign.address, WORDS);
    let answer = sidecar.call(&chat(r#","stream":true"#));
    assert!(answer.contains("\"word\"") && answer.contains("rate_limit_exceeded"), "{answer}");
    assert!(answer.ends_with("0\r\n\r\n"), "{answer}");
}

#[test]
fn what_if_whoever_counts_cannot_be_asked() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let service = |fail| {
        format!(
            "rate_limits: {{service: {{protocol: envoy, address: '{closed}', domain: d, timeout: 5s, fail: {fail}, \
             descriptors: [{{entries: [{{key: user, from: identity}}]}}]}}}}"
        )
    };
    let foreign = foreign(Some(OK));
    let to = format!("{{to: '{}'}}", foreign.address);
    let get = "GET /a HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let sidecar = behind(&to, &service("closed"));
    let answer = sidecar.call(get);
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("refused-by: rate_limit"), "{answer}");
    assert_eq!(sidecar.labelled("limiter_silent")["status"], 503);
    let sidecar = behind(&to, &service("open"));
    assert!(sidecar.call(get).starts_with("HTTP/1.1 200"));
    assert!(sidecar.admin("GET /metrics").contains("{limit=\"(service)\",outcome=\"failed_open\"} 1"));
}

/// A message of `inference.ModelInferRequest` that names the model and nothing else.
fn infer() -> Bytes {
    Bytes::from_static(b"\0\0\0\0\x05\x0a\x03toy")
}

#[tokio::test]
async fn what_does_a_grpc_caller_over_its_limit_hear() {
    for limits in [
        "{limits: [{name: calls, limit: 0, window: 1m, key: global}]}",
        "{limits: [{name: calls, limit: 1, window: 1h, key: identity}]}",
    ] {
        let sidecar = openai(limits, vec![generated(&["x"])]);
        let mut client = h2c::client(&sidecar).await;
        // Head and trailers; what came between is nobody's concern here.
        let mut call = async |path: &str| {
            client = client.clone().ready().await.unwrap();
            let (answer, mut body) = client.send_request(h2c::request(path, "application/grpc"), false).unwrap();
            // Who is refused by its head alone may have closed this side before.
            let _ = body.send_data(infer(), true);
            let (head, mut body) = answer.await.unwrap().into_parts();
            let mut bytes = 0;
            while let Some(Ok(piece)) = body.data().await {
                let _ = body.flow_control().release_capacity(piece.len());
                bytes += piece.len();
            }
            let trailers = body.trailers().await.unwrap().unwrap_or_default();
            (head, trailers, bytes)
        };
        let said = |map: &http::HeaderMap, name: &str| -> String {
            map.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
        };
        let mut refused = call("/inference.GRPCInferenceService/ModelInfer").await;
        if limits.contains("limit: 1") {
            assert_ne!(said(&refused.1, "grpc-status"), "8");
            refused = call("/inference.GRPCInferenceService/ModelInfer").await;
        }
        let (head, trailers, bytes) = refused;
        assert_eq!((head.status.as_u16(), bytes), (200, 0), "no message: {head:?}");
        assert_eq!(said(&trailers, "grpc-status"), "8", "RESOURCE_EXHAUSTED: {trailers:?}");
        assert!(said(&trailers, "grpc-message").contains("limit"), "{trailers:?}");
        for (name, value) in [("content-type", "application/grpc"), ("x-ratelimit-remaining", "0")] {
            assert_eq!(said(&head.headers, name), value);
        }
        assert!(!said(&head.headers, "retry-after").is_empty(), "{head:?}");
        let live = call("/inference.GRPCInferenceService/ServerLive").await;
        assert_eq!(said(&live.1, "grpc-status"), "0", "health is never limited: {live:?}");
        tokio::task::spawn_blocking(move || sidecar.labelled("rate_limited")).await.unwrap();
    }
}
