"""Makes the tiny random checkpoints under ../checkpoints and their goldens, with transformers in float32.

Each folder: a Hugging Face checkpoint (config.json, model.safetensors, for some a tokenizer) and golden.json with
token ids and what transformers computed from them. Needs torch, transformers, tokenizers and gguf; run once, commit what
it wrote. Seeds are fixed, so that a second run writes the same weights.
"""

import json
import pathlib
import shutil

import gguf
import numpy
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

CHECKPOINTS = pathlib.Path(__file__).parent.parent / "checkpoints"
BASE = dict(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=258,
    max_position_embeddings=256,
    rms_norm_eps=1e-5,
    tie_word_embeddings=False,
    bos_token_id=256,
    eos_token_id=257,
    # Wide enough that attention and the head are far from uniform.
    initializer_range=0.3,
)
LLAMAS = {
    "llama-gqa": dict(),
    "llama-tied": dict(tie_word_embeddings=True, num_key_value_heads=4, attention_bias=True, mlp_bias=True, head_dim=16),
    "llama-rope-linear": dict(rope_scaling=dict(rope_type="linear", factor=4.0)),
    "llama-rope-llama3": dict(
        rope_theta=500000.0,
        rope_scaling=dict(
            rope_type="llama3",
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=64,
        ),
    ),
    "llama-rope-yarn": dict(
        rope_scaling=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=64),
    ),
}
PROMPTS = [[256, 72, 101, 108, 108, 111], list(range(3, 250, 5)) + list(range(0, 250, 7)), [5]]


def byte_level_tokenizer(path):
    """256 byte tokens and two special ones: any text can be tokenized, none is merged."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    # GPT-2 order: id n is byte n.
    printable = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    chars, extra = {}, 0
    for byte in range(256):
        if byte in printable:
            chars[byte] = chr(byte)
        else:
            chars[byte] = chr(256 + extra)
            extra += 1
    assert sorted(chars.values()) == sorted(alphabet)
    tokenizer = Tokenizer(models.BPE(vocab={chars[b]: b for b in range(256)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.save(str(path / "tokenizer.json"))
    template = (
        "{% for m in messages %}{% if m.role not in ['system', 'user', 'assistant'] %}"
        "{{ raise_exception('unknown role ' ~ m.role) }}{% endif %}"
        "{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
    )
    config = dict(bos_token="<s>", eos_token="</s>", chat_template=template, tokenizer_class="PreTrainedTokenizerFast")
    (path / "tokenizer_config.json").write_text(json.dumps(config, indent=1))


def word_tokenizer(path):
    """WordPiece over single characters: 128 ids, [CLS] and [SEP] around every text."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    words = special + letters + ["##" + c for c in "abcdefghijklmnopqrstuvwxyz"] + ["the", "ing", "##ing"]
    vocab = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordPiece(vocab=vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(path / "tokenizer.json"))
    return len(words)


def numbers(tensor):
    return [float(f"{x:.7g}") for x in tensor.flatten().tolist()]


def make_llama(name, overrides):
    path = CHECKPOINTS / name
    shutil.rmtree(path, ignore_errors=True)
    torch.manual_seed(len(name))
    model = LlamaForCausalLM(LlamaConfig(**(BASE | overrides))).float().eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            # Fresh norms are all ones and biases all zeros: they would prove nothing.
            if "norm" in parameter_name or parameter_name.endswith("bias"):
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(path)
    (path / "generation_config.json").unlink(missing_ok=True)
    byte_level_tokenizer(path)
    cases = []
    for ids in PROMPTS:
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0]
            greedy = []
            for _ in range(16):
                greedy.append(int(model(torch.tensor([ids + greedy])).logits[0, -1].argmax()))
        cases.append(dict(ids=ids, logits_of_last=numbers(logits[-1]), greedy=greedy))
    (path / "golden.json").write_text(json.dumps(dict(cases=cases)))


def make_gguf(name, source):
    """A checkpoint of above as one GGUF file: its names, q and k permuted for interleaved rotation, llama3's rope
    scaling as the tensor of divisors rope_freqs.weight. It computes the same, so it has the same golden."""
    path = CHECKPOINTS / name
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    model = LlamaForCausalLM.from_pretrained(CHECKPOINTS / source).float()
    config = model.config
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    writer = gguf.GGUFWriter(str(path / "model.gguf"), "llama")
    writer.add_name(name)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    vocabulary = json.loads((CHECKPOINTS / source / "tokenizer.json").read_text())
    tokens = sorted(vocabulary["model"]["vocab"], key=vocabulary["model"]["vocab"].get) + ["<s>", "</s>"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * 256 + [gguf.TokenType.CONTROL] * 2)
    writer.add_token_merges([])
    writer.add_bos_token_id(256)
    writer.add_eos_token_id(257)
    writer.add_add_bos_token(False)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for tensor_name, tensor in model.state_dict().items():
        stem, _, kind = tensor_name.rpartition(".")
        data = tensor.numpy()
        if stem.endswith(("q_proj", "k_proj")):
            n = heads if stem.endswith("q_proj") else kv_heads
            rows, cols = data.shape
            data = data.reshape(n, 2, rows // n // 2, cols).swapaxes(1, 2).reshape(rows, cols)
        writer.add_tensor(f"{names.get_name(stem)}.{kind}", numpy.ascontiguousarray(data))
    plain = 1.0 / config.rope_parameters["rope_theta"] ** (numpy.arange(0, config.head_dim, 2) / config.head_dim)
    scaled = model.model.rotary_emb.inv_freq.numpy()
    writer.add_tensor("rope_freqs.weight", (plain / scaled).astype(numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    shutil.copy(CHECKPOINTS / source / "golden.json", path / "golden.json")


def make_bert(name, pooling):
    path = CHECKPOINTS / name
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    vocabulary = word_tokenizer(path)
    torch.manual_seed(7)
    config = BertConfig(
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        vocab_size=vocabulary,
        max_position_embeddings=64,
        initializer_range=0.3,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = BertModel(config, add_pooling_layer=False).float().eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "LayerNorm" in parameter_name or parameter_name.endswith("bias"):
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(path)
    modules = [
        dict(idx=0, name="0", path="", type="sentence_transformers.models.Transformer"),
        dict(idx=1, name="1", path="1_Pooling", type="sentence_transformers.models.Pooling"),
        dict(idx=2, name="2", path="2_Normalize", type="sentence_transformers.models.Normalize"),
    ]
    (path / "modules.json").write_text(json.dumps(modules, indent=1))
    (path / "1_Pooling").mkdir()
    modes = dict(pooling_mode_cls_token=pooling == "cls", pooling_mode_mean_tokens=pooling == "mean")
    (path / "1_Pooling/config.json").write_text(json.dumps(dict(word_embedding_dimension=24) | modes))
    (path / "sentence_bert_config.json").write_text(json.dumps(dict(max_seq_length=48)))
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    cases = []
    for text in ["hello", "The quick brown fox, 17 times!", "a"]:
        ids = tokenizer.encode(text).ids
        with torch.no_grad():
            hidden = model(torch.tensor([ids])).last_hidden_state[0]
        pooled = hidden[0] if pooling == "cls" else hidden.mean(0)
        unit = pooled / pooled.norm()
        cases.append(dict(text=text, ids=ids, last_hidden_state=numbers(hidden), embedding=numbers(unit)))
    (path / "golden.json").write_text(json.dumps(dict(cases=cases)))


if __name__ == "__main__":
    for name, overrides in LLAMAS.items():
        make_llama(name, overrides)
    make_gguf("llama-gguf", "llama-rope-llama3")
    make_bert("bert-mean", "mean")
    make_bert("bert-cls", "cls")
