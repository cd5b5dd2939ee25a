//! The worker: prompts and tensors in, tokens and tensors out.

pub mod config;
pub mod device;
pub mod engine;
pub mod error;
pub mod executor;
pub mod kernels;
pub mod layers;
pub mod models;
pub mod parent;
pub mod sampler;
pub mod server;
pub mod standby;
pub mod tokenizer;
pub mod weights;
