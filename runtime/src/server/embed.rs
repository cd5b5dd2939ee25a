//! Embed: texts to vectors, through the encoder's thread.

use std::sync::Arc;

use outrider_protos::worker::v1 as wire;
use tonic::Status;

use super::catalog::{Served, Work};
use super::{prompt, status};
use crate::config::Limits;
use crate::executor;
use crate::models::Encoder;

/// One vector for each input, in order.
pub async fn embed(
    request: wire::EmbedRequest,
    served: Arc<Served>,
    limits: Limits,
) -> Result<wire::EmbedResponse, Status> {
    let Work::Encode { encoder, model } = &served.work else {
        return Err(Status::failed_precondition(format!("model {:?} generates and does not embed", served.info.name)));
    };
    let (encoder, model) = (encoder.clone(), Arc::clone(model));
    let inputs = request.inputs.len();
    if inputs == 0 || inputs > limits.embed_inputs_max {
        let max = limits.embed_inputs_max;
        return Err(Status::invalid_argument(format!("inputs: {inputs} given; from 1 to {max} are taken")));
    }
    let normalize = request.normalize.unwrap_or(model.sentence().normalize);
    let texts = status::blocking(move || {
        let bytes_max = limits.prompt_bytes_max;
        let each = request.inputs.into_iter().enumerate();
        each.map(|(i, input)| ids(i, input, (&served, &*model), request.truncate, bytes_max))
            .collect::<Result<Vec<_>, _>>()
    })
    .await?;
    let prompt_tokens = texts.iter().map(Vec::len).sum::<usize>() as u32;
    let vectors = encoder
        .encode(texts, executor::sentence(normalize))
        .await
        .ok_or_else(|| Status::resource_exhausted("too many Embed calls wait; ask again later"))?
        .map_err(status::encode)?;
    let embeddings = vectors.into_iter().map(|vectors| wire::Embedding { values: vectors.sentence }).collect();
    Ok(wire::EmbedResponse { embeddings, prompt_tokens })
}

/// Ids of one input, as many as the model takes.
fn ids(
    i: usize,
    input: wire::EmbedInput,
    (served, model): (&Served, &dyn Encoder),
    truncate: bool,
    bytes_max: usize,
) -> Result<Vec<u32>, Status> {
    let tokens_max = model.sentence().max_tokens;
    let invalid = |reason: String| Status::invalid_argument(format!("inputs[{i}]: {reason}"));
    let (mut ids, text) = match input.input {
        None => return Err(invalid("is empty; give text or token_ids".into())),
        Some(wire::embed_input::Input::Text(text)) => (prompt::text_ids(served, &text, true, bytes_max)?, Some(text)),
        Some(wire::embed_input::Input::TokenIds(ids)) => (ids.ids, None),
    };
    if ids.is_empty() {
        return Err(invalid("has no tokens".into()));
    }
    let vocabulary = model.facts().vocabulary;
    if let Some(id) = ids.iter().find(|id| **id as usize >= vocabulary) {
        return Err(invalid(format!("token id {id} is not in the vocabulary of {vocabulary}")));
    }
    if ids.len() > tokens_max {
        if !truncate {
            let tokens = ids.len();
            return Err(invalid(format!(
                "has {tokens} tokens; the model takes {tokens_max}: shorten it, or set truncate"
            )));
        }
        match text {
            // Again, so that the tokens around the text stay.
            Some(text) => ids = served.tokenizer()?.encode_within(&text, tokens_max).map_err(status::tokenizer)?,
            None => ids.truncate(tokens_max),
        }
    }
    Ok(ids)
}
