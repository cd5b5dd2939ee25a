"""The `openai` package against a running sidecar, over mTLS with a bearer credential, as its users use it."""
import os
import ssl

import openai

context = ssl.create_default_context(cafile=os.environ["OUTRIDER_CA"])
context.load_cert_chain(os.environ["OUTRIDER_CERT"], os.environ["OUTRIDER_KEY"])
client = openai.OpenAI(
    base_url=os.environ["OUTRIDER_URL"] + "/v1",
    api_key=os.environ["OUTRIDER_TOKEN"],
    http_client=openai.DefaultHttpxClient(verify=context, timeout=60),
    max_retries=0,
)
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


def models():
    names = [model.id for model in client.models.list()]
    assert names == ["smollm2", "minilm"], names
    assert client.models.retrieve("smollm2").id == "smollm2"


def chat():
    reply = client.chat.completions.create(model="smollm2", messages=QUESTION, temperature=0, max_tokens=32)
    choice = reply.choices[0]
    assert choice.message.role == "assistant" and "Paris" in choice.message.content, choice
    assert choice.finish_reason == "stop", choice
    usage = reply.usage
    assert usage.prompt_tokens > 20 and usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, usage


def stream():
    whole = client.chat.completions.create(model="smollm2", messages=QUESTION, temperature=0, max_tokens=12)
    text, finishes, usage, chunks = "", [], None, 0
    options = {"include_usage": True}
    for chunk in client.chat.completions.create(
        model="smollm2", messages=QUESTION, temperature=0, max_tokens=12, stream=True, stream_options=options
    ):
        chunks += 1
        if chunk.usage:
            assert not chunk.choices
            usage = chunk.usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            finishes += [choice.finish_reason] if choice.finish_reason else []
    assert text == whole.choices[0].message.content, (text, whole)
    assert finishes == [whole.choices[0].finish_reason] and chunks > 4, (finishes, chunks)
    assert usage == whole.usage, (usage, whole.usage)


def choices():
    reply = client.chat.completions.create(
        model="smollm2", messages=QUESTION, n=3, seed=7, temperature=1.0, max_tokens=8
    )
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    again = client.chat.completions.create(
        model="smollm2", messages=QUESTION, n=3, seed=7, temperature=1.0, max_tokens=8
    )
    assert [c.message.content for c in reply.choices] == [c.message.content for c in again.choices]
    seen = {}
    for chunk in client.chat.completions.create(
        model="smollm2", messages=QUESTION, n=3, seed=7, temperature=1.0, max_tokens=8, stream=True
    ):
        for choice in chunk.choices:
            seen[choice.index] = seen.get(choice.index, "") + (choice.delta.content or "")
    assert [seen[i] for i in range(3)] == [c.message.content for c in reply.choices], (seen, reply)


def logprobs():
    reply = client.chat.completions.create(
        model="smollm2", messages=QUESTION, temperature=0, max_tokens=4, logprobs=True, top_logprobs=3
    )
    tokens = reply.choices[0].logprobs.content
    assert len(tokens) == reply.usage.completion_tokens == 4
    for token in tokens:
        assert token.logprob <= 0 and len(token.top_logprobs) == 3
        assert token.logprob == max(top.logprob for top in token.top_logprobs), "greedy takes the likeliest"
    assert "".join(token.token for token in tokens) == reply.choices[0].message.content


def completions():
    reply = client.completions.create(
        model="smollm2", prompt="The capital of France is", temperature=0, max_tokens=16, stop=["."]
    )
    assert reply.choices[0].text.startswith(" Paris") and "." not in reply.choices[0].text, reply
    assert reply.choices[0].finish_reason == "stop", reply
    many = client.completions.create(
        model="smollm2", prompt=["The capital of France is", "Water boils at"], temperature=0, max_tokens=3
    )
    assert [choice.index for choice in many.choices] == [0, 1]
    assert many.choices[0].text.startswith(" Paris") and many.choices[1].text.startswith(" 10"), many
    echoed = client.completions.create(
        model="smollm2", prompt="The capital of France is", temperature=0, max_tokens=1, echo=True, logprobs=1
    )
    assert echoed.choices[0].text.startswith("The capital of France is"), echoed
    first = echoed.choices[0].logprobs
    assert first.token_logprobs[0] is None and all(p <= 0 for p in first.token_logprobs[1:]), first


def embeddings():
    texts = ["The cat sits on the mat.", "A feline rests upon a rug.", "Stock markets fell sharply on Monday."]
    reply = client.embeddings.create(model="minilm", input=texts)
    vectors = [row.embedding for row in reply.data]
    assert [row.index for row in reply.data] == [0, 1, 2] and all(len(v) == 384 for v in vectors)
    floats = client.embeddings.create(model="minilm", input=texts[0], encoding_format="float").data[0].embedding
    assert max(abs(a - b) for a, b in zip(floats, vectors[0])) < 1e-6
    near, far = (sum(a * b for a, b in zip(vectors[0], other)) for other in vectors[1:])
    assert near > 0.5 > far, (near, far)


def refusals():
    for error, arguments in [
        (openai.NotFoundError, {"model": "gpt-9", "messages": QUESTION}),
        (openai.BadRequestError, {"model": "smollm2", "messages": []}),
        (openai.BadRequestError, {"model": "smollm2", "messages": QUESTION, "max_tokens": -1}),
        (openai.BadRequestError, {"model": "minilm", "messages": QUESTION}),
        (openai.BadRequestError, {"model": "smollm2", "messages": [{"role": "user", "content": "word " * 9000}]}),
    ]:
        try:
            client.chat.completions.create(**arguments)
        except error as refused:
            assert refused.body["message"], refused
        else:
            raise AssertionError(f"{arguments} was answered")
    try:
        client.with_options(api_key="nonsense").models.list()
    except openai.AuthenticationError:
        pass
    else:
        raise AssertionError("a wrong credential was taken")


for case in [models, chat, stream, choices, logprobs, completions, embeddings, refusals]:
    case()
    print(f"openai client: {case.__name__} ok")
