//! The engine: which tokens to compute next, and for whom. No wgpu, no tokio, no clock: time is an argument.

pub mod batch;

pub use batch::{Batch, Forward, ForwardError};
