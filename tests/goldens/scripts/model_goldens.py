#!/usr/bin/env python3
"""Computes the goldens of the two real models with transformers in float32, once.

Needs torch, transformers, gguf and the files in `models/` (`make models`). Writes
`tests/goldens/smollm2/greedy.json` and `tests/goldens/minilm/embeddings.json`; both are committed,
so that no test needs torch. Run it from the repository's root.
"""
import json
import pathlib

import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

ROOT = pathlib.Path(__file__).resolve().parents[3]
MODELS = ROOT / "models"
GOLDENS = ROOT / "tests" / "goldens"
TOKENS = 64
# Every 96th logit, and the likeliest sixteen, stand for all 49,152.
STRIDE = 96

CHATS = [
    "What is the capital of France?",
    "Write a haiku about the sea.",
    "Explain what a mutex is in two sentences.",
    "List three fruits and their colours.",
    "Translate 'good morning' into Spanish.",
    "Who wrote Romeo and Juliet?",
    "Why is the sky blue?",
    "Give me a Python function that adds two numbers.",
    "What is 12 times 12?",
    "Summarise: The quick brown fox jumps over the lazy dog. The dog did not mind at all and went on sleeping.",
]
TEXTS = [
    "The capital of France is",
    "Once upon a time, in a village by the river,",
    "def fibonacci(n):\n    ",
    "The three laws of thermodynamics state that",
    "In 1969, the first humans",
    "Water boils at",
    "SELECT name, age FROM users WHERE",
    "Dear Sir or Madam,\n\nI am writing to",
    "The mitochondria is",
    "import numpy as np\n\n",
]
SENTENCES = [
    "The cat sits on the mat.",
    "A feline rests upon a rug.",
    "Stock markets fell sharply on Monday.",
    "hello",
    "Kubernetes schedules pods onto nodes.",
    "Wie spät ist es?",
    "日本語の文章です。",
    "The quick brown fox jumps over the lazy dog. " * 8,
    "1234567890",
    "def main():\n    print('hi')",
    "A",
    "Request buffering lets a model sleep without losing a caller.",
]


def greedy(model, ids):
    """The greedy continuation, the logits after the prompt, and the smallest lead of a winner over the runner-up."""
    ids = list(ids)
    chosen, first, lead = [], None, float("inf")
    past, step = None, torch.tensor([ids])
    for _ in range(TOKENS):
        out = model(step, past_key_values=past, use_cache=True)
        past, logits = out.past_key_values, out.logits[0, -1]
        first = logits if first is None else first
        top = torch.topk(logits, 2)
        lead = min(lead, (top.values[0] - top.values[1]).item())
        chosen.append(top.indices[0].item())
        step = torch.tensor([[chosen[-1]]])
    return chosen, first, lead


def main():
    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    gguf = "SmolLM2-135M-Instruct.Q4_1.gguf"
    tokenizer = AutoTokenizer.from_pretrained(MODELS, gguf_file=gguf)
    model = AutoModelForCausalLM.from_pretrained(MODELS, gguf_file=gguf, dtype=torch.float32).eval()
    cases = []
    for kind, prompt in [("chat", p) for p in CHATS] + [("text", p) for p in TEXTS]:
        if kind == "chat":
            message = [{"role": "user", "content": prompt}]
            text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        else:
            text = prompt
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        chosen, first, lead = greedy(model, ids)
        top = torch.topk(first, 16)
        cases.append({
            "kind": kind, "prompt": prompt, "prompt_ids": ids, "ids": chosen, "text": tokenizer.decode(chosen),
            "smallest_lead": round(lead, 6),
            "logits_stride": STRIDE, "logits": [round(x, 5) for x in first[::STRIDE].tolist()],
            "top_ids": top.indices.tolist(), "top_logits": [round(x, 5) for x in top.values.tolist()],
        })
        print(f"{kind} {prompt[:40]!r}: lead {lead:.5f} {cases[-1]['text'][:60]!r}", flush=True)
    (GOLDENS / "smollm2").mkdir(parents=True, exist_ok=True)
    with open(GOLDENS / "smollm2" / "greedy.json", "w") as f:
        json.dump({"model": gguf, "tokens": TOKENS, "cases": cases}, f)

    path = MODELS / "all-MiniLM-L6-v2"
    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModel.from_pretrained(path).eval()
    rows = []
    for sentence in SENTENCES:
        batch = tokenizer(sentence, return_tensors="pt", truncation=True, max_length=256, padding=False)
        hidden = model(**batch).last_hidden_state[0]
        vector = torch.nn.functional.normalize(hidden.mean(0), dim=0)
        rows.append({"text": sentence, "ids": batch["input_ids"][0].tolist(),
                     "embedding": [round(x, 6) for x in vector.tolist()]})
    (GOLDENS / "minilm").mkdir(parents=True, exist_ok=True)
    with open(GOLDENS / "minilm" / "embeddings.json", "w") as f:
        json.dump({"model": "all-MiniLM-L6-v2", "cases": rows}, f)


main()
