//! What can be wrong with stored weights, each in words that name the file, the place and what to do.
//!
//! Never says where a path came from: that is known to who asked for it.

use std::path::PathBuf;

/// Why weights, or what is stored beside them, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    #[error("{}: {source}", path.display())]
    Open { path: PathBuf, source: std::io::Error },

    #[error("{}: is neither a .gguf file, a .safetensors file nor a directory in Hugging Face layout: {reason}", path.display())]
    UnknownFormat { path: PathBuf, reason: String },

    #[error("{}: byte {offset}: {reason}; the file is damaged or incomplete, fetch it again", path.display())]
    Corrupt { path: PathBuf, offset: u64, reason: String },

    #[error("{}: {reason}", path.display())]
    UnsupportedVersion { path: PathBuf, reason: String },

    #[error("{}: tensor {tensor:?} at byte {offset}: {reason}", path.display())]
    Tensor { path: PathBuf, tensor: String, offset: u64, reason: String },

    #[error("{}: tensor {tensor:?} is stored as {found}, which is not supported; supported are {supported}", path.display())]
    UnsupportedElement { path: PathBuf, tensor: String, found: String, supported: String },

    #[error("{}: there is no tensor {tensor:?}", path.display())]
    MissingTensor { path: PathBuf, tensor: String },

    #[error("{}: {key}: {reason}", path.display())]
    Parameter { path: PathBuf, key: String, reason: String },
}
