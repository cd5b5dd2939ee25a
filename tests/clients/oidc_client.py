"""A real OpenID provider behind the sidecar's issuer_url: absent at first, then there, rotating its key, and gone."""

import base64
import contextlib
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid

import oidc_provider_mock
import oidc_provider_mock._app
import werkzeug.serving
from authlib import jose

SIDECAR = os.environ["OUTRIDER_URL"]
PORT = int(os.environ["OIDC_PORT"])
ISSUER = f"http://127.0.0.1:{PORT}"
# The longest pause of the sidecar between two looks, and more; nothing asserts that it is quick.
PATIENCE = 60


class Provider:
    """The provider as its package has it, with more keys than the one it signs with, and a count of looks at them."""

    def __init__(self):
        self.app = oidc_provider_mock.app()
        self.app.debug = False
        self.looks = 0
        self.keys = []
        self.storage = None
        self.app.before_request(self.remember)
        self.app.view_functions["oidc-provider-mock.jwks"] = self.jwks
        self.rotate()

    def remember(self):
        import flask

        self.storage = flask.g.oidc_provider_mock_storage
        self.storage.jwk = self.keys[-1]

    def rotate(self):
        self.keys.append(jose.RSAKey.generate_key(options={"kid": uuid.uuid4().hex}, is_private=True))

    def jwks(self):
        self.looks += 1
        return {"keys": [key.as_dict(is_private=False) for key in self.keys]}

    @contextlib.contextmanager
    def serving(self):
        import threading

        server = werkzeug.serving.make_server("127.0.0.1", PORT, self.app, threaded=True)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class NamedKey(oidc_provider_mock._app.OpenIDCode):
    """Names its key in each token, as a provider with two of them must."""

    def get_jwt_config(self, grant, client=None):
        config = super().get_jwt_config(grant, client)
        return {**config, "kid": config["key"]["kid"]}


oidc_provider_mock._app.OpenIDCode = NamedKey


class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args):
        return None


def login(client_id):
    """The authorization code flow, as a browser and an application go through it; the id token."""
    back = "http://127.0.0.1/back"
    query = {"client_id": client_id, "redirect_uri": back, "response_type": "code", "scope": "openid", "nonce": uuid.uuid4().hex}
    asked = urllib.request.Request(f"{ISSUER}/oauth2/authorize?{urllib.parse.urlencode(query)}", data=b"sub=ada")
    try:
        urllib.request.build_opener(NoRedirect).open(asked)
        raise AssertionError("no redirect with a code")
    except urllib.error.HTTPError as answer:
        location = answer.headers["location"]
    code = urllib.parse.parse_qs(urllib.parse.urlparse(location).query)["code"][0]
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": back}
    basic = base64.b64encode(f"{client_id}:secret".encode()).decode()
    asked = urllib.request.Request(
        f"{ISSUER}/oauth2/token", data=urllib.parse.urlencode(form).encode(), headers={"authorization": f"Basic {basic}"}
    )
    with urllib.request.urlopen(asked) as answer:
        return json.load(answer)["id_token"]


def ask(token):
    asked = urllib.request.Request(f"{SIDECAR}/whole", data=b"hello", headers={"authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(asked) as answer:
            return answer.status
    except urllib.error.HTTPError as refusal:
        return refusal.code


def accepted_at_last(token):
    """How often it was refused before."""
    end = time.monotonic() + PATIENCE
    refusals = 0
    while ask(token) != 200:
        refusals += 1
        assert time.monotonic() < end, "never accepted"
        time.sleep(0.2)
    return refusals


def forged(token, kid):
    header, payload, signature = token.split(".")
    header = json.loads(base64.urlsafe_b64decode(header + "=="))
    header["kid"] = kid
    header = base64.urlsafe_b64encode(json.dumps(header).encode()).decode().rstrip("=")
    return f"{header}.{payload}.{signature}"


provider = Provider()
with provider.serving():
    early = login("outrider")
# The provider is away before its keys were ever fetched, unless the sidecar was quick: nobody is let in by a guess.
assert ask(forged(early, "unknown")) in (401, 503)
with provider.serving():
    accepted_at_last(early)
    assert provider.looks == 1, f"{provider.looks} looks for the first keys"
    assert ask(login("somebody else")) == 401, "made for another audience"

    provider.rotate()
    late = login("outrider")
    refusals = accepted_at_last(late)
    assert provider.looks == 2, f"{provider.looks} looks after {refusals} refusals: one key id is one look"
    assert ask(early) == 200, "the old key is published still"

    before = provider.looks
    for n in range(200):
        assert ask(forged(late, f"unknown {n}")) == 401
    assert provider.looks <= before + 1, f"{provider.looks - before} looks for 200 unknown key ids"

assert (ask(early), ask(late)) == (200, 200), "while the provider is down its keys are good"
assert ask(forged(late, "unknown")) == 401
header, payload, signature = late.split(".")
assert ask(f"{header}.{payload}.{signature[::-1]}") == 401
print(f"oidc: {refusals} refusals until the rotated key was known")
