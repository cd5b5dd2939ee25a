//! The engine: which tokens to compute next, and for whom. No wgpu, no tokio, no clock: time is an argument.
//!
//! One turn of the crank is [`Engine::step`]: schedule → forward → sample → advance → publish.

mod advance;
pub mod batch;
mod blocks;
mod config;
mod drive;
mod publish;
mod request;
mod scheduler;
mod sequence;
mod sink;
mod step;
mod stops;
mod text;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;

pub use batch::{Batch, Forward, ForwardError};
pub use config::EngineConfig;
pub use drive::{EngineHandle, Stats, drive};
pub use request::{Limits, Request, RequestId, SubmitError};
pub use sink::{EngineError, Event, Sink};
pub use step::{Engine, StepReport};
