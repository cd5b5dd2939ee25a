"""The `openai` package in front of a worker that is not there yet, less patient than the worker's start takes."""
import os

import openai

client = openai.OpenAI(
    base_url=os.environ["OUTRIDER_URL"] + "/v1",
    api_key="anonymous",
    # Silence for so long ends the request; what is sent while it waits is no silence.
    http_client=openai.DefaultHttpxClient(timeout=1.5),
    max_retries=0,
)


def stream():
    return client.completions.create(model="smollm2", prompt="The capital of France is", max_tokens=4, stream=True)


def answered():
    chunks = list(stream())
    assert all(chunk.choices for chunk in chunks), chunks
    assert "".join(chunk.choices[0].text for chunk in chunks), chunks
    assert chunks[-1].choices[0].finish_reason, chunks


def failed():
    try:
        chunks = list(stream())
    except openai.APIError as error:
        assert "no such model" in error.message, error
    else:
        raise AssertionError(chunks)


{"answered": answered, "failed": failed}[os.environ["CASE"]]()
