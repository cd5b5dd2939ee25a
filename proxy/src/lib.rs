//! The sidecar: who may speak, in which dialect, and when.

pub mod admission;
pub mod dialects;
pub mod error;
pub mod message;
pub mod scale;
