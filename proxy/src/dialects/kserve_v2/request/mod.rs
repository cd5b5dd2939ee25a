//! V2 requests understood: which path asks what, and of which model.

mod generate;
mod infer;
mod knobs;

use super::wire::{grpc, rest};
use super::{Place, VERSION, Way, response};
use crate::dialects::common::percent;
use crate::dialects::{Ask, Facts, ModelFacts, Parsed};
use crate::error::Error;
use crate::message::Head;
use bytes::Bytes;
use outrider_protos::inference as pb;
use response::about::Topic;

/// The model named, in the one version it has.
fn named_model<'f>(facts: &'f Facts, model: &str, version: &str) -> Result<&'f ModelFacts, Error> {
    if model.is_empty() {
        return Err(Error::invalid_param("model_name", "the model's name is required"));
    }
    let known = facts.model(model)?;
    match version {
        "" | VERSION => Ok(known),
        other => Err(Error::UnknownVersion { model: model.into(), version: other.chars().take(64).collect() }),
    }
}

/// A question about the server or a model.
fn about(way: Way, topic: Topic, facts: &Facts, version: &str) -> Result<Parsed, Error> {
    let model = topic.model().map(str::to_owned);
    if let Some(model) = &model {
        named_model(facts, model, version)?;
    }
    let wake = matches!(topic, Topic::ModelMetadata(_));
    Ok(Parsed { model, ask: Ask::About { wake }, answer: response::about::answer(way, topic) })
}

pub fn rest(place: Place<'_>, head: &Head, body: Bytes, facts: &Facts) -> Result<Parsed, Error> {
    let decode = |segment: Option<&str>| {
        percent::decode(segment.unwrap_or_default())
            .ok_or_else(|| Error::invalid("a name in the path is not valid percent-encoded UTF-8"))
    };
    let (model, version) = (decode(place.model)?, decode(place.version)?);
    match place.name {
        "model_infer" => infer::parse(head, rest::question(head, &body, model, version)?, facts),
        "generate" => generate::parse(head, &body, named_model(facts, &model, &version)?, false),
        "generate_stream" => generate::parse(head, &body, named_model(facts, &model, &version)?, true),
        name => about(Way::Rest, topic(name, model), facts, &version),
    }
}

pub fn grpc(place: Place<'_>, head: &Head, body: Bytes, facts: &Facts) -> Result<Parsed, Error> {
    let (model, version) = match place.name {
        "model_infer" => return infer::parse(head, grpc::question(grpc::message(&body)?)?, facts),
        "model_metadata" => {
            let pb::ModelMetadataRequest { name, version } = grpc::message(&body)?;
            (name, version)
        }
        "model_ready" => {
            let pb::ModelReadyRequest { name, version } = grpc::message(&body)?;
            (name, version)
        }
        // Three messages without fields; what they might hold is not ours to read.
        _ => {
            grpc::message::<pb::ServerLiveRequest>(&body)?;
            Default::default()
        }
    };
    about(Way::Grpc, topic(place.name, model), facts, &version)
}

fn topic(name: &str, model: String) -> Topic {
    match name {
        "server_live" => Topic::ServerLive,
        "server_ready" => Topic::ServerReady,
        "model_ready" => Topic::ModelReady(model),
        "model_metadata" => Topic::ModelMetadata(model),
        _ => Topic::ServerMetadata,
    }
}
