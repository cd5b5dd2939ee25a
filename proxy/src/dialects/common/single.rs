//! The simplest answer: one event comes, one whole answer goes. Never streams.

use crate::dialects::{Answer, Event};
use crate::error::{Error, Verdict};
use crate::message::Part;

/// A whole answer, head to end, and the LLM tokens it stands for: (prompt, completion).
pub type Rendered = (Vec<Part>, (u64, u64));

type Render = Box<dyn Fn(Event) -> Result<Rendered, Error> + Send>;
type Refuse = Box<dyn Fn(&Verdict) -> Vec<Part> + Send>;

pub struct Single {
    render: Render,
    refuse: Refuse,
    usage: (u64, u64),
    ended: bool,
}

impl Single {
    pub fn new(
        render: impl Fn(Event) -> Result<Rendered, Error> + Send + 'static,
        refuse: impl Fn(&Verdict) -> Vec<Part> + Send + 'static,
    ) -> Single {
        Single { render: Box::new(render), refuse: Box::new(refuse), usage: (0, 0), ended: false }
    }
}

impl Answer for Single {
    fn on(&mut self, event: Event) -> Result<Vec<Part>, Error> {
        if self.ended {
            return Ok(Vec::new());
        }
        if matches!(event, Event::Done) {
            return Err(Error::WorkerNonsense { reason: "it ended without an answer".into() });
        }
        let (parts, usage) = (self.render)(event)?;
        self.ended = true;
        self.usage = usage;
        Ok(parts)
    }

    fn fail(&mut self, verdict: &Verdict) -> Vec<Part> {
        if std::mem::replace(&mut self.ended, true) { Vec::new() } else { (self.refuse)(verdict) }
    }

    fn usage(&self) -> (u64, u64) {
        self.usage
    }
}

/// For an event that is no answer to what was asked.
pub fn unexpected() -> Error {
    Error::WorkerNonsense { reason: "it answered another question than was asked".into() }
}
