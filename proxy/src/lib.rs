//! The sidecar: who may speak, in which dialect, and when.

pub mod admission;
pub mod auth;
pub mod cli;
pub mod config;
pub mod dialects;
pub mod error;
pub mod files;
pub mod message;
pub mod scale;
pub mod server;
pub mod tls;
