"""What `make demo` runs after the build: a real model behind the sidecar, one chat with it, and then it stays up.

Python 3.9's standard library only. Uses nothing but the outside contract of `outrider up`: its flags, the line `ready`,
and the variables in `client.env`.
"""

import argparse
import http.client
import json
import os
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").absolute()
QUESTION = "What is the capital of France, and what is it famous for?"
# A Unix socket's path has at most 107 bytes; `worker.sock` in the state directory is one.
STATE_PATH_MAX = 90
READY_SECONDS_MAX = 60
END_SECONDS_MAX = 5


class Trouble(Exception):
    """Something went wrong, in words for whoever typed `make demo`."""


def say(text=""):
    print(text, flush=True)


def model():
    """Name and path of the model to serve."""
    given = os.environ.get("MODEL")
    if not given:
        path = ROOT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
        if not path.exists():
            raise Trouble(f"{path} is absent: `make models` first, or MODEL=path.gguf make demo")
        return "smollm2", path
    path = Path(given).absolute()
    if not path.exists():
        raise Trouble(f"MODEL={given}: there is no such file")
    return (path.stem if path.suffix == ".gguf" else path.name).replace(" ", "-"), path


def free_or_any(port):
    """The usual port if nobody has it, else 0: a demo should not fail for a port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            return port
        except OSError:
            return 0


class Up:
    """A running `outrider up`."""

    def __init__(self, name, path):
        program = TARGET / "release" / "outrider"
        if not program.exists():
            raise Trouble(f"{program} is absent: `make build` first")
        self.temporary = None
        self.state = TARGET / "demo"
        if len(str(self.state)) > STATE_PATH_MAX:
            self.temporary = tempfile.mkdtemp(prefix="outrider-demo-")
            self.state = Path(self.temporary)
        self.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.log = self.state / "demo.log"
        command = [
            program, "up", "--model", f"{name}={path}", "--state-dir", self.state,
            "--listen", f"127.0.0.1:{free_or_any(8443)}", "--admin", f"127.0.0.1:{free_or_any(15020)}",
        ]
        # A session of its own: Ctrl-C comes to us, and we ask it to end.
        with open(os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, start_new_session=True)
        self.ready = threading.Event()
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        for line in self.process.stdout:
            if line.strip() == b"ready":
                self.ready.set()

    def wait_ready(self):
        """The variables of `client.env`, once it serves."""
        deadline = time.monotonic() + READY_SECONDS_MAX
        while not self.ready.wait(0.05):
            self.check()
            if time.monotonic() > deadline:
                raise Trouble(f"outrider up was not ready after {READY_SECONDS_MAX} s\n{self.last_lines()}")
        words = shlex.split((self.state / "client.env").read_text(), comments=True)
        return dict(word.split("=", 1) for word in words if "=" in word)

    def check(self):
        code = self.process.poll()
        if code is not None:
            time.sleep(0.1)
            raise Trouble(f"outrider up ended by itself (exit code {code})\n{self.last_lines()}")

    def last_lines(self):
        lines = self.log.read_text(errors="replace").splitlines()[-20:]
        return "\n".join([f"--- the end of its log, {self.log}", *lines])

    def end(self):
        """SIGTERM, so that it drains; it takes at most two seconds for that."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(END_SECONDS_MAX)
            except (subprocess.TimeoutExpired, KeyboardInterrupt):
                say("outrider did not end; it is killed")
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        if self.temporary:
            shutil.rmtree(self.temporary, ignore_errors=True)


def connect(env):
    """Mutual TLS: the server must be of the trust domain, and we show our own certificate."""
    url = urllib.parse.urlsplit(env["OUTRIDER_URL"])
    context = ssl.create_default_context(cafile=env["OUTRIDER_CA"])
    context.load_cert_chain(env["OUTRIDER_CERT"], env["OUTRIDER_KEY"])
    return http.client.HTTPSConnection(url.hostname, url.port, context=context, timeout=300)


def events(response):
    """The JSON of every server-sent event, up to the one that says the stream is whole."""
    for line in response:
        if line.startswith(b"data: "):
            if line.strip() == b"data: [DONE]":
                return
            yield json.loads(line[6:])
    raise Trouble("the stream ended before it was whole")


def chat(env):
    """One streaming request; the answer is shown as it comes."""
    body = {
        "model": env["OUTRIDER_MODEL"], "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": 200, "temperature": 0, "stream": True, "stream_options": {"include_usage": True},
    }
    headers = {"content-type": "application/json", "authorization": "Bearer " + env["OUTRIDER_TOKEN"]}
    connection = connect(env)
    asked = time.monotonic()
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    response = connection.getresponse()
    if response.status != 200:
        raise Trouble(f"the answer is {response.status}: {response.read(4096).decode(errors='replace')}")
    first = last = None
    tokens = 0
    for event in events(response):
        if "error" in event:
            raise Trouble(f"the answer broke off: {event['error'].get('message')}")
        for choice in event.get("choices", []):
            text = choice.get("delta", {}).get("content")
            if text:
                last = time.monotonic()
                first = first or last
                print(text, end="", flush=True)
        tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
    connection.close()
    say()
    if first is None:
        raise Trouble("the model answered nothing")
    speed = f", then {(tokens - 1) / (last - first):.0f} tokens/s" if tokens > 2 and last > first else ""
    say(f"\n[first token after {first - asked:.2f} s, the start of the worker included{speed}; {tokens} tokens]")


HELP = """
It stays up. In another shell:

  . {env_file}

curl
  curl --cacert $OUTRIDER_CA --cert $OUTRIDER_CERT --key $OUTRIDER_KEY -N \\
    -H "authorization: Bearer $OUTRIDER_TOKEN" -H "content-type: application/json" \\
    -d '{{"model": "{model}", "stream": true, "messages": [{{"role": "user", "content": "Hello!"}}]}}' \\
    $OUTRIDER_URL/v1/chat/completions

Python, the OpenAI client (pip install openai)
  import os, ssl, openai
  tls = ssl.create_default_context(cafile=os.environ["OUTRIDER_CA"])
  tls.load_cert_chain(os.environ["OUTRIDER_CERT"], os.environ["OUTRIDER_KEY"])
  client = openai.OpenAI(base_url=os.environ["OUTRIDER_URL"] + "/v1", api_key=os.environ["OUTRIDER_TOKEN"],
                         http_client=openai.DefaultHttpxClient(verify=tls))
  for part in client.chat.completions.create(model="{model}", stream=True,
                                             messages=[{{"role": "user", "content": "Hello!"}}]):
      print(part.choices[0].delta.content or "", end="", flush=True)

Python, KServe V2 over gRPC (pip install tritonclient[grpc])
  import os, numpy, tritonclient.grpc as grpc
  client = grpc.InferenceServerClient("{authority}", ssl=True, root_certificates=os.environ["OUTRIDER_CA"],
      certificate_chain=os.environ["OUTRIDER_CERT"], private_key=os.environ["OUTRIDER_KEY"])
  text = grpc.InferInput("text_input", [1], "BYTES")
  text.set_data_from_numpy(numpy.array([b"The capital of France is"], dtype=object))
  reply = client.infer("{model}", [text], parameters={{"max_tokens": 16}},
                       headers={{"authorization": "Bearer " + os.environ["OUTRIDER_TOKEN"]}})
  print(reply.as_numpy("text_output"))

Metrics      {admin}/metrics
Status page  {admin}/
Log          {log}

Ctrl-C ends it.
"""


def show_help(env, up):
    say(HELP.format(
        env_file=shlex.quote(str(up.state / "client.env")), model=env["OUTRIDER_MODEL"],
        authority=urllib.parse.urlsplit(env["OUTRIDER_URL"]).netloc, admin=env["OUTRIDER_ADMIN_URL"], log=up.log,
    ))


def interrupted(*_):
    raise KeyboardInterrupt


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--once", action="store_true", help="end after the first answer")
    once = parser.parse_args().once
    # SIGINT too: a shell starts background jobs with it ignored, and then Python would leave it so.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    up = None
    try:
        name, path = model()
        say(f"starting `outrider up` with {path.name}")
        up = Up(name, path)
        env = up.wait_ready()
        say(f"ready at {env['OUTRIDER_URL']}; asking over mutual TLS, with a bearer credential\n\n> {QUESTION}\n")
        chat(env)
        show_help(env, up)
        while not once:
            up.check()
            time.sleep(0.2)
    except KeyboardInterrupt:
        say("\nending")
    except (Trouble, OSError, http.client.HTTPException) as trouble:
        ended = f"\n{up.last_lines()}" if up and not isinstance(trouble, Trouble) else ""
        sys.exit(f"demo: {trouble}{ended}")
    finally:
        if up:
            up.end()


if __name__ == "__main__":
    main()
