//! The way out in the life of the server: it serves with the rest, and while callers are drained.

use super::*;
use std::net::TcpListener;

/// Answers every request on every connection with a 200, until it is dropped with the process.
fn service() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for tcp in listener.incoming() {
            let mut tcp = tcp.unwrap();
            std::thread::spawn(move || {
                loop {
                    let mut head = Vec::new();
                    let mut byte = [0];
                    while !head.ends_with(b"\r\n\r\n") {
                        match tcp.read(&mut byte) {
                            Ok(1) => head.push(byte[0]),
                            _ => return,
                        }
                    }
                    tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nout").unwrap();
                }
            });
        }
    });
    address
}

fn with_way_out() -> Sidecar {
    let yaml = format!(
        "{PLAIN}drain: {{timeout: 20s}}\noutbound:\n  listen: 127.0.0.1:0\n  drain_min: 50ms\n  \
         routes: [{{cluster: c}}]\n  clusters: [{{name: c, endpoints: ['{}']}}]\n",
        service()
    );
    start(&yaml, Vec::new(), Sleepy::default())
}

const ASK: &[u8] = b"GET / HTTP/1.1\r\nhost: models\r\n\r\n";

fn application(sidecar: &Sidecar) -> TcpStream {
    let tcp = TcpStream::connect(sidecar.running.outbound.unwrap()).unwrap();
    tcp.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    tcp
}

fn asks(tcp: &mut TcpStream) {
    tcp.write_all(ASK).unwrap();
    let answer = read_until(tcp, "out");
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(!answer.to_lowercase().contains("connection: close"), "{answer}");
}

#[test]
fn may_the_application_call_out_while_its_callers_are_drained() {
    let sidecar = with_way_out();
    let mut old = application(&sidecar);
    asks(&mut old);
    let _caller = sidecar.connect();
    sidecar.stop.send(()).unwrap();
    wait_for(|| TcpStream::connect(sidecar.running.listen).is_err());
    asks(&mut old);
    asks(&mut application(&sidecar));
    // The application has said goodbye: now we may.
    drop(old);
    wait_for(|| sidecar.thread.as_ref().unwrap().is_finished());
    let line = sidecar.line(|line| line["kind"] == "outbound" && line["cluster"] == "c");
    assert_eq!((line["status"].as_u64(), line["label"].as_str()), (Some(200), Some("ok")));
    let exposition = sidecar.exchange.journal.metrics.expose(&Default::default());
    assert!(
        exposition.contains("outrider_outbound_requests_total{cluster=\"c\",code=\"200\",label=\"ok\"} 3"),
        "{exposition}"
    );
    assert!(exposition.contains("outrider_outbound_endpoints{cluster=\"c\",state=\"usable\"} 1"), "{exposition}");
}

#[test]
fn does_a_second_word_end_the_way_out_too() {
    let sidecar = with_way_out();
    let mut application = application(&sidecar);
    asks(&mut application);
    sidecar.stop.send(()).unwrap();
    wait_for(|| TcpStream::connect(sidecar.running.listen).is_err());
    asks(&mut application);
    sidecar.stop.send(()).unwrap();
    wait_for(|| sidecar.thread.as_ref().unwrap().is_finished());
}

#[test]
fn is_a_cluster_that_cannot_be_told_at_the_start() {
    let text = "  - {name: d, endpoints: [], tls: {mode: simple, sni: d, roots: nowhere.pem}}\n";
    let yaml = format!("{PLAIN}outbound:\n  listen: 127.0.0.1:0\n  clusters:\n{text}");
    let config = Config::parse(&yaml, Path::new("/nowhere"), Path::new("test.yaml")).unwrap();
    let journal = Journal { metrics: Metrics::new(), lines: Lines::Kept(Mutex::default()) };
    let answers = Answers::Worker(Arc::new(Fake::new(Vec::new())));
    let parts = Parts { answers, target: Arc::new(Sleepy::default()), dialects: TOY, journal, by: None };
    let words = Server::open(config, parts).err().unwrap().to_string();
    assert!(words.contains("`d`") && words.contains("nowhere.pem"), "{words}");
}
