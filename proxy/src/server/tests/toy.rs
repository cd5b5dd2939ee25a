//! The smallest dialect there can be, and a worker process that starts as a test says.

use crate::dialects::{Answer, Ask, Dialect, Event, Facts, Operation, Parsed};
use crate::error::{Error, Verdict};
use crate::message::{Head, Part};
use crate::scale::targets::Target;
use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use outrider_protos::worker::v1::generate_event::Event as E;
use std::time::Duration;

pub static TOY: &[&dyn Dialect] = &[&Toy];

struct Toy;

struct Saying {
    head_out: bool,
}

impl Dialect for Toy {
    fn name(&self) -> &'static str {
        "toy"
    }

    fn route(&self, head: &Head) -> Option<Operation> {
        match head.path.as_str() {
            "/toy" => Some(Operation { name: "say", open: false }),
            "/toy/health" => Some(Operation { name: "health", open: true }),
            _ => None,
        }
    }

    fn parse(&self, operation: Operation, head: &Head, body: Bytes, _: &Facts) -> Result<Parsed, Error> {
        assert!(head.headers.get("authorization").is_none(), "the credential must not come so far");
        if body == "nonsense" {
            return Err(Error::invalid("that is nonsense"));
        }
        let ask = if operation.open { Ask::About { wake: false } } else { Ask::Generate(Default::default()) };
        Ok(Parsed { model: None, ask, answer: Box::new(Saying { head_out: false }) })
    }

    fn refusal(&self, _: &Head, verdict: &Verdict) -> Vec<Part> {
        Part::whole(StatusCode::from_u16(verdict.status).unwrap(), "text/plain", verdict.words.clone())
    }
}

impl Answer for Saying {
    fn on(&mut self, event: Event) -> Result<Vec<Part>, Error> {
        let mut parts = Vec::new();
        if !std::mem::replace(&mut self.head_out, true) {
            parts.push(Part::Head { status: StatusCode::OK, headers: HeaderMap::new() });
        }
        match event {
            Event::Generate { event, .. } => {
                if let Some(E::Chunk(chunk)) = event.event {
                    parts.push(Part::Body(chunk.text.into()));
                }
            }
            Event::Facts(facts) => parts.push(Part::Body(format!("ready: {}", facts.ready).into())),
            Event::Done => parts.push(Part::End(None)),
            _ => {}
        }
        Ok(parts)
    }

    fn fail(&mut self, verdict: &Verdict) -> Vec<Part> {
        if self.head_out {
            return vec![Part::Body(format!("broken: {}", verdict.label).into()), Part::End(None)];
        }
        Part::whole(StatusCode::from_u16(verdict.status).unwrap(), "text/plain", verdict.words.clone())
    }

    fn usage(&self) -> (u64, u64) {
        (1, 1)
    }
}

#[derive(Default)]
pub struct Sleepy {
    pub never: bool,
    pub fails: bool,
    /// How long a start takes.
    pub takes: Duration,
}

#[async_trait]
impl Target for Sleepy {
    async fn start(&self) -> Result<(), String> {
        if self.never {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(self.takes).await;
        if self.fails { Err("no such model file".into()) } else { Ok(()) }
    }

    async fn stop(&self) {}

    async fn exited(&self) -> String {
        std::future::pending().await
    }
}
