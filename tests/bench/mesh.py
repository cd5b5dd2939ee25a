"""What mutual TLS through the sidecar costs, beside Envoy with the same features in the same run, pinned the same way.

Both proxies: one thread on the first CPU; the callers (`outrider-load`) and the one echo behind both on the second. Each asks
for a client certificate of the trust domain, lets one SPIFFE id in by a policy, says who called in x-forwarded-client-cert
(the echo refuses a request without it), and writes a JSON access log, to nowhere. Rounds are interleaved; what is compared
is the CPU time of the proxy, for on a small machine requests per second are the load generator's. Results go into
tests/bench/results/.
"""
import argparse
import contextlib
import datetime
import json
import os
import pathlib
import platform
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
BINARIES = pathlib.Path(os.environ.get("OUTRIDER_BINARIES", TARGET / "release"))
ENVOY = TARGET / "clients" / "envoy" / "_bin" / "envoy"
RESULTS = ROOT / "tests" / "bench" / "results"
TICKS = os.sysconf("SC_CLK_TCK")
CPUS = sorted(os.sched_getaffinity(0))
PROXY_CPU, LOAD_CPU = CPUS[0], CPUS[-1]
CALLER = "spiffe://cluster.local/ns/default/sa/caller"
EXTENSIONS = "type.googleapis.com/envoy.extensions."

# Requests over connections that stay: callers in flight enough to keep the proxy busy.
LOADS = {
    "gRPC, h2, mTLS, 64 B": ["drive", "--kind", "grpc", "--connections", "8", "--streams", "8", "--bytes", "64"],
    "HTTP/1.1, mTLS, 1 KiB": ["drive", "--kind", "h1", "--connections", "32", "--streams", "1", "--bytes", "1024"],
}
# One in flight on each of a few connections: what a request alone costs and waits.
QUIET = {
    "gRPC, h2, mTLS, 64 B": ["drive", "--kind", "grpc", "--connections", "1", "--streams", "1", "--bytes", "64"],
    "HTTP/1.1, mTLS, 1 KiB": ["drive", "--kind", "h1", "--connections", "1", "--streams", "1", "--bytes", "1024"],
}


def pinned(cpu):
    return lambda: os.sched_setaffinity(0, {cpu})


@contextlib.contextmanager
def process(arguments, cpu=None, **options):
    pin = None if cpu is None else pinned(cpu)
    child = subprocess.Popen([str(argument) for argument in arguments], preexec_fn=pin, **options)
    try:
        yield child
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


@contextlib.contextmanager
def echo():
    command = [BINARIES / "outrider-load", "echo", "--listen", "127.0.0.1:0"]
    with process(command, LOAD_CPU, stdout=subprocess.PIPE, text=True) as child:
        yield child.stdout.readline().split()[1]


def wait_for(what, ask, seconds=30):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        answer = ask()
        if answer:
            return answer
        time.sleep(0.02)
    sys.exit(f"waited {seconds} s for {what}")


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@contextlib.contextmanager
def outrider(folder, name, command, config, quiet=False):
    """A process of ours; gives its pid. `quiet`: what it logs goes nowhere, as Envoy's access log does."""
    (folder / f"{name}.yaml").write_text(json.dumps(config))
    log = pathlib.Path("/dev/null") if quiet else folder / f"{name}.log"
    arguments = [BINARIES / "outrider", command, "--config", folder / f"{name}.yaml"]
    with open(log, "w") as errors, \
            process(arguments, PROXY_CPU, stdout=subprocess.PIPE, stderr=errors, text=True) as child:
        if child.stdout.readline().strip() != "ready":
            sys.exit(f"{name} does not start: {' '.join(map(str, arguments))}\n{log.read_text()}")
        yield child.pid


def sidecar_config(folder, upstream, method):
    """What every sidecar here has: an identity, one policy, a server behind, and this method."""
    (folder / "policies").mkdir(exist_ok=True)
    (folder / "policies" / "callers.yaml").write_text(json.dumps({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": "callers", "namespace": "default"},
        "spec": {"action": "ALLOW", "rules": [{"from": [{"source": {"principals": [CALLER.removeprefix("spiffe://")]}}]}]},
    }))
    return {
        "listen": f"127.0.0.1:{free_port()}", "admin": "127.0.0.1:0", "threads": 1,
        "tls": {"mode": "strict", "trust_domain": "cluster.local", "certificate": "server.pem", "key": "server.key",
                "trust_bundle": "ca.pem"},
        "auth": {"methods": [method]},
        "policy": {"folder": "policies", "namespace": "default"},
        "xfcc": "sanitize_set",
        "forward": {"to": upstream},
    }


@contextlib.contextmanager
def ours(folder, upstream):
    """The sidecar; gives its pid and where it listens."""
    config = sidecar_config(folder, upstream, {"mtls": {}})
    config["limits"] = {"connections_max": 20000, "header_timeout": "10m"}
    with outrider(folder, "proxy", "proxy", config, quiet=True) as pid:
        yield pid, config["listen"]


def address(text):
    ip, port = text.rsplit(":", 1)
    return {"socket_address": {"address": ip, "port_value": int(port)}}


def cluster(name, upstream, options):
    protocol = EXTENSIONS + "upstreams.http.v3.HttpProtocolOptions"
    return {
        "name": name, "type": "STATIC",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [
            {"endpoint": {"address": address(upstream)}}]}]},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions":
                {"@type": protocol, "explicit_http_config": {options: {}}}},
    }


def filter_of(name, kind, **rest):
    return {"name": name, "typed_config": {"@type": EXTENSIONS + kind, **rest}}


def envoy_config(folder, upstream):
    rbac = {"action": "ALLOW", "policies": {"callers": {
        "permissions": [{"any": True}], "principals": [{"authenticated": {"principal_name": {"exact": CALLER}}}]}}}
    fields = {"method": "%REQ(:METHOD)%", "path": "%REQ(:PATH)%", "status": "%RESPONSE_CODE%", "ms": "%DURATION%",
              "subject": "%DOWNSTREAM_PEER_URI_SAN%", "request_id": "%REQ(X-REQUEST-ID)%", "protocol": "%PROTOCOL%",
              "address": "%DOWNSTREAM_REMOTE_ADDRESS%", "time": "%START_TIME%"}
    manager = {
        "@type": EXTENSIONS + "filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in", "codec_type": "AUTO", "forward_client_cert_details": "SANITIZE_SET",
        "set_current_client_cert_details": {"subject": True, "uri": True, "dns": True},
        "access_log": [filter_of("file", "access_loggers.file.v3.FileAccessLog", path="/dev/null",
                                 log_format={"json_format": fields})],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
            {"match": {"prefix": "/", "grpc": {}}, "route": {"cluster": "h2c", "timeout": "0s"}},
            {"match": {"prefix": "/"}, "route": {"cluster": "h1", "timeout": "0s"}}]}]},
        "http_filters": [filter_of("rbac", "filters.http.rbac.v3.RBAC", rules=rbac),
                         filter_of("router", "filters.http.router.v3.Router")],
    }
    certificate = {"certificate_chain": {"filename": str(folder / "server.pem")},
                   "private_key": {"filename": str(folder / "server.key")}}
    tls = {
        "@type": EXTENSIONS + "transport_sockets.tls.v3.DownstreamTlsContext", "require_client_certificate": True,
        "disable_stateless_session_resumption": True, "disable_stateful_session_resumption": True,
        "common_tls_context": {
            "tls_certificates": [certificate], "alpn_protocols": ["h2", "http/1.1"],
            "validation_context": {
                "trusted_ca": {"filename": str(folder / "ca.pem")},
                "match_typed_subject_alt_names": [
                    {"san_type": "URI", "matcher": {"prefix": "spiffe://cluster.local/"}}]}}}
    listener = {"name": "in", "address": address("127.0.0.1:0"), "filter_chains": [{
        "transport_socket": {"name": "tls", "typed_config": tls},
        "filters": [{"name": "http", "typed_config": manager}]}]}
    return {"admin": {"address": address("127.0.0.1:0")},
            "static_resources": {"listeners": [listener], "clusters": [
                cluster("h2c", upstream, "http2_protocol_options"), cluster("h1", upstream, "http_protocol_options")]}}


def listening(admin):
    """Where the one listener of an Envoy is, by its admin port, whose address is in this file; None while it is not."""
    try:
        with urllib.request.urlopen(f"http://{admin.read_text()}/listeners?format=json", timeout=5) as answer:
            found = json.load(answer)["listener_statuses"][0]["local_address"]["socket_address"]
        return f"{found['address']}:{found['port_value']}"
    except (OSError, KeyError, IndexError, ValueError):
        return None


@contextlib.contextmanager
def envoy_of(folder, name, config):
    """An Envoy; gives its pid and where it listens."""
    (folder / f"{name}.json").write_text(json.dumps(config))
    admin = folder / f"{name}.admin"
    command = [ENVOY, "--config-path", folder / f"{name}.json", "--admin-address-path", admin, "--concurrency", "1",
               "--disable-hot-restart", "--log-level", "error"]
    with process(command, PROXY_CPU) as child:
        yield child.pid, wait_for("Envoy", lambda: listening(admin))


def envoy(folder, upstream):
    return envoy_of(folder, "envoy", envoy_config(folder, upstream))


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def rss_mb(pid):
    with open(f"/proc/{pid}/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmRSS:")) / 1024


def load(arguments, to, folder, seconds):
    command = [BINARIES / "outrider-load", *arguments, "--to", to, "--certs", folder, "--seconds", seconds]
    run = subprocess.run([str(word) for word in command], preexec_fn=pinned(LOAD_CPU), capture_output=True, text=True)
    if run.returncode:
        sys.exit(run.stderr)
    report = json.loads(run.stdout)
    if report["errors"] or not report["requests"]:
        sys.exit(f"{' '.join(arguments)}: {report}")
    return report


def measure(proxy, arguments, folder, seconds):
    pid, to = proxy
    before = cpu_seconds(pid)
    report = load(arguments, to, folder, seconds)
    return report | {"cpu_us": (cpu_seconds(pid) - before) * 1e6 / report["requests"]}


def idle(proxy, folder, connections):
    """Megabytes the proxy has while so many callers hold a connection that was used once, and before."""
    pid, to = proxy
    before = rss_mb(pid)
    # One process may not have file descriptors for all of them.
    halves = [connections // 2, connections - connections // 2]
    with contextlib.ExitStack() as stack:
        callers = []
        for count in halves:
            command = [BINARIES / "outrider-load", "idle", "--to", to, "--certs", folder, "--connections", count]
            callers.append(stack.enter_context(
                process(command, LOAD_CPU, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)))
        for caller, count in zip(callers, halves):
            if caller.stdout.readline().split() != ["held", str(count)]:
                sys.exit("the callers did not all get in")
        time.sleep(1)
        held = rss_mb(pid)
        for caller, count in zip(callers, halves):
            caller.stdin.close()
            if caller.stdout.readline().split() != ["alive", str(count)]:
                sys.exit("idle connections were closed")
    return {"held_mb": held, "each_kb": (held - before) * 1024 / connections}


def line(what, mine, theirs, digits):
    mine, theirs = statistics.median(mine), statistics.median(theirs)
    return f"| {what} | {mine / theirs:.2f} | {mine:.{digits}f} | {theirs:.{digits}f} |"


def run(rounds, seconds, connections, only):
    """All rows of the table: {what: {ours: [...], envoy: [...]}}; of the loads alone, those whose name has `only`."""
    rows = {}
    loads = {name: arguments for name, arguments in LOADS.items() if only in name}

    def add(what, who, value):
        rows.setdefault(what, {"ours": [], "envoy": []})[who].append(value)

    with tempfile.TemporaryDirectory() as folder, echo() as upstream:
        folder = pathlib.Path(folder)
        subprocess.run([str(BINARIES / "outrider-load"), "certs", str(folder)], check=True)
        with ours(folder, upstream) as us, envoy(folder, upstream) as them:
            proxies = {"ours": us, "envoy": them}
            for arguments in loads.values():
                for proxy in proxies.values():
                    measure(proxy, arguments, folder, 1)
            for number in range(rounds):
                for who in sorted(proxies, reverse=number % 2 == 0):
                    proxy = proxies[who]
                    for name, arguments in loads.items():
                        seen = measure(proxy, arguments, folder, seconds)
                        add(f"↓ {name}: CPU µs per request", who, seen["cpu_us"])
                        add(f"↑ {name}: requests/s", who, seen["per_second"])
                    for name, arguments in [] if only else QUIET.items():
                        seen = measure(proxy, arguments, folder, max(1, seconds // 2))
                        add(f"↓ {name}, one at a time: p50 µs", who, seen["p50_us"])
                        add(f"↓ {name}, one at a time: p99 µs", who, seen["p99_us"])
                    if only:
                        continue
                    seen = measure(proxy, ["handshakes", "--parallel", "16"], folder, seconds)
                    add("↓ a new mTLS connection and one request on it: CPU µs", who, seen["cpu_us"])
                    add("↑ new mTLS connections/s", who, seen["per_second"])
                print(f"round {number + 1} of {rounds}", file=sys.stderr)
        # Fresh processes: what a storm of handshakes left behind is not what idle connections cost.
        for who, start in [] if only else [("ours", ours), ("envoy", envoy)]:
            with start(folder, upstream) as proxy:
                seen = idle(proxy, folder, connections)
                add(f"↓ {connections} idle mTLS connections: RSS MB", who, seen["held_mb"])
                add("↓ each of them: KB", who, seen["each_kb"])
    return rows


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--only", default="", metavar="TEXT", help="of the loads, those with this in their name; no file")
    options = parser.parse_args()
    if not ENVOY.exists():
        sys.exit(f"{ENVOY} is absent: `make clients` first")
    start = os.getloadavg()[0]
    rows = run(options.rounds, options.seconds, options.connections, options.only)
    if options.only:
        for what, seen in rows.items():
            print(line(what, seen["ours"], seen["envoy"], 1), *sorted(round(each, 1) for each in seen["ours"]))
        return
    version = re.search(r"/([0-9.]+)/", subprocess.run([str(ENVOY), "--version"], capture_output=True, text=True).stdout)[1]
    today = datetime.date.today().isoformat()
    lines = [
        f"# Bench of the mesh, {today}", "",
        f"{platform.machine()}, {os.cpu_count()} CPUs, load {start:.1f} at the start; {options.rounds} interleaved rounds of"
        f" {options.seconds} s, medians. Peer: Envoy {version}.",
        "Both on one thread and one CPU, callers and echo on another; TLS 1.3, P-256, no resumption; client certificate,",
        "URI SAN and one ALLOW rule checked, x-forwarded-client-cert set, JSON access log on.", "",
        "| what (↓ less is better, ↑ more is) | ours / Envoy | ours | Envoy |", "|---|---|---|---|",
    ]
    lines += [line(what, seen["ours"], seen["envoy"], 1) for what, seen in rows.items()]
    lines += ["", "Requests/s are bound by the load generator's CPU where the proxy is cheap; the CPU of the proxy leads.", ""]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{today}-mesh.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
