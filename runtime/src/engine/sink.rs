//! Where a request's events go. The engine knows nothing of channels: the server gives it a [`Sink`].

pub use outrider_protos::worker::v1::generate_event::Event;

use super::batch::ForwardError;

/// Takes the events of one request, in order: `Accepted`, then chunks of its choices, one `Finished` for each choice;
/// or, at any point, one `fail`. After the last of them the sink is dropped.
///
/// Called from the engine's thread between two steps: it must never block. What it buffers is bounded by the tokens
/// of the request.
pub trait Sink: Send {
    /// Hands over an event. `false`: the receiver is gone, and the request is cancelled within this step.
    fn send(&mut self, event: Event) -> bool;

    /// Whether the receiver is gone; asked before each step.
    fn is_closed(&self) -> bool;

    /// The request ends without an answer, or without the rest of it. Nothing follows.
    fn fail(&mut self, error: EngineError);
}

/// Why an accepted request was given up.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EngineError {
    /// The device failed: INTERNAL.
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// The model's logits cannot be sampled from: INTERNAL.
    #[error("the model computed no usable logits for position {position}: {source}")]
    Logits { position: usize, source: crate::sampler::SampleError },
    /// The worker stops before this request was begun: UNAVAILABLE, ask again.
    #[error("the worker is stopping; nothing was done for this request, ask again")]
    Stopping,
}
