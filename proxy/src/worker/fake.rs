//! A worker that says what a script says, for tests and benches. Never opens a socket.

use super::{Events, Worker};
use crate::dialects::{Ask, Event};
use crate::error::Error;
use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use outrider_protos::worker::v1;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

/// One line of a script.
#[derive(Clone, Debug)]
pub enum Line {
    Say(Event),
    Fail(Error),
    Pause(Duration),
    /// Silence until the stream is dropped.
    Hang,
}

/// Answers each question with the next script, and the last script again and again.
pub struct Fake {
    scripts: Mutex<VecDeque<Vec<Line>>>,
    asked: Mutex<Vec<Ask>>,
    models: Vec<v1::Model>,
    /// Streams that are alive.
    pub open: std::sync::Arc<AtomicUsize>,
}

impl Fake {
    pub fn new(scripts: impl IntoIterator<Item = Vec<Line>>) -> Self {
        let scripts = Mutex::new(scripts.into_iter().collect());
        Fake { scripts, asked: Mutex::default(), models: Vec::new(), open: Default::default() }
    }

    /// What it was asked so far.
    pub fn asked(&self) -> Vec<Ask> {
        self.asked.lock().expect("nothing panics here").clone()
    }

    fn script(&self) -> Vec<Line> {
        let mut scripts = self.scripts.lock().expect("nothing panics here");
        if scripts.len() > 1 { scripts.pop_front() } else { scripts.front().cloned() }.unwrap_or_default()
    }
}

/// An answer generated in these pieces of text, all well.
pub fn generated(pieces: &[&str]) -> Vec<Line> {
    use v1::generate_event::Event as E;
    let say = |event| Line::Say(Event::Generate { prompt: 0, event: v1::GenerateEvent { event: Some(event) } });
    let mut lines = vec![say(E::Accepted(v1::Accepted { prompt_tokens: 5, ..Default::default() }))];
    for piece in pieces {
        lines.push(say(E::Chunk(v1::Chunk { text: (*piece).into(), token_count: 1, ..Default::default() })));
    }
    let reason = v1::FinishReason::Stop as i32;
    let completion_tokens = pieces.len() as u32;
    lines.push(say(E::Finished(v1::Finished { reason, completion_tokens, ..Default::default() })));
    lines.push(Line::Say(Event::Done));
    lines
}

struct Open(std::sync::Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

#[async_trait]
impl Worker for Fake {
    fn ask(&self, ask: Ask) -> Events {
        self.asked.lock().expect("nothing panics here").push(ask);
        self.open.fetch_add(1, SeqCst);
        let state = (VecDeque::from(self.script()), Open(self.open.clone()));
        let events = stream::unfold(state, |(mut lines, open)| async move {
            loop {
                let said = match lines.pop_front()? {
                    Line::Say(event) => Ok(event),
                    Line::Fail(error) => Err(error),
                    Line::Pause(time) => {
                        tokio::time::sleep(time).await;
                        continue;
                    }
                    Line::Hang => std::future::pending().await,
                };
                return Some((said, (lines, open)));
            }
        });
        events.boxed()
    }

    async fn models(&self) -> Result<Vec<v1::Model>, Error> {
        Ok(self.models.clone())
    }

    async fn ready(&self) -> Result<v1::ReadyResponse, Error> {
        Ok(v1::ReadyResponse { ready: true, reason: String::new() })
    }

    async fn lifecycle(&self, _: v1::lifecycle_request::Action) -> Result<v1::LifecycleResponse, Error> {
        Ok(v1::LifecycleResponse::default())
    }
}
