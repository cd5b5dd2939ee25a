//! What callers speak. An open set: a dialect is a folder of four files and a line in [`DIALECTS`].
//!
//! A dialect is pure: bytes in, a question for the worker out; the worker's events in, parts of an answer out.
//! It never does I/O, never waits, and knows neither credentials nor queues nor other dialects.

pub mod common;
pub mod kserve_v2;
pub mod openai;

use crate::error::{Error, Verdict};
use crate::message::{Head, Part};
use bytes::Bytes;
use outrider_protos::worker::v1 as worker;

/// All dialects, sorted by name.
pub static DIALECTS: &[&dyn Dialect] = &[&kserve_v2::KserveV2, &openai::OpenAi];

/// A language callers speak.
pub trait Dialect: Sync {
    /// For metrics and logs.
    fn name(&self) -> &'static str;

    /// Whether this request is in this dialect, and what it asks for. Sees only the head: no body has been read.
    fn route(&self, head: &Head) -> Option<Operation>;

    /// Understands the whole request. `facts` tell which models there are and what they do, so that a question no
    /// model here can answer is refused before anything is woken.
    fn parse(&self, operation: Operation, head: &Head, body: Bytes, facts: &Facts) -> Result<Parsed, Error>;

    /// A refusal before any [`Parsed`] exists (no route, no credential, no sense), complete from head to end.
    fn refusal(&self, head: &Head, verdict: &Verdict) -> Vec<Part>;
}

/// What a request asks for, as far as its head tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// For metrics and logs, and for the dialect to know it again: `"chat_completions"`.
    pub name: &'static str,
    /// May be asked without a credential (health of the server, and nothing more).
    pub open: bool,
}

/// A request understood.
pub struct Parsed {
    /// The model it names; `None` for questions about the server as a whole.
    pub model: Option<String>,
    pub ask: Ask,
    /// Turns the worker's events into this caller's answer.
    pub answer: Box<dyn Answer>,
}

/// A question with every accent removed.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    Generate(worker::GenerateRequest),
    /// Several prompts in one request (`/v1/completions` with a list): asked one after the other started, answered
    /// with [`Event::Generate`] of each in turn, told apart by their place in this list.
    GenerateMany(Vec<worker::GenerateRequest>),
    Embed(worker::EmbedRequest),
    Infer(worker::InferRequest),
    Tokenize(worker::TokenizeRequest),
    Detokenize(worker::DetokenizeRequest),
    /// About the server or its models: answered from what the sidecar knows, with [`Event::Facts`].
    /// With `wake`, the worker is asked first if it has never been seen (a model's metadata needs its shapes).
    About {
        wake: bool,
    },
}

/// What the worker, or the sidecar itself, has to say to an [`Ask`].
#[derive(Clone, Debug)]
pub enum Event {
    /// `prompt` is the place in [`Ask::GenerateMany`], else 0.
    Generate {
        prompt: usize,
        event: worker::GenerateEvent,
    },
    Embedded(worker::EmbedResponse),
    Inferred(worker::InferResponse),
    Tokenized(worker::TokenizeResponse),
    Detokenized(worker::DetokenizeResponse),
    Facts(Facts),
    /// Nothing more will come, and all is well.
    Done,
}

/// What the sidecar knows about itself and its models without asking anybody.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// It would take a request now (a sleeping worker is no obstacle: it would be woken).
    pub ready: bool,
    /// In the order of the configuration.
    pub models: Vec<ModelFacts>,
    /// When this server started, seconds since 1970.
    pub started_unix_seconds: u64,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelFacts {
    pub name: String,
    /// What the worker last said of it; `None` until it has run once.
    pub info: Option<worker::Model>,
}

impl Facts {
    /// The model of this name.
    ///
    /// # Errors
    /// [`Error::UnknownModel`], naming the models there are.
    pub fn model(&self, name: &str) -> Result<&ModelFacts, Error> {
        self.models.iter().find(|model| model.name == name).ok_or_else(|| Error::UnknownModel {
            model: name.chars().take(256).collect(),
            known: self.models.iter().map(|model| format!("`{}`", model.name)).collect::<Vec<_>>().join(", "),
        })
    }
}

impl ModelFacts {
    /// Refuses a question this model is known not to answer. A model never seen is given the benefit of the doubt:
    /// the worker decides.
    ///
    /// # Errors
    /// [`Error::WrongTask`].
    pub fn must(&self, task: worker::Task) -> Result<(), Error> {
        if self.can(task) {
            return Ok(());
        }
        let task = match task {
            worker::Task::Generate => "generate text",
            worker::Task::Embed => "embed text",
            worker::Task::Infer | worker::Task::Unspecified => "run on tensors",
        };
        Err(Error::WrongTask { model: self.name.clone(), task })
    }

    /// Whether it does this, or might: `true` for a model never seen.
    pub fn can(&self, task: worker::Task) -> bool {
        self.info.as_ref().is_none_or(|info| info.tasks().any(|one| one == task))
    }
}

/// Builds one caller's answer: a pure state machine, events in, parts out.
///
/// Over one life it gives exactly one `Part::Head`, any number of `Body`, and exactly one `End`.
pub trait Answer: Send {
    /// Takes an event; gives what can be sent now, perhaps nothing.
    fn on(&mut self, event: Event) -> Result<Vec<Part>, Error>;

    /// Something broke. If the head is not out yet: a whole refusal. Else: an error within the stream, and an end
    /// no client can mistake for a clean one.
    fn fail(&mut self, verdict: &Verdict) -> Vec<Part>;

    /// LLM tokens so far, for metrics and the access log: (prompt, completion).
    fn usage(&self) -> (u64, u64);

    /// What a caller who waits can be sent that is no part of the answer. Nothing, where there is no such thing; else,
    /// the first time, with the head: from then on the status is said.
    fn waiting(&mut self, _note: &Note) -> Vec<Part> {
        Vec::new()
    }
}

/// What there is to say while nothing is answered yet.
#[derive(Clone, Debug, PartialEq)]
pub enum Note {
    /// For whoever looks at the wire; a client passes over it.
    Comment(String),
    /// JSON for clients that know of it.
    Progress(String),
}
