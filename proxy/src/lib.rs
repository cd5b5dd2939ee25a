//! The sidecar: who may speak, in which dialect, and when.

pub mod config;
pub mod dialects;
pub mod error;
pub mod message;
pub mod server;
