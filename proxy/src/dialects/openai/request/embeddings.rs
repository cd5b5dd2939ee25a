//! `POST /v1/embeddings`: one vector for each text. Never shortens a text unless told to.

use super::{Texts, named_model, texts};
use crate::dialects::common::fields::{Fields, object};
use crate::dialects::common::sampling;
use crate::dialects::openai::response;
use crate::dialects::{Ask, Facts, Parsed};
use crate::error::Error;
use crate::message::Head;
use outrider_protos::worker::v1 as worker;
use worker::embed_input::Input;

/// As OpenAI bounds it.
const INPUTS_MAX: usize = 2048;

pub fn parse(head: &Head, body: &[u8], facts: &Facts) -> Result<Parsed, Error> {
    let map = object(head, body)?;
    let fields = Fields::new(&map);
    let facts = named_model(&fields, facts, worker::Task::Embed)?;
    let model = facts.name.clone();
    let width = facts.info.as_ref().map(|info| info.embedding_dimensions).filter(|width| *width > 0);
    let dimensions = fields.integer("dimensions", 1..=i64::from(u32::MAX))?.map(|wanted| wanted as u32);
    if let (Some(wanted), Some(width)) = (dimensions, width) {
        response::embeddings::check_dimensions(wanted, width as usize)?;
    }
    let base64 = match fields.string("encoding_format")? {
        None | Some("float") => false,
        Some("base64") => true,
        Some(_) => return Err(fields.refuse("encoding_format", "must be \"float\" or \"base64\"")),
    };
    let inputs = inputs(&fields)?;
    let answer = response::embeddings::answer(
        head,
        &model,
        response::embeddings::Plan { inputs: inputs.len(), base64, dimensions },
    );
    let request = worker::EmbedRequest {
        model: model.clone(),
        request_id: head.request_id.clone(),
        inputs,
        normalize: if fields.get("normalize").is_some() { Some(fields.flag("normalize")?) } else { None },
        truncate: truncate(&fields)?,
    };
    Ok(Parsed { model: Some(model), ask: Ask::Embed(request), answer })
}

fn inputs(fields: &Fields<'_>) -> Result<Vec<worker::EmbedInput>, Error> {
    let inputs: Vec<Input> = match texts(fields, "input", INPUTS_MAX)? {
        Texts::Strings(texts) => {
            let text = |(at, text): (String, &str)| match text {
                "" => Err(Error::invalid_param(at.clone(), format!("`{at}` must not be an empty string"))),
                text => Ok(Input::Text(text.to_owned())),
            };
            texts.into_iter().map(text).collect::<Result<_, _>>()?
        }
        Texts::Ids(lists) => {
            lists.iter().map(|(at, ids)| sampling::token_ids(ids, at).map(Input::TokenIds)).collect::<Result<_, _>>()?
        }
    };
    Ok(inputs.into_iter().map(|input| worker::EmbedInput { input: Some(input) }).collect())
}

/// vLLM's word for it: −1 keeps what the model takes. Other lengths are the model's own affair.
fn truncate(fields: &Fields<'_>) -> Result<bool, Error> {
    match fields.integer("truncate_prompt_tokens", -1..=i64::from(u32::MAX))? {
        None => Ok(false),
        Some(-1) => Ok(true),
        Some(_) => Err(Error::Unsupported { feature: "`truncate_prompt_tokens` other than -1".into() }),
    }
}
