//! The answer to a chat or text completion, whole or streamed: events of the worker in, choices out.
//!
//! Choice `prompt × n + index` of the answer is choice `index` of that prompt. Nothing is kept of what was streamed.

use super::{Envelope, SYSTEM_FINGERPRINT, done, event, failure, logprobs, note, refusal, stream_head, whole};
use crate::dialects::common::single::unexpected;
use crate::dialects::openai::wire::*;
use crate::dialects::{Answer, Event, Note};
use crate::error::{Error, Verdict};
use crate::message::{Head, Part};
use outrider_protos::worker::v1 as worker;
use serde::Serialize;
use worker::generate_event::Event as Said;

/// Which of the two endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Chat,
    Text,
}

/// `stream: true`, and its options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    /// One last chunk with the usage.
    pub usage: bool,
    /// The usage so far in every chunk.
    pub continuous: bool,
}

/// What the caller asked for, as far as the answer's form depends on it.
pub struct Plan {
    pub shape: Shape,
    pub prompts: usize,
    pub n: u32,
    pub stream: Option<Stream>,
    pub logprobs: Option<u32>,
    pub echo: bool,
    pub stop_token_ids: Vec<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Waiting,
    Streaming,
    Ended,
}

#[derive(Clone, Default)]
struct Choice {
    /// Only where nothing is streamed.
    text: String,
    tokens: Vec<worker::Token>,
    /// Characters of text before the next token.
    offset: usize,
    completion_tokens: u64,
    /// The first chunk is out.
    begun: bool,
    finished: Option<worker::Finished>,
}

pub struct Generation {
    envelope: Envelope,
    plan: Plan,
    prompt_tokens: u64,
    cached_tokens: u64,
    choices: Vec<Choice>,
    phase: Phase,
}

impl Generation {
    pub fn new(head: &Head, model: String, plan: Plan) -> Generation {
        let prefix = if plan.shape == Shape::Chat { "chatcmpl" } else { "cmpl" };
        let choices = vec![Choice::default(); plan.prompts * plan.n as usize];
        Generation {
            envelope: Envelope::new(prefix, head, model),
            plan,
            prompt_tokens: 0,
            cached_tokens: 0,
            choices,
            phase: Phase::Waiting,
        }
    }

    /// Place of a choice in the answer.
    fn place(&self, prompt: usize, index: u32) -> Result<usize, Error> {
        if prompt >= self.plan.prompts || index >= self.plan.n {
            return Err(nonsense("a choice that nobody asked for"));
        }
        let place = prompt * self.plan.n as usize + index as usize;
        match self.choices[place].finished {
            Some(_) => Err(nonsense("more of a choice that was finished")),
            None => Ok(place),
        }
    }

    fn said(&mut self, prompt: usize, said: Said) -> Result<Vec<Part>, Error> {
        match said {
            Said::Accepted(accepted) => {
                let first = self.place(prompt, 0)?;
                self.prompt_tokens += u64::from(accepted.prompt_tokens);
                self.cached_tokens += u64::from(accepted.cached_tokens);
                let echoed = if self.plan.echo { accepted.prompt } else { Vec::new() };
                let mut parts = self.open();
                for place in first..first + self.plan.n as usize {
                    parts.extend(self.begin(place));
                    if self.plan.logprobs.is_some() {
                        self.choices[place].tokens.extend(echoed.iter().cloned());
                    }
                }
                Ok(parts)
            }
            Said::Chunk(chunk) => {
                let place = self.place(prompt, chunk.index)?;
                self.choices[place].completion_tokens += u64::from(chunk.token_count);
                if self.plan.logprobs.is_some() {
                    self.choices[place].tokens.extend(chunk.tokens);
                }
                if self.plan.stream.is_none() {
                    self.choices[place].text.push_str(&chunk.text);
                    return Ok(Vec::new());
                }
                let mut parts = self.open();
                parts.extend(self.begin(place));
                if !chunk.text.is_empty() || !self.choices[place].tokens.is_empty() {
                    parts.push(self.delta(place, Some(&chunk.text)));
                }
                Ok(parts)
            }
            Said::Finished(finished) => self.finish(prompt, finished),
        }
    }

    fn finish(&mut self, prompt: usize, finished: worker::Finished) -> Result<Vec<Part>, Error> {
        let place = self.place(prompt, finished.index)?;
        match finished.reason() {
            worker::FinishReason::Stop | worker::FinishReason::Length => {}
            // A text cut short by the worker's own end must never pass for a complete one.
            worker::FinishReason::Aborted => return Err(Error::WorkerLost),
            worker::FinishReason::Unspecified => return Err(nonsense("a choice finished without a reason")),
        }
        let choice = &mut self.choices[place];
        choice.completion_tokens = u64::from(finished.completion_tokens);
        choice.finished = Some(finished);
        if self.plan.stream.is_none() {
            return Ok(Vec::new());
        }
        let mut parts = self.open();
        parts.extend(self.begin(place));
        parts.push(self.delta(place, None));
        Ok(parts)
    }

    /// The head of a stream, once.
    fn open(&mut self) -> Vec<Part> {
        if self.plan.stream.is_none() || self.phase != Phase::Waiting {
            return Vec::new();
        }
        self.phase = Phase::Streaming;
        vec![stream_head()]
    }

    /// The first chunk of a choice, once: chat clients learn the role from it.
    fn begin(&mut self, place: usize) -> Option<Part> {
        let begun = std::mem::replace(&mut self.choices[place].begun, true);
        if begun || self.plan.stream.is_none() || self.plan.shape == Shape::Text {
            return None;
        }
        let delta = ChatDelta { role: Some("assistant"), content: Some("") };
        let choice = ChatDeltaChoice { index: place, delta, logprobs: None, finish_reason: None, stop_reason: None };
        Some(self.chunk("chat.completion.chunk", vec![choice]))
    }

    /// A chunk with text, or with `None` the one that says why the choice ended.
    fn delta(&mut self, place: usize, text: Option<&str>) -> Part {
        let choice = &mut self.choices[place];
        let tokens = std::mem::take(&mut choice.tokens);
        let mut offset = choice.offset;
        let ended = if text.is_none() { choice.finished.clone() } else { None };
        let finish_reason = ended.as_ref().map(finish_reason);
        let stop_reason = ended.as_ref().and_then(|ended| stop_reason(ended, &self.plan.stop_token_ids));
        let wanted = self.plan.logprobs.is_some() && !tokens.is_empty();
        let part = match self.plan.shape {
            Shape::Chat => {
                let logprobs = wanted.then(|| logprobs::chat(&tokens));
                let delta = ChatDelta { role: None, content: text };
                let choice = ChatDeltaChoice { index: place, delta, logprobs, finish_reason, stop_reason };
                self.chunk("chat.completion.chunk", vec![choice])
            }
            Shape::Text => {
                let logprobs = wanted.then(|| logprobs::text(&tokens, &mut offset));
                let text = text.unwrap_or_default();
                let choice = TextChoice { index: place, text, logprobs, finish_reason, stop_reason };
                self.chunk("text_completion", vec![choice])
            }
        };
        self.choices[place].offset = offset;
        part
    }

    fn chunk<C: Serialize>(&self, object: &'static str, choices: Vec<C>) -> Part {
        let usage = match self.plan.stream {
            Some(Stream { continuous: true, .. }) => Some(Some(self.totals())),
            Some(Stream { usage: true, .. }) => Some(choices.is_empty().then(|| self.totals())),
            _ => None,
        };
        event(&self.completion(object, choices, usage))
    }

    fn completion<C>(&self, object: &'static str, choices: Vec<C>, usage: Option<Option<Usage>>) -> Completion<'_, C> {
        let Envelope { id, created, model } = &self.envelope;
        Completion { id, object, created: *created, model, system_fingerprint: SYSTEM_FINGERPRINT, choices, usage }
    }

    fn totals(&self) -> Usage {
        let (prompt_tokens, completion_tokens) = self.usage();
        Usage {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens + completion_tokens,
            prompt_tokens_details: PromptTokensDetails { cached_tokens: self.cached_tokens },
        }
    }

    /// All is said: the end of the stream, or the whole answer.
    fn end(&mut self) -> Result<Vec<Part>, Error> {
        if self.choices.iter().any(|choice| choice.finished.is_none()) {
            return Err(nonsense("it ended before every choice was finished"));
        }
        let parts = match self.plan.stream {
            Some(stream) => {
                let mut parts = self.open();
                if stream.usage {
                    let object =
                        if self.plan.shape == Shape::Chat { "chat.completion.chunk" } else { "text_completion" };
                    parts.push(self.chunk(object, Vec::<TextChoice<'_>>::new()));
                }
                parts.extend([done(), Part::End(None)]);
                parts
            }
            None => self.whole(),
        };
        self.phase = Phase::Ended;
        Ok(parts)
    }

    fn whole(&self) -> Vec<Part> {
        let usage = Some(Some(self.totals()));
        let choices = self.choices.iter().enumerate();
        match self.plan.shape {
            Shape::Chat => {
                let choices = choices.map(|(index, choice)| chat_choice(index, choice, &self.plan)).collect();
                whole(&self.completion("chat.completion", choices, usage))
            }
            Shape::Text => {
                let choices = choices.map(|(index, choice)| text_choice(index, choice, &self.plan)).collect();
                whole(&self.completion("text_completion", choices, usage))
            }
        }
    }
}

impl Answer for Generation {
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
        match std::mem::replace(&mut self.phase, Phase::Ended) {
            Phase::Waiting => refusal(verdict),
            Phase::Streaming => vec![failure(verdict), Part::End(None)],
            Phase::Ended => Vec::new(),
        }
    }

    fn usage(&self) -> (u64, u64) {
        (self.prompt_tokens, self.choices.iter().map(|choice| choice.completion_tokens).sum())
    }

    fn waiting(&mut self, said: &Note) -> Vec<Part> {
        if self.plan.stream.is_none() || self.phase == Phase::Ended {
            return Vec::new();
        }
        let mut parts = self.open();
        parts.push(note(said));
        parts
    }
}

fn chat_choice<'a>(index: usize, choice: &'a Choice, plan: &Plan) -> ChatChoice<'a> {
    ChatChoice {
        index,
        message: ChatMessage { role: "assistant", content: &choice.text, refusal: None },
        logprobs: plan.logprobs.map(|_| logprobs::chat(&choice.tokens)),
        finish_reason: choice.finished.as_ref().map(finish_reason),
        stop_reason: choice.finished.as_ref().and_then(|ended| stop_reason(ended, &plan.stop_token_ids)),
    }
}

fn text_choice<'a>(index: usize, choice: &'a Choice, plan: &Plan) -> TextChoice<'a> {
    TextChoice {
        index,
        text: &choice.text,
        logprobs: plan.logprobs.map(|_| logprobs::text(&choice.tokens, &mut 0)),
        finish_reason: choice.finished.as_ref().map(finish_reason),
        stop_reason: choice.finished.as_ref().and_then(|ended| stop_reason(ended, &plan.stop_token_ids)),
    }
}

fn nonsense(reason: &str) -> Error {
    Error::WorkerNonsense { reason: reason.into() }
}

fn finish_reason(finished: &worker::Finished) -> &'static str {
    match finished.reason() {
        worker::FinishReason::Length => "length",
        _ => "stop",
    }
}

/// The caller's own stop that matched; the model's end-of-sequence token is not one.
fn stop_reason<'a>(finished: &'a worker::Finished, stop_token_ids: &[u32]) -> Option<StopReason<'a>> {
    if !finished.stop_string.is_empty() {
        return Some(StopReason::Text(&finished.stop_string));
    }
    finished.stop_token_id.filter(|id| stop_token_ids.contains(id)).map(StopReason::TokenId)
}
