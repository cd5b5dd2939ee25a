//! Certificates turn over while callers ask: leaf and root, again and again, as a cluster with very short lives would do
//! it. No request fails, and no connection outlives its age.

use http_body_util::Full;
use outrider_tests::authority::{Authority, CALLER, Leaf, SERVER};
use outrider_tests::client::{Connection, Protocol, read};
use outrider_tests::proxy::{Proxy, Sidecar};
use outrider_tests::upstream::Echo;
use outrider_tests::wire::Caller;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const TURN: Duration = Duration::from_secs(1);
const AGE: Duration = Duration::from_secs(2);
const GRACE: Duration = Duration::from_secs(1);
/// Roots that are believed at one moment: old ones until everybody has noticed the new.
const ROOTS: usize = 4;

/// Files as Kubernetes mounts a secret: `..data` points to a folder, and a turn points it to another at once.
fn mount(folder: &Path, turn: usize, files: &[(&str, &str)]) {
    let version = folder.join(format!("..{turn}"));
    std::fs::create_dir(&version).expect("a folder for the version");
    for (name, text) in files {
        std::fs::write(version.join(name), text).expect("a file");
    }
    let link = folder.join("..next");
    std::os::unix::fs::symlink(format!("..{turn}"), &link).expect("a link");
    std::fs::rename(&link, folder.join("..data")).expect("the link turns over at once");
    for (name, _) in files.iter().filter(|_| turn == 0) {
        std::os::unix::fs::symlink(format!("..data/{name}"), folder.join(name)).expect("a link");
    }
    if let Some(old) = turn.checked_sub(2) {
        std::fs::remove_dir_all(folder.join(format!("..{old}"))).expect("an old version");
    }
}

/// The authorities that are believed, the oldest first.
struct Trust(VecDeque<Authority>);

impl Trust {
    fn bundle(&self) -> String {
        self.0.iter().map(|authority| authority.root.as_str()).collect()
    }

    /// A new root comes, an old one goes; the sidecar's leaf is of the newest but one, which all callers know already.
    fn turn(&mut self, folder: &Path, number: usize) -> (Caller, Caller) {
        self.0.push_back(Authority::new(&format!("root {number}")));
        if self.0.len() > ROOTS {
            self.0.pop_front();
        }
        let server = self.0[self.0.len().saturating_sub(2)].leaf(SERVER);
        let bundle = self.bundle();
        mount(folder, number, &[("ca.pem", &bundle), ("server.pem", &server.certificate), ("server.key", &server.key)]);
        // Callers show what the sidecar has had time to learn to believe, and will still believe for a while.
        let caller: Leaf = self.0[self.0.len().saturating_sub(3)].leaf(CALLER);
        let of = |alpn| Caller::new(&bundle, Some(&caller), &[alpn]);
        (of("http/1.1"), of("h2"))
    }
}

#[derive(Default)]
struct Seen {
    asked: AtomicU64,
    connections: AtomicU64,
    again: AtomicU64,
    oldest_milliseconds: AtomicU64,
    failures: Mutex<Vec<String>>,
    stop: AtomicBool,
}

type Callers = Arc<Mutex<(Caller, Caller)>>;

/// Asks until told to stop, on one connection for as long as it lasts, then on the next.
async fn ask_on(address: String, callers: Callers, protocol: Protocol, seen: Arc<Seen>) {
    while !seen.stop.load(Relaxed) {
        let caller = {
            let both = callers.lock().expect("nobody panics with it");
            if protocol == Protocol::H2 { both.1.clone() } else { both.0.clone() }
        };
        let opened = Instant::now();
        let stream = match caller.connect(&address).await {
            Ok(stream) => stream,
            Err(error) => {
                seen.failures.lock().expect("nobody panics with it").push(format!("handshake: {error}"));
                return;
            }
        };
        let mut connection = Connection::handshake(stream, protocol).await.expect("a connection");
        seen.connections.fetch_add(1, Relaxed);
        let mut used = 0;
        while !seen.stop.load(Relaxed) {
            let asked = http::Request::post("https://localhost/").header("host", "localhost");
            let asked = asked.body(Full::from("x")).expect("a request");
            let closing = match connection.send(asked).await {
                Ok(response) => {
                    let answer = read(response).await;
                    if answer.status != 200 || !answer.complete || answer.text() != "x" {
                        let failure = format!("{protocol:?} {} {}", answer.status, answer.text());
                        seen.failures.lock().expect("nobody panics with it").push(failure);
                    }
                    seen.asked.fetch_add(1, Relaxed);
                    used += 1;
                    answer.headers.get("connection").is_some_and(|value| value == "close")
                }
                // A connection that ends between two requests: every client asks again on the next one.
                Err(error)
                    if used > 0 && (error.is_canceled() || error.is_closed() || error.is_incomplete_message()) =>
                {
                    seen.again.fetch_add(1, Relaxed);
                    true
                }
                Err(error) if used > 0 && is_goaway(&error) => {
                    seen.again.fetch_add(1, Relaxed);
                    true
                }
                Err(error) => {
                    seen.failures.lock().expect("nobody panics with it").push(format!("{protocol:?} {error:?}"));
                    true
                }
            };
            seen.oldest_milliseconds.fetch_max(opened.elapsed().as_millis() as u64, Relaxed);
            if closing {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// GOAWAY without an error: what came after its last stream was not begun (RFC 9113 §6.8).
fn is_goaway(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<h2::Error>());
    source.is_some_and(|error| error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn does_no_request_fail_while_leaf_and_root_turn_over_each_second() {
    // `make test` turns for 20 s; OUTRIDER_ROTATION_SECONDS=60 for longer.
    let seconds = std::env::var("OUTRIDER_ROTATION_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    let echo = Echo::start().await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut trust = Trust(VecDeque::new());
    let callers: Callers = Arc::new(Mutex::new(trust.turn(folder.path(), 0)));
    let first = trust.0[0].leaf(CALLER);
    let proxy = Proxy::start_in(
        folder.path(),
        &format!(
            "tls: {{mode: strict, trust_domain: cluster.local, certificate: server.pem, key: server.key, \
             trust_bundle: ca.pem}}\nauth: {{methods: [{{mtls: {{}}}}]}}\nforward: {{to: \"{}\"}}\n\
             limits: {{connection_age_max: 2s, connection_age_grace: 1s}}\n",
            echo.address
        ),
    );
    let seen = Arc::new(Seen::default());
    let mut asking = Vec::new();
    for number in 0..8 {
        let protocol = if number % 2 == 0 { Protocol::Http1 } else { Protocol::H2 };
        let address = proxy.address().to_owned();
        asking.push(tokio::spawn(ask_on(address, callers.clone(), protocol, seen.clone())));
    }
    for turn in 1..=seconds {
        tokio::time::sleep(TURN).await;
        let next = trust.turn(folder.path(), turn);
        *callers.lock().expect("nobody panics with it") = next;
    }
    tokio::time::sleep(TURN).await;
    seen.stop.store(true, Relaxed);
    for one in asking {
        one.await.expect("no caller panics");
    }
    let failures = seen.failures.lock().expect("nobody panics with it").clone();
    let (asked, connections) = (seen.asked.load(Relaxed), seen.connections.load(Relaxed));
    println!("{asked} requests on {connections} connections, {} asked again", seen.again.load(Relaxed));
    assert!(failures.is_empty(), "{} of {asked} failed: {:?}", failures.len(), &failures[..failures.len().min(5)]);
    assert!(connections >= 8 * (seconds as u64 / 4), "{connections} connections: they were not asked to go");
    let oldest = Duration::from_millis(seen.oldest_milliseconds.load(Relaxed));
    // A machine may stall; without an age, though, a connection would last the whole test.
    assert!(oldest < AGE + GRACE + 4 * TURN, "a connection was {oldest:?} old");
    // What was believed first is believed no more.
    let late = Caller::new(&trust.bundle(), Some(&first), &["http/1.1"]);
    let mut wire = late.wire(proxy.address()).await;
    if let Ok(wire) = &mut wire {
        wire.write("GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await;
        assert!(wire.read_to_end().await.is_empty(), "the first root is still believed");
    }
}
