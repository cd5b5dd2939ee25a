//! What the files of a Hugging Face directory say about a model.
//!
//! Only `config.json` must be there. Never opens the weights.

use super::{Described, SentenceEncoder, SpecialTokens, TURN_ENDS, read_bounded};
use crate::device::program::Pooling;
use crate::weights::{Parameters, WeightsError};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// The part of `tokenizer.json` that names special tokens.
#[derive(Default, Deserialize)]
struct Added {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
}

pub(super) fn describe(directory: &Path) -> Result<Described, WeightsError> {
    let path = directory.join("config.json");
    let Some(mut config) = object(&path)? else {
        let reason = "config.json is needed beside the weights, and is not there".to_owned();
        return Err(WeightsError::UnknownFormat { path: directory.to_owned(), reason });
    };
    fill_in(&mut config);
    let config = Parameters::new(&path, config);
    let tokenizer = object(&directory.join("tokenizer_config.json"))?.unwrap_or_default();
    Ok(Described {
        architecture: config.str("model_type")?.to_owned(),
        name: config.optional_str("_name_or_path").ok().flatten().filter(|name| !name.is_empty()).map(str::to_owned),
        special: special_tokens(directory, &config, &tokenizer)?,
        chat_template: chat_template(directory, &tokenizer)?,
        sentence_encoder: sentence_encoder(directory, &config)?,
        config,
    })
}

/// A JSON object in a file; `None` if there is no such file.
fn object(path: &Path) -> Result<Option<Map<String, Value>>, WeightsError> {
    if !path.is_file() {
        return Ok(None);
    }
    let corrupt = |reason: String| WeightsError::Corrupt { path: path.to_owned(), offset: 0, reason };
    match serde_json::from_slice(&read_bounded(path)?) {
        Ok(Value::Object(values)) => Ok(Some(values)),
        Ok(_) => Err(corrupt("is JSON, but no object".into())),
        Err(error) => Err(corrupt(format!("is no JSON: {error}"))),
    }
}

/// Brings the spellings of different releases to one, and adds what follows from other values.
pub(super) fn fill_in(config: &mut Map<String, Value>) {
    // Releases from 5 on gather theta and scaling in one object.
    if let Some(Value::Object(rope)) = config.get("rope_parameters").cloned() {
        if let Some(theta) = rope.get("rope_theta") {
            config.entry("rope_theta").or_insert_with(|| theta.clone());
        }
        config.entry("rope_scaling").or_insert(Value::Object(rope));
    }
    if let Some(Value::Object(scaling)) = config.get_mut("rope_scaling") {
        if let Some(kind) = scaling.get("type").cloned() {
            scaling.entry("rope_type").or_insert(kind);
        }
        if scaling.get("rope_type").is_none_or(|kind| kind == "default") {
            config.remove("rope_scaling");
        }
    }
    let integer = |key: &str| config.get(key).and_then(Value::as_u64);
    let heads = integer("num_attention_heads");
    let head_dim = integer("hidden_size").zip(heads.filter(|heads| *heads > 0)).map(|(hidden, heads)| hidden / heads);
    for (key, derived) in [("num_key_value_heads", heads), ("head_dim", head_dim)] {
        if config.get(key).is_none_or(Value::is_null) {
            derived.map(|value| config.insert(key.to_owned(), json!(value)));
        }
    }
}

/// Text of a special token in a tokenizer's config: a string, or an object with its content.
fn text_of(tokenizer: &Map<String, Value>, key: &str) -> Option<String> {
    let value = tokenizer.get(key)?;
    value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
}

/// Ids under a key: a number or a list of numbers.
fn ids_of(config: Option<&Value>) -> Vec<u32> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match config {
        Some(Value::Array(list)) => list.iter().filter_map(id).collect(),
        Some(value) => id(value).into_iter().collect(),
        None => Vec::new(),
    }
}

fn special_tokens(
    directory: &Path,
    config: &Parameters,
    tokenizer: &Map<String, Value>,
) -> Result<SpecialTokens, WeightsError> {
    let map = object(&directory.join("special_tokens_map.json"))?.unwrap_or_default();
    let generation = object(&directory.join("generation_config.json"))?.unwrap_or_default();
    let added = added_tokens(directory.join("tokenizer.json"))?;
    let text = |key: &str| text_of(tokenizer, key).or_else(|| text_of(&map, key));
    let id_of_text = |text: &Option<String>| {
        let text = text.as_deref()?;
        added.iter().find(|token| token.content == text).map(|token| token.id)
    };
    let ids = |key: &str| match ids_of(generation.get(key)) {
        ids if ids.is_empty() => ids_of(config.get(key)),
        ids => ids,
    };
    let (bos_text, eos_text) = (text("bos_token"), text("eos_token"));
    // The tokenizer's own word goes before the model's list: chat templates end turns with the tokenizer's token.
    let eos = id_of_text(&eos_text).or_else(|| ids("eos_token_id").first().copied());
    let mut ends = ids("eos_token_id");
    ends.extend(eos);
    let turn_ends = added.iter().filter(|token| token.special && TURN_ENDS.contains(&token.content.as_str()));
    ends.extend(turn_ends.map(|token| token.id));
    ends.sort_unstable();
    ends.dedup();
    let bos = id_of_text(&bos_text).or_else(|| ids("bos_token_id").first().copied());
    let pad = id_of_text(&text("pad_token")).or_else(|| ids("pad_token_id").first().copied());
    Ok(SpecialTokens { bos, bos_text, eos, eos_text, pad, end_of_generation: ends })
}

fn added_tokens(path: PathBuf) -> Result<Vec<AddedToken>, WeightsError> {
    if !path.is_file() {
        return Ok(Vec::new());
    }
    let parsed: Result<Added, _> = serde_json::from_slice(&read_bounded(&path)?);
    parsed.map(|added| added.added_tokens).map_err(|error| WeightsError::Corrupt {
        path,
        offset: 0,
        reason: format!("is no tokenizer.json: {error}"),
    })
}

/// The template in its own file, else the one in the tokenizer's config (of several, the one named "default").
fn chat_template(directory: &Path, tokenizer: &Map<String, Value>) -> Result<Option<String>, WeightsError> {
    let path = directory.join("chat_template.jinja");
    if path.is_file() {
        let text = String::from_utf8(read_bounded(&path)?);
        return text.map(Some).map_err(|error| WeightsError::Corrupt {
            path,
            offset: error.utf8_error().valid_up_to() as u64,
            reason: "the chat template is not UTF-8".into(),
        });
    }
    let named = |list: &Vec<Value>| {
        let default = list.iter().find(|entry| entry.get("name").is_some_and(|name| name == "default"));
        default.or(list.first())?.get("template")?.as_str().map(str::to_owned)
    };
    Ok(match tokenizer.get("chat_template") {
        Some(Value::String(text)) => Some(text.clone()),
        Some(Value::Array(list)) => named(list),
        _ => None,
    })
}

/// `modules.json`: a transformer, a pooling, perhaps a normalisation.
fn sentence_encoder(directory: &Path, config: &Parameters) -> Result<Option<SentenceEncoder>, WeightsError> {
    let path = directory.join("modules.json");
    if !path.is_file() {
        return Ok(None);
    }
    let refuse = |reason: String| WeightsError::Parameter { path: path.clone(), key: "modules".into(), reason };
    let modules: Vec<Map<String, Value>> =
        serde_json::from_slice(&read_bounded(&path)?).map_err(|error| refuse(format!("is no list: {error}")))?;
    let (mut pooling, mut normalize) = (None, false);
    for module in &modules {
        let text = |key: &str| module.get(key).and_then(Value::as_str).unwrap_or_default();
        match text("type").rsplit('.').next().unwrap_or_default() {
            "Transformer" => {}
            "Normalize" => normalize = true,
            "Pooling" => pooling = Some(pooling_of(&directory.join(plain(text("path"))).join("config.json"))?),
            other => {
                let supported = "supported are Transformer, Pooling and Normalize";
                return Err(refuse(format!("has a module of type {other:?}; {supported}")));
            }
        }
    }
    let positions = config.usize_or("max_position_embeddings", 512)?;
    let own = object(&directory.join("sentence_bert_config.json"))?.unwrap_or_default();
    let own = own.get("max_seq_length").and_then(Value::as_u64).map_or(positions, |n| n.min(1 << 31) as usize);
    let max_tokens = own.min(positions).max(1);
    Ok(pooling.map(|pooling| SentenceEncoder { pooling, normalize, max_tokens }))
}

/// The last part of a path, so that a module cannot reach out of the directory.
fn plain(path: &str) -> &Path {
    Path::new(path).file_name().map_or(Path::new("1_Pooling"), Path::new)
}

fn pooling_of(path: &Path) -> Result<Pooling, WeightsError> {
    const KINDS: &[(&str, Pooling)] = &[
        ("pooling_mode_mean_tokens", Pooling::Mean),
        ("pooling_mode_cls_token", Pooling::Cls),
        ("pooling_mode_lasttoken", Pooling::Last),
    ];
    let values = object(path)?.unwrap_or_default();
    let chosen: Vec<&str> = values
        .iter()
        .filter(|(key, value)| key.starts_with("pooling_mode_") && **value == json!(true))
        .map(|v| v.0.as_str())
        .collect();
    let kind = KINDS.iter().find(|kind| chosen == [kind.0]).map(|kind| kind.1);
    kind.ok_or_else(|| WeightsError::Parameter {
        path: path.to_owned(),
        key: chosen.join(", "),
        reason: "supported is exactly one of mean_tokens, cls_token and lasttoken".into(),
    })
}
