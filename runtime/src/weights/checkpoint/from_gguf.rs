//! What GGUF metadata says about a model, in the words of `config.json`.
//!
//! Key names are those of the GGUF specification. Never reads a tensor's data, only which tensors there are.

use super::{Described, SentenceEncoder, SpecialTokens, TURN_ENDS};
use crate::device::program::Pooling;
use crate::weights::gguf::{Metadata, Number, WrongType};
use crate::weights::{Gguf, Parameters, WeightsError};
use serde_json::{Map, Value, json};

/// Type of a control token in `tokenizer.ggml.token_type`.
const CONTROL: Number = Number::Signed(3);

pub(super) fn describe(gguf: &Gguf) -> Result<Described, WeightsError> {
    read(gguf).map_err(|wrong| gguf.wrong(wrong))
}

fn read(gguf: &Gguf) -> Result<Described, WrongType> {
    let metadata = gguf.metadata();
    let missing = || WrongType { key: "general.architecture".into(), reason: "is missing".into() };
    let architecture = metadata.str("general.architecture")?.ok_or_else(missing)?;
    let keys = Keys { metadata, architecture };
    Ok(Described {
        architecture: architecture.to_owned(),
        name: metadata.str("general.name")?.map(str::to_owned),
        config: Parameters::new(gguf.path(), config(gguf, keys)?),
        special: special_tokens(metadata)?,
        chat_template: metadata.str("tokenizer.chat_template")?.map(str::to_owned),
        sentence_encoder: sentence_encoder(keys)?,
    })
}

/// Keys under the architecture's name: `llama.block_count`.
#[derive(Clone, Copy)]
struct Keys<'a> {
    metadata: Metadata<'a>,
    architecture: &'a str,
}

impl<'a> Keys<'a> {
    fn key(self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    /// An integer; an array with one value for each layer is taken if all agree.
    fn u64(self, key: &str) -> Result<Option<u64>, WrongType> {
        let key = self.key(key);
        let Ok(Some(layers)) = self.metadata.numbers(&key) else { return self.metadata.u64(&key) };
        let reason = "differs from layer to layer, which is not supported".to_owned();
        let first = layers.first().copied().filter(|first| layers.iter().all(|layer| layer == first));
        first.and_then(Number::as_u64).map(Some).ok_or(WrongType { key, reason })
    }

    fn f64(self, key: &str) -> Result<Option<f64>, WrongType> {
        self.metadata.f64(&self.key(key))
    }

    fn str(self, key: &str) -> Result<Option<&'a str>, WrongType> {
        self.metadata.str(&self.key(key))
    }
}

/// The shortest decimal that reads back as the same f32: 1e-05 for what is stored as 9.999999747378752e-06.
fn real(value: f64) -> Value {
    let single = value as f32;
    match single.is_finite() && f64::from(single) == value {
        true => single.to_string().parse::<f64>().map_or(Value::Null, |value| json!(value)),
        false => json!(value),
    }
}

fn config(gguf: &Gguf, keys: Keys<'_>) -> Result<Map<String, Value>, WrongType> {
    const INTEGERS: &[(&str, &str)] = &[
        ("hidden_size", "embedding_length"),
        ("num_hidden_layers", "block_count"),
        ("num_attention_heads", "attention.head_count"),
        ("num_key_value_heads", "attention.head_count_kv"),
        ("head_dim", "attention.key_length"),
        ("intermediate_size", "feed_forward_length"),
        ("vocab_size", "vocab_size"),
        ("max_position_embeddings", "context_length"),
        ("sliding_window", "attention.sliding_window"),
        ("rope_dim", "rope.dimension_count"),
    ];
    const REALS: &[(&str, &str)] = &[
        ("rms_norm_eps", "attention.layer_norm_rms_epsilon"),
        ("layer_norm_eps", "attention.layer_norm_epsilon"),
        ("rope_theta", "rope.freq_base"),
    ];
    let mut config = Map::new();
    config.insert("model_type".into(), keys.architecture.into());
    for (name, key) in INTEGERS {
        keys.u64(key)?.map(|value| config.insert((*name).into(), value.into()));
    }
    for (name, key) in REALS {
        keys.f64(key)?.map(|value| config.insert((*name).into(), real(value)));
    }
    let has = |name: &str| gguf.find(name).is_some();
    if let Some(embedding) = gguf.find("token_embd.weight") {
        config.insert("vocab_size".into(), embedding.rows.into());
    }
    if let Some(types) = gguf.find("token_types.weight") {
        config.insert("type_vocab_size".into(), types.rows.into());
    }
    let bert = keys.architecture.contains("bert");
    config.insert("hidden_act".into(), if bert { "gelu" } else { "silu" }.into());
    config.insert("tie_word_embeddings".into(), (!has("output.weight")).into());
    config.insert("attention_bias".into(), has("blk.0.attn_q.bias").into());
    config.insert("mlp_bias".into(), has("blk.0.ffn_up.bias").into());
    if let Some(scaling) = rope_scaling(keys)? {
        config.insert("rope_scaling".into(), scaling.into());
    }
    super::from_directory::fill_in(&mut config);
    Ok(config)
}

/// `rope_scaling` as `config.json` has it, or `None`.
///
/// Llama 3's scaling is not here: converters store it as a tensor of divisors, `rope_freqs.weight`.
fn rope_scaling(keys: Keys<'_>) -> Result<Option<Map<String, Value>>, WrongType> {
    const REALS: &[(&str, &str)] = &[
        ("factor", "rope.scaling.factor"),
        ("attention_factor", "rope.scaling.attn_factor"),
        ("beta_fast", "rope.scaling.yarn_beta_fast"),
        ("beta_slow", "rope.scaling.yarn_beta_slow"),
    ];
    // `scale_linear` is what files made before the scaling keys have.
    let old = keys.f64("rope.scale_linear")?.filter(|factor| *factor != 0.0);
    let kind = keys.str("rope.scaling.type")?.or(old.map(|_| "linear"));
    let Some(kind) = kind.filter(|kind| *kind != "none") else { return Ok(None) };
    let mut scaling = Map::new();
    scaling.insert("rope_type".into(), kind.into());
    old.map(|factor| scaling.insert("factor".into(), real(factor)));
    for (name, key) in REALS {
        keys.f64(key)?.map(|value| scaling.insert((*name).into(), real(value)));
    }
    let original = keys.u64("rope.scaling.original_context_length")?;
    original.map(|n| scaling.insert("original_max_position_embeddings".into(), n.into()));
    Ok(Some(scaling))
}

fn special_tokens(metadata: Metadata<'_>) -> Result<SpecialTokens, WrongType> {
    let id = |key: &str| -> Result<Option<u32>, WrongType> {
        Ok(metadata.u64(&format!("tokenizer.ggml.{key}_token_id"))?.and_then(|id| u32::try_from(id).ok()))
    };
    let (bos, eos) = (id("bos")?, id("eos")?);
    let tokens = metadata.strings("tokenizer.ggml.tokens")?.unwrap_or_default();
    let types = metadata.numbers("tokenizer.ggml.token_type")?.unwrap_or_default();
    let named = tokens.iter().zip(&types).enumerate();
    let named = named.filter(|(_, (text, kind))| **kind == CONTROL && TURN_ENDS.contains(text));
    let mut ends: Vec<u32> = named.map(|(id, _)| id as u32).collect();
    ends.extend([eos, id("eot")?, id("eom")?].into_iter().flatten());
    ends.sort_unstable();
    ends.dedup();
    let text = |id: Option<u32>| id.and_then(|id| tokens.get(id as usize)).map(|text| (*text).to_owned());
    Ok(SpecialTokens {
        bos,
        bos_text: text(bos),
        eos,
        eos_text: text(eos),
        pad: id("padding")?,
        end_of_generation: ends,
    })
}

fn sentence_encoder(keys: Keys<'_>) -> Result<Option<SentenceEncoder>, WrongType> {
    let pooling = match keys.u64("pooling_type")? {
        None | Some(0) => return Ok(None),
        Some(1) => Pooling::Mean,
        Some(2) => Pooling::Cls,
        Some(3) => Pooling::Last,
        Some(other) => {
            let reason = format!("is {other}; supported are 1 (mean), 2 (cls) and 3 (last)");
            return Err(WrongType { key: keys.key("pooling_type"), reason });
        }
    };
    let max_tokens = keys.u64("context_length")?.map_or(512, |n| n.min(1 << 31) as usize);
    // Converters drop the Normalize module; llama.cpp normalises every embedding unless told otherwise.
    Ok(Some(SentenceEncoder { pooling, normalize: true, max_tokens }))
}
