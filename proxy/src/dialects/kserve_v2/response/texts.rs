//! Generated texts as V2 answers: tensors, Triton's generate JSON, or its stream of server-sent events.

use super::infer::pick;
use super::{refuse, spell};
use crate::dialects::common::single::unexpected;
use crate::dialects::kserve_v2::VERSION;
use crate::dialects::kserve_v2::wire::tensor::pack_bytes;
use crate::dialects::kserve_v2::wire::{Form, Outcome, Wanted, rest};
use crate::dialects::{Answer, Event};
use crate::error::{Error, Verdict};
use crate::message::Part;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use outrider_protos::worker::v1 as worker;
use serde::Serialize;
use serde_json::json;
use worker::generate_event::Event as Said;

/// Outputs of a model that generates: both BYTES, one element for each prompt.
pub static OUTPUTS: &[&str] = &["text_output", "finish_reason"];

/// How texts are spelled.
pub enum Style {
    Tensors(Vec<Wanted>, Form),
    /// `…/generate`: one object at the end.
    Json,
    /// `…/generate_stream`: an object for each piece, and one with the finish reason.
    Stream,
}

#[derive(Clone, Default)]
struct Prompt {
    text: String,
    prompt_tokens: u64,
    completion_tokens: u64,
    finish: Option<&'static str>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Waiting,
    Streaming,
    Ended,
}

pub struct Texts {
    style: Style,
    model: String,
    id: String,
    prompts: Vec<Prompt>,
    phase: Phase,
}

#[derive(Serialize)]
struct Piece<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    id: &'a str,
    model_name: &'a str,
    model_version: &'static str,
    text_output: &'a str,
    #[serde(flatten)]
    finish: Option<Finish>,
}

#[derive(Serialize)]
struct Finish {
    finish_reason: &'static str,
    prompt_tokens: u64,
    completion_tokens: u64,
}

impl Texts {
    pub fn new(style: Style, model: String, id: String, prompts: usize) -> Texts {
        Texts { style, model, id, prompts: vec![Prompt::default(); prompts], phase: Phase::Waiting }
    }

    fn said(&mut self, place: usize, said: Said) -> Result<Vec<Part>, Error> {
        let nonsense = |reason: &str| Err(Error::WorkerNonsense { reason: reason.into() });
        let streams = matches!(self.style, Style::Stream);
        let Some(prompt) = self.prompts.get_mut(place).filter(|prompt| prompt.finish.is_none()) else {
            return nonsense("a text that nobody asked for, or more of one that was finished");
        };
        match said {
            Said::Accepted(accepted) => {
                prompt.prompt_tokens = u64::from(accepted.prompt_tokens);
                Ok(self.open())
            }
            Said::Chunk(chunk) if chunk.index != 0 => nonsense("a choice that nobody asked for"),
            Said::Chunk(chunk) => {
                prompt.completion_tokens += u64::from(chunk.token_count);
                if !streams {
                    prompt.text.push_str(&chunk.text);
                    return Ok(Vec::new());
                }
                let mut parts = self.open();
                if !chunk.text.is_empty() {
                    parts.push(sse(&self.piece(&chunk.text, None)));
                }
                Ok(parts)
            }
            Said::Finished(finished) => {
                let reason = match finished.reason() {
                    worker::FinishReason::Stop => "stop",
                    worker::FinishReason::Length => "length",
                    // A text cut short by the worker's own end must never pass for a complete one.
                    worker::FinishReason::Aborted => return Err(Error::WorkerLost),
                    worker::FinishReason::Unspecified => return nonsense("a text finished without a reason"),
                };
                prompt.finish = Some(reason);
                prompt.completion_tokens = u64::from(finished.completion_tokens);
                Ok(self.open())
            }
        }
    }

    /// The head of a stream, once.
    fn open(&mut self) -> Vec<Part> {
        if !matches!(self.style, Style::Stream) || self.phase != Phase::Waiting {
            return Vec::new();
        }
        self.phase = Phase::Streaming;
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        vec![Part::Head { status: StatusCode::OK, headers }]
    }

    fn piece<'a>(&'a self, text_output: &'a str, finish: Option<&'static str>) -> Piece<'a> {
        let (prompt_tokens, completion_tokens) = self.usage();
        let finish = finish.map(|finish_reason| Finish { finish_reason, prompt_tokens, completion_tokens });
        Piece { id: &self.id, model_name: &self.model, model_version: VERSION, text_output, finish }
    }

    fn end(&mut self) -> Result<Vec<Part>, Error> {
        if self.prompts.iter().any(|prompt| prompt.finish.is_none()) {
            return Err(Error::WorkerNonsense { reason: "it ended before every text was finished".into() });
        }
        let finish = self.prompts[0].finish;
        let parts = match &self.style {
            Style::Tensors(outputs, form) => self.tensors(outputs, *form)?,
            Style::Json => rest::whole(StatusCode::OK, &self.piece(&self.prompts[0].text, finish)),
            Style::Stream => vec![sse(&self.piece("", finish)), Part::End(None)],
        };
        let mut all = self.open();
        all.extend(parts);
        self.phase = Phase::Ended;
        Ok(all)
    }

    fn tensors(&self, wanted: &[Wanted], form: Form) -> Result<Vec<Part>, Error> {
        let tensor = |name: &str, data| worker::Tensor {
            name: name.into(),
            data_type: worker::DataType::Bytes.into(),
            shape: vec![self.prompts.len() as i64],
            data,
        };
        let texts = pack_bytes(self.prompts.iter().map(|prompt| &prompt.text));
        let reasons = pack_bytes(self.prompts.iter().map(|prompt| prompt.finish.unwrap_or_default()));
        let outputs = pick(vec![tensor(OUTPUTS[0], texts), tensor(OUTPUTS[1], reasons)], wanted)?;
        let (prompt_tokens, completion_tokens) = self.usage();
        let parameters = [("prompt_tokens", prompt_tokens), ("completion_tokens", completion_tokens)];
        spell(Outcome { model: &self.model, id: &self.id, outputs, parameters: &parameters }, form)
    }
}

impl Answer for Texts {
    fn on(&mut self, event: Event) -> Result<Vec<Part>, Error> {
        if self.phase == Phase::Ended {
            return Ok(Vec::new());
        }
        match event {
            Event::Generate { prompt, event } => match event.event {
                Some(said) => self.said(prompt, said),
                None => Ok(Vec::new()),
            },
            Event::Done => self.end(),
            _ => Err(unexpected()),
        }
    }

    fn fail(&mut self, verdict: &Verdict) -> Vec<Part> {
        match (std::mem::replace(&mut self.phase, Phase::Ended), &self.style) {
            (Phase::Ended, _) => Vec::new(),
            // The stream's own end is a piece with `finish_reason`; this one has none, and says why.
            (Phase::Streaming, _) => vec![sse(&json!({ "error": verdict.words })), Part::End(None)],
            (Phase::Waiting, Style::Tensors(_, form)) => refuse(*form, verdict),
            (Phase::Waiting, _) => rest::refusal(verdict),
        }
    }

    fn usage(&self) -> (u64, u64) {
        let prompts = self.prompts.iter();
        prompts.fold((0, 0), |(asked, said), prompt| (asked + prompt.prompt_tokens, said + prompt.completion_tokens))
    }
}

fn sse(value: &impl Serialize) -> Part {
    let mut bytes = b"data: ".to_vec();
    serde_json::to_writer(&mut bytes, value).expect("our own structs have string keys only");
    bytes.extend_from_slice(b"\n\n");
    Part::Body(bytes.into())
}
