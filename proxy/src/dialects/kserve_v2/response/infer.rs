//! The answer to an inference request that is not generation: vectors of texts, or the model's own tensors.

use super::{refuse, spell};
use crate::dialects::common::single::{Rendered, Single, unexpected};
use crate::dialects::kserve_v2::wire::tensor;
use crate::dialects::kserve_v2::wire::{Form, Outcome, Question, Wanted};
use crate::dialects::{Answer, Event};
use crate::error::Error;
use outrider_protos::worker::v1 as worker;
use worker::DataType;

/// Name of the output that holds embeddings: FP32, one row for each text.
pub const EMBEDDING: &str = "embedding";

/// What of the request the answer needs.
#[derive(Clone)]
pub struct Reply {
    model: String,
    id: String,
    outputs: Vec<Wanted>,
    form: Form,
}

impl Reply {
    pub fn of(question: Question) -> Reply {
        Reply { model: question.model, id: question.id, outputs: question.outputs, form: question.form }
    }

    fn render(&self, tensors: Vec<worker::Tensor>, parameters: &[(&'static str, u64)]) -> Result<Rendered, Error> {
        let outputs = pick(tensors, &self.outputs)?;
        let prompt_tokens = parameters.first().map_or(0, |(_, tokens)| *tokens);
        let parts = spell(Outcome { model: &self.model, id: &self.id, outputs, parameters }, self.form)?;
        Ok((parts, (prompt_tokens, 0)))
    }
}

/// The outputs wanted, in the order wanted; all, where none is named.
pub fn pick(tensors: Vec<worker::Tensor>, wanted: &[Wanted]) -> Result<Vec<(worker::Tensor, Option<bool>)>, Error> {
    if wanted.is_empty() {
        return Ok(tensors.into_iter().map(|tensor| (tensor, None)).collect());
    }
    let one = |wanted: &Wanted| {
        let tensor = tensors.iter().find(|tensor| tensor.name == wanted.name).cloned();
        let words = || format!("there is no output `{}`", wanted.name.chars().take(256).collect::<String>());
        Ok((tensor.ok_or_else(|| Error::invalid_param(wanted.name.clone(), words()))?, wanted.binary))
    };
    wanted.iter().map(one).collect()
}

/// The model's own tensors.
pub fn tensors(reply: Reply) -> Box<dyn Answer> {
    let form = reply.form;
    let render = move |event| {
        let Event::Inferred(response) = event else { return Err(unexpected()) };
        for output in &response.outputs {
            tensor::check(output)
                .map_err(|error| Error::WorkerNonsense { reason: format!("of its outputs, {error}") })?;
        }
        reply.render(response.outputs, &[])
    };
    Box::new(Single::new(render, move |verdict| refuse(form, verdict)))
}

/// Vectors of this many texts.
pub fn embedding(reply: Reply, texts: usize) -> Box<dyn Answer> {
    let form = reply.form;
    let render = move |event| {
        let Event::Embedded(response) = event else { return Err(unexpected()) };
        let width = response.embeddings.first().map_or(0, |row| row.values.len());
        if response.embeddings.len() != texts || response.embeddings.iter().any(|row| row.values.len() != width) {
            let reason = format!("{} embeddings for {texts} texts, or of unequal widths", response.embeddings.len());
            return Err(Error::WorkerNonsense { reason });
        }
        let rows = response.embeddings.iter().flat_map(|row| &row.values);
        let data: Vec<u8> = rows.flat_map(|value| value.to_le_bytes()).collect();
        let shape = vec![texts as i64, width as i64];
        let tensor =
            worker::Tensor { name: EMBEDDING.into(), data_type: DataType::Fp32.into(), shape, data: data.into() };
        reply.render(vec![tensor], &[("prompt_tokens", u64::from(response.prompt_tokens))])
    };
    Box::new(Single::new(render, move |verdict| refuse(form, verdict)))
}
