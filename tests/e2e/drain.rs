//! The end: what runs may finish, nothing new begins, and it is over soon.

use crate::{CHAT, alone, chat};
use outrider_tests::client::{Connection, Protocol, Security, read, request};
use outrider_tests::places::smollm2;
use outrider_tests::up::Up;

fn start() -> Up {
    Up::start(&["--model", &format!("smollm2={}", smollm2().display())])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn does_a_running_answer_finish_after_sigterm() {
    let _alone = alone().await;
    let mut up = start();
    let mut connection = Connection::open(&up, Protocol::H2, Security::Mtls).await.unwrap();
    let response = connection.send(request(&up, "POST", CHAT, chat("Say hello to everybody.", 8, true))).await.unwrap();
    up.signal(libc::SIGTERM);
    let answer = read(response).await;
    assert_eq!(answer.events().last().map(String::as_str), Some("[DONE]"), "{}", answer.text());
    let (code, said) = tokio::task::block_in_place(|| up.wait());
    assert_eq!((code, said), (Some(0), vec![]), "{}", up.log());
    assert!(Connection::open(&up, Protocol::Http1, Security::Plain).await.is_err(), "nobody listens any more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn does_ctrl_c_leave_no_process_and_no_socket_behind() {
    let _alone = alone().await;
    let mut up = start();
    outrider_tests::client::ask(&up, "POST", CHAT, chat("Hi", 1, false)).await;
    let worker = up.wait_for_workers("a worker", |pids| pids.len() == 1)[0];
    up.signal(libc::SIGINT);
    let (code, _) = tokio::task::block_in_place(|| up.wait());
    assert_eq!(code, Some(0), "{}", up.log());
    assert_eq!(outrider_tests::up::rss_bytes(worker), 0, "the worker is gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn is_a_stream_that_outlasts_the_drain_cut_with_an_error() {
    let _alone = alone().await;
    let mut up = start();
    for protocol in [Protocol::Http1, Protocol::H2] {
        let mut connection = Connection::open(&up, protocol, Security::Mtls).await.unwrap();
        let body = serde_json::json!({"model": "smollm2", "prompt": "Once upon a time", "max_tokens": 7000,
            "ignore_eos": true, "stream": true});
        let response = connection.send(request(&up, "POST", "/v1/completions", body.to_string())).await.unwrap();
        up.signal(libc::SIGINT);
        let answer = read(response).await;
        let last = answer.events().pop().expect("some events");
        assert!(last.contains("\"error\"") && last.contains("draining"), "{protocol:?}: the last event is {last}");
        let (code, _) = tokio::task::block_in_place(|| up.wait());
        assert_eq!(code, Some(0), "{}", up.log());
        up = start();
    }
}
