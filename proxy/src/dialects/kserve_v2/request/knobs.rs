//! Generation knobs of a V2 request: its parameters, and Triton's `sampling_parameters`, under vLLM's names.
//!
//! Numbers may be strings, as Triton's own examples send them.

use crate::dialects::common::fields::Fields;
use crate::dialects::common::sampling;
use crate::error::Error;
use outrider_protos::worker::v1 as worker;
use serde_json::{Map, Value};
use worker::generate_request::Prompt;

/// As vLLM has it where nothing is said, behind Triton or not.
const MAX_TOKENS_DEFAULT: u32 = 16;

/// Everything of a generation but its prompt.
///
/// # Errors
/// [`Error::Invalid`] naming the parameter; [`Error::Unsupported`] for several choices.
pub fn template(knobs: &Map<String, Value>, model: &str, request_id: &str) -> Result<worker::GenerateRequest, Error> {
    let fields = Fields::new(knobs).at("parameters").texts_count();
    if fields.integer("n", 1..=i64::MAX)?.is_some_and(|n| n != 1) {
        return Err(Error::Unsupported { feature: "`n` other than 1 (send the prompt several times)".into() });
    }
    let limit = fields.integer("max_tokens", 1..=i64::from(u32::MAX))?.map_or(MAX_TOKENS_DEFAULT, |limit| limit as u32);
    let excluded = fields.get("exclude_input_in_output").is_none() || fields.flag("exclude_input_in_output")?;
    Ok(worker::GenerateRequest {
        model: model.to_owned(),
        request_id: request_id.to_owned(),
        prompt: None,
        stopping: Some(sampling::stopping(&fields, Some(limit))?),
        sampling: Some(sampling::sampling(&fields)?),
        n: 1,
        logprobs: None,
        echo: !excluded,
    })
}

pub fn with_text(template: &worker::GenerateRequest, text: String) -> worker::GenerateRequest {
    worker::GenerateRequest { prompt: Some(Prompt::Text(text)), ..template.clone() }
}

/// The JSON object of a `sampling_parameters` text, laid over the request's own parameters.
pub fn overlay(knobs: &mut Map<String, Value>, text: &str) -> Result<(), Error> {
    let words = |why: String| {
        Error::invalid_param("sampling_parameters", format!("`sampling_parameters` must be a JSON object: {why}"))
    };
    if text.trim().is_empty() {
        return Ok(());
    }
    match serde_json::from_str(text) {
        Ok(Value::Object(map)) => knobs.extend(map),
        Ok(other) => return Err(words(format!("got {}", crate::dialects::common::fields::kind(&other)))),
        Err(error) => return Err(words(error.to_string())),
    }
    Ok(())
}
