"""The whole merged hop in CPU per request: mutual TLS over h2, a JWT that is verified once and then known, one ALLOW policy, a
local rate limit, a queue, metrics and the access log; gRPC unary of 64 bytes. Beside it, in the same interleaved rounds:

- Envoy alone with the same: mTLS, jwt_authn with its JWT cache, RBAC, local_ratelimit, access log;
- the chain it replaces: Envoy (mTLS, RBAC, ext_authz over gRPC), an authorizer (`outrider authorize`, which knows the token
  as the sidecar does: Authorino costs more), and a second Envoy as the hop in the pod; CPU of the three in sum.

Everything of a proxy is on the first CPU, callers and echo on the second, as in mesh.py. A sensitive header (never indexed)
carries the credential, as a careful client sends it. Results go into tests/bench/results/.
"""
import argparse
import contextlib
import datetime
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile

import mesh
from mesh import BINARIES, ENVOY, RESULTS, envoy_of, filter_of, outrider

ISSUER, AUDIENCE = "https://issuer.outrider.local", "outrider"
LOAD = ["drive", "--kind", "grpc", "--connections", "8", "--streams", "8", "--bytes", "64"]
# Never reached: what it costs to look is what is measured.
PLENTY = 1_000_000_000


def jwt_method():
    return {"jwt": {"issuer": ISSUER, "audience": AUDIENCE, "jwks_file": "jwks.json"}}


@contextlib.contextmanager
def ours(folder, upstream):
    config = mesh.sidecar_config(folder, upstream, jwt_method())
    config["forward"]["concurrency"] = 128
    config["rate_limits"] = {
        "limits": [{"name": "calls", "unit": "requests", "limit": PLENTY, "window": "1m", "key": "identity"}]}
    with outrider(folder, "ours", "proxy", config, quiet=True) as pid:
        yield [pid], config["listen"]


def jwt_filter(folder):
    return filter_of("jwt", "filters.http.jwt_authn.v3.JwtAuthentication", providers={"issuer": {
        "issuer": ISSUER, "audiences": [AUDIENCE], "local_jwks": {"filename": str(folder / "jwks.json")},
        "jwt_cache_config": {"jwt_cache_size": 1000}}}, rules=[{"match": {"prefix": "/"}, "requires": {"provider_name": "issuer"}}])


def limit_filter():
    always = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    return filter_of("limit", "filters.http.local_ratelimit.v3.LocalRateLimit", stat_prefix="limit",
                     token_bucket={"max_tokens": PLENTY, "tokens_per_fill": PLENTY, "fill_interval": "60s"},
                     filter_enabled=always, filter_enforced=always)


def asking_filter():
    return filter_of("ask", "filters.http.ext_authz.v3.ExtAuthz", transport_api_version="V3", failure_mode_allow=False,
                     grpc_service={"envoy_grpc": {"cluster_name": "authorizer"}, "timeout": "5s"})


def with_filters(config, filters):
    """mesh.py's Envoy with these before the filters it has."""
    manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    manager["http_filters"] = filters + manager["http_filters"]
    return config


@contextlib.contextmanager
def envoy_alone(folder, upstream):
    config = with_filters(mesh.envoy_config(folder, upstream), [jwt_filter(folder), limit_filter()])
    with envoy_of(folder, "alone", config) as (pid, listen):
        yield [pid], listen


def plain_envoy_config(folder, upstream):
    """The hop in the pod: no TLS, no policy."""
    config = mesh.envoy_config(folder, upstream)
    chain = config["static_resources"]["listeners"][0]["filter_chains"][0]
    del chain["transport_socket"]
    manager = chain["filters"][0]["typed_config"]
    del manager["set_current_client_cert_details"]
    # The first hop's word: the echo takes no request without it.
    manager["forward_client_cert_details"] = "ALWAYS_FORWARD_ONLY"
    manager["http_filters"] = manager["http_filters"][1:]
    return config


@contextlib.contextmanager
def chain(folder, upstream):
    port = mesh.free_port()
    authorizer = {"admin": "127.0.0.1:0", "auth": {"methods": [jwt_method()]},
                  "ext_authz_server": {"grpc": f"127.0.0.1:{port}"}}
    with outrider(folder, "authorizer", "authorize", authorizer) as judge, \
            envoy_of(folder, "second", plain_envoy_config(folder, upstream)) as (second, hop):
        config = with_filters(mesh.envoy_config(folder, hop), [asking_filter()])
        config["static_resources"]["clusters"].append(mesh.cluster("authorizer", f"127.0.0.1:{port}", "http2_protocol_options"))
        with envoy_of(folder, "first", config) as (first, listen):
            yield [first, judge, second], listen


KINDS = {"ours": ours, "envoy": envoy_alone, "chain": chain}
NAMES = {"ours": "the sidecar", "envoy": "Envoy alone", "chain": "Envoy + authorizer + Envoy"}
AT_MOST = {"envoy": 0.4, "chain": 0.12}


def measure(pids, to, folder, seconds):
    """CPU µs per request of each process, and requests per second."""
    before = [mesh.cpu_seconds(pid) for pid in pids]
    report = mesh.load([*LOAD, "--token", str(folder / "token")], to, folder, seconds)
    spent = [(mesh.cpu_seconds(pid) - was) * 1e6 / report["requests"] for pid, was in zip(pids, before)]
    return spent, report["per_second"]


def run(rounds, seconds):
    seen = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder, mesh.echo() as upstream, contextlib.ExitStack() as stack:
        folder = pathlib.Path(folder)
        subprocess.run([str(BINARIES / "outrider-load"), "certs", str(folder)], check=True)
        token = subprocess.run([str(BINARIES / "outrider"), "token", "--state-dir", str(folder), "--audience", AUDIENCE],
                               check=True, capture_output=True, text=True)
        (folder / "token").write_text(token.stdout)
        running = {kind: stack.enter_context(start(folder, upstream)) for kind, start in KINDS.items()}
        for pids, to in running.values():
            measure(pids, to, folder, 1)
        for number in range(rounds):
            for kind in sorted(running, reverse=number % 2 == 0):
                seen[kind].append(measure(*running[kind], folder, seconds))
            print(f"round {number + 1} of {rounds}", file=sys.stderr)
    return seen


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4)
    options = parser.parse_args()
    if not ENVOY.exists():
        sys.exit(f"{ENVOY} is absent: `make clients` first")
    start = os.getloadavg()[0]
    seen = run(options.rounds, options.seconds)
    cost = {kind: statistics.median(sum(spent) for spent, _ in runs) for kind, runs in seen.items()}
    today = datetime.date.today().isoformat()
    lines = [
        f"# Bench of the merged hop, {today}", "",
        f"{platform.machine()}, {os.cpu_count()} CPUs, load {start:.1f} at the start; {options.rounds} interleaved rounds of"
        f" {options.seconds} s, medians. gRPC unary, 64 bytes, mTLS h2, 8 connections of 8 streams.", "",
        "| | CPU µs per request | of which | requests/s | ours / it | at most |", "|---|---|---|---|---|---|",
    ]
    for kind, runs in seen.items():
        parts = " + ".join(f"{statistics.median(each):.1f}" for each in zip(*(spent for spent, _ in runs)))
        rate = statistics.median(rate for _, rate in runs)
        bound = f"{AT_MOST[kind]}" if kind in AT_MOST else ""
        lines.append(f"| {NAMES[kind]} | {cost[kind]:.1f} | {parts} | {rate:.0f} | {cost['ours'] / cost[kind]:.2f} | {bound} |")
    lines.append("")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{today}-merged.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
