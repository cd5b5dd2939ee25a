"""The `openai` package against a sidecar whose limits it exceeds: the exception it raises, what it is told, and how a
stream ends whose budget is used up."""
import os

import openai

client = openai.OpenAI(base_url=os.environ["OUTRIDER_URL"] + "/v1", api_key="none", max_retries=0, timeout=60)
QUESTION = [{"role": "user", "content": "hi"}]


def ask(user, **more):
    return client.chat.completions.create(
        model="any", messages=QUESTION, extra_headers={"x-user": user}, **more
    )


def refused(user, kind):
    try:
        ask(user)
    except openai.RateLimitError as error:
        assert error.status_code == 429 and error.code == "rate_limit_exceeded" and error.type == kind, error.body
        headers = error.response.headers
        assert int(headers["retry-after"]) >= 1, headers
        assert headers[f"x-ratelimit-remaining-{kind}"] == "0", headers
        return headers
    raise AssertionError("it was answered")


def requests():
    for _ in range(3):
        assert ask("caller").usage.total_tokens == 12
    headers = refused("caller", "requests")
    assert headers["x-ratelimit-limit"].startswith("3, 3;w=3600;"), headers


def tokens():
    raw = client.chat.completions.with_raw_response.create(
        model="any", messages=QUESTION, extra_headers={"x-user": "writer"}
    )
    assert raw.headers["x-ratelimit-limit-tokens"] == "30", raw.headers
    ask("writer")
    text = ""
    try:
        for chunk in ask("writer", stream=True):
            text += chunk.choices[0].delta.content or ""
    except openai.APIError as error:
        assert error.code == "rate_limit_exceeded" and error.type == "tokens", error
    else:
        raise AssertionError("the stream was not cut")
    assert text and len(text) < 1000 * len("word "), len(text)
    refused("writer", "tokens")


requests()
tokens()
print("a caller over its limit is told so in its own language")
