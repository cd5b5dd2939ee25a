//! Live, ready and metadata, of the server and of its models, over both transports.
//!
//! A sleeping worker is ready: a request would wake it. Metadata says what is really served, tensors and texts alike.

use super::infer::EMBEDDING;
use super::texts;
use crate::dialects::common::single::{Single, unexpected};
use crate::dialects::kserve_v2::wire::{grpc, rest, tensor};
use crate::dialects::kserve_v2::{EMBED_INPUT, GENERATE_INPUT, VERSION, Way};
use crate::dialects::{Answer, Event, Facts, ModelFacts};
use crate::error::Error;
use crate::message::Part;
use http::StatusCode;
use outrider_protos::inference as pb;
use outrider_protos::worker::v1 as worker;
use pb::model_metadata_response::TensorMetadata;
use serde_json::{Value, json};
use worker::DataType;

const SERVER: &str = "outrider";
const EXTENSIONS: &[&str] = &["binary_tensor_data", "generate"];

/// What is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topic {
    ServerLive,
    ServerReady,
    ServerMetadata,
    ModelReady(String),
    ModelMetadata(String),
}

impl Topic {
    pub fn model(&self) -> Option<&str> {
        match self {
            Topic::ModelReady(model) | Topic::ModelMetadata(model) => Some(model),
            _ => None,
        }
    }
}

pub fn answer(way: Way, topic: Topic) -> Box<dyn Answer> {
    let render = move |event| {
        let Event::Facts(facts) = event else { return Err(unexpected()) };
        let parts = match way {
            Way::Rest => in_rest(&topic, &facts)?,
            Way::Grpc => in_grpc(&topic, &facts)?,
        };
        Ok((parts, (0, 0)))
    };
    let refuse = move |verdict: &crate::error::Verdict| match way {
        Way::Rest => rest::refusal(verdict),
        Way::Grpc => grpc::refusal(verdict),
    };
    Box::new(Single::new(render, refuse))
}

fn in_rest(topic: &Topic, facts: &Facts) -> Result<Vec<Part>, Error> {
    // Probers read the status and nothing else.
    let status = if facts.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok(match topic {
        Topic::ServerLive => rest::whole(StatusCode::OK, &json!({ "live": true })),
        Topic::ServerReady => rest::whole(status, &json!({ "ready": facts.ready })),
        Topic::ServerMetadata => {
            let version = env!("CARGO_PKG_VERSION");
            rest::whole(StatusCode::OK, &json!({ "name": SERVER, "version": version, "extensions": EXTENSIONS }))
        }
        Topic::ModelReady(name) => {
            facts.model(name)?;
            rest::whole(status, &json!({ "name": name, "ready": facts.ready }))
        }
        Topic::ModelMetadata(name) => {
            let metadata = metadata(facts.model(name)?);
            rest::whole(
                StatusCode::OK,
                &json!({
                    "name": metadata.name,
                    "versions": metadata.versions,
                    "platform": metadata.platform,
                    "inputs": in_json(&metadata.inputs),
                    "outputs": in_json(&metadata.outputs),
                }),
            )
        }
    })
}

fn in_json(tensors: &[TensorMetadata]) -> Value {
    let one =
        |tensor: &TensorMetadata| json!({ "name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape });
    tensors.iter().map(one).collect()
}

fn in_grpc(topic: &Topic, facts: &Facts) -> Result<Vec<Part>, Error> {
    Ok(match topic {
        Topic::ServerLive => grpc::whole(&pb::ServerLiveResponse { live: true }),
        Topic::ServerReady => grpc::whole(&pb::ServerReadyResponse { ready: facts.ready }),
        Topic::ServerMetadata => grpc::whole(&pb::ServerMetadataResponse {
            name: SERVER.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            extensions: EXTENSIONS.iter().map(|name| (*name).to_owned()).collect(),
        }),
        Topic::ModelReady(name) => {
            facts.model(name)?;
            grpc::whole(&pb::ModelReadyResponse { ready: facts.ready })
        }
        Topic::ModelMetadata(name) => grpc::whole(&metadata(facts.model(name)?)),
    })
}

fn metadata(model: &ModelFacts) -> pb::ModelMetadataResponse {
    let mut response = pb::ModelMetadataResponse {
        name: model.name.clone(),
        versions: vec![VERSION.into()],
        platform: SERVER.into(),
        ..Default::default()
    };
    let Some(info) = &model.info else { return response };
    let tensor = |name: &str, data_type, shape: &[i64]| TensorMetadata {
        name: name.into(),
        datatype: tensor::name_of(data_type).into(),
        shape: shape.to_vec(),
    };
    for task in info.tasks() {
        match task {
            worker::Task::Generate => {
                response.inputs.push(tensor(GENERATE_INPUT, DataType::Bytes, &[-1]));
                response.outputs.extend(texts::OUTPUTS.iter().map(|name| tensor(name, DataType::Bytes, &[-1])));
            }
            worker::Task::Embed => {
                let width = i64::from(info.embedding_dimensions);
                response.inputs.push(tensor(EMBED_INPUT, DataType::Bytes, &[-1]));
                response.outputs.push(tensor(EMBEDDING, DataType::Fp32, &[-1, width]));
            }
            worker::Task::Infer | worker::Task::Unspecified => {}
        }
    }
    let own = |info: &worker::TensorInfo| tensor(&info.name, info.data_type(), &info.shape);
    response.inputs.extend(info.infer_inputs.iter().map(own));
    response.outputs.extend(info.infer_outputs.iter().map(own));
    response.platform = format!("{SERVER}_{}", info.architecture);
    response
}
