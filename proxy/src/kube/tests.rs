//! What comes out of the injector, and whether it can be taken back.

use super::*;
use proptest::prelude::*;
use std::path::PathBuf;

fn options(behind: Behind) -> Options {
    Options { behind: Some(behind), ..Options::default() }
}

fn worker() -> Behind {
    Behind::Worker { models: vec!["smollm2".into()], container: None }
}

fn local() -> Behind {
    Behind::Forward("127.0.0.1:8000".into())
}

fn mesh() -> Options {
    Options {
        identity: Identity::Istio,
        tls: Some(Tls::Strict),
        redirect: Some(Redirect { outbound: true, ..Redirect::default() }),
        policies: Some("policies".into()),
        ..Options::default()
    }
}

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/goldens/inject"))
}

fn read(path: PathBuf) -> String {
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The documents' values; null ones are dropped.
fn values(text: &str) -> Vec<Value> {
    let documents = serde_yaml_ng::Deserializer::from_str(text).map(|d| serde::Deserialize::deserialize(d).unwrap());
    documents.filter(|value: &Value| !value.is_null()).collect()
}

/// What one injection makes of the text; afterwards: once more changes nothing, and back is where we came from.
#[track_caller]
fn there_and_back(name: &str, text: &str, options: &Options) -> String {
    let out = inject(text, options).unwrap_or_else(|problems| panic!("{name}: {problems:?}"));
    assert_eq!(inject(&out, options).unwrap(), out, "{name}: injected twice");
    let other = Options { image: "outrider:next".into(), identity: Identity::SelfSigned, ..options.clone() };
    let through = inject(&inject(text, &other).unwrap(), options).unwrap();
    assert_eq!(values(&through), values(&out), "{name}: what was injected before shows through");
    // Modes and truths are compared as they are read, not as they were spelt.
    let mended = |text: &str| values(text).iter().map(|v| yaml::read(&yaml::write(v)).unwrap().0).collect::<Vec<_>>();
    assert_eq!(mended(&uninject(&out).unwrap()), mended(text), "{name}: taken back");
    out
}

#[test]
fn is_every_golden_what_comes_out() {
    let classic = |options: Options| Options { native: Some(false), ..options };
    let spire = Options { identity: Identity::Spire, ..options(local()) };
    let cases = [
        ("worker", "worker", Options { identity: Identity::Secret("model-tls".into()), ..options(worker()) }),
        ("worker", "worker-classic", classic(options(worker()))),
        ("forward", "forward", mesh()),
        ("forward", "forward-classic", classic(Options { redirect: Some(Redirect::default()), ..options(local()) })),
        ("forward", "forward-local", spire),
        ("kserve", "kserve", Options { identity: Identity::SelfSigned, ..options(local()) }),
    ];
    for (input, name, options) in cases {
        let out = there_and_back(name, &read(folder().join(format!("{input}.in.yaml"))), &options);
        let path = folder().join(format!("{name}.out.yaml"));
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&path, &out).unwrap();
        }
        assert_eq!(out, read(path), "{name}; BLESS=1 rewrites it");
    }
}

/// What an operator finds in `config/kubernetes`: all of it YAML, its policies policies, its pods injectable as its
/// comments say.
#[test]
fn do_the_manifests_for_operators_work() {
    use crate::policy::{Policies, Workload};
    let manifests = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../config/kubernetes"));
    let mesh = Options { redirect: None, policies: Some("outrider-policies".into()), behind: Some(local()), ..mesh() };
    let mut injected = 0;
    for entry in std::fs::read_dir(&manifests).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = read(path);
        for manifest in values(&text) {
            let Some(Value::Mapping(data)) = manifest.get("data") else { continue };
            let files = data.iter().map(|(name, text)| (name.as_str().unwrap().into(), text.as_str().unwrap().into()));
            let files: Vec<(String, String)> = files.collect();
            if manifest["metadata"]["name"] == "authorizer" {
                let text = data["authorizer.yaml"].as_str().unwrap();
                let parsed = crate::config::served::Authorizer::parse(text, &manifests, &manifests);
                assert_eq!(parsed.err().map(|error| error.to_string()), None);
            }
            if manifest["metadata"]["name"] == "outrider-policies" {
                let workload = Workload {
                    namespace: "inference".into(),
                    labels: Default::default(),
                    root_namespace: "istio-system".into(),
                    trust_domain: "cluster.local".into(),
                    trust_domain_aliases: Vec::new(),
                };
                let policies = Policies::parse(&files, &workload).unwrap();
                assert_eq!(policies.peer_mode(1), Some(crate::policy::PeerMode::Strict));
            }
        }
        let behind = match name.as_str() {
            "worker" => worker(),
            "vllm" => local(),
            _ => {
                assert_eq!(inject(&text, &mesh).unwrap(), text, "{name}");
                continue;
            }
        };
        injected += 1;
        let out = there_and_back(&name, &text, &Options { behind: Some(behind), ..mesh.clone() });
        let path = folder().join(format!("kubernetes-{name}.out.yaml"));
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&path, &out).unwrap();
        }
        assert_eq!(out, read(path), "{name}; BLESS=1 rewrites it");
    }
    assert_eq!(injected, 2);
}

fn pod(spec: &str, annotations: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: p, annotations: {{{annotations}}}}}\nspec: {{{spec}}}\n")
}

const APP: &str = "containers: [{name: app, image: a}]";

#[test]
fn which_manifests_are_refused_and_in_which_words() {
    let cases: &[(&str, &str, &str)] = &[
        ("hostNetwork: true, containers: [{name: app}]", "", "host's network"),
        ("containers: []", "", "no containers"),
        ("containers: [{name: istio-proxy}]", "", "Istio's sidecar"),
        ("containers: [{name: outrider}]", "", "rename it"),
        ("containers: [{name: app, ports: [{containerPort: 15020}]}]", "", "port 15020"),
        ("containers: [{name: app}], volumes: [{name: outrider-config}]", "", "rename it"),
        ("containers: [{name: app, livenessProbe: {httpGet: {port: web}}}]", "", "no port named `web`"),
        ("containers: [{name: app, livenessProbe: {tcpSocket: {port: 70000}}}]", "", "70000 is no port"),
        (APP, "outrider.dev/excludeInboundPort: '1'", "misspelt"),
        (APP, "outrider.dev/excludeInboundPorts: '1,x'", "`x` is no port"),
        (APP, "outrider.dev/excludeInboundPorts: '*'", "`*` is no port"),
        (APP, "outrider.dev/excludeOutboundIPRanges: 10.0.0.0/33", "no range"),
        (APP, "sidecar.istio.io/interceptionMode: TPROXY", "REDIRECT or NONE"),
        (APP, "sidecar.istio.io/proxyCPU: lots", "no quantity"),
        (APP, "outrider.dev/inject: perhaps", "true"),
        (APP, "outrider.dev/injected: nonsense", "not as it was written"),
    ];
    for (spec, annotations, words) in cases {
        let problems = inject(&pod(spec, annotations), &mesh()).expect_err(spec);
        assert!(problems.iter().any(|problem| problem.words.contains(words)), "{spec} {annotations}: {problems:?}");
        assert!(problems.iter().all(|problem| problem.place == "Pod/p"), "{problems:?}");
    }
}

#[test]
fn which_options_are_refused_whatever_the_manifest() {
    let base = |text: &str| Some(serde_yaml_ng::from_str(text).unwrap());
    let cases = [
        (Options::default(), "--models or --forward"),
        (options(Behind::Forward("original".into())), "--forward"),
        (options(Behind::Worker { models: vec![], container: None }), "--models"),
        (Options { tls: Some(Tls::Strict), ..options(local()) }, "--identity"),
        (Options { base: base("admin: x"), ..options(local()) }, "--config"),
        (Options { base: base("[]"), ..options(local()) }, "--config"),
    ];
    for (options, place) in cases {
        let problems = inject("", &options).expect_err(place);
        assert!(problems.iter().any(|problem| problem.place == place), "{place}: {problems:?}");
    }
}

#[test]
fn does_a_foreign_user_of_the_worker_get_told() {
    let text = pod("securityContext: {runAsUser: 5}, containers: [{name: w}]", "");
    let problems = inject(&text, &options(worker())).unwrap_err();
    assert!(problems[0].words.contains("runs as user 5"), "{problems:?}");
}

#[test]
fn which_kinds_take_not_every_sidecar() {
    let runtime = "apiVersion: serving.kserve.io/v1alpha1\nkind: ServingRuntime\nspec: {containers: [{name: a}]}\n";
    let job = "apiVersion: batch/v1\nkind: Job\nspec: {template: {spec: {containers: [{name: a}]}}}\n";
    assert!(inject(runtime, &mesh()).unwrap_err()[0].words.contains("no init containers"));
    let classic = Options { native: Some(false), ..options(local()) };
    assert!(inject(job, &classic).unwrap_err()[0].words.contains("never ends"));
    assert!(inject(job, &options(local())).unwrap().contains("restartPolicy: Always"));
}

#[test]
fn what_is_the_redirect_told() {
    let told = |annotations: &str| {
        let out = values(&inject(&pod(APP, annotations), &mesh()).unwrap()).remove(0);
        let command = out["spec"]["initContainers"][0]["command"].as_sequence().unwrap().clone();
        command.iter().skip(3).map(|word| word.as_str().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(told(""), "");
    assert_eq!(told("traffic.sidecar.istio.io/includeInboundPorts: ''"), "--inbound-ports=");
    assert_eq!(told("traffic.sidecar.istio.io/includeInboundPorts: '*'"), "--inbound-ports=*");
    let both = "outrider.dev/excludeOutboundPorts: '1,2', traffic.sidecar.istio.io/excludeOutboundPorts: '3'";
    assert_eq!(told(both), "--exclude-outbound-ports=1,2");
}

/// The configuration in the injected pod.
fn config_of(text: &str, options: &Options) -> Value {
    let out = values(&inject(text, options).unwrap()).remove(0);
    let config = out["metadata"]["annotations"]["outrider.dev/proxy.yaml"].as_str().unwrap().to_owned();
    serde_yaml_ng::from_str(&config).unwrap()
}

#[test]
fn who_may_call_when_nothing_is_said() {
    for (tls, methods) in [(Tls::Strict, 1), (Tls::Permissive, 2)] {
        let options = Options { identity: Identity::SelfSigned, tls: Some(tls), ..options(local()) };
        let config = config_of(&pod(APP, ""), &options);
        assert_eq!(config["auth"]["methods"].as_sequence().unwrap().len(), methods);
        assert!(config["auth"]["methods"][0].get("mtls").is_some());
    }
    let base = serde_yaml_ng::from_str("tls: {mode: strict, key: k}\nqueue: {requests_max: 3}\nworker: {models: [m]}")
        .unwrap();
    let config = config_of(&pod(APP, ""), &Options { base: Some(base), ..Options::default() });
    assert_eq!(config["auth"]["methods"].as_sequence().unwrap().len(), 1, "strict by the base configuration");
    assert_eq!(config["worker"]["models"][0], "m");
    assert_eq!(config["queue"]["requests_max"], 3);
}

/// What the injector writes is what the sidecar reads; the one file that only a pod has aside.
#[test]
fn is_the_configuration_one() {
    use crate::config::Config;
    let base = serde_yaml_ng::from_str("queue: {requests_max: 3}\nlimits: {body_bytes_max: 1MiB}").unwrap();
    let all = [
        options(worker()),
        Options { identity: Identity::Spire, base: Some(base), ..options(worker()) },
        Options { identity: Identity::Secret("x".into()), ..options(local()) },
        Options { identity: Identity::SelfSigned, listen_host: "[::]".into(), ..options(local()) },
        Options { redirect: Some(Redirect::default()), ..options(local()) },
        Options { policies: None, redirect: Some(Redirect::default()), ..mesh() },
        Options { redirect: Some(Redirect::default()), ..mesh() },
    ];
    let spec = "containers: [{name: app, livenessProbe: {grpc: {port: 1}}, startupProbe: {httpGet: {port: 2}}}]";
    for options in all {
        let text = yaml::write(&config_of(&pod(spec, ""), &options));
        let labels = text.contains("labels_file");
        match Config::parse(&text, std::path::Path::new("/"), std::path::Path::new("proxy.yaml")) {
            Ok(config) => assert_eq!(config.probes.apps.len(), 2),
            Err(error) => {
                let words = error.to_string();
                assert!(labels && words.contains("labels_file") && words.lines().count() == 2, "{words}\n{text}");
            }
        }
    }
}

fn containers() -> impl Strategy<Value = Vec<Value>> {
    let action = prop_oneof![
        Just("httpGet: {path: /h, port: 80}"),
        Just("tcpSocket: {port: 81}"),
        Just("grpc: {port: 82}"),
        Just("exec: {command: [x]}"),
    ];
    let probe = (action, 0..9u8).prop_map(|(action, seconds)| format!("{{{action}, periodSeconds: {seconds}}}"));
    let probes = proptest::collection::btree_map("(liveness|readiness|startup)Probe", probe, 0..3);
    let extra =
        prop_oneof![Just(""), Just("volumeMounts: []"), Just("volumeMounts: null"), Just("securityContext: {}")];
    let one = (probes, extra);
    proptest::collection::vec(one, 1..4).prop_map(|all| {
        let one = |(at, (probes, extra)): (usize, (std::collections::BTreeMap<String, String>, &str))| {
            let probes: String = probes.into_iter().map(|(kind, probe)| format!(", {kind}: {probe}")).collect();
            let comma = if extra.is_empty() { "" } else { ", " };
            serde_yaml_ng::from_str(&format!("{{name: c{at}{probes}{comma}{extra}}}")).unwrap()
        };
        all.into_iter().enumerate().map(one).collect()
    })
}

fn pods() -> impl Strategy<Value = Value> {
    let metadata = prop_oneof![
        Just("null"),
        Just("{}"),
        Just("{labels: {a: b}}"),
        Just("{annotations: {}}"),
        Just("{annotations: {prometheus.io/path: /x, sidecar.istio.io/proxyMemory: 64Mi}}"),
        Just("{labels: null, annotations: null}"),
    ];
    let volumes =
        prop_oneof![Just(None), Just(Some("[]")), Just(Some("null")), Just(Some("[{name: v, emptyDir: {}}]"))];
    let init = prop_oneof![Just(None), Just(Some("[]")), Just(Some("[{name: i}, {name: j, restartPolicy: Always}]"))];
    (metadata, volumes, init, containers()).prop_map(|(metadata, volumes, init, containers)| {
        let mut pod: Value = serde_yaml_ng::from_str(&format!("{{metadata: {metadata}, spec: {{x: 1}}}}")).unwrap();
        pod["spec"]["containers"] = containers.into();
        for (key, value) in [("volumes", volumes), ("initContainers", init)] {
            if let Some(value) = value {
                pod["spec"][key] = serde_yaml_ng::from_str(value).unwrap();
            }
        }
        pod
    })
}

#[test]
fn does_the_app_wait_for_the_drain_where_it_is_asked_to() {
    let text = "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {terminationGracePeriodSeconds: 90, containers: \
                [{name: a, image: i}, {name: b, image: i, lifecycle: {preStop: {exec: {command: [own]}}}}]}}";
    let mut pod: Value = serde_yaml_ng::from_str(text).unwrap();
    assert!(inject_pod(&mut pod, &Options { hold_app: true, ..options(local()) }).unwrap());
    let out = serde_yaml_ng::to_string(&pod).unwrap();
    assert!(out.contains("/wait-for-drain") && out.contains("- 80s") && out.contains("- own"), "{out}");
    assert_eq!(out.matches("/wait-for-drain").count(), 1, "a hook that is there stays");
}

fn any_options() -> impl Strategy<Value = Options> {
    let identity = prop_oneof![
        Just(Identity::None),
        Just(Identity::Istio),
        Just(Identity::Spire),
        Just(Identity::Secret("s".into())),
        Just(Identity::SelfSigned),
    ];
    let behind = prop_oneof![Just(worker()), Just(local())];
    (identity, behind, any::<[bool; 5]>()).prop_map(
        |(identity, behind, [native, redirect, policies, rewrite, hold_app])| Options {
            identity,
            native: Some(native),
            redirect: redirect.then(Redirect::default),
            policies: policies.then(|| "p".into()),
            rewrite_probes: rewrite,
            hold_app,
            ..options(behind)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn is_every_pod_as_before_when_taken_back(pod in pods(), options in any_options()) {
        let mut injected = pod.clone();
        prop_assert!(inject_pod(&mut injected, &options).unwrap());
        let once = injected.clone();
        prop_assert!(!inject_pod(&mut injected, &options).unwrap());
        prop_assert_eq!(&injected, &once);
        prop_assert!(uninject_pod(&mut injected).unwrap());
        prop_assert_eq!(injected, pod);
    }

    #[test]
    fn does_no_text_make_it_panic(text in "[-a-z:{}\\[\\]\n &*|'\"]{0,80}") {
        let _ = inject(&text, &options(local()));
        let _ = uninject(&text);
    }
}
