//! Which files are configurations, and what is said about those that are not.

use super::*;

const SMALL: &str = "
tls: {mode: disable}
auth: {methods: [{anonymous: {}}]}
worker: {socket: worker.sock, models: [smollm2]}
";

fn parse(text: &str) -> Result<Config, Error> {
    Config::parse(text, Path::new("/etc/outrider"), Path::new("proxy.yaml"))
}

#[test]
fn what_does_the_smallest_file_mean() {
    let config = parse(SMALL).unwrap();
    assert_eq!(config.listen.port(), 8443);
    assert_eq!(config.worker().unwrap().socket, Path::new("/etc/outrider/worker.sock"));
    assert_eq!(config.worker().unwrap().idle_timeout, None);
    assert_eq!(config.limits.body_bytes_max, 16 << 20);
    assert_eq!(config.queue.wait_max, Duration::from_secs(300));
    assert!(config.dump()["limits"]["streams_max"].is_u64());
}

#[test]
fn are_all_contradictions_told_at_once() {
    let text = "
listen: nowhere
threads: 0
tls: {mode: strict, key: k.pem}
auth: {methods: [{jwt: {issuer: '', audience: a, jwks_file: j}, anonymous: {}}, {jwt: {issuer: '', audience: a, jwks_file: j}}]}
worker: {socket: w.sock, models: [], idle_timeout: 30s, start_timeout: 10}
queue: {bytes_max: 1MiB, wait_max: soon}
drain: {timeout: 0s}
";
    let Err(Error::Contradictions { problems, .. }) = parse(text) else { panic!("accepted") };
    let paths: Vec<&str> = problems.iter().map(|problem| problem.split(": ").next().unwrap()).collect();
    let want = [
        "listen",
        "threads",
        "tls.trust_domain",
        "tls.certificate",
        "tls.trust_bundle",
        "auth.methods[0]",
        "auth.methods[1].jwt.issuer",
        "worker.models",
        "worker.idle_timeout",
        "worker.start_timeout",
        "queue.wait_max",
        "drain.timeout",
        "queue.bytes_max",
    ];
    assert_eq!(paths, want);
}

#[test]
fn is_an_unknown_key_refused_by_name() {
    let Err(Error::Shape { words, .. }) = parse(&format!("{SMALL}\nlimits: {{body_byte_max: 3}}")) else {
        panic!("accepted")
    };
    assert!(words.contains("body_byte_max") && words.contains("limits"), "{words}");
}

#[test]
fn is_the_example_a_configuration() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/proxy.yaml");
    let config = Config::load(&path).unwrap();
    assert_eq!(config.tls.mode, TlsMode::Permissive);
    assert!(config.worker().unwrap().command.is_some());
}

#[test]
fn who_answers() {
    let foreign = SMALL.replace("worker: {socket: worker.sock, models: [smollm2]}", "forward: {to: 127.0.0.1:8000}");
    let config = parse(&foreign).unwrap();
    let Behind::Forward(forward) = &config.behind else { panic!("a worker") };
    assert_eq!((forward.protocol, forward.concurrency), (Protocol::Auto, None));
    assert_eq!(config.dump()["forward"]["to"], "127.0.0.1:8000");
    for (text, path) in [
        (foreign.replace("127.0.0.1:8000", "original"), "forward.to"),
        (foreign.replace("127.0.0.1:8000", "nowhere"), "forward.to"),
        (foreign.replace("8000}", "8000, protocol: h3}"), "forward.protocol"),
        (format!("{foreign}\nworker: {{socket: w.sock, models: [a]}}"), "worker"),
        (format!("{foreign}\nxfcc: maybe"), "xfcc"),
        (foreign.replace("disable}", "disable, ports: {8080: tls}}"), "tls.ports.8080"),
        (SMALL.replace("worker: {socket: worker.sock, models: [smollm2]}", ""), "worker"),
    ] {
        let Err(Error::Contradictions { problems, .. }) = parse(&text) else { panic!("accepted: {text}") };
        assert!(problems.iter().any(|problem| problem.starts_with(&format!("{path}: "))), "{problems:?}");
    }
    assert!(
        parse(&format!("{}\ninterception: {{inbound: true}}", foreign.replace("127.0.0.1:8000", "original"))).is_ok()
    );
}
