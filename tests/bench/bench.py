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
import random
import shutil
import signal
import ssl
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
MODEL = ROOT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
RESULTS = ROOT / "tests" / "bench" / "results"
NODE_LLAMA = "@node-llama-cpp/linux-x64@3.22.1"
LLAMA_HEADERS = "llama-cpp-python==0.3.36"
TOKENS = 128
STREAMS = 8
# Long enough for the matrix products to count, short enough for one step.
PREFILL = 512
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


def run_peer(peer, ids, tokens, streams=1):
    libraries = peer.parent / "package" / "bins" / "linux-x64"
    start = time.monotonic()
    command = [str(peer), str(MODEL), str(libraries), str(THREADS), str(tokens), str(streams)]
    out = subprocess.run(command, input=" ".join(map(str, ids)), capture_output=True, text=True, check=True)
    figures = json.loads(out.stdout)
    # From before the process exists to its end, less what came after the first token.
    figures["cold_seconds"] = time.monotonic() - start - (tokens - 1) * streams / figures["decode_per_second"]
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


def stream(env, tokens, ids=None):
    """One streaming answer over mTLS: seconds to the first token, and from there to the last."""
    context = ssl.create_default_context(cafile=env["OUTRIDER_CA"])
    context.load_cert_chain(env["OUTRIDER_CERT"], env["OUTRIDER_KEY"])
    body = {"model": "smollm2", "prompt": ids or CASE["prompt_ids"], "temperature": 0, "max_tokens": tokens,
            "ignore_eos": True, "stream": True}
    start = time.monotonic()
    connection = http.client.HTTPSConnection(env["OUTRIDER_URL"].split("//")[1], context=context)
    headers = {"authorization": "Bearer " + env["OUTRIDER_TOKEN"], "content-type": "application/json"}
    connection.request("POST", "/v1/completions", json.dumps(body), headers)
    response = connection.getresponse()
    assert response.status == 200, response.read()
    first = None
    for line in response:
        if line.startswith(b"data: {"):
            if b'"error"' in line:
                sys.exit(line.decode())
            first = first or time.monotonic()
    return first - start, time.monotonic() - first


def cold(pid, env):
    while workers(pid):
        time.sleep(0.05)
    return stream(env, 2)[0]


def warm(pid, env):
    worker = workers(pid)[0]
    before, sidecar = cpu_seconds(worker), cpu_seconds(pid)
    _, rest = stream(env, TOKENS)
    return {"decode_per_second": (TOKENS - 1) / rest,
            "worker_cpu_ms": (cpu_seconds(worker) - before) * 1e3 / TOKENS,
            "sidecar_cpu_us": (cpu_seconds(pid) - sidecar) * 1e6 / TOKENS}


def crowd(env):
    """Tokens per second over streams that run at once."""
    threads = [threading.Thread(target=stream, args=(env, TOKENS // 2)) for _ in range(STREAMS)]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return STREAMS * (TOKENS // 2) / (time.monotonic() - start)


def strange_prompt(seed):
    """A prompt nobody has asked before: the prefix cache must not help."""
    return [random.Random(seed).randrange(100, 40000) for _ in range(PREFILL)]


def median(rows, name):
    return statistics.median(row[name] for row in rows)


def measure(rounds, peer):
    """All figures of all rounds, ours and the peer's in turn."""
    ours, theirs, sidecar = [], [], {}
    with outrider("--idle-timeout", "1s") as (pid, env):
        stream(env, 2)
        while workers(pid):
            time.sleep(0.05)
        sidecar["idle_mb"] = rss_mb(pid)
        for i in range(rounds):
            row = {"cold_seconds": cold(pid, env)}
            row |= warm(pid, env)
            row["prefill_per_second"] = PREFILL / stream(env, 2, strange_prompt(i))[0]
            row["crowd_per_second"] = crowd(env)
            ours.append(row)
            if peer:
                row = run_peer(peer, CASE["prompt_ids"], TOKENS)
                row["prefill_per_second"] = run_peer(peer, strange_prompt(i), 2)["prefill_per_second"]
                row["crowd_per_second"] = run_peer(peer, CASE["prompt_ids"], TOKENS // 2, STREAMS)["decode_per_second"]
                theirs.append(row)
            print(f"round {i + 1} of {rounds}", file=sys.stderr)
        sidecar["after_mb"] = rss_mb(pid)
    return ours, theirs, sidecar


def row(what, ours, theirs, ours_name, theirs_name=None, digits=0):
    """A line of the table: the ratio of medians first."""
    mine = median(ours, ours_name)
    peer = median(theirs, theirs_name or ours_name) if theirs else None
    ratio = f"{mine / peer:.2f}" if peer else "–"
    return f"| {what} | {ratio} | {mine:.{digits}f} | {f'{peer:.{digits}f}' if peer else '–'} |"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    peer, why = llama_peer()
    print(why or "peer: llama.cpp", file=sys.stderr)
    load = os.getloadavg()[0]
    ours, theirs, sidecar = measure(rounds, peer)
    share = median(ours, "sidecar_cpu_us") / 1e3 / median(ours, "worker_cpu_ms")
    today = datetime.date.today().isoformat()
    lines = [
        f"# Bench of {today}",
        "",
        f"{platform.machine()}, {os.cpu_count()} CPUs, load {load:.1f} at the start; {rounds} interleaved rounds, medians.",
        f"Peer: {'llama.cpp v0.5.0, CPU' if theirs else why}. SmolLM2-135M-Instruct Q4_1, greedy. Ours is measured by a client over",
        "mTLS through the sidecar, the peer inside its own process.",
        "",
        "| what (↓ less is better, ↑ more is) | ours / peer | ours | peer |",
        "|---|---|---|---|",
        row("↓ cold start: no process → first token of a 37-token prompt, s", ours, theirs, "cold_seconds", digits=3),
        row("↑ decode, one stream, tokens/s", ours, theirs, "decode_per_second"),
        row("↓ decode, one stream, CPU ms per token", ours, theirs, "worker_cpu_ms", "decode_cpu_ms_per_token", 2),
        row(f"↑ decode, {STREAMS} streams, tokens/s (ours with their prompts)", ours, theirs, "crowd_per_second"),
        row(f"↑ prefill of {PREFILL} tokens never seen, tokens/s (ours with HTTP)", ours, theirs, "prefill_per_second"),
        "",
        f"- Best cold start: {min(r['cold_seconds'] for r in ours):.3f} s.",
        f"- The sidecar's CPU for a streamed token is {share:.3f} of the worker's ({median(ours, 'sidecar_cpu_us'):.0f} µs).",
        f"- Sidecar RSS, worker asleep: {sidecar['idle_mb'] / 20:.2f} of the 20 MB it may have ({sidecar['idle_mb']:.1f} MB);"
        f" after {rounds} wakes {sidecar['after_mb']:.1f} MB.",
        "",
    ]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{today}.md").write_text("\n".join(lines))
    print("\n".join(lines))


main()
