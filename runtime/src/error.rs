//! Why the worker cannot start, in words that say what to do next. Refusals of requests are the server's.

use std::path::PathBuf;

use crate::device::DeviceError;
use crate::models::ModelError;
use crate::server::SocketError;
use crate::weights::WeightsError;

/// A start that failed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot read the configuration {}: {source}", path.display())]
    ReadConfig { path: PathBuf, source: std::io::Error },
    #[error("the configuration {} is wrong: {}", path.display(), problems.join("; "))]
    Config { path: PathBuf, problems: Vec<String> },
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error("the async runtime cannot start: {0}")]
    Runtime(std::io::Error),
    #[error("the server ended: {0}")]
    Serve(String),
    #[error("device: {0}")]
    Device(#[from] DeviceError),
    #[error("model {name:?}: {source}")]
    Load { name: String, source: LoadError },
}

/// Why a model is not there.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Weights(#[from] WeightsError),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error("the KV cache: {0}")]
    KvCache(DeviceError),
    #[error("loading panicked; this is a fault of the worker's own: {0}")]
    Panic(String),
}
