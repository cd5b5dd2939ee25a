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
        "queue.wait_max",
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
fn how_are_tokens_reviewed() {
    let of = |review: &str| {
        let text = format!(
            "kubernetes: {{server: 'https://127.0.0.1:6443', authorities: ca.pem, token_file: token}}\n{SMALL}"
        );
        parse(&text.replace("anonymous: {}", &format!("token_review: {review}")))
    };
    let config = of("{audiences: [a], allow_ttl: 1m, deny_ttl: 500ms, questions_per_second: 7}").unwrap();
    let [Method::TokenReview(review)] = &config.auth.methods[..] else { panic!("another method") };
    assert_eq!(review.kubernetes.token_file, Some("/etc/outrider/token".into()));
    let limits = &review.limits;
    // What is shorter than a second would be nothing.
    assert_eq!((limits.good_seconds, limits.bad_seconds, limits.asked_per_second), (60, 1, 7));
    let shown = &config.dump()["auth"]["methods"][0]["token_review"];
    assert_eq!(
        (&shown["audiences"][0], &shown["kubernetes"]["server"]),
        (&"a".into(), &"https://127.0.0.1:6443".into())
    );
    for (review, audiences) in [("{}", "host"), ("{audiences: []}", "server")] {
        assert_eq!(of(review).unwrap().dump()["auth"]["methods"][0]["token_review"]["audiences"], audiences);
    }
    for bad in ["{audiences: ['']}", "{allow_ttl: 0s}", "{questions_max: 0}"] {
        assert!(of(bad).is_err(), "{bad}");
    }
}

#[test]
fn who_need_not_say_whom_to_believe() {
    let of = |tls: &str| parse(&SMALL.replace("{mode: disable}", tls));
    let simple = of("{mode: simple, trust_domain: td, certificate: c, key: k}").unwrap();
    let Some(IdentitySource::Files(files)) = &simple.tls.source else { panic!("another source") };
    assert_eq!(files.trust_bundle, None);
    for bad in [
        "{mode: permissive, trust_domain: td, certificate: c, key: k}",
        "{mode: simple, trust_domain: td, certificate: c, key: k, ports: {1: strict}}",
    ] {
        assert!(of(bad).is_err(), "{bad}");
    }
}

#[test]
fn is_the_example_of_limits_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/proxy.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    let at = text.find("# rate_limits:").unwrap();
    let lines = text[at..].lines().map_while(|line| line.strip_prefix("# "));
    let section: String = lines.map(|line| line.to_owned() + "\n").collect();
    let limits = parse(&format!("{SMALL}\n{section}")).unwrap().rate_limits;
    assert_eq!(limits.limits.iter().map(|limit| &*limit.name).collect::<Vec<_>>(), ["calls", "words"]);
    let small =
        format!("{SMALL}\nrate_limits: {{service: {{protocol: envoy, address: 'a:1', domain: d, descriptors: [");
    let small = parse(&(small + "{entries: [{key: a, from: path}]}]}}")).unwrap().rate_limits;
    let (service, plain) = (limits.service.unwrap(), small.service.unwrap());
    assert_eq!((limits.headers, limits.keys_max), (small.headers, small.keys_max));
    assert_eq!((service.timeout, service.fail_open), (plain.timeout, plain.fail_open));
    // A foreign server's requests are not read.
    let foreign = SMALL.replace("worker: {socket: worker.sock, models: [smollm2]}", "forward: {to: 127.0.0.1:8000}");
    let Err(Error::Contradictions { problems, .. }) = parse(&format!("{foreign}\n{section}")) else {
        panic!("accepted")
    };
    assert!(problems[0].starts_with("rate_limits.limits[0].when.model: "), "{problems:?}");
}

#[test]
fn is_the_example_of_a_way_out_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/proxy.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    let at = text.find("# outbound:").unwrap();
    let section: String = text[at..].lines().map(|line| line.strip_prefix("# ").unwrap().to_owned() + "\n").collect();
    let section = section.replace("canary, percent", "models, percent");
    let config = parse(&format!("{SMALL}\n{section}")).unwrap();
    let plain = "routes: [{cluster: models}], clusters: [{name: models, endpoints: []}]";
    let plain = parse(&format!("{SMALL}\noutbound: {{{plain}}}")).unwrap().outbound.unwrap();
    let mut shown = config.outbound.unwrap();
    assert_eq!(
        (&shown.clusters[0].limits, &shown.clusters[0].outlier),
        (&plain.clusters[0].limits, &plain.clusters[0].outlier)
    );
    assert_eq!(shown.routes[0].retries, plain.routes[0].retries);
    // What is left are the examples; every other value is the default.
    (shown.routes, shown.clusters, shown.zone) = (plain.routes.clone(), plain.clusters.clone(), None);
    shown.failover.clear();
    assert_eq!(shown, plain);
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
        "outbound.listen",
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
        "outbound.clusters",
    ];
    assert_eq!(paths, want);
    // Whoever reaches it speaks with our identity.
    let Err(Error::Contradictions { problems, .. }) = with("  listen: '[::]:15001'\n") else { panic!("accepted") };
    assert!(problems.iter().any(|problem| problem.starts_with("outbound.listen: must be a loopback")), "{problems:?}");
}

fn with_tls(tls: &str) -> Result<Config, Vec<String>> {
    match parse(&SMALL.replace("{mode: disable}", tls)) {
        Ok(config) => Ok(config),
        Err(Error::Contradictions { problems, .. }) => Err(problems),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn where_may_identity_come_from() {
    let files = with_tls(
        "{mode: strict, trust_domain: td, certificate: c, key: k, trust_bundle: b, crl: [one.pem, two.crl], \
         crl_required: true, federated: {other.test: o.pem}}",
    )
    .unwrap();
    assert!(matches!(files.tls.source, Some(IdentitySource::Files(_))));
    assert_eq!(files.tls.trust.crl, [Path::new("/etc/outrider/one.pem"), Path::new("/etc/outrider/two.crl")]);
    assert_eq!(files.tls.trust.federated["other.test"], Path::new("/etc/outrider/o.pem"));

    let api = with_tls("{mode: strict, trust_domain: td, workload_api: {socket: 'unix:///run/agent.sock'}}").unwrap();
    let Some(IdentitySource::WorkloadApi(api)) = api.tls.source else { panic!("{:?}", api.tls) };
    assert_eq!(api.socket, Path::new("/run/agent.sock"));

    let ca =
        with_tls("{mode: strict, trust_domain: td, istio_ca: {address: 'istiod.istio-system.svc:15012'}}").unwrap();
    assert_eq!(ca.dump()["tls"]["source"]["istio_ca"]["lifetime_seconds"], 86_400.0);
    let Some(IdentitySource::IstioCa(ca)) = ca.tls.source else { panic!("{:?}", ca.tls) };
    assert_eq!(
        (ca.port, ca.server_name.as_str(), ca.cluster_id.as_str()),
        (15012, "istiod.istio-system.svc", "Kubernetes")
    );
    assert_eq!(ca.token, Path::new("/var/run/secrets/tokens/istio-token"));

    // For the way out alone.
    let own = with_tls("{mode: disable, trust_domain: td, self_signed: {spiffe_id: 'spiffe://td/ns/a/sa/b'}}").unwrap();
    assert!(matches!(own.tls.source, Some(IdentitySource::SelfSigned(_))));
}

#[test]
fn which_identities_contradict_themselves() {
    let cases = [
        ("{mode: strict, trust_domain: td}", "tls.certificate"),
        ("{mode: strict, trust_domain: td, certificate: c, workload_api: {socket: s}}", "tls"),
        ("{mode: strict, trust_domain: TD, workload_api: {socket: s}}", "tls.trust_domain"),
        ("{mode: strict, trust_domain: td, crl: x, workload_api: {socket: s}}", "tls.workload_api"),
        ("{mode: strict, trust_domain: td, workload_api: {socket: s, spiffe_id: x}}", "tls.workload_api.spiffe_id"),
        (
            "{mode: strict, trust_domain: td, workload_api: {socket: s, hint: x, spiffe_id: 'spiffe://td/x'}}",
            "tls.workload_api",
        ),
        ("{mode: strict, trust_domain: td, istio_ca: {address: istiod}}", "tls.istio_ca.address"),
        ("{mode: strict, trust_domain: td, istio_ca: {address: 'a:1', namespace: '/'}}", "tls.istio_ca.namespace"),
        ("{mode: strict, trust_domain: td, istio_ca: {address: 'a:1', server_name: '-'}}", "tls.istio_ca.server_name"),
        ("{mode: strict, trust_domain: td, self_signed: {spiffe_id: 'spiffe://td'}}", "tls.self_signed.spiffe_id"),
        ("{mode: strict, trust_domain: td, self_signed: {spiffe_id: 'spiffe://x/y'}}", "tls.self_signed.spiffe_id"),
        (
            "{mode: strict, trust_domain: td, self_signed: {spiffe_id: 'spiffe://td/y', authority_key: k}}",
            "tls.self_signed",
        ),
        ("{mode: strict, trust_domain: td, workload_api: {socket: s}, federated: {td: b}}", "tls.federated.td"),
    ];
    for (tls, path) in cases {
        let problems = with_tls(tls).unwrap_err();
        assert_eq!(problems[0].split(": ").next(), Some(path), "{tls}: {problems:?}");
    }
}

#[test]
fn which_probes_can_be_configured() {
    let probes = |section: &str| parse(&format!("{SMALL}\nprobes: {section}"));
    let good = "{address: 127.0.0.1, apps: [
      {container: a, probe: livez, http: {port: 80, scheme: HTTPS, headers: [{name: authorization, value: secret}]}, timeout: 5s},
      {container: a, probe: readyz, tcp: {port: 81}}, {container: a, probe: startupz, grpc: {port: 82}}]}";
    let config = probes(good).unwrap();
    assert_eq!(config.probes.apps[0].timeout, Duration::from_secs(5));
    assert!(matches!(&config.probes.apps[0].ask, ProbeAsk::Http(http) if http.path == "/" && http.https));
    let dump = config.dump()["probes"].to_string();
    assert!(dump.contains("authorization") && !dump.contains("secret"), "{dump}");
    let cases = [
        ("{address: here}", "probes.address"),
        ("{apps: [{container: A, probe: livez, tcp: {port: 1}}]}", "probes.apps[0].container"),
        ("{apps: [{container: a, probe: alive, tcp: {port: 1}}]}", "probes.apps[0].probe"),
        ("{apps: [{container: a, probe: livez}]}", "probes.apps[0]"),
        ("{apps: [{container: a, probe: livez, tcp: {port: 1}, grpc: {port: 1}}]}", "probes.apps[0]"),
        ("{apps: [{container: a, probe: livez, http: {port: 1, scheme: ftp}}]}", "probes.apps[0].http.scheme"),
        ("{apps: [{container: a, probe: livez, http: {port: 1, path: 'a b'}}]}", "probes.apps[0].http.path"),
        (
            "{apps: [{container: a, probe: livez, http: {port: 1, headers: [{name: 'a b'}]}}]}",
            "probes.apps[0].http.headers[0]",
        ),
        (
            "{apps: [{container: a, probe: livez, tcp: {port: 1}}, {container: a, probe: livez, tcp: {port: 2}}]}",
            "probes.apps[1]",
        ),
    ];
    for (section, path) in cases {
        let Err(Error::Contradictions { problems, .. }) = probes(section) else { panic!("{section}: accepted") };
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].starts_with(&format!("{path}: ")), "{problems:?}");
    }
}

#[test]
fn how_is_a_worker_of_another_container_described() {
    let worker = "{socket: w.sock, models: [m], target: {standby: {control: c.sock}}, prewarm: [Mon-Fri 07:55]}";
    let text = format!("tls: {{mode: disable}}\nauth: {{methods: [{{anonymous: {{}}}}]}}\nworker: {worker}\n");
    let config = parse(&text).unwrap();
    let worker = config.worker().unwrap();
    assert_eq!(worker.standby.as_deref(), Some(Path::new("/etc/outrider/c.sock")));
    assert_eq!(worker.idle_timeout, Some(Duration::from_secs(60)), "whoever can be woken sleeps");
    let dump = config.dump();
    assert_eq!(dump["worker"]["prewarm"][0], "Mon-Fri 07:55");
    assert_eq!(dump["cold"]["keep_alive"]["after_seconds"], 15.0);
}

#[test]
fn which_ways_to_sleep_contradict_themselves() {
    let paths = |behind: &str| -> Vec<String> {
        let text = format!("tls: {{mode: disable}}\nauth: {{methods: [{{anonymous: {{}}}}]}}\n{behind}\n");
        let Err(Error::Contradictions { problems, .. }) = parse(&text) else { panic!("accepted: {behind}") };
        problems.iter().map(|problem| problem.split(": ").next().unwrap().to_owned()).collect()
    };
    let standby = "target: {standby: {control: c.sock}}";
    for (behind, expected) in [
        (format!("worker: {{socket: w, models: [m], command: [x], {standby}}}"), &["worker.target"][..]),
        ("worker: {socket: w, models: [m], prewarm: [daily 6:00]}".into(), &["worker.prewarm"]),
        (
            format!("worker: {{socket: w, models: [m], {standby}, prewarm: [daily 6:00, noon], wake_on: hope}}"),
            &["worker.prewarm[1]", "worker.wake_on"],
        ),
        ("forward: {to: 127.0.0.1:1, sleep: {}}".into(), &["forward.sleep"]),
        (
            "forward: {to: 'unix:a', sleep: {vllm: {level: 3}}}".into(),
            &["forward.sleep.vllm", "forward.sleep.vllm.level"],
        ),
        (
            "forward: {to: 127.0.0.1:1, sleep: {kubernetes: {kind: Pod, name: a, namespace: b, replicas: 0}}}".into(),
            &["forward.sleep.kubernetes.replicas", "forward.sleep.kubernetes.kind"],
        ),
    ] {
        assert_eq!(paths(&behind), expected, "{behind}");
    }
    let vllm =
        "tls: {mode: disable}\nauth: {methods: [{anonymous: {}}]}\nforward: {to: 127.0.0.1:1, sleep: {vllm: {}}}\n";
    let config = parse(vllm).unwrap();
    assert_eq!(config.dump()["forward"]["sleep"]["vllm"]["level"], 1);
    assert_eq!(config.forward().unwrap().sleep.as_ref().unwrap().after, Some(Duration::from_secs(300)));
}
