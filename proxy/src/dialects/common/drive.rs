//! Drives any dialect with any bytes, for its fuzz target and its property tests, and asserts the two laws:
//! nothing a stranger sends panics, and every answer is one head, then bodies, then one end.
//!
//! Never part of serving: no stage calls this.

use crate::dialects::{Ask, Dialect, Event, Facts, ModelFacts, Operation};
use crate::message::{Head, Part};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};
use outrider_protos::worker::v1 as worker;
use worker::generate_event::Event as Said;

/// A head as the core would build it.
pub fn head(method: Method, path: &str, headers: &[(&str, &str)]) -> Head {
    let pair = |(name, value): &(&str, &str)| {
        Some((HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_bytes(value.as_bytes()).ok()?))
    };
    Head {
        method,
        path: path.to_owned(),
        query: None,
        headers: headers.iter().filter_map(pair).collect::<HeaderMap>(),
        version: Version::HTTP_2,
        request_id: "1".into(),
        arrived_unix_seconds: 1_700_000_000,
    }
}

/// One model that generates (`llm`), one that embeds and takes tensors (`emb`), one never seen (`new`).
pub fn facts() -> Facts {
    let tensor = |name: &str, data_type: worker::DataType, shape: &[i64]| worker::TensorInfo {
        name: name.into(),
        data_type: data_type.into(),
        shape: shape.to_vec(),
    };
    let llm = worker::Model {
        name: "llm".into(),
        architecture: "llama".into(),
        tasks: vec![worker::Task::Generate.into()],
        context_length: 2048,
        ..Default::default()
    };
    let emb = worker::Model {
        name: "emb".into(),
        architecture: "bert".into(),
        tasks: vec![worker::Task::Embed.into(), worker::Task::Infer.into()],
        context_length: 256,
        embedding_dimensions: 3,
        infer_inputs: vec![tensor("input_ids", worker::DataType::Int64, &[-1, -1])],
        infer_outputs: vec![tensor("last_hidden_state", worker::DataType::Fp32, &[-1, -1, 3])],
        ..Default::default()
    };
    let model = |name: &str, info| ModelFacts { name: name.into(), info };
    Facts {
        ready: true,
        models: vec![model("llm", Some(llm)), model("emb", Some(emb)), model("new", None)],
        started_unix_seconds: 1_600_000_000,
    }
}

/// Watches the parts of one answer.
#[derive(Debug, Default)]
pub struct Automaton {
    pub heads: usize,
    pub ends: usize,
    pub body: Vec<u8>,
    pub status: Option<u16>,
    pub headers: HeaderMap,
    pub trailers: Option<HeaderMap>,
}

impl Automaton {
    /// # Panics
    /// When the parts are out of order: that is what it is for.
    pub fn take(&mut self, parts: Vec<Part>) {
        for part in parts {
            assert_eq!(self.ends, 0, "nothing may follow the end, got {part:?}");
            match part {
                Part::Head { status, headers } => {
                    assert_eq!(self.heads, 0, "one head only");
                    self.heads = 1;
                    self.status = Some(status.as_u16());
                    self.headers = headers;
                }
                Part::Body(bytes) => {
                    assert_eq!(self.heads, 1, "a body before its head");
                    self.body.extend_from_slice(&bytes);
                }
                Part::End(trailers) => {
                    assert_eq!(self.heads, 1, "an end before its head");
                    self.ends = 1;
                    self.trailers = trailers;
                }
            }
        }
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Sends one request and these events through a dialect, as the exchange would.
pub fn run(
    dialect: &dyn Dialect,
    head: &Head,
    body: &[u8],
    events: impl IntoIterator<Item = Event>,
) -> (Option<Ask>, Automaton) {
    let mut seen = Automaton::default();
    let operation = dialect.route(head).unwrap_or(Operation { name: "none", open: false });
    let parsed = match dialect.parse(operation, head, bytes::Bytes::copy_from_slice(body), &facts()) {
        Ok(parsed) => parsed,
        Err(error) => {
            seen.take(dialect.refusal(head, &error.verdict()));
            assert_eq!((seen.heads, seen.ends), (1, 1), "a refusal is complete");
            return (None, seen);
        }
    };
    let mut answer = parsed.answer;
    for event in events {
        match answer.on(event) {
            Ok(parts) => seen.take(parts),
            Err(error) => seen.take(answer.fail(&error.verdict())),
        }
    }
    if seen.ends == 0 {
        seen.take(answer.fail(&crate::error::Error::WorkerLost.verdict()));
    }
    assert_eq!((seen.heads, seen.ends), (1, 1), "an answer is complete");
    (Some(parsed.ask), seen)
}

/// Any bytes: the first chooses path, method and headers, some script the events, the rest is the body.
pub fn fuzz(dialect: &dyn Dialect, paths: &[&str], data: &[u8]) {
    let [choice, kind, script_length, rest @ ..] = data else { return };
    let (script, body) = rest.split_at(rest.len().min(usize::from(*script_length % 32)));
    let method = if choice & 0x40 == 0 { Method::POST } else { Method::GET };
    let length = (script_length / 2).to_string();
    let content_type = ["application/json", "application/grpc", "application/octet-stream"][usize::from(kind % 3)];
    let mut headers = vec![("content-type", content_type)];
    if kind & 0x80 != 0 {
        headers.push(("inference-header-content-length", &length));
    }
    let head = head(method, paths[usize::from(choice & 0x3f) % paths.len()], &headers);
    run(dialect, &head, body, script.iter().map(|byte| event(*byte)));
}

/// An event for each byte, sensible ones and others.
pub fn event(byte: u8) -> Event {
    let index = u32::from(byte >> 6);
    let said = |said| Event::Generate {
        prompt: usize::from(byte >> 5 & 1),
        event: worker::GenerateEvent { event: Some(said) },
    };
    match byte % 12 {
        0 => said(Said::Accepted(worker::Accepted { prompt_tokens: 3, ..Default::default() })),
        1 | 2 => {
            let token = worker::Token { id: 7, bytes: vec![byte, b'a'].into(), logprob: Some(-0.5), top: vec![] };
            let tokens = if byte % 12 == 1 { vec![token] } else { vec![] };
            said(Said::Chunk(worker::Chunk { index, text: "hé".into(), tokens, token_count: 1 }))
        }
        3 | 4 => {
            let reason = i32::from(byte >> 4 & 3);
            said(Said::Finished(worker::Finished { index, reason, completion_tokens: 2, ..Default::default() }))
        }
        5 => Event::Embedded(worker::EmbedResponse {
            embeddings: vec![worker::Embedding { values: vec![0.5, f32::NAN, -1.0] }; usize::from(byte >> 5)],
            prompt_tokens: 4,
        }),
        6 => {
            let data_type = i32::from(byte >> 4);
            let data = vec![byte; usize::from(byte >> 3)].into();
            let tensor = worker::Tensor { name: "last_hidden_state".into(), data_type, shape: vec![1, 3], data };
            Event::Inferred(worker::InferResponse { outputs: vec![tensor] })
        }
        7 => Event::Facts(facts()),
        8 => Event::Tokenized(worker::TokenizeResponse::default()),
        9 => Event::Detokenized(worker::DetokenizeResponse::default()),
        10 => Event::Generate { prompt: 0, event: worker::GenerateEvent { event: None } },
        _ => Event::Done,
    }
}
