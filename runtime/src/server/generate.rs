//! Generate: a prompt into the engine's mailbox, events out of it as a stream. Leaving drops the stream; the engine
//! sees its sink closed and ends the work within one step.

use std::pin::Pin;
use std::task::{Context, Poll};

use outrider_protos::worker::v1 as wire;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tonic::Status;
use wire::generate_event::Event;

use super::catalog::{Served, Work};
use super::lifecycle::Guard;
use super::{prompt, status};
use crate::engine::{EngineError, Request, Sink};

/// Carries events from the engine's thread. What it buffers is bounded by the tokens of the request.
struct ChannelSink(mpsc::UnboundedSender<Result<wire::GenerateEvent, Status>>);

impl Sink for ChannelSink {
    fn send(&mut self, event: Event) -> bool {
        self.0.send(Ok(wire::GenerateEvent { event: Some(event) })).is_ok()
    }

    fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    fn fail(&mut self, error: EngineError) {
        let _ = self.0.send(Err(status::engine(&error)));
    }
}

/// The events of one request; ends cleanly only after every choice has finished.
pub struct EventStream {
    events: mpsc::UnboundedReceiver<Result<wire::GenerateEvent, Status>>,
    unfinished: u32,
    _guard: Guard,
}

impl Stream for EventStream {
    type Item = Result<wire::GenerateEvent, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = std::task::ready!(self.events.poll_recv(cx));
        match &next {
            Some(Ok(wire::GenerateEvent { event: Some(Event::Finished(_)) })) => {
                self.unfinished = self.unfinished.saturating_sub(1);
            }
            Some(Ok(_)) => {}
            Some(Err(_)) => self.unfinished = 0,
            // The engine's thread is gone: an answer cut short must not look whole.
            None if self.unfinished > 0 => {
                self.unfinished = 0;
                return Poll::Ready(Some(Err(Status::internal("the engine ended in the middle of the answer"))));
            }
            None => {}
        }
        Poll::Ready(next)
    }
}

/// Submits a request.
pub async fn generate(
    request: wire::GenerateRequest,
    served: std::sync::Arc<Served>,
    guard: Guard,
    bytes_max: usize,
) -> Result<EventStream, Status> {
    let Work::Generate { engine, .. } = &served.work else {
        return Err(Status::failed_precondition(format!("model {:?} embeds and does not generate", served.info.name)));
    };
    let engine = engine.clone();
    let prompt = match request.prompt {
        None => return Err(Status::invalid_argument("prompt: is absent; give text, chat or token_ids")),
        Some(wire::generate_request::Prompt::TokenIds(ids)) => ids.ids,
        Some(wire::generate_request::Prompt::Text(text)) => {
            status::blocking(move || prompt::text_ids(&served, &text, true, bytes_max)).await?
        }
        Some(wire::generate_request::Prompt::Chat(chat)) => {
            status::blocking(move || prompt::chat_ids(&served, chat, bytes_max)).await?
        }
    };
    let request = Request {
        prompt,
        stopping: request.stopping.unwrap_or_default(),
        sampling: request.sampling.unwrap_or_default(),
        n: request.n,
        logprobs: request.logprobs,
        echo: request.echo,
    };
    let (sender, events) = mpsc::unbounded_channel();
    let unfinished = request.choices();
    engine.submit(request, Box::new(ChannelSink(sender))).map_err(status::submit)?;
    Ok(EventStream { events, unfinished, _guard: guard })
}
