//! OpenAI requests understood: what all of them share, and the two that have no body. Never guesses a model's name.

pub mod chat;
pub mod completions;
pub mod embeddings;

use crate::dialects::common::fields::{Fields, kind};
use crate::dialects::common::percent;
use crate::dialects::openai::response::generation::Stream;
use crate::dialects::openai::{below_root, response};
use crate::dialects::{Ask, Facts, ModelFacts, Parsed};
use crate::error::Error;
use crate::message::Head;
use outrider_protos::worker::v1::Task;
use serde_json::Value;

/// Choices over all prompts of a request; each costs a sequence in the worker.
const CHOICES_MAX: usize = 2048;
/// `n`, as OpenAI bounds it.
const N_MAX: i64 = 128;
/// Alternatives reported for each token.
const TOP_LOGPROBS_MAX: i64 = 20;

/// Fields that would change the answer if they were obeyed. Where they ask for nothing (null, false, empty) they pass;
/// all other unknown fields are ignored, as clients expect of a server older than they are.
static UNSUPPORTED: &[&str] = &[
    "allowed_token_ids",
    "audio",
    "bad_words",
    "chat_template",
    "continue_final_message",
    "function_call",
    "functions",
    "guided_choice",
    "guided_grammar",
    "guided_json",
    "guided_regex",
    "prompt_embeds",
    "prompt_logprobs",
    "structured_outputs",
    "suffix",
    "truncate_prompt_tokens",
    "use_beam_search",
    "web_search_options",
];

fn refuse_unsupported(fields: &Fields<'_>) -> Result<(), Error> {
    for name in UNSUPPORTED {
        let asks = match fields.get(name) {
            None | Some(Value::Bool(false)) => false,
            Some(Value::String(text)) => !text.is_empty(),
            Some(Value::Array(items)) => !items.is_empty(),
            Some(_) => true,
        };
        if asks {
            let hint = if name.starts_with("function") { " (use `tools`)" } else { "" };
            return Err(Error::Unsupported { feature: format!("`{name}`{hint}") });
        }
    }
    refuse_formats(fields)
}

fn refuse_formats(fields: &Fields<'_>) -> Result<(), Error> {
    if let Some(format) = fields.fields("response_format")? {
        match format.required_string("type")? {
            "text" => {}
            other @ ("json_object" | "json_schema" | "structural_tag") => {
                return Err(Error::Unsupported { feature: format!("`response_format` of type `{other}`") });
            }
            _ => return Err(format.wrong("type", "\"text\"")),
        }
    }
    let modalities = fields.array("modalities")?.unwrap_or_default();
    match modalities.iter().find(|one| one.as_str() != Some("text")) {
        Some(other) => Err(Error::Unsupported { feature: format!("`modalities` with {other}") }),
        None => Ok(()),
    }
}

/// The model named, if it is here and may do this.
fn named_model<'f>(fields: &Fields<'_>, facts: &'f Facts, task: Task) -> Result<&'f ModelFacts, Error> {
    let model = facts.model(fields.required_string("model")?)?;
    model.must(task)?;
    Ok(model)
}

/// `n`, and `best_of` where it says the same.
fn choices(fields: &Fields<'_>, prompts: usize) -> Result<u32, Error> {
    let n = fields.integer("n", 1..=N_MAX)?.unwrap_or(1);
    if fields.integer("best_of", 1..=N_MAX)?.is_some_and(|best_of| best_of != n) {
        return Err(Error::Unsupported { feature: "`best_of` other than `n`".into() });
    }
    if prompts.saturating_mul(n as usize) > CHOICES_MAX {
        return Err(fields.refuse("n", &format!("times the number of prompts must be at most {CHOICES_MAX}")));
    }
    Ok(n as u32)
}

fn stream(fields: &Fields<'_>) -> Result<Option<Stream>, Error> {
    let stream = fields.flag("stream")?;
    let options = fields.fields("stream_options")?;
    match (stream, options) {
        (false, Some(_)) => Err(fields.refuse("stream_options", "is only allowed when `stream` is true")),
        (false, None) => Ok(None),
        (true, None) => Ok(Some(Stream { usage: false, continuous: false })),
        (true, Some(options)) => Ok(Some(Stream {
            usage: options.flag("include_usage")?,
            continuous: options.flag("continuous_usage_stats")?,
        })),
    }
}

/// A count of tokens to generate at most.
fn max_tokens(fields: &Fields<'_>, name: &str, least: i64) -> Result<Option<u32>, Error> {
    Ok(fields.integer(name, least..=i64::from(u32::MAX))?.map(|value| value as u32))
}

/// An input that may be one text, many, one list of token ids, or many.
enum Texts<'a> {
    Strings(Vec<(String, &'a str)>),
    Ids(Vec<(String, &'a [Value])>),
}

/// Reads such an input; each item comes with its path.
fn texts<'a>(fields: &Fields<'a>, name: &str, items_max: usize) -> Result<Texts<'a>, Error> {
    const WANTED: &str = "a string, an array of strings, an array of token ids, or an array of arrays of token ids";
    let path = fields.path(name);
    let items = match fields.get(name) {
        None => return Err(fields.refuse(name, "is required")),
        Some(Value::String(text)) => return Ok(Texts::Strings(vec![(path, text)])),
        Some(Value::Array(items)) if items.is_empty() => return Err(fields.refuse(name, "must not be empty")),
        Some(Value::Array(items)) => items,
        Some(_) => return Err(fields.wrong(name, WANTED)),
    };
    if items[0].is_number() {
        return Ok(Texts::Ids(vec![(path, items)]));
    }
    if items.len() > items_max {
        return Err(fields.refuse(name, &format!("may hold at most {items_max} items, got {}", items.len())));
    }
    let place = |place: usize| format!("{path}[{place}]");
    let mixed = |at: usize, wanted: &str| {
        let got = kind(&items[at]);
        Error::invalid_param(place(at), format!("`{}` must be {wanted} like the first item, got {got}", place(at)))
    };
    match &items[0] {
        Value::String(_) => {
            let text = |(at, item): (usize, &'a Value)| {
                item.as_str().map(|text| (place(at), text)).ok_or_else(|| mixed(at, "a string"))
            };
            Ok(Texts::Strings(items.iter().enumerate().map(text).collect::<Result<_, _>>()?))
        }
        Value::Array(_) => {
            let ids = |(at, item): (usize, &'a Value)| match item {
                Value::Array(ids) if ids.is_empty() => {
                    Err(Error::invalid_param(place(at), format!("`{}` must not be empty", place(at))))
                }
                Value::Array(ids) => Ok((place(at), ids.as_slice())),
                _ => Err(mixed(at, "an array of token ids")),
            };
            Ok(Texts::Ids(items.iter().enumerate().map(ids).collect::<Result<_, _>>()?))
        }
        _ => Err(fields.wrong(name, WANTED)),
    }
}

/// `GET /v1/models`.
pub fn models() -> Parsed {
    Parsed { model: None, ask: Ask::About { wake: false }, answer: response::models::all() }
}

/// `GET /v1/models/{id}`: names of models may hold slashes, encoded or not.
pub fn model(head: &Head, facts: &Facts) -> Result<Parsed, Error> {
    let id = below_root(&head.path).and_then(|below| below.strip_prefix("/models/")).unwrap_or_default();
    let id = percent::decode(id).ok_or_else(|| {
        Error::invalid_param("model", "the model's name in the path is not valid percent-encoded UTF-8")
    })?;
    facts.model(&id)?;
    Ok(Parsed { model: Some(id.clone()), ask: Ask::About { wake: false }, answer: response::models::one(id) })
}
