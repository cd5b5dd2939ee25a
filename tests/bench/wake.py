#!/usr/bin/env python3
"""What a caller waits for when nothing is there: a worker asleep → first token, split by stage.

The sidecar tells each start's stages as counters, and each request's wait in its access log; so the sidecar's own share is
what it waited less what the start took: noticing that somebody waits, and telling who waited that the worker is there. Both
ways of being woken are measured: a child process, and a standby parent's engine. Results go into tests/bench/results/.
"""
import argparse
import datetime
import http.client
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

from mesh import BINARIES, RESULTS, ROOT, process, rss_mb

MODEL = ROOT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
STAGES = ["starting", "loading", "warming"]
PROMPT = "The capital of France is"


class Sidecar:
    def __init__(self, folder, how):
        (folder / "worker.yaml").write_text(json.dumps({
            "socket": "worker.sock", "device": "cpu", "models": [{"name": "smollm2", "path": str(MODEL)}]}))
        worker = {"socket": "worker.sock", "models": ["smollm2"], "idle_timeout": "never", **how}
        (folder / "proxy.yaml").write_text(json.dumps({
            "listen": "127.0.0.1:0", "admin": "127.0.0.1:0", "threads": 1, "tls": {"mode": "disable"},
            "auth": {"methods": [{"anonymous": {}}]}, "worker": worker}))
        self.log = folder / "proxy.log"

    def announced(self, what):
        return next(line.split()[1] for line in self.log.read_text().splitlines() if line.startswith(what + " "))

    def admin(self, method, path):
        connection = http.client.HTTPConnection(self.announced("admin"), timeout=30)
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read().decode()

    def metrics(self):
        values = {}
        for line in self.admin("GET", "/metrics")[1].splitlines():
            if line and not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                values[name] = float(value)
        return values

    def sleep(self):
        assert self.admin("POST", "/sleep")[0] in (202, 409)
        while self.metrics()['outrider_worker_state{state="asleep"}'] != 1:
            time.sleep(0.02)

    def first_token(self):
        """Seconds to the first piece of a stream."""
        body = {"model": "smollm2", "prompt": PROMPT, "temperature": 0, "max_tokens": 2, "stream": True}
        start = time.monotonic()
        connection = http.client.HTTPConnection(self.announced("listening"), timeout=120)
        connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
        response = connection.getresponse()
        assert response.status == 200, response.read()
        first = None
        for line in response:
            if line.startswith(b"data: {"):
                assert b'"error"' not in line, line
                first = first or time.monotonic() - start
        return first

    def waited(self):
        """Of the last request, by the access log."""
        for _ in range(200):
            lines = [line for line in self.log.read_text().splitlines() if '"queue_wait_seconds"' in line]
            if lines:
                return json.loads(lines[-1])["queue_wait_seconds"]
            time.sleep(0.01)
        sys.exit("no request is in the access log")


def split(sidecar):
    sidecar.sleep()
    before = sidecar.metrics()
    total = sidecar.first_token()
    time.sleep(0.1)
    after, waited = sidecar.metrics(), sidecar.waited()
    grown = lambda name: after.get(name, 0) - before.get(name, 0)
    wake = grown("outrider_worker_wake_seconds_total")
    stages = {stage: grown(f'outrider_worker_wake_stage_seconds_total{{stage="{stage}"}}') for stage in STAGES}
    return {"total": total, "wake": wake, **stages, "rest": wake - sum(stages.values()),
            "sidecar": waited - wake, "first step": total - waited}


def measure(rounds, how, folder):
    sidecar = Sidecar(folder, how)
    with open(sidecar.log, "w") as errors, process([BINARIES / "outrider", "proxy", "--config", folder / "proxy.yaml"],
                                                   stdout=subprocess.PIPE, stderr=errors, text=True) as child:
        if child.stdout.readline().strip() != "ready":
            sys.exit(f"the sidecar does not start:\n{sidecar.log.read_text()}")
        # The first start reads the model from the disk: a cold page cache is another bench.
        sidecar.first_token()
        return [split(sidecar) for _ in range(rounds)]


def child_process(rounds):
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        command = [str(BINARIES / "outrider-worker"), "--config", str(folder / "worker.yaml"), "--die-with-parent"]
        return measure(rounds, {"command": command}, folder)


def standby(rounds):
    """And the parent's memory, while the engine sleeps."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        how = {"target": {"standby": {"control": "control.sock"}}}
        arguments = [BINARIES / "outrider-worker", "--config", folder / "worker.yaml", "--standby", folder / "control.sock"]
        with process(arguments, stderr=subprocess.DEVNULL) as parent:
            rows = measure(rounds, how, folder)
            return rows, rss_mb(parent.pid)


def table(rows):
    median = lambda name: statistics.median(row[name] for row in rows) * 1e3
    names = [("starting", "process is started, until it binds its socket"), ("loading", "weights"), ("warming", "device"),
             ("rest", "what the worker does after that, until it says ready"), ("wake", "**all of the start**"),
             ("sidecar", "the sidecar's own share (goal: below 5)"),
             ("first step", "request to the worker, prompt, first token"), ("total", "**no worker → first token**")]
    return ["| stage | ms, median |", "|---|---|"] + [f"| {words} | {median(name):.1f} |" for name, words in names]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    load, today = os.getloadavg()[0], datetime.date.today().isoformat()
    process_rows = child_process(rounds)
    standby_rows, parent_mb = standby(rounds)
    lines = [
        f"# Bench of waking, {today}", "",
        f"{platform.machine()}, {os.cpu_count()} CPUs, load {load:.1f} at the start; {rounds} rounds each, SmolLM2-135M-Instruct Q4_1",
        "on the CPU, its file in the page cache; plaintext, no credential.", "",
        "## A child process", "", *table(process_rows), "",
        "## A standby parent's engine", "", *table(standby_rows), "",
        f"The standby parent holds {parent_mb:.1f} MB while the engine sleeps or runs.", "",
    ]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{today}-wake.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
