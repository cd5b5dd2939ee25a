//! The worker as the exchange sees it: a question in, events out.
//!
//! The only door through the wall between the two houses. Never retries, never starts a worker: that is decided by the
//! exchange and by admission.

pub mod fake;
mod known;
mod uds;

pub use known::Known;
pub use uds::{Uds, seat, take_seat};

use crate::dialects::{Ask, Event};
use crate::error::Error;
use async_trait::async_trait;
use futures_util::Stream;
use outrider_protos::worker::v1;
use std::pin::Pin;

/// What a worker says to one question: any number of events, then [`Event::Done`] or an error, then nothing.
///
/// [`Error::WorkerGone`]: the connection broke before the first event, the question may be asked again;
/// [`Error::WorkerAbsent`]: nobody took the connection.
/// [`Error::WorkerLost`]: it broke later. Dropping the stream ends the work.
pub type Events = Pin<Box<dyn Stream<Item = Result<Event, Error>> + Send>>;

#[async_trait]
pub trait Worker: Send + Sync {
    /// Asks. Nothing happens until the stream is polled. [`Ask::About`] is no question for a worker: it is `Done` at once.
    fn ask(&self, ask: Ask) -> Events;

    /// What its models are.
    async fn models(&self) -> Result<Vec<v1::Model>, Error>;

    /// Whether all its models are loaded.
    async fn ready(&self) -> Result<v1::ReadyResponse, Error>;

    /// Asks for its state, or for a change of it.
    async fn lifecycle(&self, action: v1::lifecycle_request::Action) -> Result<v1::LifecycleResponse, Error>;
}
