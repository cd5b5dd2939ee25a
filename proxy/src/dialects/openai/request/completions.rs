//! `POST /v1/completions`: text, or token ids, to be gone on with. Many prompts in one request are many generations.

use super::{TOP_LOGPROBS_MAX, Texts, choices, max_tokens, named_model, refuse_unsupported, stream, texts};
use crate::dialects::common::fields::{Fields, object};
use crate::dialects::common::sampling;
use crate::dialects::openai::response::generation::{Generation, Plan, Shape};
use crate::dialects::{Ask, Facts, Parsed};
use crate::error::Error;
use crate::message::Head;
use outrider_protos::worker::v1 as worker;
use worker::generate_request::Prompt;

/// As the API has it, for want of a word.
const MAX_TOKENS_DEFAULT: u32 = 16;
const PROMPTS_MAX: usize = 1024;

pub fn parse(head: &Head, body: &[u8], facts: &Facts) -> Result<Parsed, Error> {
    let map = object(head, body)?;
    let fields = Fields::new(&map);
    let model = named_model(&fields, facts, worker::Task::Generate)?.name.clone();
    refuse_unsupported(&fields)?;
    let prompts = prompts(&fields)?;
    let echo = fields.flag("echo")?;
    // With `echo`, none is a fair wish: only the prompt's own log-probabilities are wanted.
    let limit = max_tokens(&fields, "max_tokens", if echo { 0 } else { 1 })?.unwrap_or(MAX_TOKENS_DEFAULT);
    let stopping = sampling::stopping(&fields, Some(limit))?;
    let plan = Plan {
        shape: Shape::Text,
        prompts: prompts.len(),
        n: choices(&fields, prompts.len())?,
        stream: stream(&fields)?,
        logprobs: fields.integer("logprobs", 0..=TOP_LOGPROBS_MAX)?.map(|top| top as u32),
        echo,
        stop_token_ids: stopping.stop_token_ids.clone(),
    };
    let template = worker::GenerateRequest {
        model: model.clone(),
        request_id: head.request_id.clone(),
        prompt: None,
        stopping: Some(stopping),
        sampling: Some(sampling::sampling(&fields)?),
        n: plan.n,
        logprobs: plan.logprobs,
        echo,
    };
    let request = |prompt| worker::GenerateRequest { prompt: Some(prompt), ..template.clone() };
    let mut requests: Vec<_> = prompts.into_iter().map(request).collect();
    let ask = if requests.len() == 1 { Ask::Generate(requests.remove(0)) } else { Ask::GenerateMany(requests) };
    let answer = Box::new(Generation::new(head, model.clone(), plan));
    Ok(Parsed { model: Some(model), ask, answer })
}

fn prompts(fields: &Fields<'_>) -> Result<Vec<Prompt>, Error> {
    match texts(fields, "prompt", PROMPTS_MAX)? {
        // An empty text is a prompt of its own: the model begins from its BOS token, or says that it has none.
        Texts::Strings(texts) => Ok(texts.into_iter().map(|(_, text)| Prompt::Text(text.to_owned())).collect()),
        Texts::Ids(lists) => lists.iter().map(|(at, ids)| sampling::token_ids(ids, at).map(Prompt::TokenIds)).collect(),
    }
}
