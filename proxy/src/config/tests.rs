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

#[test]
fn what_is_said_of_a_way_out() {
    let with = |text: &str| parse(&format!("{SMALL}\noutbound:\n{text}"));
    let config = with(
        "  routes: [{hosts: ['*', a], cluster: c, retries: {on: [503, unavailable]}}]\n  \
         clusters: [{name: c, endpoint_slice: {files: [slice.yaml]}}]\n",
    );
    let outbound = config.unwrap().outbound.unwrap();
    assert_eq!((outbound.listen.port(), outbound.unknown), (15001, outbound::Unknown::Refuse));
    assert!(outbound.routes[0].hosts.is_empty(), "a star is every host");
    let outbound::Source::EndpointSlice { files, .. } = &outbound.clusters[0].source else { panic!("another source") };
    assert_eq!(files[0], Path::new("/etc/outrider/slice.yaml"));
    assert_eq!(outbound.clusters[0].balancer.kind, "least_request");
    let text = "
  listen: nowhere
  unknown: passthrough
  failover: [b]
  routes:
    - {hosts: ['a*'], cluster: absent, path_prefix: v1, timeout: 1s, per_try_timeout: 2s}
    - {clusters: [{name: c, weight: 0}], retries: {attempts: 11, on: [whenever], budget: {percent: 101}}}
    - {cluster: c, fault: {delay: {fixed: 1s, percent: 101}, abort: {http: 99}}}
  clusters:
    - {name: c, endpoints: ['name:80', {address: '127.0.0.1:1', weight: 0}], protocol: h3}
    - {name: c, tls: {mode: mutual, ids: [me], namespace: n}, balancer: {kind: guess}}
    - {name: 'a b', endpoints: [], tls: {mode: simple}, balancer: {kind: consistent_hash}}
    - {name: d, endpoints: [], outlier: {base_ejection: 10s, max_ejection: 1s}, limits: {connections_max: 0}}
";
    let Err(Error::Contradictions { problems, .. }) = with(text) else { panic!("accepted") };
    let paths: Vec<&str> = problems.iter().map(|problem| problem.split(": ").next().unwrap()).collect();
    let want = [
        "outbound.clusters[1].name",
        "outbound.unknown",
        "outbound.failover",
        "outbound.routes[0].hosts",
        "outbound.routes[0].path_prefix",
        "outbound.routes[0].cluster",
        "outbound.routes[0].per_try_timeout",
        "outbound.routes[1].clusters",
        "outbound.routes[1].retries.on",
        "outbound.routes[1].retries.attempts",
        "outbound.routes[1].retries.budget.percent",
        "outbound.routes[2].fault.delay.percent",
        "outbound.routes[2].fault.abort",
        "outbound.clusters[0].endpoints",
        "outbound.clusters[0].endpoints",
        "outbound.clusters[0].protocol",
        "outbound.clusters[1]",
        "outbound.clusters[1].tls.ids",
        "outbound.clusters[1].tls",
        "outbound.clusters[1].balancer.kind",
        "outbound.clusters[2].name",
        "outbound.clusters[2].tls.sni",
        "outbound.clusters[2].tls.roots",
        "outbound.clusters[2].balancer",
        "outbound.clusters[3].limits.connections_max",
        "outbound.clusters[3].outlier.max_ejection",
        "outbound.listen",
        "outbound.clusters",
    ];
    assert_eq!(paths, want);
}
