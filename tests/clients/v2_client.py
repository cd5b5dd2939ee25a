"""The `tritonclient` package, over gRPC and over HTTP, against a running sidecar with mTLS and a bearer credential."""
import os

import numpy
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

ADDRESS = os.environ["OUTRIDER_URL"].split("//")[1]
HEADERS = {"authorization": "Bearer " + os.environ["OUTRIDER_TOKEN"]}
CA, CERT, KEY = (os.environ["OUTRIDER_" + name] for name in ("CA", "CERT", "KEY"))

grpc_client = tritonclient.grpc.InferenceServerClient(
    ADDRESS, ssl=True, root_certificates=CA, private_key=KEY, certificate_chain=CERT
)
http_client = tritonclient.http.InferenceServerClient(
    ADDRESS, ssl=True, ssl_options={"ca_certs": CA, "certfile": CERT, "keyfile": KEY}
)


def text_input(module, name, texts):
    tensor = module.InferInput(name, [len(texts)], "BYTES")
    tensor.set_data_from_numpy(numpy.array([t.encode() for t in texts], dtype=numpy.object_))
    return tensor


def health(module, client):
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("smollm2", headers=HEADERS) and client.is_model_ready("minilm", headers=HEADERS)
    try:
        assert not client.is_model_ready("absent", headers=HEADERS)
    except InferenceServerException as refused:
        assert "absent" in refused.message(), refused


def metadata(module, client):
    as_json = {} if module is tritonclient.http else {"as_json": True}
    server = client.get_server_metadata(headers=HEADERS, **as_json)
    assert server["name"] == "outrider" and server["version"], server
    model = client.get_model_metadata("minilm", headers=HEADERS, **as_json)
    assert model["name"] == "minilm" and model["inputs"] and model["outputs"], model


def generate(module, client):
    inputs = [text_input(module, "text_input", ["The capital of France is", "Water boils at"])]
    outputs = [module.InferRequestedOutput("text_output")]
    reply = client.infer(
        "smollm2", inputs, outputs=outputs, request_id="r-1", headers=HEADERS,
        parameters={"max_tokens": 3, "temperature": "0"},
    )
    texts = [text.decode() for text in reply.as_numpy("text_output").reshape(-1)]
    assert len(texts) == 2 and " Paris" in texts[0] and " 10" in texts[1], texts
    response = reply.get_response()
    assert (response["id"] if module is tritonclient.http else response.id) == "r-1"


def embed(module, client):
    reply = client.infer("minilm", [text_input(module, "text", ["a cat", "a kitten", "tax law"])], headers=HEADERS)
    vectors = reply.as_numpy("embedding")
    assert vectors.shape == (3, 384) and vectors.dtype == numpy.float32, vectors.shape
    similar = vectors @ vectors.T
    assert similar[0, 1] > similar[0, 2] and abs(similar[0, 0] - 1) < 1e-4, similar


def tensors(module, client):
    ids = numpy.array([[101, 7592, 2088, 102]], dtype=numpy.int64)
    inputs = [module.InferInput(name, [1, 4], "INT64") for name in ("input_ids", "attention_mask")]
    inputs[0].set_data_from_numpy(ids)
    inputs[1].set_data_from_numpy(numpy.ones_like(ids))
    reply = client.infer("minilm", inputs, headers=HEADERS)
    assert reply.as_numpy("last_hidden_state").shape == (1, 4, 384)


def refusals(module, client):
    wrong_type = module.InferInput("text", [1], "FP32")
    wrong_type.set_data_from_numpy(numpy.zeros(1, dtype=numpy.float32))
    for model, inputs, headers in [
        ("absent", [text_input(module, "text", ["a"])], HEADERS),
        ("minilm", [wrong_type], HEADERS),
        ("minilm", [text_input(module, "no_such_tensor", ["a"])], HEADERS),
        ("minilm", [text_input(module, "text", ["a"])], {}),
    ]:
        try:
            client.infer(model, inputs, headers=headers)
        except InferenceServerException as refused:
            assert refused.message(), refused
        else:
            raise AssertionError(f"{model} {inputs} {headers} was answered")


for name, module, client in [("grpc", tritonclient.grpc, grpc_client), ("http", tritonclient.http, http_client)]:
    for case in [health, metadata, generate, embed, tensors, refusals]:
        case(module, client)
        print(f"tritonclient {name}: {case.__name__} ok")
