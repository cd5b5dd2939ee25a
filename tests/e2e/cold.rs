//! Callers who come while nothing is there: kept alive in a way their own package understands; and the ways a worker sleeps.

use crate::alone;
use outrider_tests::client as caller;
use outrider_tests::places::{binary, smollm2};
use outrider_tests::proxy::{Proxy, Sidecar};
use outrider_tests::python;
use outrider_tests::up::{children_of, rss_bytes, send, wait_until};
use serde_json::json;
use std::process::{Child, Command, Stdio};

const NO_TLS: &str = "tls: {mode: disable}\nauth: {methods: [{anonymous: {}}]}\n\
                      cold: {keep_alive: {after: 300ms, every: 300ms}}\n";

fn worker_yaml() -> String {
    json!({"socket": "worker.sock", "device": "cpu", "models": [{"name": "smollm2", "path": smollm2()}]}).to_string()
}

/// A sidecar whose worker takes its time: a shell that says and does this before it becomes the worker.
fn slow(before: &str) -> Proxy {
    let folder = tempfile::tempdir().unwrap().keep();
    let script = format!(
        "{before}; exec {} --config {} --die-with-parent",
        binary("outrider-worker").display(),
        folder.join("worker.yaml").display()
    );
    std::fs::write(folder.join("worker.yaml"), worker_yaml()).unwrap();
    let worker = json!({"socket": "worker.sock", "models": ["smollm2"], "command": ["sh", "-c", script]});
    Proxy::start_in(&folder, &format!("{NO_TLS}worker: {worker}\n"))
}

fn package(proxy: &Proxy, case: &str) {
    let environment = [("OUTRIDER_URL".into(), format!("http://{}", proxy.address())), ("CASE".into(), case.into())];
    python::run("cold_client.py", environment);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn does_the_openai_package_wait_through_a_cold_start_of_a_stream() {
    let _alone = alone().await;
    package(&slow("echo progress weights 0.4; sleep 3"), "answered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn does_the_openai_package_tell_of_a_start_that_fails_within_its_stream() {
    let _alone = alone().await;
    package(&slow("sleep 2; echo failed no such model; exit 1"), "failed");
}

/// A parent that stands by, ended with the test.
struct Parent(Child);

impl Drop for Parent {
    fn drop(&mut self) {
        for signal in [libc::SIGTERM, libc::SIGINT] {
            send(self.0.id(), signal);
        }
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn does_a_standby_parent_stay_small_while_its_engine_comes_and_goes() {
    let _alone = alone().await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("worker.yaml"), worker_yaml()).unwrap();
    let parent = Command::new(binary("outrider-worker"))
        .args(["--config", "worker.yaml", "--standby", "control.sock"])
        .current_dir(folder.path())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let parent = Parent(parent);
    let worker = "worker: {socket: worker.sock, models: [smollm2], target: {standby: {control: control.sock}}}\n";
    let proxy = Proxy::start_in(folder.path(), &format!("{NO_TLS}{worker}"));
    assert!(children_of(parent.0.id()).is_empty(), "nobody asked anything yet");
    for _ in 0..2 {
        package(&proxy, "answered");
        let engine = children_of(parent.0.id())[0];
        assert!(rss_bytes(engine) > 50 << 20, "the model is in memory");
        assert_eq!(caller::admin(&proxy, "POST", "/sleep").await.0, 202);
        wait_until("the engine's end", || (rss_bytes(engine) == 0).then_some(()));
        let own = rss_bytes(parent.0.id());
        assert!(own < 24 << 20, "the parent holds {own} bytes");
    }
    package(&proxy, "answered");
    let engine = children_of(parent.0.id())[0];
    send(engine, libc::SIGKILL);
    wait_until("the engine's end", || children_of(parent.0.id()).is_empty().then_some(()));
    package(&proxy, "answered");
}
