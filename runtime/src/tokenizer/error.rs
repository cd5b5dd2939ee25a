//! What can be wrong with a tokenizer or a chat template, in words that say what to do.
//!
//! Never carries the text that was being tokenized: prompts do not belong in errors or logs.

/// Why a text could not become token ids, or ids a text, or a conversation a prompt.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    #[error("the model has no tokenizer: give a GGUF file with one, or put tokenizer.json beside the weights")]
    Absent,
    #[error("tokenizer model {found:?} is not supported; supported are {supported}")]
    UnsupportedModel { found: String, supported: String },
    #[error("pre-tokenizer {found:?} is not supported; supported are {supported}")]
    UnsupportedPreTokenizer { found: String, supported: String },
    #[error("the tokenizer's {part} is wrong: {reason}")]
    Damaged { part: &'static str, reason: String },
    #[error("the text could not be tokenized: {reason}")]
    Encode { reason: String },
    #[error("the ids could not be turned into text: {reason}")]
    Decode { reason: String },
    #[error("token id {id} is not in the vocabulary of {size} tokens")]
    UnknownId { id: u32, size: usize },
    #[error("the model has no chat template: send a plain prompt instead of messages")]
    NoTemplate,
    #[error("the model's chat template does not compile: {reason}")]
    Template { reason: String },
    #[error("the model's chat template refused this conversation: {reason}")]
    Refused { reason: String },
}
