//! The answer to `POST /v1/embeddings`: as numbers, or as base64, which OpenAI's own client asks for.

use super::{Envelope, refusal, whole};
use crate::dialects::common::single::{Rendered, Single, unexpected};
use crate::dialects::openai::wire::{Embedding, EmbeddingUsage, Embeddings, Vector};
use crate::dialects::{Answer, Event};
use crate::error::Error;
use crate::message::Head;
use base64::Engine as _;
use outrider_protos::worker::v1 as worker;

/// What the caller asked for.
#[derive(Clone, Copy)]
pub struct Plan {
    pub inputs: usize,
    pub base64: bool,
    pub dimensions: Option<u32>,
}

/// Vectors come in the model's own width only.
///
/// # Errors
/// [`Error::Invalid`], naming that width.
pub fn check_dimensions(wanted: u32, width: usize) -> Result<(), Error> {
    if wanted as usize == width {
        return Ok(());
    }
    let words = format!("`dimensions` must be {width}, the width of this model's embeddings, or absent; got {wanted}");
    Err(Error::invalid_param("dimensions", words))
}

pub fn answer(head: &Head, model: &str, plan: Plan) -> Box<dyn Answer> {
    let envelope = Envelope::new("embd", head, model.to_owned());
    let render = move |event| {
        let Event::Embedded(response) = event else { return Err(unexpected()) };
        render(&envelope, plan, response)
    };
    Box::new(Single::new(render, refusal))
}

fn render(envelope: &Envelope, plan: Plan, response: worker::EmbedResponse) -> Result<Rendered, Error> {
    if response.embeddings.len() != plan.inputs {
        let reason = format!("{} embeddings for {} inputs", response.embeddings.len(), plan.inputs);
        return Err(Error::WorkerNonsense { reason });
    }
    if let (Some(wanted), Some(first)) = (plan.dimensions, response.embeddings.first()) {
        check_dimensions(wanted, first.values.len())?;
    }
    let tokens = u64::from(response.prompt_tokens);
    let vector = |values: Vec<f32>| match plan.base64 {
        false => Vector::Float(values),
        true => {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            Vector::Base64(base64::engine::general_purpose::STANDARD.encode(bytes))
        }
    };
    let embedding = |(index, one): (usize, worker::Embedding)| Embedding {
        object: "embedding",
        index,
        embedding: vector(one.values),
    };
    let body = Embeddings {
        object: "list",
        id: &envelope.id,
        created: envelope.created,
        model: &envelope.model,
        data: response.embeddings.into_iter().enumerate().map(embedding).collect(),
        usage: EmbeddingUsage { prompt_tokens: tokens, total_tokens: tokens },
    };
    Ok((whole(&body), (tokens, 0)))
}
