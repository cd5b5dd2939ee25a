//! Do both formats tell the same story in the same words?

use super::*;
use crate::weights::gguf::testing::{Builder, Pair};
use std::fs;

fn gguf(builder: &Builder) -> Result<Checkpoint, WeightsError> {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("model.gguf");
    fs::write(&path, builder.bytes()).expect("written");
    Checkpoint::open(path)
}

fn llama() -> Builder {
    let tokens = ["<s>", "a", "<|im_end|>", "<|eot_id|>"].map(str::to_owned).to_vec();
    Builder::new("llama")
        .str("general.name", "Tiny")
        .pair("llama.block_count", Pair::U32(2))
        .pair("llama.context_length", Pair::U32(128))
        .pair("llama.embedding_length", Pair::U32(64))
        .pair("llama.attention.head_count", Pair::U32(4))
        .pair("llama.attention.head_count_kv", Pair::I32s(vec![2, 2]))
        .pair("llama.attention.layer_norm_rms_epsilon", Pair::F32(1e-5))
        .pair("llama.rope.scaling.type", Pair::Str("yarn".into()))
        .pair("llama.rope.scaling.factor", Pair::F32(4.0))
        .pair("tokenizer.ggml.model", Pair::Str("gpt2".into()))
        .pair("tokenizer.ggml.tokens", Pair::Strs(tokens))
        .pair("tokenizer.ggml.token_type", Pair::I32s(vec![3, 1, 3, 1]))
        .pair("tokenizer.ggml.bos_token_id", Pair::U32(0))
        .pair("tokenizer.ggml.eos_token_id", Pair::U32(1))
        .pair("tokenizer.chat_template", Pair::Str("{{ messages }}".into()))
        .zeros("token_embd.weight", ElementType::Q8_0, &[64, 4])
        .zeros("blk.0.attn_q.weight", ElementType::Q4_0, &[64, 64])
}

#[test]
fn is_gguf_metadata_told_in_the_words_of_config_json() {
    let checkpoint = gguf(&llama()).expect("sound");
    let config = checkpoint.config();
    assert_eq!((checkpoint.architecture(), checkpoint.name()), ("llama", Some("Tiny")));
    let integers = [
        ("hidden_size", 64),
        ("num_hidden_layers", 2),
        ("num_attention_heads", 4),
        ("num_key_value_heads", 2),
        ("head_dim", 16),
        ("vocab_size", 4),
        ("max_position_embeddings", 128),
    ];
    for (key, value) in integers {
        assert_eq!(config.usize(key).expect(key), value, "{key}");
    }
    assert_eq!(config.get("rms_norm_eps"), Some(&serde_json::json!(1e-5)));
    assert!(config.bool_or("tie_word_embeddings", false).expect("a bool"));
    let scaling = config.section("rope_scaling").expect("an object").expect("there");
    assert_eq!(scaling.str("rope_type").expect("a string"), "yarn");
    assert_eq!(scaling.f32("factor").expect("a number"), 4.0);
    assert_eq!(checkpoint.naming(), Naming::Gguf);
    assert_eq!(checkpoint.parameter_count(), 64 * 68);
    assert_eq!(checkpoint.quantization(), "Q4_0");
    assert_eq!(checkpoint.chat_template(), Some("{{ messages }}"));
    let special = checkpoint.special_tokens();
    // `<|eot_id|>` is an ordinary token here, so it does not end anything.
    assert_eq!(special.end_of_generation, [1, 2]);
    assert_eq!((special.bos_text.as_deref(), special.eos), (Some("<s>"), Some(1)));
}

#[test]
fn is_a_model_whose_layers_differ_refused_by_key() {
    let mut builder = llama();
    builder.pairs.retain(|pair| pair.0 != "llama.attention.head_count_kv");
    let error =
        gguf(&builder.pair("llama.attention.head_count_kv", Pair::I32s(vec![2, 4]))).expect_err("layers differ");
    assert!(error.to_string().contains("llama.attention.head_count_kv: differs from layer to layer"), "{error}");
}

/// One safetensors file: a header, then zeros.
fn safetensors(tensors: &[(&str, &str, &[usize], usize)]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut at = 0;
    for (name, dtype, shape, bytes) in tensors {
        let entry = serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": [at, at + bytes]});
        header.insert((*name).to_owned(), entry);
        at += bytes;
    }
    let header = serde_json::to_vec(&header).expect("JSON");
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header);
    out.resize(out.len() + at, 0);
    out
}

fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    let write = |name: &str, content: &str| fs::write(directory.path().join(name), content).expect("written");
    let config = r#"{"model_type": "bert", "hidden_size": 8, "num_attention_heads": 2, "max_position_embeddings": 16,
        "eos_token_id": [5, 6], "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}}"#;
    write("config.json", config);
    let added = r#"{"added_tokens": [{"id": 3, "content": "</s>", "special": true},
        {"id": 9, "content": "<|im_end|>", "special": true}], "model": {"vocab": {}}}"#;
    write("tokenizer.json", added);
    write("tokenizer_config.json", r#"{"eos_token": {"content": "</s>"}, "chat_template": "T"}"#);
    write("sentence_bert_config.json", r#"{"max_seq_length": 12}"#);
    let modules = r#"[{"type": "sentence_transformers.models.Transformer", "path": ""},
        {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"},
        {"type": "sentence_transformers.models.Normalize", "path": "2_Normalize"}]"#;
    write("modules.json", modules);
    fs::create_dir(directory.path().join("1_Pooling")).expect("made");
    write("1_Pooling/config.json", r#"{"pooling_mode_cls_token": false, "pooling_mode_mean_tokens": true}"#);
    directory
}

#[test]
fn is_a_sentence_encoder_read_from_its_directory() {
    let directory = directory();
    let file = safetensors(&[
        ("embeddings.position_ids", "I64", &[1, 2], 16),
        ("embeddings.word_embeddings.weight", "F32", &[3, 8], 96),
        ("pooler.dense.bias", "BF16", &[8], 16),
    ]);
    fs::write(directory.path().join("model.safetensors"), file).expect("written");
    for path in [directory.path().to_owned(), directory.path().join("model.safetensors")] {
        let checkpoint = Checkpoint::open(path).expect("sound");
        assert_eq!(checkpoint.naming(), Naming::HuggingFace);
        let shape = |name: &str| checkpoint.tensor(name).map(|t| (t.element, t.rows, t.cols)).expect(name);
        assert_eq!(shape("embeddings.word_embeddings.weight"), (ElementType::F32, 3, 8));
        assert_eq!(shape("pooler.dense.bias"), (ElementType::BF16, 1, 8));
        assert_eq!(checkpoint.parameter_count(), 32);
        let error = checkpoint.tensor("embeddings.position_ids").expect_err("integers").to_string();
        assert!(error.contains("I64") && error.contains("F32, F16, BF16"), "{error}");
        let encoder = SentenceEncoder { pooling: Pooling::Mean, normalize: true, max_tokens: 12 };
        assert_eq!(checkpoint.sentence_encoder(), Some(encoder));
        assert_eq!(checkpoint.special_tokens().end_of_generation, [3, 5, 6, 9]);
        assert_eq!(checkpoint.special_tokens().eos, Some(3));
        assert_eq!(checkpoint.config().f32("rope_theta").expect("lifted"), 500_000.0);
        assert!(!checkpoint.config().contains("rope_scaling"));
        assert_eq!(checkpoint.config().usize("head_dim").expect("derived"), 4);
        assert_eq!(checkpoint.chat_template(), Some("T"));
    }
}

#[test]
fn are_shards_read_as_one_and_kept_inside_their_directory() {
    let directory = directory();
    let write = |name: &str, bytes: &[u8]| fs::write(directory.path().join(name), bytes).expect("written");
    write("a.safetensors", &safetensors(&[("a", "F32", &[2], 8)]));
    write("b.safetensors", &safetensors(&[("b", "F16", &[2], 4)]));
    write("model.safetensors.index.json", br#"{"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}"#);
    let checkpoint = Checkpoint::open(directory.path()).expect("sound");
    assert!(checkpoint.find_tensor("a").is_some() && checkpoint.find_tensor("b").is_some());
    for name in ["../a.safetensors", "/etc/passwd", ".."] {
        write("model.safetensors.index.json", format!(r#"{{"weight_map": {{"a": "{name}"}}}}"#).as_bytes());
        let error = Checkpoint::open(directory.path()).expect_err("out of the directory").to_string();
        assert!(error.contains("plain file name"), "{error}");
    }
}

#[test]
fn is_every_damaged_safetensors_refused() {
    let directory = directory();
    let path = directory.path().join("model.safetensors");
    let sound = safetensors(&[("a", "F32", &[2, 2], 16)]);
    for end in 0..sound.len() {
        fs::write(&path, &sound[..end]).expect("written");
        let error = Checkpoint::open(&path).expect_err("cut").to_string();
        assert!(error.contains("model.safetensors"), "{error}");
    }
    for file in [safetensors(&[("a", "F32", &[2, 3], 16)]), safetensors(&[("a", "F32", &[usize::MAX, 8], 16)])] {
        fs::write(&path, file).expect("written");
        assert!(Checkpoint::open(&path).is_err());
    }
}

#[test]
fn does_a_path_that_is_no_model_say_what_one_is() {
    let empty = tempfile::tempdir().expect("a directory");
    let text = empty.path().join("notes.txt");
    fs::write(&text, "hello").expect("written");
    for (path, words) in [
        (empty.path().to_owned(), "neither model.safetensors nor"),
        (text, "neither a .gguf file, a .safetensors file nor a directory"),
        (empty.path().join("gone.gguf"), "No such file"),
    ] {
        let error = Checkpoint::open(&path).expect_err(words).to_string();
        assert!(error.contains(words), "{error}");
    }
}
