//! The worker: prompts and tensors in, tokens and tensors out.

pub mod device;
pub mod engine;
pub mod kernels;
pub mod sampler;
pub mod tokenizer;
pub mod weights;
