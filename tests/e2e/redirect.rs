//! Interception by the kernel's own rules, in a network of its own: who ends up where, and what is left afterwards.

use outrider_tests::netns::{Namespace, Pair, Running, available};
use outrider_tests::places::binary;

/// Answers each connection with where it arrived, where it was going, and where it came from. Two families, any ports.
const LISTEN: &str = r#"
import selectors, socket, struct, sys
waiting = selectors.DefaultSelector()
for port in map(int, sys.argv[1:]):
    for family, host in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((host, port))
        listener.listen()
        waiting.register(listener, selectors.EVENT_READ, (family, port))
print("ready", flush=True)
def original(family, connection):
    try:
        if family == socket.AF_INET:
            raw = connection.getsockopt(0, 80, 16)
            return socket.inet_ntop(family, raw[4:8]), struct.unpack("!H", raw[2:4])[0]
        raw = connection.getsockopt(41, 80, 28)
        return socket.inet_ntop(family, raw[8:24]), struct.unpack("!H", raw[2:4])[0]
    except OSError:
        return connection.getsockname()[:2]
while True:
    for key, _ in waiting.select():
        connection, peer = key.fileobj.accept()
        family, port = key.data
        host, meant = original(family, connection)
        connection.sendall(f"{port} {host} {meant} {peer[0]}".encode())
        connection.close()
"#;

/// Connects as some user, from some address, and prints what it hears.
const CONNECT: &str = r#"
import os, socket, sys
uid, gid, source, host, port = sys.argv[1:]
os.setgroups([]); os.setgid(int(gid)); os.setuid(int(uid))
try:
    # Not `create_connection`: what that loads, a user without root's rights may not read.
    connection = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    connection.settimeout(10)
    if source != "any":
        connection.bind((source, 0))
    connection.connect((host, int(port)))
    print(connection.recv(200).decode())
except OSError as error:
    print("no connection:", error)
"#;

const APP: u16 = 8080;
/// Nobody listens there.
const EMPTY: u16 = 9999;
const EXCLUDED: u16 = 2222;
const PROBES: u16 = 15021;
/// Of a server in the neighbour's namespace.
const FAR: u16 = 7000;

/// The two namespaces, and who listens in them.
struct Scene {
    pair: Pair,
    _listeners: [Running; 2],
}

impl Scene {
    fn new() -> Scene {
        let pair = Pair::new();
        let ports = |ports: &[u16]| ports.iter().map(u16::to_string).collect::<Vec<_>>();
        let listen = |namespace: &Namespace, these: &[u16]| {
            namespace.python(LISTEN, &ports(these).iter().map(String::as_str).collect::<Vec<_>>())
        };
        let listeners =
            [listen(&pair.pod, &[15006, 15001, APP, EXCLUDED, PROBES]), listen(&pair.other, &[FAR, EXCLUDED])];
        Scene { pair, _listeners: listeners }
    }

    fn redirect(&self, arguments: &[&str]) -> String {
        let outrider = binary("outrider");
        self.pair.pod.run(&[&[outrider.to_str().expect("a path in UTF-8"), "redirect"], arguments].concat())
    }
}

/// Who connects: user, group, source.
type Who<'a> = (u32, u32, &'a str);

const APPLICATION: Who<'_> = (1000, 1000, "any");
const SIDECAR: Who<'_> = (1337, 1337, "any");

fn connect(inside: &Namespace, (uid, gid, source): Who<'_>, host: &str, port: u16) -> String {
    let [uid, gid, port] = [uid.to_string(), gid.to_string(), port.to_string()];
    inside.run(&["python3", "-c", CONNECT, &uid, &gid, source, host, &port]).trim().to_owned()
}

/// One family's rows: where connections arrive, where they were going, where from.
fn arrivals(scene: &Scene, v6: bool) {
    let (pod, other) = (&scene.pair.pod, &scene.pair.other);
    let of = |namespace: &Namespace| if v6 { namespace.v6 } else { namespace.v4 };
    let (here, there) = (of(pod), of(other));
    let (local, source, beyond) =
        if v6 { ("::1", "::6", "2001:db8::9") } else { ("127.0.0.1", "127.0.0.6", "192.0.2.9") };
    let rows = [
        ("a caller, a port where nobody listens", other, APPLICATION, here, EMPTY, (15006, here, EMPTY, there)),
        ("a caller, the application", other, APPLICATION, here, APP, (15006, here, APP, there)),
        ("a caller, a port that is left alone", other, APPLICATION, here, EXCLUDED, (EXCLUDED, here, EXCLUDED, there)),
        ("kubelet's probe", other, APPLICATION, here, PROBES, (PROBES, here, PROBES, there)),
        ("the application calls out", pod, APPLICATION, there, FAR, (15001, there, FAR, here)),
        ("root calls out", pod, (0, 0, "any"), there, FAR, (15001, there, FAR, here)),
        ("the application calls beyond", pod, APPLICATION, beyond, FAR, (15001, beyond, FAR, here)),
        ("a port left alone on the way out", pod, APPLICATION, there, EXCLUDED, (EXCLUDED, there, EXCLUDED, here)),
        ("the sidecar calls out", pod, SIDECAR, there, FAR, (FAR, there, FAR, here)),
        ("one of its group calls out", pod, (1000, 1337, "any"), there, FAR, (FAR, there, FAR, here)),
        ("the application calls itself", pod, APPLICATION, local, APP, (APP, local, APP, local)),
        ("the application calls the pod", pod, APPLICATION, here, APP, (APP, here, APP, here)),
        ("the sidecar calls out, and out is in", pod, SIDECAR, here, APP, (15006, here, APP, here)),
        ("the sidecar calls the application", pod, (1337, 1337, source), here, APP, (APP, here, APP, source)),
    ];
    for (what, from, who, host, port, (arrived, meant, meant_port, peer)) in rows {
        let heard = connect(from, who, host, port);
        assert_eq!(heard, format!("{arrived} {meant} {meant_port} {peer}"), "{what}, IPv6: {v6}");
    }
}

fn arrive_and_leave(backend: &str) {
    if !available() {
        return;
    }
    let scene = Scene::new();
    let pod = &scene.pair.pod;
    // Somebody else's rule, which neither may touch.
    pod.run(&["iptables", "-t", "nat", "-A", "PREROUTING", "-p", "tcp", "--dport", "1", "-j", "RETURN"]);
    let before = table(pod);
    let backend = format!("--backend={backend}");
    let install = ["install", &backend, "--exclude-inbound-ports=2222", "--exclude-outbound-ports=2222"];

    scene.redirect(&install);
    let once = scene.redirect(&["show", &backend]);
    scene.redirect(&install);
    assert_eq!(scene.redirect(&["show", &backend]), once, "installed twice is installed once");
    assert!(!once.contains("nothing is installed"), "{once}");
    arrivals(&scene, false);
    arrivals(&scene, true);

    scene.redirect(&["remove"]);
    assert_eq!(table(pod), before, "nothing is left");
    assert!(scene.redirect(&["show"]).starts_with("# nothing is installed"));
    assert!(!pod.run(&["ip", "-6", "address", "show", "dev", "lo"]).contains("::6/128"));
    let heard = connect(&scene.pair.other, APPLICATION, pod.v4, APP);
    assert!(heard.starts_with("8080 "), "{heard}");
    scene.redirect(&["remove"]);
}

/// Rules about ports that are there, of which none is ours: what iptables makes on its way, empty tables, is no rule.
fn table(inside: &Namespace) -> String {
    let all = inside.run(&["nft", "--stateless", "list", "ruleset"]);
    assert!(!all.to_lowercase().contains("outrider"), "{all}");
    all.lines().filter(|line| line.contains("dport")).collect()
}

#[test]
fn where_do_connections_arrive_by_iptables() {
    arrive_and_leave("iptables");
}

#[test]
fn where_do_connections_arrive_by_nft() {
    arrive_and_leave("nft");
}

#[test]
fn is_half_an_installation_removed_and_one_of_other_means_replaced() {
    if !available() {
        return;
    }
    let scene = Scene::new();
    let pod = &scene.pair.pod;
    scene.redirect(&["install", "--backend=iptables"]);
    pod.run(&["iptables", "-t", "nat", "-D", "PREROUTING", "-p", "tcp", "-j", "OUTRIDER_INBOUND"]);
    for words in [["-F", "OUTRIDER_OUTPUT"], ["-F", "OUTRIDER_REDIRECT"], ["-X", "OUTRIDER_REDIRECT"]] {
        pod.run(&[&["iptables", "-t", "nat"], &words[..]].concat());
    }
    scene.redirect(&["remove"]);
    assert_eq!(table(pod), "");

    scene.redirect(&["install", "--backend=nft"]);
    scene.redirect(&["install", "--backend=iptables", "--inbound-ports=8080", "--no-outbound"]);
    assert!(!pod.run(&["nft", "list", "tables"]).contains("outrider"));
    let rows = [(APP, 15006), (PROBES, PROBES), (EXCLUDED, EXCLUDED)];
    for (port, arrived) in rows {
        let heard = connect(&scene.pair.other, APPLICATION, pod.v4, port);
        assert!(heard.starts_with(&format!("{arrived} ")), "{port}: {heard}");
    }
    assert!(connect(pod, APPLICATION, scene.pair.other.v4, FAR).starts_with("7000 "));
}

#[test]
fn is_it_said_what_to_do_without_the_right_to_it() {
    if !available() {
        return;
    }
    let pair = Pair::new();
    let outrider = binary("outrider");
    // As somebody who may not, but may read the binary wherever it lies.
    let script = "import os,sys; f=os.open(sys.argv[1],os.O_RDONLY); os.set_inheritable(f,True); os.setgroups([]); \
        os.setgid(65534); os.setuid(65534); os.execve(f,['outrider','redirect','install',*sys.argv[2:]],{})";
    for backend in ["--backend=iptables", "--backend=nft"] {
        let words = ["python3", "-c", script, outrider.to_str().expect("a path in UTF-8"), backend];
        let complaint = pair.pod.try_run(&words).expect_err("nobody may not");
        assert!(complaint.contains("NET_ADMIN"), "{complaint}");
    }
    let dry = [outrider.to_str().expect("a path in UTF-8"), "redirect", "install", "--dry-run"];
    assert!(pair.pod.run(&dry).contains("OUTRIDER_INBOUND"));
    assert_eq!(table(&pair.pod), "");
}
