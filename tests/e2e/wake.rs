//! Sleeping and waking: nothing is lost, and nothing is kept.

use crate::{CHAT, alone, chat};
use outrider_tests::client::{self, Connection, Protocol, Security, ask, metric, request, wait_for_metric};
use outrider_tests::places::smollm2;
use outrider_tests::up::{Up, rss_bytes, send, wait_until};
use std::time::Duration;

fn model() -> String {
    format!("smollm2={}", smollm2().display())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn does_the_worker_sleep_when_idle_and_wake_for_the_next() {
    let _alone = alone().await;
    let up = Up::start(&["--model", &model(), "--idle-timeout", "1s"]);
    let answer = ask(&up, "POST", CHAT, chat("Say hi.", 2, false)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let pid = up.wait_for_workers("a worker", |pids| pids.len() == 1)[0];
    assert!(rss_bytes(pid) > 50 << 20, "the model is in memory");
    up.wait_for_workers("the worker's sleep", |pids| pids.is_empty());
    assert_eq!(rss_bytes(pid), 0, "its memory is gone");
    assert!(rss_bytes(up.pid()) < 64 << 20, "the sidecar holds {} bytes", rss_bytes(up.pid()));
    let again = ask(&up, "POST", CHAT, chat("Say hi.", 2, false)).await;
    assert_eq!(again.json()["choices"], answer.json()["choices"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn do_many_who_wait_share_one_start_and_all_get_an_answer() {
    let _alone = alone().await;
    let up = Up::start(&["--model", &model(), "--idle-timeout", "1s"]);
    up.wait_for_workers("the worker's sleep", |pids| pids.is_empty());
    let starts = metric(&up, "outrider_worker_starts_total", &[]).await;
    let mut connection = Connection::open(&up, Protocol::H2, Security::Mtls).await.unwrap();
    let mut callers = Vec::new();
    for i in 0..24 {
        let body = chat(&format!("Count to {i}."), 3, false);
        let response = connection.send(request(&up, "POST", CHAT, body));
        callers.push(response.await.map(client::read));
    }
    for answer in callers {
        let answer = answer.expect("an answer").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    assert_eq!(metric(&up, "outrider_worker_starts_total", &[]).await, starts + 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn does_a_killed_worker_break_streams_visibly_and_lose_nothing_else() {
    let _alone = alone().await;
    let up = Up::start(&["--model", &model()]);
    let mut streaming = Connection::open(&up, Protocol::H2, Security::Mtls).await.unwrap();
    let body = serde_json::json!({"model": "smollm2", "prompt": "Once upon a time", "max_tokens": 4000,
        "ignore_eos": true, "stream": true, "temperature": 0});
    let response = streaming.send(request(&up, "POST", "/v1/completions", body.to_string())).await.unwrap();
    assert_eq!(response.status(), 200);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let pid = up.wait_for_workers("a worker", |pids| pids.len() == 1)[0];
    send(pid, libc::SIGKILL);
    let waiting = ask(&up, "POST", CHAT, chat("Say hi.", 2, false));
    let (broken, answered) = tokio::join!(client::read(response), waiting);
    let events = broken.events();
    let last = events.last().expect("some events");
    assert!(last.contains("\"error\""), "the last event is {last}");
    assert!(!events.iter().any(|event| event == "[DONE]"), "no clean end");
    assert_eq!(answered.status, 200, "{}", answered.text());
    let next = up.wait_for_workers("a new worker", |pids| pids.len() == 1)[0];
    assert_ne!(next, pid);
    assert!(metric(&up, "outrider_worker_crashes_total", &[]).await >= 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn is_a_corrupt_model_told_to_everybody_who_waits_and_backed_off() {
    let _alone = alone().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.gguf");
    let whole = std::fs::read(smollm2()).unwrap();
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let up = Up::start(&["--model", &format!("smollm2={}", path.display())]);
    let answers = futures(8, || ask(&up, "POST", CHAT, chat("Hi", 1, false))).await;
    for answer in &answers {
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert!(answer.headers.contains_key("retry-after"));
        let words = answer.json()["error"]["message"].to_string();
        assert!(words.contains("cut.gguf") || words.contains("tensor"), "{words}");
    }
    assert!(metric(&up, "outrider_worker_start_failures_total", &[]).await >= 1.0);
    assert!(metric(&up, "outrider_worker_starts_total", &[]).await <= 3.0, "it backs off");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn does_a_caller_that_leaves_end_its_work() {
    let _alone = alone().await;
    let up = Up::start(&["--model", &model()]);
    ask(&up, "POST", CHAT, chat("Hi", 1, false)).await;
    for protocol in [Protocol::Http1, Protocol::H2] {
        let mut connection = Connection::open(&up, protocol, Security::Mtls).await.unwrap();
        let body = serde_json::json!({"model": "smollm2", "prompt": "Once", "max_tokens": 4000, "ignore_eos": true,
            "stream": true});
        let response = connection.send(request(&up, "POST", "/v1/completions", body.to_string())).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(metric(&up, "outrider_requests_in_flight", &[]).await, 1.0, "{protocol:?}");
        drop(response);
        drop(connection);
        wait_for_metric(&up, "outrider_requests_in_flight", &[], |count| count == 0.0).await;
    }
    wait_until("the access log lines", || (up.log().matches("caller_left").count() >= 2).then_some(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn does_a_full_queue_say_so_and_when_to_come_back() {
    let _alone = alone().await;
    let up = Up::start(&["--model", &model(), "--concurrency", "1", "--queue", "1"]);
    let body = serde_json::json!({"model": "smollm2", "prompt": "Once", "max_tokens": 6000, "ignore_eos": true,
        "stream": true});
    let mut running = Connection::open(&up, Protocol::H2, Security::Mtls).await.unwrap();
    let running_answer = running.send(request(&up, "POST", "/v1/completions", body.to_string())).await.unwrap();
    let mut waiting = Connection::open(&up, Protocol::H2, Security::Mtls).await.unwrap();
    let waiting_answer = waiting.send(request(&up, "POST", CHAT, chat("Hi", 1, false)));
    let refused = async {
        wait_for_metric(&up, "outrider_queue_waiting", &[], |count| count == 1.0).await;
        let refused = ask(&up, "POST", CHAT, chat("Hi", 1, false)).await;
        drop((running_answer, running));
        refused
    };
    let (waited, refused) = tokio::join!(waiting_answer, refused);
    assert_eq!(refused.status, 429, "{}", refused.text());
    assert_eq!(refused.headers["x-outrider-refused-by"], "queue");
    assert!(refused.headers["retry-after"].to_str().unwrap().parse::<u32>().unwrap() >= 1);
    assert_eq!(waited.expect("an answer").status(), 200, "who waited is answered when the other leaves");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn does_a_killed_sidecar_leave_nothing_that_hinders_the_next() {
    let _alone = alone().await;
    let state = tempfile::tempdir().unwrap();
    let arguments = ["--model", &model()];
    let mut up = Up::start_in(state.path(), &arguments);
    ask(&up, "POST", CHAT, chat("Hi", 1, false)).await;
    let worker = up.wait_for_workers("a worker", |pids| pids.len() == 1)[0];
    up.signal(libc::SIGKILL);
    up.wait();
    wait_until("the worker's end", || (rss_bytes(worker) == 0).then_some(()));
    let again = Up::start_in(state.path(), &arguments);
    assert_eq!(ask(&again, "POST", CHAT, chat("Hi", 1, false)).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn is_an_unknown_architecture_told_with_what_is_supported() {
    let _alone = alone().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("strange.gguf");
    let mut bytes = std::fs::read(smollm2()).unwrap();
    let key = b"general.architecture";
    let at = bytes.windows(key.len()).position(|window| window == key).expect("the key") + key.len();
    // Type (4 bytes) and length (8 bytes) of the value stand before it.
    assert_eq!(&bytes[at + 12..at + 17], b"llama");
    bytes[at + 12..at + 17].copy_from_slice(b"mamba");
    std::fs::write(&path, &bytes).unwrap();
    let up = Up::start(&["--model", &format!("smollm2={}", path.display())]);
    let answer = ask(&up, "POST", CHAT, chat("Hi", 1, false)).await;
    assert_eq!(answer.status, 503);
    let words = answer.text();
    assert!(["mamba", "llama", "bert"].iter().all(|word| words.contains(word)), "{words}");
}

/// Runs the same question this many times at once.
async fn futures<F: Future<Output = T>, T>(count: usize, ask: impl Fn() -> F) -> Vec<T> {
    let mut pending: Vec<_> = (0..count).map(|_| Box::pin(ask())).collect();
    let mut done = Vec::new();
    std::future::poll_fn(|context| {
        pending.retain_mut(|future| match future.as_mut().poll(context) {
            std::task::Poll::Ready(answer) => {
                done.push(answer);
                false
            }
            std::task::Poll::Pending => true,
        });
        if pending.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done
}
