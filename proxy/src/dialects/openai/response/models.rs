//! `GET /v1/models[/{id}]`: what is here, from what the sidecar knows. Never wakes anything.

use super::{refusal, whole};
use crate::dialects::common::single::{Single, unexpected};
use crate::dialects::openai::wire::{List, Model};
use crate::dialects::{Answer, Event, Facts, ModelFacts};

const OWNED_BY: &str = "outrider";

pub fn all() -> Box<dyn Answer> {
    let render = |event| {
        let Event::Facts(facts) = event else { return Err(unexpected()) };
        let data = facts.models.iter().map(|model| entry(model, &facts)).collect();
        Ok((whole(&List { object: "list", data }), (0, 0)))
    };
    Box::new(Single::new(render, refusal))
}

pub fn one(id: String) -> Box<dyn Answer> {
    let render = move |event| {
        let Event::Facts(facts) = event else { return Err(unexpected()) };
        Ok((whole(&entry(facts.model(&id)?, &facts)), (0, 0)))
    };
    Box::new(Single::new(render, refusal))
}

fn entry<'a>(model: &'a ModelFacts, facts: &Facts) -> Model<'a> {
    Model {
        id: &model.name,
        object: "model",
        created: facts.started_unix_seconds,
        owned_by: OWNED_BY,
        max_model_len: model.info.as_ref().map(|info| info.context_length).filter(|length| *length > 0),
    }
}
