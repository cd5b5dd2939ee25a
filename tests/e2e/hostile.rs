//! Callers who mean harm: on the way in, in HTTP/1.1 and in HTTP/2. Each is refused or read in the one way there is,
//! counted, and costs nobody else anything.

use outrider_tests::authority::{Authority, CALLER, Leaf, SERVER};
use outrider_tests::client::{metric, wait_for_metric};
use outrider_tests::proxy::{Proxy, Sidecar};
use outrider_tests::up::rss_bytes;
use outrider_tests::wire::{Caller, Wire, h2, statuses};
use std::time::Duration;

/// A sidecar that needs no worker for what is asked of it here, and its authority.
struct House {
    proxy: Proxy,
    authority: Authority,
    caller: Leaf,
}

const LIVE: &str = "GET /v2/health/live HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
/// Nothing is asked of the machine between two of these.
const MOMENT: Duration = Duration::from_millis(300);
const FAILURES: &str = "outrider_connection_failures_total";

impl House {
    fn build(mode: &str, more: &str) -> House {
        let authority = Authority::new("root");
        let (server, caller) = (authority.leaf(SERVER), authority.leaf(CALLER));
        let config = format!(
            "tls: {{mode: {mode}, trust_domain: cluster.local, certificate: server.pem, key: server.key, \
             trust_bundle: ca.pem}}\nauth: {{methods: [{{anonymous: {{}}}}]}}\n\
             worker: {{socket: nobody.sock, models: [m]}}\n{more}"
        );
        let files = [("ca.pem", &*authority.root), ("server.pem", &*server.certificate), ("server.key", &*server.key)];
        House { proxy: Proxy::start(&config, &files), authority, caller }
    }

    fn caller(&self, alpn: &str) -> Caller {
        Caller::new(&self.authority.root, Some(&self.caller), &[alpn])
    }

    async fn plain(&self) -> Wire {
        Wire::plain(self.proxy.address()).await.expect("a connection")
    }

    async fn h2(&self) -> Wire {
        self.caller("h2").wire(self.proxy.address()).await.expect("a handshake")
    }

    async fn failures(&self, reason: &str) -> f64 {
        metric(&self.proxy, FAILURES, &[&format!("reason=\"{reason}\"")]).await
    }

    /// Whether somebody with a certificate is served, in both protocols.
    async fn serves(&self) {
        let mut wire = self.caller("http/1.1").wire(self.proxy.address()).await.expect("a handshake");
        wire.write(LIVE).await;
        assert_eq!(statuses(&wire.read_to_end().await), [200]);
        let mut wire = self.h2().await;
        wire.write([h2::hello(), h2::get(1, "/v2/health/live")].concat()).await;
        let (bytes, _) = wire.read_until(|bytes| h2::answered(bytes, 1)).await;
        assert!(h2::answered(&bytes, 1));
    }
}

// ---- before the first request ----

#[tokio::test]
async fn is_garbage_instead_of_a_handshake_refused_and_counted() {
    let house = House::build("strict", "");
    let mut garbage: Vec<Vec<u8>> = vec![
        b"\x16\x03\x01\xff\xff".to_vec(),
        [b"\x16\x03\x01\x00\x05".to_vec(), vec![0xff; 5]].concat(),
        [b"\x16\x03\x03\x40\x01".to_vec(), vec![0; 0x4001]].concat(),
        vec![0x16; 70_000],
        vec![0x80; 4096],
        vec![0; 4096],
        b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(),
        LIVE.as_bytes().to_vec(),
        h2::hello(),
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".to_vec(),
    ];
    // A certificate message's worth of a handshake that never began.
    garbage.push([b"\x16\x03\x03\x00\x04\x0b".to_vec(), vec![0xff; 3]].concat());
    let count = garbage.len() as f64;
    for bytes in &garbage {
        let mut wire = house.plain().await;
        wire.write(bytes).await;
        if bytes.len() < 10 {
            // A record that never ends is told from garbage only by the end of the connection.
            drop(wire);
            continue;
        }
        let said = wire.read_to_end().await;
        assert!(statuses(&said).is_empty(), "{bytes:x?} was answered: {said:x?}");
    }
    wait_for_metric(&house.proxy, FAILURES, &[], |failures| failures == count).await;
    assert_eq!(house.failures("plaintext").await, 6.0);
    house.serves().await;
}

#[tokio::test]
async fn is_plaintext_on_a_strict_port_refused_without_a_word() {
    let house = House::build("strict", "");
    for bytes in [LIVE.as_bytes(), &h2::hello(), b"P", b"\0"] {
        let mut wire = house.plain().await;
        wire.write(bytes).await;
        if bytes == b"P" {
            wire.write("OST / HTTP/1.1\r\n\r\n").await;
        }
        assert!(wire.read_to_end().await.is_empty(), "{bytes:?}");
    }
    wait_for_metric(&house.proxy, FAILURES, &["reason=\"plaintext\""], |failures| failures == 4.0).await;
    assert_eq!(metric(&house.proxy, "outrider_requests_total", &[]).await, 0.0);
}

/// A byte per second is slow enough for any limit; here a byte per 100 ms, so that the test is quick.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn can_slow_handshakes_keep_others_out() {
    const SLOW: usize = 300;
    let house = House::build("strict", "limits: {handshake_timeout: 4s, handshakes_max: 64}\n");
    // A real first flight, to be sent in pieces.
    let hello = client_hello(&house).await;
    let address = house.proxy.address().to_owned();
    let mut slow = Vec::new();
    for number in 0..SLOW {
        let (address, hello) = (address.clone(), hello.clone());
        slow.push(tokio::spawn(async move {
            let mut wire = Wire::plain(&address).await.expect("a connection");
            // Some say their whole hello and then nothing, some trickle it.
            if number % 2 == 0 {
                wire.write(&hello).await;
            } else {
                for byte in hello.iter().take(30) {
                    if !wire.write([*byte]).await {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
            wire.read_to_end().await;
        }));
    }
    tokio::time::sleep(MOMENT).await;
    for _ in 0..10 {
        house.serves().await;
    }
    let unfinished = slow.iter().filter(|slow| !slow.is_finished()).count();
    assert!(unfinished > SLOW / 2, "only {unfinished} slow callers were still there: this proved nothing");
    for slow in slow {
        slow.await.expect("a slow caller meets its end");
    }
    wait_for_metric(&house.proxy, FAILURES, &[], |failures| failures == SLOW as f64).await;
    house.serves().await;
}

/// The first bytes of a caller who would be let in.
async fn client_hello(house: &House) -> Vec<u8> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let caller = house.caller("h2");
    let calling = tokio::spawn(async move { caller.connect(&address).await.err() });
    let (mut tcp, _) = listener.accept().await.expect("a caller");
    let mut bytes = vec![0; 4096];
    let count = tokio::io::AsyncReadExt::read(&mut tcp, &mut bytes).await.expect("a hello");
    drop(tcp);
    let _ = calling.await;
    bytes[..count].to_vec()
}

#[tokio::test]
async fn does_a_head_that_trickles_in_meet_its_end() {
    let house = House::build("permissive", "limits: {header_timeout: 1s}\n");
    let mut wire = house.plain().await;
    let mut sent = 0;
    for byte in LIVE.bytes().cycle() {
        if !wire.write([if byte == b'\n' { b'x' } else { byte }]).await {
            break;
        }
        sent += 1;
        assert!(sent < 600, "a head may trickle in for a minute");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(house.failures("head_timeout").await, 1.0);
    house.serves().await;
}

// ---- HTTP/1.1: what two readers could read in two ways ----

pub enum Fate {
    /// One refusal and the end of the connection; what follows is never read as a request.
    Refused,
    /// Read as one request, and what follows as the next.
    Read,
}

use Fate::{Read, Refused};

/// `{}` with this head between the request line and the empty line.
fn post(head: &str, body: &str) -> String {
    format!("POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n{head}\r\n{body}")
}

/// The body `{}` in chunks, with this transfer coding.
fn coded(coding: &str) -> String {
    post(&format!("{coding}\r\n"), "2\r\n{}\r\n0\r\n\r\n")
}

fn chunked(body: &str) -> String {
    post("Transfer-Encoding: chunked\r\n", body)
}

pub fn forms() -> Vec<(&'static str, String, Fate)> {
    let two = "Content-Length: 2\r\n";
    let line = |line: &str| format!("{line}\r\nHost: localhost\r\n{two}\r\n{{}}");
    vec![
        ("the control", post(two, "{}"), Read),
        (
            "length and coding",
            post("Content-Length: 2\r\nTransfer-Encoding: chunked\r\n", "2\r\n{}\r\n0\r\n\r\n"),
            Refused,
        ),
        ("coding and length", post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"), Refused),
        ("two lengths", post("Content-Length: 2\r\nContent-Length: 3\r\n", "{}"), Refused),
        ("one length twice", post("Content-Length: 2\r\nContent-Length: 2\r\n", "{}"), Refused),
        ("a list of lengths", post("Content-Length: 2, 2\r\n", "{}"), Refused),
        ("length with a plus", post("Content-Length: +2\r\n", "{}"), Refused),
        ("length below nothing", post("Content-Length: -0\r\n", ""), Refused),
        ("length in hex", post("Content-Length: 0x2\r\n", "{}"), Refused),
        ("length of nobody", post("Content-Length: \r\n", "{}"), Refused),
        ("length beyond 64 bits", post("Content-Length: 18446744073709551618\r\n", "{}"), Refused),
        ("space before the colon", post("Content-Length : 2\r\n", "{}"), Refused),
        (
            "coding with space before the colon",
            post("Transfer-Encoding : chunked\r\nContent-Length: 2\r\n", "{}"),
            Refused,
        ),
        ("folded value", post("X: a\r\n b\r\nContent-Length: 2\r\n", "{}"), Refused),
        ("folded coding", coded("Transfer-Encoding:\r\n chunked"), Refused),
        ("space before the first name", post(" Content-Length: 2\r\n", ""), Refused),
        ("bare LF throughout", post(two, "{}").replace("\r\n", "\n"), Refused),
        ("bare LF before a length", post("X: a\nContent-Length: 2\r\n", "{}"), Refused),
        ("bare LF at the head's end", post(two, "{}").replacen("\r\n\r\n", "\r\n\n", 1), Refused),
        ("bare CR", post("X: a\rContent-Length: 2\r\n", ""), Refused),
        ("NUL in a value", post("X: a\0b\r\nContent-Length: 2\r\n", "{}"), Refused),
        ("NUL in a name", post("X\0Y: a\r\nContent-Length: 2\r\n", "{}"), Refused),
        ("a line without a colon", post("XY\r\nContent-Length: 2\r\n", "{}"), Refused),
        ("a name of nothing", post(": a\r\nContent-Length: 2\r\n", "{}"), Refused),
        ("an unknown coding", coded("Transfer-Encoding: xchunked"), Refused),
        ("coding with a vertical tab", coded("Transfer-Encoding: \x0bchunked"), Refused),
        ("identity", coded("Transfer-Encoding: identity"), Refused),
        ("chunked and then another", coded("Transfer-Encoding: chunked, gzip"), Refused),
        ("another and then chunked", coded("Transfer-Encoding: gzip, chunked"), Refused),
        ("chunked twice", coded("Transfer-Encoding: chunked, chunked"), Refused),
        ("two codings", coded("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity"), Refused),
        ("one coding twice", coded("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"), Refused),
        ("coding in http/1.0", coded("Transfer-Encoding: chunked").replace("HTTP/1.1", "HTTP/1.0"), Refused),
        ("coding in capitals", coded("Transfer-Encoding: CHUNKED"), Read),
        ("coding behind a tab", coded("Transfer-Encoding:\tchunked"), Read),
        ("chunk in hex with 0x", chunked("0x2\r\n{}\r\n0\r\n\r\n"), Refused),
        ("chunk with a plus", chunked("+2\r\n{}\r\n0\r\n\r\n"), Refused),
        ("chunk with an underscore", chunked("0_2\r\n{}\r\n0\r\n\r\n"), Refused),
        ("chunk beyond 64 bits", chunked("10000000000000002\r\n{}\r\n0\r\n\r\n"), Refused),
        ("chunk of almost 64 bits", chunked("fffffffffffffffe\r\n{}\r\n0\r\n\r\n"), Refused),
        ("chunk ended by LF", chunked("2\n{}\r\n0\r\n\r\n"), Refused),
        ("chunk data ended by LF", chunked("2\r\n{}\n0\r\n\r\n"), Refused),
        ("chunk longer than it says", chunked("2\r\n{}XX0\r\n\r\n"), Refused),
        ("chunk extension ended by LF", chunked("2;a\n{}\r\n0\r\n\r\n"), Refused),
        // RFC 9112 §7.1.1: extensions that are not known must be ignored.
        ("chunk extension", chunked("2;a=\"b\"\r\n{}\r\n0\r\n\r\n"), Read),
        ("trailers", chunked("2\r\n{}\r\n0\r\nContent-Length: 7\r\n\r\n"), Read),
        ("two hosts", post("Host: other\r\nContent-Length: 2\r\n", "{}"), Refused),
        ("one host twice", post("Host: localhost\r\nContent-Length: 2\r\n", "{}"), Refused),
        ("no host", post(two, "{}").replace("Host: localhost\r\n", ""), Refused),
        ("a host that is none", post(two, "{}").replace("localhost", "a b/c@d"), Refused),
        ("a target with another host", line("POST http://other/v1/chat/completions HTTP/1.1"), Refused),
        ("a target with the same host", line("POST http://localhost/v1/chat/completions HTTP/1.1"), Read),
        // The parser below us escapes it, and so it is one target for everybody behind.
        ("a space in the target", line("POST /v1/chat/completions x HTTP/1.1"), Read),
        ("two spaces", line("POST  /v1/chat/completions HTTP/1.1"), Refused),
        ("version 1.2", line("POST /v1/chat/completions HTTP/1.2"), Refused),
        ("version 2.0", line("POST /v1/chat/completions HTTP/2.0"), Refused),
        ("no version", line("POST /v1/chat/completions"), Refused),
        ("CONNECT", line("CONNECT other:443 HTTP/1.1"), Refused),
        ("empty lines first", format!("\r\n{}", post(two, "{}")), Read),
    ]
}

#[tokio::test]
async fn is_no_http1_request_read_in_two_ways() {
    let house = House::build("permissive", "");
    let mut refused = 0.0;
    for (what, bytes, fate) in forms() {
        let mut wire = house.plain().await;
        wire.write(format!("{bytes}{LIVE}")).await;
        let said = wire.read_to_end().await;
        let text = String::from_utf8_lossy(&said);
        match fate {
            Read => {
                let got = statuses(&said);
                assert!(got.len() == 2 && got[1] == 200, "{what}: {got:?} {text}");
            }
            Refused => {
                let got = statuses(&said);
                assert!(got.len() == 1 && (400..500).contains(&got[0]), "{what}: {got:?} {text}");
                assert!(!text.contains("`model` is required"), "{what} was read: {text}");
                refused += 1.0;
            }
        }
    }
    // Refused by us in words, or by the parser below us; either way somebody can see that it happens.
    wait_for_metric(&house.proxy, "outrider_connections_open", &[], |open| open == 0.0).await;
    let asked = "label=\"invalid\"";
    let own = metric(&house.proxy, "outrider_requests_total", &[asked]).await;
    // What was read is invalid too, for a chat needs a model; but for the one whose path is none.
    let read = forms().iter().filter(|(_, _, fate)| matches!(fate, Read)).count() as f64 - 1.0;
    let below = house.failures("head_refused").await;
    assert_eq!(own - read + below, refused, "{own} of ours, {read} read, {below} below us");
    house.serves().await;
}

#[tokio::test]
async fn is_a_head_larger_than_any_sense_refused() {
    let house = House::build("permissive", "");
    for (what, head) in [
        ("one value", format!("X: {}\r\n", "a".repeat(200_000))),
        ("one name", format!("{}: x\r\n", "a".repeat(200_000))),
        ("many lines", (0..20_000).map(|number| format!("x-{number}: y\r\n")).collect()),
    ] {
        let mut wire = house.plain().await;
        wire.write(format!("GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n{head}\r\n")).await;
        let said = wire.read_to_end().await;
        assert!(!statuses(&said).contains(&200), "{what}: {}", String::from_utf8_lossy(&said));
    }
    let mut wire = house.plain().await;
    wire.write(format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "a".repeat(200_000))).await;
    assert!(!statuses(&wire.read_to_end().await).contains(&200));
    wait_for_metric(&house.proxy, FAILURES, &[], |failures| failures == 4.0).await;
    house.serves().await;
}

#[tokio::test]
async fn does_a_head_without_end_cost_little() {
    let house = House::build("permissive", "");
    let before = rss_bytes(house.proxy.pid());
    let mut endless = Vec::new();
    for _ in 0..50 {
        let mut wire = house.plain().await;
        wire.write("GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\nX: ").await;
        for _ in 0..10 {
            wire.write(vec![b'a'; 100_000]).await;
        }
        endless.push(wire);
    }
    let grown = rss_bytes(house.proxy.pid()).saturating_sub(before);
    assert!(grown < 20 << 20, "50 callers with a head of 1 MB cost {grown} bytes");
    drop(endless);
    house.serves().await;
}

// ---- HTTP/2 ----

/// Sends `attack` again and again until the other side ends the connection or `times` is over; what it said to the end,
/// and whether it ended it.
async fn flood(wire: &mut Wire, times: usize, attack: impl Fn(u32) -> Vec<u8>) -> (Vec<u8>, bool) {
    let mut said = Vec::new();
    for round in 0..times {
        let open = wire.write(attack(round as u32)).await;
        // What is said must be read, or the flood would end in two full sockets and prove nothing.
        let (more, ended) = wire.read(Duration::from_millis(1)).await;
        said.extend(more);
        if ended || !open {
            let (more, _) = wire.read(MOMENT).await;
            said.extend(more);
            return (said, true);
        }
    }
    let (more, ended) = wire.read(MOMENT).await;
    said.extend(more);
    (said, ended)
}

/// Each of these ends the connection that does it, with a reason, and no other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn does_each_http2_flood_end_its_own_connection() {
    let house = House::build("strict", "");
    let before = rss_bytes(house.proxy.pid());
    let path = "/v2/health/live";
    let block = h2::block(&[(":method", "GET"), (":scheme", "https"), (":authority", "localhost"), (":path", path)]);
    let filler = h2::block(&[("x-filler", &"a".repeat(8000))]);
    let empty = h2::block(&[("", "")]);
    type Attack<'a> = Box<dyn Fn(u32) -> Vec<u8> + Send + Sync + 'a>;
    let many = |frame: Vec<u8>| frame.repeat(100);
    let attacks: Vec<(&str, Attack<'_>)> = vec![
        // CVE-2023-44487.
        (
            "rapid reset",
            Box::new(|round| {
                let streams = (0..100).map(|at| 1 + 2 * (round * 100 + at));
                let pair =
                    |stream| [h2::get(stream, path), h2::frame(h2::RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat();
                streams.flat_map(pair).collect()
            }),
        ),
        // CVE-2024-27316 and its kin: a head that never ends.
        (
            "continuation",
            Box::new(|round| match round {
                0 => h2::frame(h2::HEADERS, h2::END_STREAM, 1, &block),
                _ => h2::frame(h2::CONTINUATION, 0, 1, &filler),
            }),
        ),
        (
            "empty continuation",
            Box::new(|round| match round {
                0 => h2::frame(h2::HEADERS, h2::END_STREAM, 1, &block),
                _ => many(h2::frame(h2::CONTINUATION, 0, 1, &[])),
            }),
        ),
        (
            "empty names",
            Box::new(|round| {
                let fields = [&block[..], &empty.repeat(1000)].concat();
                h2::frame(h2::HEADERS, h2::END_STREAM | h2::END_HEADERS, 1 + 2 * round, &fields)
            }),
        ),
        ("data on no stream", Box::new(|_| many(h2::frame(h2::DATA, 0, 1, &[])))),
        ("a window beyond 31 bits", Box::new(|_| h2::frame(h2::WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]))),
        ("a window of nothing", Box::new(|_| h2::frame(h2::WINDOW_UPDATE, 0, 0, &[0; 4]))),
        ("a frame larger than allowed", Box::new(|_| h2::frame(h2::DATA, 0, 1, &vec![0; 20_000]))),
        ("settings of a wrong length", Box::new(|_| h2::frame(h2::SETTINGS, 0, 0, &[0; 5]))),
        (
            "a table no decoder has",
            Box::new(|_| h2::frame(h2::HEADERS, h2::END_HEADERS, 1, &[0xff, 0xff, 0xff, 0xff, 0x7f])),
        ),
    ];
    let count = attacks.len() as f64;
    for (what, attack) in attacks {
        let mut wire = house.h2().await;
        wire.write(h2::hello()).await;
        let (said, ended) = flood(&mut wire, 400, attack).await;
        let code = h2::goaway(&said);
        println!("{what}: ended {ended}, GOAWAY {code:?}");
        assert!(ended, "{what} may go on for ever");
        assert!(code.is_some_and(|code| code != 0), "{what}: GOAWAY {code:?}");
        house.serves().await;
    }
    wait_for_metric(&house.proxy, FAILURES, &["reason=\"h2_refused\""], |failures| failures == count).await;
    let grown = rss_bytes(house.proxy.pid()).saturating_sub(before);
    assert!(grown < 30 << 20, "the floods left {grown} bytes");
}

/// These are legal in small numbers. They may go on, but they cost one connection and no memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn do_legal_frames_in_any_number_cost_others_nothing() {
    let house = House::build("strict", "");
    let before = rss_bytes(house.proxy.pid());
    let settings = h2::frame(h2::SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]).repeat(500);
    let ping = h2::frame(h2::PING, 0, 0, &[7; 8]).repeat(500);
    let shrunk = h2::frame(h2::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let empty = h2::frame(h2::DATA, 0, 1, &[]).repeat(500);
    for (what, first, attack, reads) in [
        ("settings", Vec::new(), &settings, true),
        ("settings, and never reads", Vec::new(), &settings, false),
        ("ping", Vec::new(), &ping, true),
        ("ping, and never reads", Vec::new(), &ping, false),
        ("empty data", h2::post(1, "/v1/chat/completions"), &empty, true),
        ("windows of nothing", shrunk.clone(), &h2::get(1, "/v2/health/live"), true),
    ] {
        let mut wire = house.h2().await;
        wire.write([h2::hello(), first].concat()).await;
        let flooding = async {
            if reads {
                flood(&mut wire, 300, |_| attack.clone()).await;
            } else {
                for _ in 0..300 {
                    // Two full sockets: the sidecar stops reading, as it should.
                    let write = wire.write(attack);
                    if !tokio::time::timeout(MOMENT, write).await.unwrap_or(false) {
                        break;
                    }
                }
            }
        };
        let (_, ()) = tokio::join!(flooding, async {
            for _ in 0..5 {
                house.serves().await;
            }
        });
        let grown = rss_bytes(house.proxy.pid()).saturating_sub(before);
        println!("{what}: {grown} bytes");
        assert!(grown < 30 << 20, "{what} cost {grown} bytes");
    }
    house.serves().await;
}

/// A head larger than the sidecar said it would take ends its stream, or the connection, with a status or a reason.
#[tokio::test]
async fn is_an_oversize_http2_head_refused() {
    let house = House::build("strict", "");
    let big = "a".repeat(14_000);
    let mut fields =
        vec![(":method", "GET"), (":scheme", "https"), (":authority", "localhost"), (":path", "/v2/health/live")];
    fields.extend((0..10).map(|_| ("x-big", big.as_str())));
    let block = h2::block(&fields);
    let mut pieces = block.chunks(16_000).peekable();
    let mut bytes = h2::hello();
    bytes.extend(h2::frame(h2::HEADERS, h2::END_STREAM, 1, pieces.next().expect("a first piece")));
    while let Some(piece) = pieces.next() {
        let flags = if pieces.peek().is_none() { h2::END_HEADERS } else { 0 };
        bytes.extend(h2::frame(h2::CONTINUATION, flags, 1, piece));
    }
    let mut wire = house.h2().await;
    wire.write(bytes).await;
    let refused = |bytes: &[u8]| {
        let reset = h2::frames(bytes).iter().any(|(kind, _, stream, _)| *kind == h2::RST_STREAM && *stream == 1);
        h2::answered(bytes, 1) || h2::goaway(bytes).is_some() || reset
    };
    let (said, ended) = wire.read_until(refused).await;
    assert!(ended || refused(&said));
    assert_eq!(metric(&house.proxy, "outrider_requests_total", &["code=\"200\""]).await, 0.0);
    house.serves().await;
}

/// What HTTP/2 forbids because an HTTP/1.1 server behind would read it in another way (RFC 9113 §8.2, §8.3).
#[tokio::test]
async fn is_no_http2_head_taken_that_http1_would_read_otherwise() {
    let house = House::build("strict", "");
    let live = "/v2/health/live";
    let base = [(":method", "GET"), (":scheme", "https"), (":authority", "localhost"), (":path", live)];
    let with = |more: &[(&'static str, &'static str)]| [&base[..], more].concat();
    let cases: Vec<(&str, Vec<(&str, &str)>)> = vec![
        ("the control", base.to_vec()),
        ("a name in capitals", with(&[("X-A", "b")])),
        ("a line break in a value", with(&[("x", "a\r\nhost: other")])),
        ("a line break in a name", with(&[("x\r\nhost", "other")])),
        ("NUL in a value", with(&[("x", "a\0b")])),
        ("a colon in a name", with(&[("x:y", "b")])),
        ("a space in a name", with(&[("x y", "b")])),
        ("connection", with(&[("connection", "keep-alive")])),
        ("transfer-encoding", with(&[("transfer-encoding", "chunked")])),
        ("two paths", with(&[(":path", "/")])),
        ("an unknown pseudo-header", with(&[(":other", "x")])),
        ("a pseudo-header last", [&base[..3], &[("x", "y"), (":path", live)]].concat()),
        ("no path", base[..3].to_vec()),
        ("an empty path", [&base[..3], &[(":path", "")]].concat()),
        ("no method", base[1..].to_vec()),
        ("a space in the path", [&base[..3], &[(":path", "/v2/health/live HTTP/1.1")]].concat()),
        ("a line break in the path", [&base[..3], &[(":path", "/v2\r\nhost: x")]].concat()),
        ("another host", with(&[("host", "other")])),
        ("two lengths", with(&[("content-length", "0"), ("content-length", "1")])),
        ("a length that is none", with(&[("content-length", "+0")])),
        ("a length without a body", with(&[("content-length", "5")])),
    ];
    let mut taken = Vec::new();
    for (what, fields) in cases {
        let mut wire = house.h2().await;
        let head = h2::frame(h2::HEADERS, h2::END_STREAM | h2::END_HEADERS, 1, &h2::block(&fields));
        wire.write([h2::hello(), head].concat()).await;
        let (said, _) = wire
            .read_until(|bytes| {
                let frames = h2::frames(bytes);
                frames.iter().any(|(kind, _, stream, _)| *kind == h2::RST_STREAM && *stream == 1)
                    || h2::answered(bytes, 1)
                    || h2::goaway(bytes).is_some()
            })
            .await;
        // 0x88 is `:status: 200` of the static table, which an answer's block begins with.
        let ok =
            h2::frames(&said).iter().any(|(kind, _, _, block)| *kind == h2::HEADERS && block.first() == Some(&0x88));
        if ok {
            taken.push(what);
        }
    }
    assert_eq!(taken, ["the control"]);
    house.serves().await;
}
