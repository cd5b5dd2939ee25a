//! The whole sidecar over real sockets, with a toy dialect and a scripted worker.

mod outside;
mod toy;

use super::*;
use crate::activator::Activator;
use crate::metrics::Metrics;
use crate::record::Lines;
use crate::worker::fake::{Fake, Line, generated};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::Ordering::SeqCst;
use toy::{Sleepy, TOY};

/// A running sidecar.
struct Sidecar {
    running: Running,
    fake: Arc<Fake>,
    exchange: Arc<Exchange>,
    stop: mpsc::UnboundedSender<()>,
    thread: Option<std::thread::JoinHandle<()>>,
}

const PLAIN: &str = "
listen: 127.0.0.1:0
admin: 127.0.0.1:0
threads: 2
tls: {mode: disable}
auth: {methods: [{anonymous: {}}]}
worker: {socket: w.sock, command: [none], models: [toy], concurrency: 2}
limits: {body_bytes_max: 1KiB}
";

fn start(yaml: &str, scripts: Vec<Vec<Line>>, target: Sleepy) -> Sidecar {
    start_speaking(TOY, yaml, scripts, target)
}

fn start_speaking(
    dialects: &'static [&'static dyn Dialect],
    yaml: &str,
    scripts: Vec<Vec<Line>>,
    target: Sleepy,
) -> Sidecar {
    let config = Config::parse(yaml, Path::new("/tmp"), Path::new("test.yaml")).unwrap();
    let fake = Arc::new(Fake::new(scripts));
    let journal = Journal { metrics: Metrics::new(), lines: Lines::Kept(Mutex::default()) };
    let answers = match &config.behind {
        Behind::Worker(_) => Answers::Worker(fake.clone()),
        Behind::Forward(forward) => Answers::Foreign(forward.clone()),
        Behind::Pods(activator) => Answers::Pods(Activator::new(activator)),
    };
    let parts = Parts { answers, target: Arc::new(target), dialects, journal, by: None };
    let server = Server::open(config, parts).unwrap();
    let exchange = server.exchange.clone();
    let (stop, stopped) = mpsc::unbounded_channel();
    let (tell, told) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        server.run(|| stopped, |running| tell.send(*running).unwrap()).unwrap();
    });
    Sidecar { running: told.recv().unwrap(), fake, exchange, stop, thread: Some(thread) }
}

fn plain(scripts: Vec<Vec<Line>>) -> Sidecar {
    start(PLAIN, scripts, Sleepy::default())
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.stop.send(());
        let _ = self.stop.send(());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(std::thread::panicking() || ended.is_ok());
        }
    }
}

impl Sidecar {
    fn connect(&self) -> TcpStream {
        let tcp = TcpStream::connect(self.running.listen).unwrap();
        tcp.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        tcp
    }

    /// Sends bytes, reads until the end of the connection.
    fn call(&self, request: &str) -> String {
        let mut tcp = self.connect();
        tcp.write_all(request.as_bytes()).unwrap();
        read_all(&mut tcp)
    }

    fn post(&self, body: &str) -> String {
        self.call(&post(body, "connection: close\r\n"))
    }

    fn admin(&self, line: &str) -> String {
        let mut tcp = TcpStream::connect(self.running.admin).unwrap();
        write!(tcp, "{line} HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        read_all(&mut tcp)
    }

    /// The access-log line that fits, once it is there.
    fn line(&self, fits: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
        let Lines::Kept(kept) = &self.exchange.journal.lines else { unreachable!() };
        for _ in 0..1000 {
            let lines = kept.lock().unwrap().clone();
            let mut lines = lines.iter().map(|line| serde_json::from_str(line).unwrap());
            if let Some(line) = lines.find(|line| fits(line)) {
                return line;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("no such line in {:?}", kept.lock().unwrap());
    }

    fn labelled(&self, label: &str) -> serde_json::Value {
        self.line(|line| line["label"] == label)
    }
}

fn read_all(tcp: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = tcp.read_to_end(&mut bytes);
    String::from_utf8(bytes).unwrap()
}

fn post(body: &str, headers: &str) -> String {
    format!("POST /toy HTTP/1.1\r\nhost: x\r\n{headers}content-length: {}\r\n\r\n{body}", body.len())
}

fn read_until(tcp: &mut TcpStream, end: &str) -> String {
    let mut text = Vec::new();
    let mut byte = [0];
    while !String::from_utf8_lossy(&text).contains(end) {
        assert_eq!(tcp.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&text));
        text.push(byte[0]);
    }
    String::from_utf8(text).unwrap()
}

fn wait_for(what: impl Fn() -> bool) {
    for _ in 0..1000 {
        if what() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("it never came");
}

#[test]
fn is_a_question_answered_and_recorded_over_http1() {
    let sidecar = plain(vec![generated(&["Hello", " world"])]);
    let mut tcp = sidecar.connect();
    for round in 0..2 {
        let headers = format!("x-request-id: mine-{round}\r\nauthorization: Bearer secret\r\n");
        tcp.write_all(post("hi", &headers).as_bytes()).unwrap();
        let answer = read_until(&mut tcp, "0\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains("Transfer-Encoding: chunked") && answer.contains("Server: outrider"), "{answer}");
        assert!(answer.contains(&format!("x-request-id: mine-{round}")), "{answer}");
        assert!(answer.contains("Hello") && answer.contains(" world"), "{answer}");
    }
    let line = sidecar.line(|line| line["request_id"] == "mine-1");
    assert_eq!((line["status"].as_u64(), line["label"].as_str()), (Some(200), Some("ok")));
    assert_eq!((line["dialect"].as_str(), line["operation"].as_str()), (Some("toy"), Some("say")));
    assert_eq!((line["request_bytes"].as_u64(), line["subject"].as_str()), (Some(2), Some("anonymous")));
    assert!(line["first_token_seconds"].is_f64() && line["generation"] == 1 && line["tries"] == 1, "{line}");
    assert!(!line.to_string().contains("secret"));
}

#[test]
fn what_is_said_to_requests_that_make_no_sense() {
    let sidecar = plain(vec![generated(&["x"])]);
    let big = "x".repeat(2000);
    let close = "host: x\r\nconnection: close\r\n";
    let cases = [
        (
            format!("GET /nowhere HTTP/1.1\r\n{close}\r\n"),
            "404 Not Found",
            "{\"error\":\"no such path: GET /nowhere\"}",
        ),
        (format!("GET /toy/../x HTTP/1.1\r\n{close}\r\n"), "400 Bad Request", "segment"),
        (format!("GET /a%2fb HTTP/1.1\r\n{close}\r\n"), "400 Bad Request", "ambiguous"),
        (post(&big, ""), "413 Payload Too Large", "larger than 1024 bytes"),
        (post(&big, "expect: 100-continue\r\n"), "413 Payload Too Large", "larger than 1024 bytes"),
        (post("nonsense", "connection: close\r\n"), "400 Bad Request", "refused-by: request"),
        (
            format!("GET /toy HTTP/1.1\r\ncontent-type: application/grpc\r\n{close}\r\n"),
            "415 Unsupported Media",
            "HTTP/2",
        ),
        ("GET / HTTP/1.0\r\n\r\n".into(), "404 Not Found", "error"),
        (format!("OPTIONS * HTTP/1.1\r\n{close}\r\n"), "404 Not Found", "error"),
        (format!("HEAD /nowhere HTTP/1.1\r\n{close}\r\n"), "404 Not Found", "Content-Length"),
    ];
    for (request, status, words) in cases {
        let answer = sidecar.call(&request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains(words), "{request}\n{answer}");
    }
    let chunked = "POST /toy HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
    let huge = format!("{chunked}{:x}\r\n{big}\r\n0\r\n\r\n", big.len());
    assert!(sidecar.call(&huge).starts_with("HTTP/1.1 413"));
    assert_eq!(sidecar.fake.asked().len(), 0);
    assert_eq!(sidecar.exchange.admission.snapshot().starts, 0, "nonsense wakes nobody");
}

#[test]
fn is_a_polite_client_told_to_go_on() {
    let sidecar = plain(vec![generated(&["x"])]);
    let mut tcp = sidecar.connect();
    tcp.write_all(
        b"POST /toy HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\nconnection: close\r\ncontent-length: 2\r\n\r\n",
    )
    .unwrap();
    assert!(read_until(&mut tcp, "\r\n\r\n").starts_with("HTTP/1.1 100 Continue"));
    tcp.write_all(b"hi").unwrap();
    assert!(read_all(&mut tcp).starts_with("HTTP/1.1 200 OK"));
}

#[test]
fn is_a_pipelined_request_answered_too() {
    let sidecar = plain(vec![generated(&["x"])]);
    let mut tcp = sidecar.connect();
    let both = post("hi", "x-request-id: one\r\n") + &post("hi", "x-request-id: two\r\nconnection: close\r\n");
    tcp.write_all(both.as_bytes()).unwrap();
    let answers = read_all(&mut tcp);
    assert!(answers.contains("x-request-id: one") && answers.contains("x-request-id: two"), "{answers}");
}

#[test]
fn is_a_request_tried_again_when_its_worker_goes() {
    let gone = || vec![Line::Fail(crate::error::Error::WorkerGone)];
    let loading = || vec![Line::Fail(crate::error::Error::Worker { code: 14, message: "loading".into() })];
    let sidecar = plain(vec![gone(), loading(), generated(&["at last"])]);
    let answer = sidecar.post("hi");
    assert!(answer.contains("200 OK") && answer.contains("at last"), "{answer}");
    let line = sidecar.labelled("ok");
    assert_eq!((line["tries"].as_u64(), line["generation"].as_u64()), (Some(3), Some(2)), "{line}");

    let sidecar = plain(vec![gone()]);
    let answer = sidecar.post("hi");
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("retry-after: 1"), "{answer}");
    assert_eq!(sidecar.labelled("worker_gone")["tries"], 6);
    assert_eq!(sidecar.exchange.admission.snapshot().running, 0);
}

#[test]
fn does_a_stream_whose_worker_dies_end_with_an_error() {
    let mut script = generated(&["one", "two"]);
    script.truncate(2);
    script.push(Line::Fail(crate::error::Error::WorkerLost));
    let sidecar = plain(vec![script]);
    let answer = sidecar.post("hi");
    assert!(answer.contains("200 OK") && answer.contains("one") && answer.contains("broken: worker_lost"), "{answer}");
    assert_eq!(sidecar.labelled("worker_lost")["status"], 502);

    let mut script = generated(&["one"]);
    script.truncate(2);
    let sidecar = plain(vec![script]);
    assert!(sidecar.post("hi").contains("broken: worker_nonsense"));
}

#[test]
fn does_the_work_end_when_the_caller_leaves() {
    let mut script = generated(&["one"]);
    script.truncate(2);
    script.push(Line::Hang);
    let sidecar = plain(vec![script]);
    let mut tcp = sidecar.connect();
    tcp.write_all(post("hi", "").as_bytes()).unwrap();
    read_until(&mut tcp, "one");
    assert_eq!(sidecar.fake.open.load(SeqCst), 1);
    drop(tcp);
    let line = sidecar.labelled("caller_left");
    assert_eq!(line["status"], 499);
    wait_for(|| sidecar.fake.open.load(SeqCst) == 0 && sidecar.exchange.admission.snapshot().running == 0);
}

#[test]
fn does_a_caller_that_leaves_while_held_free_its_place() {
    let sidecar = start(PLAIN, vec![generated(&["x"])], Sleepy { never: true, ..Sleepy::default() });
    let mut tcp = sidecar.connect();
    tcp.write_all(post("hi", "").as_bytes()).unwrap();
    wait_for(|| sidecar.exchange.admission.snapshot().waiting == 1);
    assert_eq!(sidecar.exchange.admission.snapshot().waiting_bytes, 2);
    drop(tcp);
    sidecar.labelled("caller_left");
    wait_for(|| sidecar.exchange.admission.snapshot().waiting == 0);
}

#[test]
fn is_a_failed_start_told_with_its_reason() {
    let sidecar = start(PLAIN, vec![generated(&["x"])], Sleepy { fails: true, ..Sleepy::default() });
    let answer = sidecar.post("hi");
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("no such model file"), "{answer}");
    assert!(answer.contains("x-outrider-refused-by: cold") && answer.contains("retry-after: "), "{answer}");
    assert!(sidecar.admin("GET /healthz/ready").contains("503"));
}

#[test]
fn what_does_the_admin_window_show() {
    let sidecar = plain(vec![generated(&["x"])]);
    sidecar.post("hi");
    sidecar.labelled("ok");
    let metrics = sidecar.admin("GET /metrics");
    let want = "outrider_requests_total{code=\"200\",dialect=\"toy\",label=\"ok\",operation=\"say\"} 1";
    assert!(metrics.contains(want) && metrics.contains("outrider_worker_state{state=\"awake\"} 1"), "{metrics}");
    assert!(sidecar.admin("GET /").contains("How to call"));
    assert!(sidecar.admin("GET /config_dump").contains("\"body_bytes_max\": 1024"));
    assert!(sidecar.admin("GET /healthz/live").contains("200 OK"));
    assert!(sidecar.admin("GET /drain").contains("405 Method Not Allowed"));
    assert!(sidecar.admin("GET /healthz/ready").contains("200 OK"));
    assert!(sidecar.admin("POST /drain").contains("\"draining\": true"));
    assert!(sidecar.admin("GET /healthz/ready").contains("503"));
    assert!(sidecar.post("hi").starts_with("HTTP/1.1 503"), "drained");
    assert!(sidecar.call("GET /toy/health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").contains("ready: false"));
}

#[test]
fn does_a_drain_let_answers_finish() {
    let mut script = generated(&["one", "two"]);
    script.insert(2, Line::Pause(Duration::from_millis(300)));
    let mut sidecar = plain(vec![script]);
    let mut idle = sidecar.connect();
    idle.write_all(post("hi", "").as_bytes()).unwrap();
    read_until(&mut idle, "0\r\n\r\n");
    let mut busy = sidecar.connect();
    busy.write_all(post("hi", "").as_bytes()).unwrap();
    read_until(&mut busy, "one");
    sidecar.stop.send(()).unwrap();
    assert_eq!(idle.read(&mut [0]).unwrap(), 0, "the idle connection is closed at once");
    assert!(read_all(&mut busy).contains("two"));
    sidecar.thread.take().unwrap().join().unwrap();
    assert!(TcpStream::connect(sidecar.running.listen).is_err());
}

#[test]
fn are_bad_credentials_refused_before_the_body_is_read() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("jwks.json"), crate::auth::issuer::Issuer::generate().jwks()).unwrap();
    let jwt = format!("{{jwt: {{issuer: i, audience: a, jwks_file: {}/jwks.json}}}}", folder.path().display());
    let sidecar = start(&PLAIN.replace("{anonymous: {}}", &jwt), vec![generated(&["x"])], Sleepy::default());
    let answer = sidecar.call("POST /toy HTTP/1.1\r\nhost: x\r\ncontent-length: 500\r\n\r\nonly the beginning");
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    assert!(answer.contains("www-authenticate: Bearer realm=\"outrider\"\r\n"), "{answer}");
    let answer = sidecar.call(&post("hi", "connection: close\r\nauthorization: Bearer a.b.c\r\n"));
    assert!(answer.starts_with("HTTP/1.1 401") && answer.contains("error=\"invalid_token\""), "{answer}");
    let open = sidecar.call("GET /toy/health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    assert!(open.contains("ready: true"), "{open}");
}

mod activator;
mod cold;
mod custom;
mod forward;
mod h2c;
mod leaving;
mod limited;
mod policies;
mod queued;
mod tls;
mod way_out;
