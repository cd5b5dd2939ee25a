//! KServe V2, also called the Open Inference Protocol, over REST and over gRPC, with Triton's binary tensors and its
//! generate extension.
//!
//! Text goes as BYTES tensors (`text_input` → `text_output`, `text` → `embedding`); everything else is tensors for the
//! worker. Never loads, unloads or configures a model: that part of the protocol's family is refused by name.

mod request;
mod response;
mod wire;

use crate::dialects::{Dialect, Facts, Operation, Parsed};
use crate::error::{Error, Verdict};
use crate::message::{Head, Part};
use bytes::Bytes;
use http::{HeaderValue, header};

pub struct KserveV2;

/// The one version every model here has.
const VERSION: &str = "1";
const SERVICE: &str = "/inference.GRPCInferenceService/";
/// What metadata calls a text to go on with, and a text to embed.
const GENERATE_INPUT: &str = "text_input";
const EMBED_INPUT: &str = "text";
const UNKNOWN_PATH: &str = "unknown_path";
const METHOD_NOT_ALLOWED: &str = "method_not_allowed";

/// Over which of the protocol's two transports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Rest,
    Grpc,
}

/// A path understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place<'a> {
    name: &'static str,
    method: &'static str,
    /// Still percent-encoded. Over gRPC, the message names it.
    model: Option<&'a str>,
    version: Option<&'a str>,
}

fn rest_place(path: &str) -> Option<Place<'_>> {
    let segments: Vec<&str> = path.strip_prefix("/v2")?.split('/').skip(1).collect();
    let place = |name, method| Some(Place { name, method, model: None, version: None });
    let of = |name, method, model, version| Some(Place { name, method, model: Some(model), version });
    let action = |action, model, version| match action {
        "ready" => of("model_ready", "GET", model, version),
        "infer" => of("model_infer", "POST", model, version),
        "generate" => of("generate", "POST", model, version),
        "generate_stream" => of("generate_stream", "POST", model, version),
        _ => None,
    };
    match segments[..] {
        [] | [""] => place("server_metadata", "GET"),
        ["health", "live"] => place("server_live", "GET"),
        ["health", "ready"] => place("server_ready", "GET"),
        ["models", model] if !model.is_empty() => of("model_metadata", "GET", model, None),
        ["models", model, "versions", version] => of("model_metadata", "GET", model, Some(version)),
        ["models", model, "versions", version, verb] => action(verb, model, Some(version)),
        ["models", model, verb] => action(verb, model, None),
        _ => None,
    }
}

fn grpc_place(path: &str) -> Option<Place<'_>> {
    let name = match path.strip_prefix(SERVICE)? {
        "ServerLive" => "server_live",
        "ServerReady" => "server_ready",
        "ServerMetadata" => "server_metadata",
        "ModelReady" => "model_ready",
        "ModelMetadata" => "model_metadata",
        "ModelInfer" => "model_infer",
        _ => return None,
    };
    Some(Place { name, method: "POST", model: None, version: None })
}

/// The transport a path belongs to; `None` where it is not this dialect's.
fn way(path: &str) -> Option<Way> {
    if path.starts_with(SERVICE) {
        return Some(Way::Grpc);
    }
    let below = path.strip_prefix("/v2")?;
    (below.is_empty() || below.starts_with('/')).then_some(Way::Rest)
}

fn place(way: Way, path: &str) -> Option<Place<'_>> {
    match way {
        Way::Rest => rest_place(path),
        Way::Grpc => grpc_place(path),
    }
}

impl Dialect for KserveV2 {
    fn name(&self) -> &'static str {
        "kserve_v2"
    }

    fn route(&self, head: &Head) -> Option<Operation> {
        let name = match place(way(&head.path)?, &head.path) {
            None => UNKNOWN_PATH,
            Some(place) if head.method.as_str() == place.method => place.name,
            Some(_) => METHOD_NOT_ALLOWED,
        };
        // A prober has no credential, and learns nothing of the models.
        Some(Operation { name, open: matches!(name, "server_live" | "server_ready") })
    }

    fn parse(&self, operation: Operation, head: &Head, body: Bytes, facts: &Facts) -> Result<Parsed, Error> {
        let unknown =
            || Error::UnknownPath { method: head.method.to_string(), path: head.path.chars().take(256).collect() };
        let way = way(&head.path).ok_or_else(unknown)?;
        if way == Way::Grpc {
            wire::grpc::expect(head)?;
        }
        let place = place(way, &head.path).ok_or_else(unknown)?;
        if operation.name == METHOD_NOT_ALLOWED {
            return Err(Error::MethodNotAllowed { method: head.method.to_string(), allowed: place.method });
        }
        match way {
            Way::Rest => request::rest(place, head, body, facts),
            Way::Grpc => request::grpc(place, head, body, facts),
        }
    }

    fn refusal(&self, head: &Head, verdict: &Verdict) -> Vec<Part> {
        let way = way(&head.path).unwrap_or(Way::Rest);
        if way == Way::Grpc && wire::grpc::expect(head).is_ok() {
            return wire::grpc::refusal(verdict);
        }
        let mut parts = wire::rest::refusal(verdict);
        let allowed = place(way, &head.path).map(|place| place.method);
        if let (405, Some(method), Some(Part::Head { headers, .. })) = (verdict.status, allowed, parts.first_mut()) {
            headers.insert(header::ALLOW, HeaderValue::from_static(method));
        }
        parts
    }
}

/// For the fuzzer: any bytes as a request, and any events as its answer.
pub fn fuzz(data: &[u8]) {
    let paths = [
        "/v2/models/llm/infer",
        "/v2/models/emb/versions/1/infer",
        "/v2/models/new/generate",
        "/v2/models/llm/generate_stream",
        "/v2/models/emb",
        "/inference.GRPCInferenceService/ModelInfer",
        "/inference.GRPCInferenceService/ModelMetadata",
    ];
    crate::dialects::common::drive::fuzz(&KserveV2, &paths, data);
}

#[cfg(test)]
mod tests;
