//! Two pods, each with the real sidecar behind the kernel's own redirect: who gets in, who goes out as whom, and what a
//! kubelet sees of it. Applications know of nothing.

use crate::mesh::request;
use outrider_tests::authority::{Authority, CALLER, Leaf, SERVER};
use outrider_tests::client::{Answer, Connection, Protocol};
use outrider_tests::netns::{Inside, Namespace, Pair, available};
use outrider_tests::places::binary;
use outrider_tests::proxy::{Proxy, Sidecar};
use outrider_tests::upstream::{Echo, Speaks};
use outrider_tests::wire::{Caller, Wire, statuses};
use std::time::Duration;

/// mTLS only, by configuration.
const STRICT: u16 = 8080;
/// The same, and a PeerAuthentication says otherwise.
const EASED: u16 = 9090;
/// Nobody may, by AuthorizationPolicy.
const CLOSED: u16 = 8081;
const UPGRADES: u16 = 8085;
/// Servers that speak first; the second asks for mTLS.
const BANNER: u16 = 3306;
const STRICT_BANNER: u16 = 3307;
/// As `BANNER`, and no policy lets anybody in.
const CLOSED_BANNER: u16 = 3308;
/// Nobody listens there.
const EMPTY: u16 = 9998;

const HELLO: &[u8] = b"5.7 hello\n";

const POLICIES: &str = "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: eased}
spec:
  selector: {matchLabels: {app: model}}
  portLevelMtls: {9090: {mode: PERMISSIVE}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: closed}
spec:
  action: DENY
  rules:
    - when: [{key: destination.port, values: ['8081', '3308']}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-the-caller}
spec:
  action: DENY
  rules:
    - from: [{source: {notPrincipals: [cluster.local/ns/default/sa/caller]}}]
      when: [{key: destination.port, values: ['8080']}]
";

const SERVED: &str = "
listen: '[::]:15006'
admin: '[::]:15020'
threads: 2
interception: {inbound: true, detect_timeout: 200ms}
tls: {mode: permissive, ports: {8080: strict, 9090: strict, 3307: strict, 8085: strict}, trust_domain: cluster.local,
  certificate: server.pem, key: server.key, trust_bundle: ca.pem}
auth: {methods: [{mtls: {}}, {anonymous: {}}]}
policy: {folder: policies, labels: {app: model}}
forward: {to: original, connect_timeout: 2s, start_timeout: 2s}
probes:
  apps:
    - {container: app, probe: readyz, http: {port: 8080, path: /ready}, timeout: 5s}
    - {container: app, probe: livez, tcp: {port: 3306}, timeout: 5s}
    - {container: app, probe: startupz, grpc: {port: 8080, service: model}, timeout: 5s}
    - {container: gone, probe: livez, tcp: {port: 9998}, timeout: 5s}
";

/// Every port that HTTP is spoken on goes to the served pod over mTLS; what else there is passes as it is.
const CALLING: &str = "
listen: '[::]:15006'
admin: '[::]:15020'
threads: 2
interception: {inbound: true}
tls: {mode: permissive, trust_domain: cluster.local, certificate: server.pem, key: server.key, trust_bundle: ca.pem}
auth: {methods: [{anonymous: {}}]}
forward: {to: original}
outbound:
  listen: 127.0.0.1:15001
  interception: true
  detect_timeout: 200ms
  routes:
    - {ports: [8080], cluster: model}
    - {ports: [8081], cluster: closed}
    - {ports: [8085], cluster: upgrades}
    - {ports: [8086], cluster: other}
  clusters:
    - {name: model, endpoints: ['ADDRESS:8080'], tls: {mode: mutual, ids: ['spiffe://cluster.local/ns/default/sa/server']}}
    - {name: closed, endpoints: ['ADDRESS:8081'], tls: {mode: mutual}}
    - {name: upgrades, endpoints: ['ADDRESS:8085'], tls: {mode: mutual}}
    - {name: other, endpoints: ['ADDRESS:8080'], tls: {mode: mutual, ids: ['spiffe://cluster.local/ns/default/sa/other']}}
";

/// The pod that is called: application, sidecar, redirect.
struct Served {
    proxy: Proxy,
    authority: Authority,
    caller: Leaf,
    /// Where callers are.
    outside: Inside,
    /// Where the application is.
    apps: Inside,
    /// Last, for what runs in it ends before it.
    pair: Pair,
}

fn redirect(network: &Namespace, words: &[&str]) {
    let outrider = binary("outrider");
    network.run(&[&[outrider.to_str().expect("a path in UTF-8"), "redirect", "install"], words].concat());
}

fn files<'a>(authority: &'a Authority, leaf: &'a Leaf) -> [(&'static str, &'a str); 3] {
    [("ca.pem", &authority.root), ("server.pem", &leaf.certificate), ("server.key", &leaf.key)]
}

impl Served {
    fn new(backend: &str) -> Served {
        Self::with(backend, SERVED)
    }

    fn with(backend: &str, config: &str) -> Served {
        let pair = Pair::new();
        let pod = &pair.pod;
        redirect(pod, &[&format!("--backend={backend}")]);
        let (apps, outside) = (pod.enter(), pair.other.enter());
        // On all addresses, and on the pod's own alone.
        let own = [format!("{}:{EASED}", pod.v4), format!("[{}]:{EASED}", pod.v6)];
        apps.run(async move {
            for address in [format!("[::]:{STRICT}"), format!("[::]:{CLOSED}")].iter().chain(&own) {
                Echo::start_on(address).await;
            }
            for port in [BANNER, STRICT_BANNER, CLOSED_BANNER] {
                Speaks::First(HELLO).start_on(&format!("[::]:{port}")).await;
            }
            Speaks::Upgraded.start_on(&format!("[::]:{UPGRADES}")).await;
        });
        let authority = Authority::new("root");
        let (server, caller) = (authority.leaf(SERVER), authority.leaf(CALLER));
        let files = [&files(&authority, &server)[..], &[("policies/all.yaml", POLICIES)]].concat();
        let proxy = Proxy::start_inside(pod, config, &files);
        Served { proxy, authority, caller, outside, apps, pair }
    }

    fn at(&self, v6: bool, port: u16) -> String {
        match v6 {
            true => format!("[{}]:{port}", self.pair.pod.v6),
            false => format!("{}:{port}", self.pair.pod.v4),
        }
    }

    /// One plaintext request from the neighbour's namespace; `None` if there was no answer.
    fn plain(&self, address: &str, path: &str) -> Option<String> {
        let head = format!("GET {path} HTTP/1.1\r\nhost: model\r\nconnection: close\r\n\r\n");
        self.exchange(address, head, Duration::from_secs(20))
    }

    /// What comes back for these bytes, until `quiet` or the end; `None` if nothing.
    fn exchange(&self, address: &str, said: impl Into<Vec<u8>>, quiet: Duration) -> Option<String> {
        let (address, said) = (address.to_owned(), said.into());
        let heard = self.outside.run(async move {
            let mut wire = Wire::plain(&address).await.expect("a redirect takes every connection");
            wire.write(said).await;
            wire.read(quiet).await.0
        });
        (!heard.is_empty()).then(|| String::from_utf8_lossy(&heard).into_owned())
    }

    /// One request over mTLS as this one.
    fn secured(&self, address: &str, leaf: &Leaf, protocol: Protocol) -> Answer {
        let alpn = if protocol == Protocol::H2 { "h2" } else { "http/1.1" };
        let who = Caller::new(&self.authority.root, Some(leaf), &[alpn]);
        let address = address.to_owned();
        self.outside.run(async move {
            let stream = who.connect(&address).await.expect("a handshake");
            let mut connection = Connection::handshake(stream, protocol).await.expect("a connection");
            connection.ask(request("GET", "/who", "")).await
        })
    }
}

fn seen<'a>(answer: &'a Answer, name: &str) -> &'a str {
    answer.headers.get(format!("seen-{name}")).map_or("", |value| value.to_str().expect("text"))
}

fn status(answer: &Option<String>) -> u16 {
    answer.as_ref().and_then(|text| statuses(text.as_bytes()).first().copied()).unwrap_or(0)
}

fn who_gets_in(backend: &str) {
    if !available() {
        return;
    }
    let served = Served::new(backend);
    let stranger = served.authority.leaf("spiffe://cluster.local/ns/default/sa/stranger");
    for v6 in [false, true] {
        let at = |port| served.at(v6, port);
        assert_eq!(served.plain(&at(STRICT), "/"), None, "plaintext where mTLS is asked for, IPv6: {v6}");
        for protocol in [Protocol::Http1, Protocol::H2] {
            let answer = served.secured(&at(STRICT), &served.caller, protocol);
            assert_eq!(answer.status, 200, "{protocol:?} {v6} {}", answer.text());
            let told = seen(&answer, "x-forwarded-client-cert");
            assert!(told.contains(&format!("URI={CALLER}")) && told.contains(&format!("By={SERVER}")), "{told}");
            let from = if v6 { served.pair.other.v6 } else { served.pair.other.v4 };
            assert_eq!(seen(&answer, "x-forwarded-for"), from);
        }
        assert_eq!(served.secured(&at(STRICT), &stranger, Protocol::Http1).status, 403, "not this one");
        assert_eq!(served.secured(&at(CLOSED), &served.caller, Protocol::Http1).status, 403, "nobody");
        assert_eq!(status(&served.plain(&at(CLOSED), "/")), 403, "nobody");

        let eased = served.plain(&at(EASED), "/").unwrap_or_default();
        assert!(eased.starts_with("HTTP/1.1 200"), "a PeerAuthentication outranks the configuration: {eased}");
        assert!(!eased.contains("seen-x-forwarded-client-cert"), "{eased}");
        assert_eq!(served.secured(&at(EASED), &stranger, Protocol::Http1).status, 200);
    }
}

#[test]
fn who_gets_in_by_iptables() {
    who_gets_in("iptables");
}

#[test]
fn who_gets_in_by_nft() {
    who_gets_in("nft");
}

#[test]
fn is_a_server_that_speaks_first_heard() {
    if !available() {
        return;
    }
    let served = Served::new("iptables");
    let silence = Duration::from_secs(2);
    for v6 in [false, true] {
        let heard = |port| served.exchange(&served.at(v6, port), b"", silence);
        assert_eq!(heard(BANNER).as_deref().map(str::as_bytes), Some(HELLO), "IPv6: {v6}");
        assert_eq!(heard(STRICT_BANNER), None, "not in plaintext, IPv6: {v6}");
        assert_eq!(heard(CLOSED_BANNER), None, "not against policy, IPv6: {v6}");
        let address = served.at(v6, STRICT_BANNER);
        let who = Caller::new(&served.authority.root, Some(&served.caller), &["istio"]);
        let heard = served.outside.run(async move {
            let mut wire = who.wire(&address).await.expect("a handshake");
            wire.read_until(|bytes| bytes.ends_with(b"\n")).await.0
        });
        assert_eq!(heard, HELLO, "over mTLS, IPv6: {v6}");
    }
}

/// Bytes that are no HTTP to us may be HTTP to the application, and carry no credential that we could see.
#[test]
fn does_anybody_get_in_by_pretending_not_to_speak_http() {
    if !available() {
        return;
    }
    let config = SERVED.replace("{mtls: {}}, {anonymous: {}}", "{mtls: {}}");
    let served = Served::with("iptables", &config);
    let quiet = Duration::from_secs(20);
    let request = "GET / HTTP/1.1\r\nhost: model\r\nconnection: close\r\n\r\n";
    let empty_line = format!("\r\n{request}");
    for v6 in [false, true] {
        assert_eq!(status(&served.plain(&served.at(v6, EASED), "/")), 401, "IPv6: {v6}");
        assert_eq!(served.exchange(&served.at(v6, EASED), empty_line.as_str(), quiet), None, "IPv6: {v6}");
        let late = served.at(v6, EASED);
        let heard = served.outside.run(async move {
            let mut wire = Wire::plain(&late).await.expect("a redirect takes every connection");
            wire.write("GE").await;
            // Longer than a beginning is waited for.
            let mut heard = wire.read(Duration::from_secs(1)).await.0;
            wire.write(&request["GE".len()..]).await;
            heard.extend(wire.read(Duration::from_secs(5)).await.0);
            heard
        });
        assert_eq!(heard, b"", "IPv6: {v6}");
        assert_eq!(served.exchange(&served.at(v6, BANNER), b"", quiet), None, "nor a banner, IPv6: {v6}");
    }
    assert!(served.proxy.log().contains("no_credential"));
}

#[test]
fn what_of_those_whom_nobody_redirected_and_of_ports_where_nobody_listens() {
    if !available() {
        return;
    }
    let served = Served::new("iptables");
    for v6 in [false, true] {
        let ours = served.at(v6, 15006);
        assert_eq!(status(&served.plain(&ours, "/")), 403, "IPv6: {v6}");
        let files = || std::fs::read_dir(format!("/proc/{}/fd", served.proxy.pid())).expect("it runs").count();
        let before = files();
        for _ in 0..20 {
            assert_eq!(status(&served.plain(&ours, "/")), 403, "IPv6: {v6}");
            let bytes = served.exchange(&ours, b"\x00\x01\x02 no HTTP\r\n\r\n", Duration::from_secs(20));
            assert_eq!(status(&bytes), 400, "they may be meant for us, so they are no other protocol: {bytes:?}");
        }
        // Each has ended; one or two may still be on their way out.
        assert!(files() < before + 10, "{} before, {} after, IPv6: {v6}", before, files());

        assert_eq!(status(&served.plain(&served.at(v6, EMPTY), "/")), 503, "IPv6: {v6}");
        assert_eq!(served.exchange(&served.at(v6, EMPTY), b"\x00\x01\x02", Duration::from_secs(20)), None);
        // That one port is empty says nothing of the others.
        assert_eq!(status(&served.plain(&served.at(v6, EASED), "/")), 200, "IPv6: {v6}");
    }
}

#[test]
fn does_a_kubelet_get_its_answers_where_mutual_tls_is_asked_for() {
    if !available() {
        return;
    }
    let served = Served::new("iptables");
    for v6 in [false, true] {
        let admin = served.at(v6, 15020);
        let rows = [
            ("/app-health/app/readyz", 200),
            ("/app-health/app/livez", 200),
            ("/app-health/app/startupz", 200),
            ("/app-health/gone/livez", 503),
            ("/app-health/gone/readyz", 404),
            ("/healthz/ready", 200),
            ("/drain", 403),
            ("/config_dump", 403),
        ];
        for (path, want) in rows {
            let answer = served.plain(&admin, path);
            assert_eq!(status(&answer), want, "{path}, IPv6: {v6}: {answer:?}");
        }
        let drain = "POST /drain HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(status(&served.exchange(&admin, drain, Duration::from_secs(20))), 403);
        assert_eq!(status(&served.plain(&admin, "/healthz/ready")), 200, "and it was not drained");
    }
    assert!(!served.proxy.log().contains("panicked"));
}

/// The sidecar of the pod that calls.
fn calling(served: &Served, v6: bool, backend: &str) -> Proxy {
    let other = &served.pair.other;
    redirect(other, &[&format!("--backend={backend}")]);
    let address = if v6 { format!("[{}]", served.pair.pod.v6) } else { served.pair.pod.v4.to_owned() };
    Proxy::start_inside(other, &CALLING.replace("ADDRESS", &address), &files(&served.authority, &served.caller))
}

/// An application calls in plaintext what only mTLS reaches.
fn who_goes_out_as_whom(v6: bool, backend: &str) {
    if !available() {
        return;
    }
    let served = Served::new(backend);
    let _calling = calling(&served, v6, backend);
    let at = |port| served.at(v6, port);
    let quiet = Duration::from_secs(20);

    let answer = served.plain(&at(STRICT), "/who").unwrap_or_default();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains(&format!("URI={CALLER}")) && answer.contains(&format!("By={SERVER}")), "{answer}");
    assert_eq!(status(&served.plain(&at(CLOSED), "/")), 403, "policy there knows us, and lets nobody in");
    assert_eq!(status(&served.plain(&at(8086), "/")), 503, "whoever answers is not who is meant");

    // Unknown here: it goes where it was going, as it is.
    let answer = served.plain(&at(EASED), "/").unwrap_or_default();
    assert!(answer.starts_with("HTTP/1.1 200") && !answer.contains("seen-x-forwarded-client-cert"), "{answer}");
    let heard = served.exchange(&at(BANNER), b"", Duration::from_secs(3));
    assert_eq!(heard.as_deref().map(str::as_bytes), Some(HELLO), "a server that speaks first, through both");
    assert_eq!(served.exchange(&at(STRICT_BANNER), b"", Duration::from_secs(3)), None);

    let upgrade = "GET /chat HTTP/1.1\r\nhost: model\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
        sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let address = at(UPGRADES);
    let (switched, echoed) = served.outside.run(async move {
        let mut wire = Wire::plain(&address).await.expect("a redirect takes every connection");
        wire.write(upgrade).await;
        let switched = wire.read_until(|bytes| bytes.ends_with(b"\r\n\r\n")).await.0;
        wire.write("ping").await;
        (switched, wire.read_until(|bytes| bytes.ends_with(b"ping")).await.0)
    });
    assert_eq!(statuses(&switched), [101]);
    assert_eq!(echoed, b"ping");

    // gRPC over h2c, with trailers.
    let address = at(STRICT);
    let answer = served.outside.run(async move {
        let tcp = tokio::net::TcpStream::connect(&address).await.expect("a redirect takes every connection");
        let mut connection = Connection::handshake(tcp, Protocol::H2).await.expect("h2c");
        let mut call = request("POST", "/model.Service/Ask", "\0\0\0\0\x02ab");
        call.headers_mut().insert("content-type", "application/grpc".parse().expect("a value"));
        call.headers_mut().insert("te", "trailers".parse().expect("a value"));
        connection.ask(call).await
    });
    assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, &b"\0\0\0\0\x02ab"[..]), "{answer:?}");
    assert!(seen(&answer, "x-forwarded-client-cert").contains(CALLER), "{answer:?}");
    assert_eq!(answer.trailers.expect("trailers")["grpc-status"], "0");

    let heard = served.exchange(&at(EMPTY), b"\x00\x01\x02", quiet);
    assert_eq!(heard, None, "where nobody listens, nobody answers");
}

#[test]
fn who_goes_out_as_whom_by_iptables() {
    who_goes_out_as_whom(false, "iptables");
}

#[test]
fn who_goes_out_as_whom_by_nft() {
    who_goes_out_as_whom(false, "nft");
}

#[test]
fn who_goes_out_as_whom_over_ipv6() {
    who_goes_out_as_whom(true, "iptables");
}

const MANIFEST: &str = "
apiVersion: v1
kind: Pod
metadata: {name: model}
spec:
  containers:
    - name: app
      image: app:1
      ports: [{name: http, containerPort: 8080}]
      readinessProbe: {httpGet: {path: /ready, port: http}, timeoutSeconds: 5}
      livenessProbe: {tcpSocket: {port: 8080}, timeoutSeconds: 5}
      startupProbe: {grpc: {port: 8080}, timeoutSeconds: 5}
";

/// The manifest as `outrider inject` gives it back.
fn injected(flags: &[&str]) -> serde_yaml_ng::Value {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("pod.yaml");
    std::fs::write(&file, MANIFEST).expect("the folder takes a file");
    let mut command = std::process::Command::new(binary("outrider"));
    let out = command.arg("inject").arg("-f").arg(&file).args(flags).output().expect("outrider can be run");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    serde_yaml_ng::from_slice(&out.stdout).expect("YAML")
}

/// Injector, redirect and sidecar have each its own idea of ports, users and probes: here they must agree.
#[test]
fn does_an_injected_pod_work() {
    if !available() {
        return;
    }
    let flags = ["--forward=original", "--redirect", "--redirect-outbound", "--identity=secret=model", "--tls=strict"];
    let pod = injected(&[&flags[..], &["--listen-host=[::]"]].concat());
    let named = |list: &str, name: &str| {
        let containers = pod["spec"][list].as_sequence().expect("containers");
        containers.iter().find(|container| container["name"] == name).unwrap_or_else(|| panic!("no {name}")).clone()
    };
    let words = |command: &serde_yaml_ng::Value| -> Vec<String> {
        command.as_sequence().expect("a command").iter().map(|word| word.as_str().expect("text").to_owned()).collect()
    };

    let pair = Pair::new();
    let redirect = words(&named("initContainers", "outrider-redirect")["command"]);
    assert_eq!(redirect[..3], ["outrider", "redirect", "install"]);
    self::redirect(&pair.pod, &redirect[3..].iter().map(String::as_str).collect::<Vec<_>>());
    let (apps, outside) = (pair.pod.enter(), pair.other.enter());
    apps.run(async { drop(Echo::start_on("[::]:8080").await) });
    outside.run(async { drop(Echo::start_on("[::]:7000").await) });

    let authority = Authority::new("root");
    let (server, caller) = (authority.leaf(SERVER), authority.leaf(CALLER));
    let config = pod["metadata"]["annotations"]["outrider.dev/proxy.yaml"].as_str().expect("a configuration");
    let config = config.replace("/etc/outrider/tls/", "");
    let files = [("ca.crt", &*authority.root), ("tls.crt", &*server.certificate), ("tls.key", &*server.key)];
    let proxy = Proxy::start_inside(&pair.pod, &config, &files);
    let served = Served { proxy, authority, caller, outside, apps, pair };
    for v6 in [false, true] {
        assert_eq!(served.plain(&served.at(v6, STRICT), "/"), None, "IPv6: {v6}");
        let answer = served.secured(&served.at(v6, STRICT), &served.caller, Protocol::H2);
        assert_eq!(answer.status, 200, "IPv6: {v6}");
        assert!(seen(&answer, "x-forwarded-client-cert").contains(CALLER), "{answer:?}");

        for probe in ["readinessProbe", "livenessProbe", "startupProbe"] {
            let get = &named("containers", "app")[probe]["httpGet"];
            let port = get["port"].as_u64().expect("a number") as u16;
            let answer = served.plain(&served.at(v6, port), get["path"].as_str().expect("a path"));
            assert_eq!(status(&answer), 200, "{probe}, IPv6: {v6}: {answer:?}");
        }

        // The application calls somebody of whom the sidecar knows nothing.
        let other = &served.pair.other;
        let to = if v6 { format!("[{}]:7000", other.v6) } else { format!("{}:7000", other.v4) };
        let heard = served.apps.run(async move {
            let mut wire = Wire::plain(&to).await.expect("a redirect takes every connection");
            wire.write("GET / HTTP/1.1\r\nhost: elsewhere\r\nconnection: close\r\n\r\n").await;
            wire.read_to_end().await
        });
        assert_eq!(statuses(&heard), [200], "IPv6: {v6}");
    }
}
