//! Callers who wait for a sleeper, and operators who wake it.

use super::*;
use crate::dialects::DIALECTS;

fn cold(keep_alive: &str) -> String {
    let worker = "worker: {socket: w.sock, command: [none], models: [m], concurrency: 2}";
    let plain = PLAIN.replace("worker: {socket: w.sock, command: [none], models: [toy], concurrency: 2}", worker);
    assert!(plain.contains(worker));
    format!("{plain}cold: {{keep_alive: {{{keep_alive}}}}}\n")
}

fn completion(stream: bool, headers: &str) -> String {
    let body = format!(r#"{{"model": "m", "prompt": "Once", "stream": {stream}}}"#);
    let length = body.len();
    format!(
        "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{headers}connection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

fn ask(sidecar: &Sidecar, stream: bool) -> TcpStream {
    let mut tcp = sidecar.connect();
    tcp.write_all(completion(stream, "").as_bytes()).unwrap();
    tcp
}

const OFTEN: &str = "after: 50ms, every: 50ms";

fn slow(millis: u64) -> Sleepy {
    Sleepy { takes: Duration::from_millis(millis), ..Sleepy::default() }
}

#[test]
fn is_whoever_was_promised_a_stream_kept_alive_and_then_answered() {
    let sidecar = start_speaking(DIALECTS, &cold(OFTEN), vec![generated(&["Hello"])], slow(400));
    let text = read_all(&mut ask(&sidecar, true));
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    assert!(text.matches(": waking, starting\n\n").count() >= 2, "{text}");
    assert_eq!(text.matches("HTTP/1.1").count(), 1, "{text}");
    let (signs, answer) = text.split_at(text.find("data: ").unwrap());
    assert!(signs.contains(": waking") && !answer.contains(": waking"), "{text}");
    assert!(answer.contains("Hello") && answer.contains("data: [DONE]"), "{text}");
    assert_eq!(sidecar.labelled("ok")["status"], 200);
}

#[test]
fn does_whoever_wants_a_whole_answer_wait_in_silence() {
    let sidecar = start_speaking(DIALECTS, &cold(OFTEN), vec![generated(&["Hello"])], slow(300));
    let text = read_all(&mut ask(&sidecar, false));
    assert!(text.starts_with("HTTP/1.1 200") && !text.contains("waking"), "{text}");
    let silent = start_speaking(DIALECTS, &cold("after: never"), vec![generated(&["Hello"])], slow(300));
    assert!(!read_all(&mut ask(&silent, true)).contains("waking"));
}

#[test]
fn is_a_failed_start_a_status_before_the_stream_and_an_event_within_it() {
    let fails = |millis| Sleepy { fails: true, ..slow(millis) };
    let late = start_speaking(DIALECTS, &cold(OFTEN), vec![], fails(300));
    let text = read_all(&mut ask(&late, true));
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    assert!(text.contains("\"error\"") && text.contains("no such model file"), "{text}");
    assert!(!text.contains("[DONE]"), "no clean end: {text}");
    assert_eq!(late.labelled("wake_failed")["status"], 503, "the log says what it came to");
    let early = start_speaking(DIALECTS, &cold("after: 10s"), vec![], fails(0));
    let text = read_all(&mut ask(&early, true));
    assert!(text.starts_with("HTTP/1.1 503") && text.to_lowercase().contains("retry-after"), "{text}");
}

#[test]
fn are_events_of_progress_for_clients_that_know_them() {
    let keep_alive = format!("{OFTEN}, events: true");
    let sidecar = start_speaking(DIALECTS, &cold(&keep_alive), vec![generated(&["Hello"])], slow(300));
    let text = read_all(&mut ask(&sidecar, true));
    let event = text.split("event: outrider.progress\ndata: ").nth(1).unwrap_or_else(|| panic!("{text}"));
    let told: serde_json::Value = serde_json::from_str(event.split('\n').next().unwrap()).unwrap();
    assert_eq!(told["stage"], "starting");
    assert!(told["elapsed_seconds"].is_number() && told["remaining_seconds"].is_null(), "{told}");
}

#[test]
fn does_a_kept_caller_that_leaves_free_its_place() {
    let sidecar = start_speaking(DIALECTS, &cold(OFTEN), vec![], Sleepy { never: true, ..Sleepy::default() });
    let mut tcp = ask(&sidecar, true);
    read_until(&mut tcp, ": waking");
    assert_eq!(sidecar.exchange.admission.snapshot().waiting, 1);
    drop(tcp);
    wait_for(|| sidecar.exchange.admission.snapshot().waiting == 0);
}

#[test]
fn is_an_answer_that_is_fetched_later_refused_clearly() {
    let sidecar = start_speaking(DIALECTS, &cold(""), vec![], Sleepy { never: true, ..Sleepy::default() });
    let text = sidecar.call(&completion(true, "prefer: respond-async, wait=10\r\n"));
    assert!(text.starts_with("HTTP/1.1 400") && text.contains("respond-async"), "{text}");
    assert_eq!(sidecar.exchange.admission.snapshot().waiting, 0);
}

#[test]
fn is_the_worker_woken_and_sent_to_sleep_by_an_operator() {
    let sidecar = start_speaking(DIALECTS, &cold(""), vec![generated(&["Hello"])], slow(20));
    let state = || sidecar.exchange.admission.snapshot().worker;
    assert!(sidecar.admin("GET /wake").starts_with("HTTP/1.1 405"));
    assert!(sidecar.admin("POST /wake").starts_with("HTTP/1.1 202"));
    wait_for(|| state() == "awake");
    assert!(sidecar.admin("POST /sleep").starts_with("HTTP/1.1 202"));
    wait_for(|| state() == "asleep");
    assert!(read_all(&mut ask(&sidecar, true)).contains("Hello"));
    assert_eq!(sidecar.exchange.admission.snapshot().starts, 2);
    let failing = start_speaking(DIALECTS, &cold(""), vec![], Sleepy { fails: true, ..Sleepy::default() });
    assert!(failing.admin("POST /wake").starts_with("HTTP/1.1 202"));
    wait_for(|| failing.exchange.admission.snapshot().worker == "backoff");
    let refused = failing.admin("POST /wake");
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("no such model file"), "{refused}");
}
