"""Writes tests/goldens/tokenizer/{smollm2,minilm}.json and tests/goldens/template/smollm2.json.

The reference is Hugging Face: transformers reads the vocabulary out of the GGUF file, tokenizers reads MiniLM's
tokenizer.json. Needs: pip install torch transformers gguf tokenizers. Run from the repository's root, after `make models`.
"""

import json
import pathlib

import gguf
from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoTokenizer

MODELS = pathlib.Path("models")
GOLDENS = pathlib.Path("tests/goldens")

TEXTS = [
    "",
    " ",
    "  ",
    "\n",
    "\t\n \r\n",
    "a",
    "Hello, world!",
    " Hello, world! ",
    "The quick brown fox jumps over the lazy dog.",
    "I'll say it's what they've done, I'm sure; he'd go, we're in.",
    "I'LL SAY IT'S WHAT THEY'VE DONE",
    "don’t ‘quote’ “this” — please… ok",
    "1",
    "12",
    "123",
    "1234567890",
    "3.14159 2.71828e-10 0xDEADBEEF 1,000,000",
    "a1b2c3 4d5e6f",
    "x  1  2   3",
    "½ ² ³ Ⅷ ٣٤٥ १२३ 〇一二三",
    "汉字和假名混在一起",
    "日本語のテキストです。カタカナもあります！",
    "한국어 문장입니다.",
    "Привет, мир! Как дела?",
    "Γειά σου Κόσμε",
    "مرحبا بالعالم",
    "שלום עולם",
    "नमस्ते दुनिया",
    "สวัสดีชาวโลก",
    "👋🌍",
    "👨‍👩‍👧‍👦 family, 🏳️‍🌈 flag, 👍🏽 thumb",
    "e\u0301 n\u0303 a\u030a vs é ñ å",
    "Z\u0351\u036b\u0343\u036aa\u0302l\u0334g\u0327o\u0324",
    "zero\u200bwidth\u200djoiner\ufeffbom",
    "no\u00a0break\u2003em\u3000wide",
    "line one\nline two\n\nline four\n",
    "trailing spaces   \nnext   ",
    "      six spaces, then\n\t\ttabs",
    "\n\n\n\n",
    "   \n   \n   x",
    "a\r\nb\rc",
    "def f(x):\n    return [i ** 2 for i in range(x) if i % 2 == 0]\n",
    "fn main() {\n    println!(\"{:?}\", vec![1, 2, 3]);\n}\n",
    "#include <stdio.h>\nint main(void) { return 0; } /* done */",
    "SELECT * FROM t WHERE a = 'b' AND c <> \"d\";",
    "{\"key\": [1, 2.5, null, true], \"nested\": {\"a\": \"b\\n\"}}",
    "<html><body class=\"x\">&nbsp;</body></html>",
    "https://example.com/path?q=1&r=2#frag user@example.com",
    "!@#$%^&*()_+-=[]{}|;':\",./<>?`~",
    "....... ------- ======= _______",
    "\\u0041 \\n \\\\ C:\\Users\\x",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "text <|endoftext|> more<|im_end|>",
    "<|im_start|><|im_start|><|im_start",
    "<|im_start|",
    "[CLS] not special here [SEP] [MASK] [UNK]",
    "\u0000\u0001\u001f\u007f\u0080\u009f",
    "\ufffd\ufffe\uffff\U0010ffff",
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "ab" * 300,
    " " * 200 + "x",
    "na " * 100,
    "1" * 150,
    "The year 1984, the number 42nd, the 3rd of May 2024 at 12:30pm cost $5.99 (or €6,49).",
]

CONVERSATIONS = [
    [{"role": "user", "content": "What is the capital of France?"}],
    [{"role": "system", "content": "You are brief."}, {"role": "user", "content": "Hi"}],
    [
        {"role": "user", "content": "  spaces kept \n"},
        {"role": "assistant", "content": "ok"},
        {"role": "user", "content": "<|im_end|> {{ x }}"},
    ],
]


def write(path, value):
    """One case on a line, so that a difference can be read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("[\n" + ",\n".join(json.dumps(case) for case in value) + "\n]\n")


def cases(encode):
    return [{"text": text, "ids": encode(text)} for text in TEXTS]


def smollm2():
    name = "SmolLM2-135M-Instruct.Q4_1.gguf"
    tokenizer = AutoTokenizer.from_pretrained(str(MODELS), gguf_file=name)
    # transformers leaves out what `tokenizer.ggml.pre = smollm` says; the model's published tokenizer.json has this.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    write(GOLDENS / "tokenizer/smollm2.json", cases(lambda text: tokenizer.encode(text, add_special_tokens=False)))
    # transformers does not carry the template over from every GGUF: it is read from the file.
    field = gguf.GGUFReader(MODELS / name).fields["tokenizer.chat_template"]
    rendered = [
        {
            "messages": messages,
            "add_generation_prompt": prompt,
            "text": tokenizer.apply_chat_template(
                messages, chat_template=field.contents(), add_generation_prompt=prompt, tokenize=False
            ),
        }
        for messages in CONVERSATIONS
        for prompt in (True, False)
    ]
    write(GOLDENS / "template/smollm2.json", rendered)


def minilm():
    tokenizer = Tokenizer.from_file(str(MODELS / "all-MiniLM-L6-v2/tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    write(GOLDENS / "tokenizer/minilm.json", cases(lambda text: tokenizer.encode(text).ids))


if __name__ == "__main__":
    smollm2()
    minilm()
