//! What README promises of the command line, and scripts rely on.

use crate::{CHAT, chat, shared};
use outrider_tests::client::{self, ask};
use outrider_tests::places::{binary, smollm2};
use outrider_tests::up::{Up, wait_until};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

fn outrider(arguments: &[&str]) -> Output {
    Command::new(binary("outrider")).args(arguments).output().expect("outrider can be run")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), output.stderr.as_slice()].concat()).into_owned()
}

#[test]
fn is_everything_in_client_env_usable() {
    let up = shared();
    assert!(up.url().starts_with("https://127.0.0.1:"));
    assert_eq!(up.env("OUTRIDER_MODEL"), "smollm2");
    for name in ["OUTRIDER_CA", "OUTRIDER_CERT", "OUTRIDER_KEY"] {
        assert!(std::fs::read_to_string(up.env(name)).expect(name).starts_with("-----BEGIN"), "{name}");
    }
    assert_eq!(up.token().split('.').count(), 3);
}

#[test]
fn is_the_state_nobody_elses_to_read() {
    let up = shared();
    let mut folders = vec![up.state_dir().to_path_buf()];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            let mode = entry.metadata().expect("metadata").permissions().mode() & 0o077;
            if entry.path().is_dir() {
                folders.push(entry.path());
            } else if !entry.file_name().to_string_lossy().starts_with("stderr") {
                files += 1;
                assert_eq!(mode, 0, "{} can be read by others", entry.path().display());
            }
        }
    }
    assert!(files >= 8, "{files} files");
}

#[tokio::test]
async fn are_health_metrics_and_the_status_page_there() {
    let up = shared();
    for (path, expected) in
        [("/healthz/live", ""), ("/healthz/ready", ""), ("/", "smollm2"), ("/config_dump", "listen")]
    {
        let (status, body) = client::admin(&up, "GET", path).await;
        assert_eq!(status, 200, "{path}: {body}");
        assert!(body.contains(expected), "{path}: {body}");
    }
    // A family shows once it has a sample.
    assert_eq!(ask(&up, "GET", "/v1/models", "").await.status, 200);
    // The record is written after the answer is out.
    client::wait_for_metric(&up, "outrider_requests_total", &["operation=\"models\""], |count| count > 0.0).await;
    let (status, body) = client::admin(&up, "GET", "/metrics").await;
    assert_eq!(status, 200);
    assert!(body.contains("# TYPE outrider_requests_total counter"), "{body}");
    assert_eq!(client::admin(&up, "GET", "/drain").await.0, 405, "draining is no GET");
}

#[tokio::test]
async fn does_each_request_leave_one_line_without_secrets() {
    let up = shared();
    let id = format!("line-{}", std::process::id());
    let body = chat("The secret word is xylophone-quartz. Say hello.", 2, false);
    let mut request = client::request(&up, "POST", CHAT, body);
    request.headers_mut().insert("x-request-id", id.parse().unwrap());
    let mut connection =
        client::Connection::open(&up, client::Protocol::H2, client::Security::Mtls).await.expect("a connection");
    let answer = connection.ask(request).await;
    assert_eq!(answer.headers["x-request-id"], id.as_str());
    let lines = || up.log().lines().filter(|line| line.contains(&id)).map(str::to_owned).collect::<Vec<_>>();
    let lines = wait_until("the access log line", || Some(lines()).filter(|lines| !lines.is_empty()));
    assert_eq!(lines.len(), 1, "{lines:?}");
    let line: serde_json::Value = serde_json::from_str(&lines[0]).expect("the line is JSON");
    let text = line.to_string();
    for expected in ["openai", "smollm2", "spiffe://", "200"] {
        assert!(text.contains(expected), "{expected} is not in {text}");
    }
    assert!(!up.log().contains("xylophone"), "the log has a prompt in it");
    assert!(!up.log().contains(up.token()), "the log has a credential in it");
}

#[test]
fn does_a_second_start_keep_the_trust_domain() {
    let model = format!("m={}", smollm2().display());
    let state = tempfile::tempdir().unwrap();
    let arguments = ["--model", &model];
    let first = Up::start_in(state.path(), &arguments);
    let ca = std::fs::read(first.env("OUTRIDER_CA")).unwrap();
    let second = Up::try_start_in(state.path(), &arguments).err().expect("one state dir, one outrider");
    assert!(second.contains("state"), "{second}");
    drop(first);
    let again = Up::start_in(state.path(), &arguments);
    assert_eq!(std::fs::read(again.env("OUTRIDER_CA")).unwrap(), ca);
}

#[test]
fn do_wrong_commands_say_what_to_do() {
    let model = smollm2();
    let state = tempfile::tempdir().unwrap();
    let state = state.path().to_str().unwrap();
    let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let busy = busy.local_addr().unwrap().to_string();
    let model = format!("m={}", model.display());
    for (arguments, expected) in [
        (vec!["--model", "m=/no/such/file.gguf"], "/no/such/file.gguf"),
        (vec![], "--model"),
        (vec!["--model", &model, "--listen", &busy, "--admin", "127.0.0.1:0"], &busy),
        (vec!["--model", &model, "--tls", "sometimes"], "permissive"),
        (vec!["--model", &model, "--idle-timeout", "soon"], "idle-timeout"),
    ] {
        let output = outrider(&[&["up", "--state-dir", state], &arguments[..]].concat());
        assert!(!output.status.success(), "{arguments:?} was taken");
        assert!(said(&output).contains(expected), "{arguments:?}: {}", said(&output));
        assert!(!said(&output).contains("panicked"), "{arguments:?}: {}", said(&output));
    }
}

#[test]
fn does_check_find_every_mistake_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("proxy.yaml");
    std::fs::write(&file, "listen: nowhere\nadmin: 127.0.0.1:15020\nqueue: {requests_max: -1}\nspeling: 1\n").unwrap();
    let output = outrider(&["check", "--config", file.to_str().unwrap()]);
    assert!(!output.status.success());
    assert!(said(&output).contains("proxy.yaml") || said(&output).contains("listen"), "{}", said(&output));
    let up = shared();
    let output = outrider(&["check", "--config", up.state_dir().join("proxy.yaml").to_str().unwrap()]);
    assert!(output.status.success(), "what `up` writes is valid: {}", said(&output));
}

#[tokio::test]
async fn do_further_credentials_and_identities_work() {
    let up = shared();
    let state = up.state_dir().to_str().unwrap();
    let output = outrider(&["token", "--state-dir", state, "--subject", "alice", "--ttl", "1h"]);
    assert!(output.status.success(), "{}", said(&output));
    let token = String::from_utf8(output.stdout).unwrap();
    let request =
        client::anonymous(&up, "GET", "/v1/models").header("authorization", format!("Bearer {}", token.trim()));
    let mut connection =
        client::Connection::open(&up, client::Protocol::Http1, client::Security::Tls).await.expect("a connection");
    assert_eq!(connection.ask(request.body(Default::default()).unwrap()).await.status, 200);

    let out = tempfile::tempdir().unwrap();
    let folder = out.path().to_str().unwrap();
    let output = outrider(&["certs", "--state-dir", state, "--name", "batch", "--out", folder]);
    assert!(output.status.success(), "{}", said(&output));
    let files = std::fs::read_dir(out.path()).unwrap().count();
    assert!(files >= 2, "a certificate and a key: {}", said(&output));
}

#[tokio::test]
async fn is_the_worker_reached_only_over_its_own_socket() {
    let up = shared();
    ask(&up, "POST", CHAT, chat("Hi", 1, false)).await;
    let socket = std::fs::read_dir(up.state_dir()).unwrap().flatten().find(|entry| {
        use std::os::unix::fs::FileTypeExt;
        entry.file_type().unwrap().is_socket()
    });
    let mode = socket.expect("a socket in the state dir").metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
}
