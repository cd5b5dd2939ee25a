//! The shapes of OpenAI's answers, as `serde` writes them. Reading is in `request`: it must blame fields by name.

use serde::Serialize;
use std::collections::BTreeMap;

/// A completion or a chunk of one; `C` is the kind of choice.
#[derive(Serialize)]
pub struct Completion<'a, C> {
    pub id: &'a str,
    pub object: &'static str,
    pub created: u64,
    pub model: &'a str,
    pub system_fingerprint: &'static str,
    pub choices: Vec<C>,
    /// Outer `None`: no such field. Inner `None`: null, as in all chunks but the last where usage was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Option<Usage>>,
}

#[derive(Clone, Copy, Serialize)]
pub struct Usage {
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    pub total_tokens: u64,
    pub prompt_tokens_details: PromptTokensDetails,
}

#[derive(Clone, Copy, Serialize)]
pub struct PromptTokensDetails {
    pub cached_tokens: u64,
}

#[derive(Serialize)]
pub struct ChatChoice<'a> {
    pub index: usize,
    pub message: ChatMessage<'a>,
    pub logprobs: Option<ChatLogprobs>,
    pub finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<StopReason<'a>>,
}

#[derive(Serialize)]
pub struct ChatMessage<'a> {
    pub role: &'static str,
    pub content: &'a str,
    /// Always null: no model here refuses by another channel than its text.
    pub refusal: Option<&'a str>,
}

#[derive(Serialize)]
pub struct ChatDeltaChoice<'a> {
    pub index: usize,
    pub delta: ChatDelta<'a>,
    pub logprobs: Option<ChatLogprobs>,
    pub finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<StopReason<'a>>,
}

#[derive(Serialize)]
pub struct ChatDelta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<&'a str>,
}

#[derive(Serialize)]
pub struct ChatLogprobs {
    pub content: Vec<ChatToken>,
    pub refusal: Option<Vec<ChatToken>>,
}

#[derive(Serialize)]
pub struct ChatToken {
    pub token: String,
    pub logprob: f32,
    pub bytes: Vec<u8>,
    pub top_logprobs: Vec<ChatTop>,
}

#[derive(Serialize)]
pub struct ChatTop {
    pub token: String,
    pub logprob: f32,
    pub bytes: Vec<u8>,
}

#[derive(Serialize)]
pub struct TextChoice<'a> {
    pub index: usize,
    pub text: &'a str,
    pub logprobs: Option<TextLogprobs>,
    pub finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<StopReason<'a>>,
}

/// Parallel lists, one entry for each token.
#[derive(Serialize)]
pub struct TextLogprobs {
    pub tokens: Vec<String>,
    /// null for a prompt's first token, which nothing precedes.
    pub token_logprobs: Vec<Option<f32>>,
    pub top_logprobs: Vec<Option<BTreeMap<String, f32>>>,
    /// Characters of text before the token.
    pub text_offset: Vec<usize>,
}

/// vLLM's addition: which of the caller's own stops ended the choice.
#[derive(Clone, Copy, Serialize)]
#[serde(untagged)]
pub enum StopReason<'a> {
    Text(&'a str),
    TokenId(u32),
}

#[derive(Serialize)]
pub struct List<T> {
    pub object: &'static str,
    pub data: Vec<T>,
}

#[derive(Serialize)]
pub struct Embeddings<'a> {
    pub object: &'static str,
    pub id: &'a str,
    pub created: u64,
    pub model: &'a str,
    pub data: Vec<Embedding>,
    pub usage: EmbeddingUsage,
}

#[derive(Serialize)]
pub struct Embedding {
    pub object: &'static str,
    pub index: usize,
    pub embedding: Vector,
}

#[derive(Serialize)]
#[serde(untagged)]
pub enum Vector {
    Float(Vec<f32>),
    /// Little-endian f32 elements.
    Base64(String),
}

#[derive(Serialize)]
pub struct EmbeddingUsage {
    pub prompt_tokens: u64,
    pub total_tokens: u64,
}

#[derive(Serialize)]
pub struct Model<'a> {
    pub id: &'a str,
    pub object: &'static str,
    pub created: u64,
    pub owned_by: &'static str,
    /// vLLM's addition; absent until the worker has run once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_model_len: Option<u32>,
}

#[derive(Serialize)]
pub struct ErrorBody<'a> {
    pub error: ErrorObject<'a>,
}

#[derive(Serialize)]
pub struct ErrorObject<'a> {
    pub message: &'a str,
    pub r#type: &'static str,
    pub param: Option<&'a str>,
    pub code: Option<&'static str>,
}
