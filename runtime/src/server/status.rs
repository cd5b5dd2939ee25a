//! Refusals of the rooms below as gRPC statuses, by the table at the top of worker.proto.

use tonic::Status;

use crate::engine::{EngineError, SubmitError};
use crate::executor::EncodeError;
use crate::tokenizer::TokenizerError;

pub fn submit(error: SubmitError) -> Status {
    match error {
        SubmitError::Invalid { .. } => Status::invalid_argument(error.to_string()),
        SubmitError::QueueFull { .. } => Status::resource_exhausted(error.to_string()),
        SubmitError::Draining => Status::unavailable(error.to_string()),
    }
}

pub fn engine(error: &EngineError) -> Status {
    match error {
        EngineError::Forward(_) | EngineError::Logits { .. } => Status::internal(error.to_string()),
        EngineError::Stopping => Status::unavailable(error.to_string()),
    }
}

/// What the caller wrote cannot be tokenized or rendered; what the model lacks is a precondition.
pub fn tokenizer(error: TokenizerError) -> Status {
    match error {
        TokenizerError::Absent | TokenizerError::NoTemplate => Status::failed_precondition(error.to_string()),
        TokenizerError::UnsupportedModel { .. }
        | TokenizerError::UnsupportedPreTokenizer { .. }
        | TokenizerError::Damaged { .. }
        | TokenizerError::Template { .. } => Status::internal(error.to_string()),
        TokenizerError::Encode { .. }
        | TokenizerError::Decode { .. }
        | TokenizerError::UnknownId { .. }
        | TokenizerError::Refused { .. } => Status::invalid_argument(error.to_string()),
    }
}

pub fn encode(error: EncodeError) -> Status {
    Status::internal(error.to_string())
}

/// Runs what computes for long on a thread that may block.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(Status::internal("a fault of the worker's own; its log says more")),
    }
}
