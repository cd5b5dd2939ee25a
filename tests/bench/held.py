"""What ten thousand requests weigh while they are held for a server that is away: HTTP/1.1, HTTP/2, and HTTP/1.1 over mutual
TLS, each in a sidecar of its own on one thread. The server comes back, and all must be answered; then ten thousand callers
are killed at once, and nothing may be left. What is told is what the sidecar's memory grew by for each request (the kernel's
socket buffers are not in it), what it costs to hold them, and what is given back. Results go to stdout, and with `--write`
into tests/bench/results/.
"""
import argparse
import asyncio
import datetime
import json
import pathlib
import resource
import ssl
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request

import mesh

STREAMS = 100  # of one HTTP/2 connection
HOLD_SECONDS = 10
FORGET_SECONDS = 20
BODY = b"x" * 64
GOALS_KB = {"HTTP/2": 12, "HTTP/1.1": 25, "HTTP/1.1, mTLS": 35}


def raise_fd_limit():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def frame(kind, flags, stream, payload):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def literal(name, value):
    """HPACK, a literal field without indexing and a new name (RFC 7541 §6.2.2)."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


def question(stream):
    fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/echo"), (b":authority", b"localhost"),
              (b"content-type", b"text/plain"), (b"content-length", str(len(BODY)).encode())]
    block = b"".join(literal(name, value) for name, value in fields)
    return frame(1, 4, stream, block) + frame(0, 1, stream, BODY)


async def ask_h2(to):
    """As many requests as there are streams on one connection; gives how many were answered to their end."""
    reader, writer = await asyncio.open_connection(*to)
    window = frame(8, 0, 0, struct.pack(">I", 1 << 24))
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"") + window)
    for at in range(STREAMS):
        writer.write(question(2 * at + 1))
    ended = 0
    while ended < STREAMS:
        head = await reader.readexactly(9)
        length, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
        payload = await reader.readexactly(length)
        if kind == 4 and not flags & 1:
            writer.write(frame(4, 1, 0, b""))
        # 0x88 is `:status: 200` of the static table.
        if kind == 1 and payload[:1] != b"\x88":
            raise RuntimeError(f"an answer that is no 200: {payload[:80]!r}")
        if kind in (3, 7):
            raise RuntimeError(f"RST_STREAM or GOAWAY: {payload!r}")
        ended += kind in (0, 1) and flags & 1
    writer.close()
    return ended


async def ask_h1(to, tls=None):
    reader, writer = await asyncio.open_connection(*to, ssl=tls, server_hostname="localhost" if tls else None)
    head = f"POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(BODY)}\r\nconnection: close\r\n\r\n"
    writer.write(head.encode() + BODY)
    answer = await reader.read()
    writer.close()
    if not answer.startswith(b"HTTP/1.1 200") or not answer.endswith(BODY):
        raise RuntimeError(f"an answer that is no 200: {answer[:200]!r}")
    return 1


def client_tls(folder):
    tls = ssl.create_default_context(cafile=folder / "ca.pem")
    tls.load_cert_chain(folder / "caller.pem", folder / "caller.key")
    tls.check_hostname = False
    return tls


def callers(kind, to, count, folder):
    if kind == "HTTP/2":
        return [lambda: ask_h2(to) for _ in range(count // STREAMS)]
    tls = client_tls(folder) if "TLS" in kind else None
    return [lambda: ask_h1(to, tls) for _ in range(count)]


async def hold(kind, to, count, folder):
    turns = asyncio.Semaphore(64)
    started = []

    async def one(ask):
        # Only so many handshakes at once; whoever is in has its turn back after a moment, answered or not.
        async with turns:
            asked = asyncio.ensure_future(ask())
            started.append(asked)
            await asyncio.wait([asked], timeout=0.02)
        return await asked

    asked = [asyncio.ensure_future(one(ask)) for ask in callers(kind, to, count, folder)]
    answered, errors = 0, []
    for outcome in await asyncio.gather(*asked, return_exceptions=True):
        if isinstance(outcome, int):
            answered += outcome
        else:
            errors.append(repr(outcome))
    print(json.dumps({"answered": answered, "errors": len(errors), "first": errors[:1]}))


def waiting(admin):
    with urllib.request.urlopen(f"http://{admin}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    bands = [line for line in lines if line.startswith("outrider_queue_waiting{")]
    return sum(int(float(line.split()[1])) for line in bands) if bands else -1


def sidecar_config(kind, upstream):
    port = f"127.0.0.1:{mesh.free_port()}"
    admin = f"127.0.0.1:{mesh.free_port()}"
    tls = {"mode": "disable"}
    if "TLS" in kind:
        tls = {"mode": "strict", "trust_domain": "cluster.local", "certificate": "server.pem", "key": "server.key",
               "trust_bundle": "ca.pem"}
    return {
        "listen": port, "admin": admin, "threads": 1, "tls": tls, "access_log": False,
        "auth": {"methods": [{"mtls": {}} if "TLS" in kind else {"anonymous": {}}]},
        "forward": {"to": upstream, "concurrency": 64, "start_timeout": "10m"},
        "queue": {"requests_max": 20000, "wait_max": "10m"},
        "limits": {"connections_max": 20000, "header_timeout": "10m"},
    }


def callers_of(kind, config, count, folder):
    command = [sys.executable, __file__, "--hold", kind, "--to", config["listen"], "--requests", str(count),
               "--certs", str(folder)]
    return mesh.process(command, mesh.LOAD_CPU, stdout=subprocess.PIPE, text=True)


def held(kind, count, folder):
    """Held, answered, held again and killed."""
    upstream = f"127.0.0.1:{mesh.free_port()}"
    config = sidecar_config(kind, upstream)
    with mesh.outrider(folder, "held", "proxy", config, quiet=True) as pid:
        before = mesh.rss_mb(pid)
        with callers_of(kind, config, count, folder) as asking:
            mesh.wait_for("all to be held", lambda: waiting(config["admin"]) == count, 300)
            time.sleep(1)
            during = mesh.rss_mb(pid)
            cpu = mesh.cpu_seconds(pid)
            time.sleep(HOLD_SECONDS)
            cpu = (mesh.cpu_seconds(pid) - cpu) / HOLD_SECONDS
            echo = [mesh.BINARIES / "outrider-load", "echo", "--listen", upstream]
            with mesh.process(echo, mesh.LOAD_CPU, stdout=subprocess.PIPE):
                told = json.loads(asking.stdout.readline())
        time.sleep(5)
        after = mesh.rss_mb(pid)
        with callers_of(kind, config, count, folder) as asking:
            mesh.wait_for("all to be held again", lambda: waiting(config["admin"]) == count, 300)
            again = mesh.rss_mb(pid)
            asking.kill()
        end = time.monotonic() + FORGET_SECONDS
        while (left := waiting(config["admin"])) and time.monotonic() < end:
            time.sleep(0.1)
        time.sleep(5)
        killed = mesh.rss_mb(pid)
    return {
        "kb_each": round((during - before) * 1024 / count, 1), "goal_kb": GOALS_KB[kind], "cpu_percent": round(cpu * 100, 2),
        "mb_before": round(before, 1), "mb_held": round(during, 1), "mb_after": round(after, 1),
        "mb_held_again": round(again, 1), "mb_after_kill": round(killed, 1), "left": left, **told,
    }


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--requests", type=int, default=10_000)
    arguments.add_argument("--only", choices=GOALS_KB)
    arguments.add_argument("--write", action="store_true")
    arguments.add_argument("--hold", choices=GOALS_KB, help=argparse.SUPPRESS)
    arguments.add_argument("--to", help=argparse.SUPPRESS)
    arguments.add_argument("--certs", type=pathlib.Path, help=argparse.SUPPRESS)
    options = arguments.parse_args()
    raise_fd_limit()
    if options.hold:
        ip, port = options.to.rsplit(":", 1)
        return asyncio.run(hold(options.hold, (ip, int(port)), options.requests, options.certs))
    results = {}
    for kind in [options.only] if options.only else GOALS_KB:
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            subprocess.run([str(mesh.BINARIES / "outrider-load"), "certs", str(folder)], check=True)
            results[kind] = held(kind, options.requests, folder)
        print(kind, json.dumps(results[kind]), flush=True)
    if options.write:
        lines = ["# Requests held, in kilobytes each", "", f"{options.requests} at once, one thread.", "",
                 "| | kB each | goal | CPU while held | MB before, held, after, after a kill | answered, errors | left after the kill |",
                 "|---|---|---|---|---|---|---|"]
        for kind, told in results.items():
            memory = ", ".join(str(told[key]) for key in ("mb_before", "mb_held", "mb_after", "mb_after_kill"))
            lines.append(f"| {kind} | {told['kb_each']} | {told['goal_kb']} | {told['cpu_percent']} % | {memory} "
                         f"| {told['answered']}, {told['errors']} | {told['left']} |")
        path = mesh.RESULTS / f"{datetime.date.today()}-held.md"
        path.write_text("\n".join(lines) + "\n")
        print(path)
    if any(told["errors"] or told["left"] or told["answered"] != options.requests for told in results.values()):
        sys.exit("not all were answered, or something was left")


if __name__ == "__main__":
    main()
