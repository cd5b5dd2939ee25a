//! Why the worker cannot start or go on, in words that say what to do next. Refusals of requests are the server's.

use std::path::PathBuf;

use crate::device::DeviceError;
use crate::models::ModelError;
use crate::server::SocketError;
use crate::tokenizer::TokenizerError;
use crate::weights::WeightsError;

/// A start that failed, or a fault that ends the process.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot read the configuration {}: {source}", path.display())]
    ReadConfig { path: PathBuf, source: std::io::Error },
    #[error("the configuration {} is wrong: {}", path.display(), problems.join("; "))]
    Config { path: PathBuf, problems: Vec<String> },
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error("threads or timers cannot start: {0}")]
    Runtime(std::io::Error),
    #[error("the server ended: {0}")]
    Serve(String),
    #[error("device: {0}")]
    Device(#[from] DeviceError),
    #[error("model {name:?}: {source}")]
    Load { name: String, source: Box<LoadError> },
    /// As the loader told it, and as Lifecycle still tells it.
    #[error(transparent)]
    Failed(std::sync::Arc<StartError>),
    #[error("{0}; this is a fault of the worker's own, the lines above say where")]
    Fault(String),
}

/// Why a model is not there.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Weights(#[from] WeightsError),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    #[error("its KV cache: {0}; give less in kv_cache")]
    KvCache(DeviceError),
    #[error("its first run: {0}")]
    Warm(DeviceError),
    #[error("a thread cannot start: {0}")]
    Thread(std::io::Error),
    #[error("{0} panicked; this is a fault of the worker's own")]
    Panic(String),
}
