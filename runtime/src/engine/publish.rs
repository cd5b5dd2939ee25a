//! Events of one request: what its choices have to say, in an order its receiver can rely on.
//!
//! `Accepted` comes first, although a later choice may have text before the first choice's prompt is scored; the last
//! choice's `Finished` ends it. Decides nothing about tokens.

use outrider_protos::worker::v1::{Accepted, Chunk, Token, TopToken};

use super::request::Request;
use super::sequence::{Ending, Sequence};
use super::sink::{EngineError, Event, Sink};
use super::text;
use crate::sampler::Scored;
use crate::tokenizer::Vocabulary;

/// One request's receiver and what all its choices share.
pub struct Outlet {
    sink: Box<dyn Sink>,
    /// Choices that are not complete.
    open: u32,
    choices: u32,
    /// The prompt as it is echoed.
    echo: Option<Echo>,
    accepted: bool,
    /// Events of other choices that came before `Accepted` could be sent. Bounded by the tokens of the request.
    early: Vec<Event>,
    /// The receiver has said that it is gone.
    gone: bool,
}

struct Echo {
    text: String,
    tokens: Vec<Token>,
}

impl Outlet {
    pub fn new(request: &Request, sink: Box<dyn Sink>, vocabulary: &dyn Vocabulary) -> Outlet {
        let echo = request.echo.then(|| {
            let bytes: Vec<u8> = request.prompt.iter().flat_map(|id| vocabulary.token_bytes(*id)).copied().collect();
            Echo {
                text: text::lossy(&bytes),
                tokens: request.prompt.iter().map(|id| token(vocabulary, *id, None, &[])).collect(),
            }
        });
        let choices = request.choices();
        Outlet { sink, open: choices, choices, echo, accepted: false, early: Vec::new(), gone: false }
    }

    /// Whether the receiver has left.
    pub fn is_gone(&self) -> bool {
        self.gone || self.sink.is_closed()
    }

    /// Whether anything was said, or could have been.
    pub fn is_accepted(&self) -> bool {
        self.accepted
    }

    /// Whether all choices are complete.
    pub fn is_done(&self) -> bool {
        self.open == 0
    }

    /// The first event; `scored` are the prompt's tokens with log-probabilities, if those were asked for.
    pub fn accept(&mut self, prompt_tokens: usize, cached_tokens: usize, scored: Vec<Token>) {
        if std::mem::replace(&mut self.accepted, true) {
            return;
        }
        let echo = self.echo.take();
        let (text, plain) = echo.map_or((None, Vec::new()), |echo| (Some(echo.text), echo.tokens));
        let prompt = if scored.is_empty() { plain } else { scored };
        let (prompt_tokens, cached_tokens) = (prompt_tokens as u32, cached_tokens as u32);
        self.send(Event::Accepted(Accepted { prompt_tokens, cached_tokens, prompt }));
        if let Some(text) = text {
            for index in 0..self.choices {
                self.send(Event::Chunk(Chunk { index, text: text.clone(), tokens: Vec::new(), token_count: 0 }));
            }
        }
        for event in std::mem::take(&mut self.early) {
            self.send(event);
        }
    }

    /// Reports text and tokens of a choice; silent while there is nothing to read in them.
    pub fn chunk(&mut self, sequence: &mut Sequence, text: String, tokens: Vec<Token>, last: bool) {
        if text.is_empty() && tokens.is_empty() && !(last && sequence.unreported > 0) {
            return;
        }
        let token_count = std::mem::take(&mut sequence.unreported);
        self.send(Event::Chunk(Chunk { index: sequence.index, text, tokens, token_count }));
    }

    /// Completes a choice.
    pub fn finish(&mut self, sequence: &Sequence, ending: Ending, now: f64) {
        self.open -= 1;
        self.send(Event::Finished(sequence.finished(ending, now)));
    }

    /// Gives the request up.
    pub fn fail(mut self, error: EngineError) {
        self.sink.fail(error);
    }

    fn send(&mut self, event: Event) {
        if !self.accepted {
            self.early.push(event);
        } else if !self.gone {
            self.gone = !self.sink.send(event);
        }
    }
}

/// A token as it is reported.
pub fn token(vocabulary: &dyn Vocabulary, id: u32, logprob: Option<f32>, top: &[Scored]) -> Token {
    let top_token = |scored: &Scored| TopToken {
        id: scored.id,
        bytes: vocabulary.token_bytes(scored.id).to_vec().into(),
        logprob: scored.logprob,
    };
    Token { id, bytes: vocabulary.token_bytes(id).to_vec().into(), logprob, top: top.iter().map(top_token).collect() }
}
