//! How large the engine's parts may get, each default with its reason. Read once; nothing here changes while it runs.

use super::request::Limits;

/// How large everything may get.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Tokens in a block of the paged cache.
    pub block_tokens: usize,
    /// Blocks the cache has.
    pub blocks: usize,
    /// Rows in one batch.
    pub tokens_per_step_max: usize,
    /// Sequences computed at a time.
    pub sequences_max: usize,
    /// Sequences that may wait; more are refused.
    pub waiting_max: usize,
    /// Prompt rows scored in one step: each costs `vocabulary` × 4 bytes of logits.
    pub scored_rows_per_step_max: usize,
    /// Tokens of prompt and answer together, as the model says.
    pub context_length: usize,
    /// Ids that end an answer.
    pub eos_ids: Vec<u32>,
    /// Take up what the cache holds of a prompt's beginning. Off, a request can tell nothing about another's prompt
    /// from its own speed.
    pub prefix_sharing: bool,
    /// Where seeds come from for requests that name none; drawn once by the process.
    pub seed: u64,
}

impl EngineConfig {
    /// Defaults for a model with this context, on a cache of this many blocks of 16 tokens.
    pub fn new(context_length: usize, blocks: usize, eos_ids: Vec<u32>) -> EngineConfig {
        EngineConfig {
            block_tokens: 16,
            blocks,
            tokens_per_step_max: 512,
            sequences_max: 64,
            waiting_max: 1024,
            scored_rows_per_step_max: 64,
            context_length,
            eos_ids,
            prefix_sharing: true,
            seed: 0,
        }
    }

    /// What requests are validated against, for this vocabulary.
    pub fn limits(&self, vocabulary: usize) -> Limits {
        Limits { context_length: self.context_length, cache_tokens: self.blocks * self.block_tokens.max(1), vocabulary }
    }
}
