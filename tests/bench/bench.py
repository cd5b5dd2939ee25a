#!/usr/bin/env python3
"""`make bench`: what a caller waits for, beside llama.cpp in the same interleaved run. Writes a table of ratios.

Every figure is a median over rounds that alternate between the two sides, because the machine's speed drifts; the
table leads with ratios, and CPU time is preferred to wall time. llama.cpp comes as shared libraries in the npm package
@node-llama-cpp/linux-x64, its header from the source package llama-cpp-python; without npm, gcc or a network the
peer is left out and the table says so. Nothing here is a test: no figure fails anything.
"""
import argparse
import contextlib
import datetime
import glob
import http.client
import json
import os
import pathlib
import platform
import shutil
import signal
import ssl
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
MODEL = ROOT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
RESULTS = ROOT / "tests" / "bench" / "results"
NODE_LLAMA = "@node-llama-cpp/linux-x64@3.22.1"
LLAMA_HEADERS = "llama-cpp-python==0.3.36"
TOKENS = 128
TICKS = os.sysconf("SC_CLK_TCK")
THREADS = os.cpu_count() or 1
CASE = json.load(open(ROOT / "tests" / "goldens" / "smollm2" / "greedy.json"))["cases"][0]


def llama_peer():
    """Builds the peer once; `None` with a reason when it cannot be had."""
    folder = BUILD / "bench" / "llama"
    peer = folder / "peer"
    if peer.exists():
        return peer, ""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        quiet = {"cwd": folder, "check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        subprocess.run(["npm", "pack", NODE_LLAMA], **quiet)
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "llama-cpp-python", LLAMA_HEADERS]
        subprocess.run(pip, **quiet)
        for archive in glob.glob(str(folder / "*gz")):
            tarfile.open(archive).extractall(folder, filter="data")
        libraries = folder / "package" / "bins" / "linux-x64"
        vendor = glob.glob(str(folder / "llama_cpp_python-*" / "vendor" / "llama.cpp"))[0]
        shared = [str(p) for name in ("libllama.v*", "libggml.v*", "libggml-base*") for p in libraries.glob(name)]
        subprocess.run(
            ["cc", "-O2", "-o", "peer", str(ROOT / "tests/bench/llama_peer.c"), f"-I{vendor}/include",
             f"-I{vendor}/ggml/include", *shared, f"-Wl,-rpath,{libraries}"], **quiet)
        return peer, ""
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        return None, f"llama.cpp could not be had: {error}"


def run_peer(peer):
    libraries = peer.parent / "package" / "bins" / "linux-x64"
    start = time.monotonic()
    ids = " ".join(map(str, CASE["prompt_ids"]))
    command = [str(peer), str(MODEL), str(libraries), str(THREADS), str(TOKENS)]
    out = subprocess.run(command, input=ids, capture_output=True, text=True, check=True)
    figures = json.loads(out.stdout)
    # From before the process exists to its end, less what came after the first token.
    after = (TOKENS - 1) / figures["decode_per_second"]
    figures["cold_seconds"] = time.monotonic() - start - after
    return figures


@contextlib.contextmanager
def outrider(*arguments):
    with tempfile.TemporaryDirectory() as state:
        log = open(os.path.join(state, "log"), "w+")
        command = [BUILD / "release" / "outrider", "up", "--state-dir", state, "--listen", "127.0.0.1:0", "--admin",
                   "127.0.0.1:0", "--device", "cpu", "--model", f"smollm2={MODEL}", *arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        for line in process.stdout:
            if line.strip() == "ready":
                break
        else:
            log.seek(0)
            sys.exit("outrider did not start:\n" + log.read())
        script = f"set -a; . {state}/client.env; env -0"
        env = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
        try:
            yield process.pid, dict(entry.split("=", 1) for entry in env.split("\0") if "=" in entry)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def rss_mb(pid):
    with open(f"/proc/{pid}/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmRSS:")) / 1024


def workers(pid):
    found = []
    for children in glob.glob(f"/proc/{pid}/task/*/children"):
        with open(children) as f:
            found += [int(child) for child in f.read().split()]
    return found


def stream(env, tokens):
    """One streaming chat over mTLS: seconds to the first token, and from there to the last."""
    context = ssl.create_default_context(cafile=env["OUTRIDER_CA"])
    context.load_cert_chain(env["OUTRIDER_CERT"], env["OUTRIDER_KEY"])
    address = env["OUTRIDER_URL"].split("//")[1]
    body = json.dumps({"model": "smollm2", "messages": [{"role": "user", "content": CASE["prompt"]}],
                       "temperature": 0, "max_tokens": tokens, "ignore_eos": True, "stream": True})
    start = time.monotonic()
    connection = http.client.HTTPSConnection(address, context=context)
    headers = {"authorization": "Bearer " + env["OUTRIDER_TOKEN"], "content-type": "application/json"}
    connection.request("POST", "/v1/chat/completions", body, headers)
    response = connection.getresponse()
    assert response.status == 200, response.read()
    first = None
    for line in response:
        if line.startswith(b"data: {"):
            chunk = json.loads(line[6:])
            if "error" in chunk:
                sys.exit(str(chunk))
            if first is None and chunk["choices"] and chunk["choices"][0]["delta"].get("content"):
                first = time.monotonic()
    return first - start, time.monotonic() - first


def cold(pid, env):
    while workers(pid):
        time.sleep(0.05)
    return stream(env, 2)[0]


def warm(pid, env):
    worker = workers(pid)[0]
    before, sidecar = cpu_seconds(worker), cpu_seconds(pid)
    first, rest = stream(env, TOKENS)
    return {"first_token_seconds": first, "decode_per_second": (TOKENS - 1) / rest,
            "worker_cpu_ms": (cpu_seconds(worker) - before) * 1e3 / TOKENS,
            "sidecar_cpu_us": (cpu_seconds(pid) - sidecar) * 1e6 / TOKENS}


def median(rows, name):
    return statistics.median(row[name] for row in rows)


def ratio(ours, theirs, digits=2):
    return f"{ours / theirs:.{digits}f}" if theirs else "–"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    peer, why = llama_peer()
    print(why or "peer: llama.cpp", file=sys.stderr)
    colds, warms, peers, load = [], [], [], os.getloadavg()[0]
    with outrider("--idle-timeout", "1s") as (pid, env):
        stream(env, 2)
        while workers(pid):
            time.sleep(0.05)
        idle = rss_mb(pid)
        for i in range(rounds):
            colds.append(cold(pid, env))
            warms.append(warm(pid, env))
            if peer:
                peers.append(run_peer(peer))
            print(f"round {i + 1} of {rounds}", file=sys.stderr)
        sidecar = rss_mb(pid)
    theirs = {name: median(peers, name) for name in peers[0]} if peers else {}
    cold_median, decode = statistics.median(colds), median(warms, "decode_per_second")
    peer_name = "llama.cpp v0.5.0" if peers else "none at hand"
    lines = [
        f"# Bench of {datetime.date.today().isoformat()}",
        "",
        f"{platform.machine()}, {os.cpu_count()} CPUs, load {load:.1f} at the start; {rounds} interleaved rounds, medians. Peer: {peer_name}.",
        "SmolLM2-135M-Instruct Q4_1, a 37-token prompt, greedy; ours is measured by a client over mTLS through the sidecar,",
        "the peer inside its own process.",
        "",
        "| what | ours / peer | ours | peer |",
        "|---|---|---|---|",
        f"| cold start: no process → first token, s | {ratio(cold_median, theirs.get('cold_seconds'))} | {cold_median:.3f} (best {min(colds):.3f}) | {theirs.get('cold_seconds', 0):.3f} |",
        f"| decode, one stream, tokens/s | {ratio(decode, theirs.get('decode_per_second'))} | {decode:.0f} | {theirs.get('decode_per_second', 0):.0f} |",
        f"| decode, CPU ms per token | {ratio(median(warms, 'worker_cpu_ms'), theirs.get('decode_cpu_ms_per_token'))} | {median(warms, 'worker_cpu_ms'):.2f} | {theirs.get('decode_cpu_ms_per_token', 0):.2f} |",
        f"| sidecar's share of that CPU | {ratio(median(warms, 'sidecar_cpu_us') / 1e3, median(warms, 'worker_cpu_ms'), 3)} of the worker's | {median(warms, 'sidecar_cpu_us'):.0f} µs per token | – |",
        f"| warm: request → first token, s | – | {median(warms, 'first_token_seconds'):.3f} | – |",
        f"| sidecar RSS, worker asleep, MB (floor: 20) | {ratio(idle, 20)} of the floor | {idle:.1f} | – |",
        f"| sidecar RSS after {rounds} wakes, MB | – | {sidecar:.1f} | – |",
        "",
    ]
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{datetime.date.today().isoformat()}.md"
    path.write_text("\n".join(lines))
    print("\n".join(lines))


main()
