//! Do the tokenizers of the real models give the ids that Hugging Face gives, and its prompts?
//!
//! Needs the models (`make models`). Goldens are written by `tests/goldens/scripts/tokenizer_goldens.py`.

use outrider_worker::tokenizer::{ChatTemplate, Conversation, Tokenizer, Vocabulary};
use outrider_worker::weights::Checkpoint;
use serde::Deserialize;
use std::path::{Path, PathBuf};

#[derive(Deserialize)]
struct Case {
    text: String,
    ids: Vec<u32>,
}

#[derive(Deserialize)]
struct Rendering {
    messages: serde_json::Value,
    add_generation_prompt: bool,
    text: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn checkpoint(name: &str) -> Checkpoint {
    let path = root().join("models").join(name);
    assert!(path.exists(), "{} is absent: run `make models` first", path.display());
    Checkpoint::open(path).expect("the pinned model is sound")
}

fn golden<T: serde::de::DeserializeOwned>(name: &str) -> T {
    let path = root().join("tests/goldens").join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn compare(tokenizer: &Tokenizer, name: &str, add_special: bool) {
    let cases: Vec<Case> = golden(name);
    assert!(cases.len() >= 60, "{name} has {} cases", cases.len());
    for case in &cases {
        let ids = tokenizer.encode(&case.text, add_special).expect("any text");
        assert_eq!(ids, case.ids, "{:?}", case.text);
    }
}

#[test]
fn do_smollm2_ids_equal_the_reference() {
    let tokenizer = Tokenizer::from_checkpoint(&checkpoint("SmolLM2-135M-Instruct.Q4_1.gguf")).expect("sound");
    compare(&tokenizer, "tokenizer/smollm2.json", false);
    for case in golden::<Vec<Case>>("tokenizer/smollm2.json") {
        // Some rare bytes are no tokens of this vocabulary, so only texts without the unknown token come back.
        if !case.ids.contains(&0) {
            assert_eq!(tokenizer.decode(&case.ids, false).expect("known ids"), case.text);
        }
    }
    assert_eq!((tokenizer.len(), tokenizer.token_bytes(2), tokenizer.token_bytes(33)), (49152, &b""[..], &b"1"[..]));
}

#[test]
fn do_minilm_ids_equal_the_reference() {
    let checkpoint = checkpoint("all-MiniLM-L6-v2");
    let tokenizer = Tokenizer::from_checkpoint(&checkpoint).expect("sound");
    compare(&tokenizer, "tokenizer/minilm.json", true);
    let encoder = checkpoint.sentence_encoder().expect("modules.json");
    assert_eq!((encoder.max_tokens, encoder.normalize), (256, true));
    let long = tokenizer.encode_within(&"word ".repeat(1000), encoder.max_tokens).expect("any text");
    assert_eq!((long.len(), long[0], long[255]), (256, 101, 102));
}

#[test]
fn do_smollm2_prompts_equal_the_reference() {
    let template = ChatTemplate::from_checkpoint(&checkpoint("SmolLM2-135M-Instruct.Q4_1.gguf")).expect("compiles");
    for rendering in golden::<Vec<Rendering>>("template/smollm2.json") {
        let mut conversation = Conversation::new(rendering.messages, time::OffsetDateTime::UNIX_EPOCH);
        conversation.add_generation_prompt = rendering.add_generation_prompt;
        assert_eq!(template.render(&conversation).expect("renders"), rendering.text);
    }
}

#[test]
fn is_smollm2_described_as_it_is() {
    let checkpoint = checkpoint("SmolLM2-135M-Instruct.Q4_1.gguf");
    let config = checkpoint.config();
    let integers = [
        ("hidden_size", 576),
        ("num_hidden_layers", 30),
        ("num_attention_heads", 9),
        ("num_key_value_heads", 3),
        ("head_dim", 64),
        ("intermediate_size", 1536),
        ("vocab_size", 49152),
        ("max_position_embeddings", 8192),
    ];
    for (key, value) in integers {
        assert_eq!(config.usize(key).expect(key), value, "{key}");
    }
    assert_eq!((checkpoint.architecture(), checkpoint.quantization()), ("llama", "Q4_1"));
    assert_eq!(checkpoint.parameter_count(), 134_515_008);
    assert_eq!(checkpoint.special_tokens().end_of_generation, [0, 2]);
    let embedding = checkpoint.tensor("token_embd.weight").expect("there");
    assert_eq!((embedding.rows, embedding.cols), (49152, 576));
}
