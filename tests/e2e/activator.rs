//! An activator in front of pods that are not there: what it holds arrives, once, and it holds again when they have gone.
//! The test is the kubelet: it starts real sidecars when it is asked for pods, and writes their EndpointSlices.

use outrider_tests::client::{metric, wait_for_metric};
use outrider_tests::proxy::{Proxy, Sidecar};
use outrider_tests::up::wait_until;
use outrider_tests::upstream::Echo;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const CALLERS: usize = 200;

fn activator(folder: &Path) -> Proxy {
    let config = "tls: {mode: disable}\nauth: {methods: [{anonymous: {}}]}\nactivator:\n  services:\n    - name: echo\n      \
                  hosts: [echo.test]\n      endpoint_slices: {files: [pods]}\n      concurrency: 4\n      \
                  probe: {path: /healthz/ready}\n      scale: {command: [sh, -c, 'echo $1 >> asked', x]}\n";
    // The command runs where the process does.
    let config = config.replace("asked", &folder.join("asked").display().to_string());
    Proxy::start_in(folder, &config)
}

/// A pod: a sidecar that lets four requests through at once.
fn pod(echo: &Echo) -> Proxy {
    let config = format!(
        "tls: {{mode: disable}}\nauth: {{methods: [{{anonymous: {{}}}}]}}\nforward: {{to: '{}', concurrency: 4}}\n",
        echo.address
    );
    Proxy::start(&config, &[])
}

/// These are the pods, and the kubelet has seen them ready or has not.
fn list(folder: &Path, pods: &[Proxy], ready: bool) {
    let slice = |pod: &Proxy| {
        let port = pod.address().rsplit(':').next().expect("an address has a port");
        format!(
            "---\nkind: EndpointSlice\nports: [{{port: {port}}}]\n\
             endpoints: [{{addresses: [127.0.0.1], conditions: {{ready: {ready}}}}}]\n"
        )
    };
    std::fs::write(folder.join("new"), pods.iter().map(slice).collect::<String>()).expect("the folder takes a file");
    std::fs::rename(folder.join("new"), folder.join("pods")).expect("a file can be renamed");
}

async fn call(address: String, number: usize) -> String {
    let mut tcp = TcpStream::connect(address).await.expect("a connection");
    let body = format!("request {number}");
    let head = format!(
        "POST /whole HTTP/1.1\r\nhost: echo.test\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    tcp.write_all(format!("{head}{body}").as_bytes()).await.expect("a request can be written");
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).await.expect("an answer");
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn are_two_hundred_callers_answered_that_came_while_no_pod_was_there() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (echo, activator) = (Echo::start().await, activator(folder.path()));
    for round in 1..=2 {
        let callers: Vec<_> =
            (0..CALLERS).map(|number| tokio::spawn(call(activator.address().to_owned(), number))).collect();
        let waiting = ["service=\"echo\"", "state=\"waiting\""];
        let all = |count: f64| count == CALLERS as f64;
        wait_for_metric(&activator, "outrider_activator_requests", &waiting, all).await;
        let asked = || std::fs::read_to_string(folder.path().join("asked")).unwrap_or_default();
        wait_until("the scaler is asked", || (asked() == "1\n".repeat(round)).then_some(()));
        let pods = [pod(&echo), pod(&echo)];
        list(folder.path(), &pods, true);
        for (number, caller) in callers.into_iter().enumerate() {
            let answer = caller.await.expect("the caller lives");
            assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
            assert!(answer.ends_with(&format!("request {number}")), "{answer}");
        }
        let answered = metric(&activator, "outrider_requests_total", &["label=\"ok\""]).await;
        assert_eq!(answered, (CALLERS * round) as f64, "each was answered once");
        std::fs::remove_file(folder.path().join("pods")).expect("the list is there");
        let pods_ready = ["service=\"echo\"", "state=\"ready\""];
        wait_for_metric(&activator, "outrider_activator_pods", &pods_ready, |count| count == 0.0).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
