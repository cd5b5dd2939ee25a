//! Triton's generate extension: `POST …/generate` and `…/generate_stream`, one prompt as plain JSON.

use super::knobs;
use crate::dialects::common::fields::{Fields, object};
use crate::dialects::kserve_v2::response::texts::{Style, Texts};
use crate::dialects::{Ask, ModelFacts, Parsed};
use crate::error::Error;
use crate::message::Head;
use outrider_protos::worker::v1 as worker;
use serde_json::Value;

pub fn parse(head: &Head, body: &[u8], model: &ModelFacts, stream: bool) -> Result<Parsed, Error> {
    model.must(worker::Task::Generate)?;
    let mut map = object(head, body)?;
    let fields = Fields::new(&map);
    // Empty is a prompt of its own: the model begins from its BOS token, or says that it has none.
    let Some(text) = fields.string("text_input")? else { return Err(fields.refuse("text_input", "is required")) };
    let (text, id) = (text.to_owned(), fields.string("id")?.unwrap_or_default().to_owned());
    let parameters = match fields.get("parameters") {
        None => Default::default(),
        Some(Value::Object(parameters)) => parameters.clone(),
        Some(_) => return Err(fields.wrong("parameters", "an object")),
    };
    // Top-level fields are inputs of the model by the extension's rule; for text models those are knobs.
    map.extend(parameters);
    match map.get("sampling_parameters").cloned() {
        Some(Value::String(json)) => knobs::overlay(&mut map, &json)?,
        Some(Value::Object(object)) => map.extend(object),
        _ => {}
    }
    let template = knobs::template(&map, &model.name, &head.request_id)?;
    let request = knobs::with_text(&template, text);
    let style = if stream { Style::Stream } else { Style::Json };
    let answer = Box::new(Texts::new(style, model.name.clone(), id, 1));
    Ok(Parsed { model: Some(model.name.clone()), ask: Ask::Generate(request), answer })
}
