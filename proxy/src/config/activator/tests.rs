//! What an `activator` section means, and what makes one contradict itself.

use super::*;
use crate::config::{Behind, Config, Error};
use std::path::Path;

const REST: &str =
    "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\ntls: {mode: disable}\nauth: {methods: [{anonymous: {}}]}\n";

fn parse(services: &str) -> Result<Activator, String> {
    let text = format!("{REST}activator:\n  services:\n{services}");
    match Config::parse(&text, Path::new("/etc/o"), Path::new("a.yaml")) {
        Ok(Config { behind: Behind::Pods(activator), .. }) => Ok(activator),
        Ok(_) => panic!("not the activator"),
        Err(Error::Contradictions { problems, .. }) => Err(problems.join("\n")),
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn what_does_a_service_mean_that_says_little() {
    let service =
        "    - {name: llama, hosts: [Llama.Test, '*.llama.test'], endpoint_slices: {files: [s.yaml], port: http}}";
    let activator = parse(service).unwrap();
    let service = &activator.services[0];
    let hosts = [HostPattern::Exact("llama.test".into()), HostPattern::Suffix(".llama.test".into())];
    assert_eq!(service.hosts, hosts);
    let pods = Pods::Files { files: vec!["/etc/o/s.yaml".into()], port: Port::Named("http".into()) };
    assert_eq!((&service.pods, service.concurrency, &service.scale), (&pods, 0, &None));
    assert_eq!((service.probe.path.as_str(), service.probe.body.as_deref()), ("/healthz", Some("queue")));
    assert_eq!((service.probe.period.as_millis(), service.probe.timeout.as_millis()), (200, 300));
    assert_eq!((service.namespace.as_str(), service.queue.requests_max), ("default", 1000));
    assert!(activator.dump().to_string().contains("*.llama.test"));
}

#[test]
fn which_pods_scales_and_probes_are_understood() {
    let service = |more: &str| {
        let text =
            format!("    - {{name: a, namespace: m, hosts: [a], endpoint_slices: {{service: a, port: 80}}, {more}}}");
        parse(&text).unwrap().services.remove(0)
    };
    let scaled = service("scale: {stateful_set: llama}");
    assert_eq!(scaled.pods, Pods::Kubernetes { service: "a".into(), port: Port::Number(80) });
    let Some(Scale::Kubernetes(target)) = &scaled.scale else { panic!("{:?}", scaled.scale) };
    assert_eq!(target.to_string(), "StatefulSet m/llama");
    let own = service("probe: {path: /ready}, scale: {command: [start, secret]}");
    assert_eq!((own.probe.header.clone(), own.probe.body.clone()), (None, None), "any 200");
    assert!(!own.dump().to_string().contains("secret"));
    let own = service("probe: {header: 'x-probe: yes'}");
    assert_eq!(own.probe.header.unwrap().0, "x-probe");
}

#[test]
fn what_contradicts_itself() {
    let one = |more: &str| format!("    - {{name: a, hosts: [a], endpoint_slices: {{files: [s]}}, {more}}}\n");
    for (text, words) in [
        ("    []".to_owned(), "at least one service"),
        (one("") + &one(""), "twice"),
        (one("scale: {}"), "exactly one of `deployment`"),
        (one("scale: {command: []}"), "exactly one of `deployment`"),
        (one("probe: {header: nonsense}"), "is no header"),
        (one("probe: {path: ready}"), "is no path"),
        (one("autoscale: {}"), "needs `scale`"),
        (one("scale: {deployment: a}, autoscale: {window: 1s}"), "services[0].autoscale.window"),
        (one("publish: {service: b, address: '0.0.0.0:80'}"), "where callers reach"),
        (
            one("publish: {service: a, address: '10.0.0.1:80'}").replace("files: [s]", "service: a"),
            "must be another Service",
        ),
        (one("protocol: spdy"), "none of auto"),
        (one("tls: {mode: mutual}"), "needs an identity"),
        (one("queue: {bytes_max: 1KiB}"), "limits.body_bytes_max"),
        (one("").replace("hosts: [a]", "hosts: ['a:80']"), "without a port"),
        (one("").replace("hosts: [a]", "hosts: []"), "at least one host"),
        (one("").replace("name: a", "name: A/b"), "is no name"),
        (one("").replace("files: [s]", "files: [s], service: a"), "either `files` or `service`"),
    ] {
        let told = parse(&text).unwrap_err();
        assert!(told.contains(words), "{text}\n{told}");
    }
}

#[test]
fn is_the_shipped_file_one_and_does_it_say_the_defaults() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/activator.yaml");
    let config = Config::load(&path).unwrap();
    let Behind::Pods(activator) = &config.behind else { panic!("not an activator") };
    let service = &activator.services[0];
    let little = "    - {name: a, hosts: [a], endpoint_slices: {files: [s]}}";
    let plain = parse(little).unwrap().services.remove(0);
    assert_eq!((&service.probe, service.queue, service.concurrency), (&plain.probe, plain.queue, plain.concurrency));
    assert_eq!(service.start_timeout, plain.start_timeout);
    assert_eq!(service.tls, plain.tls);
}
