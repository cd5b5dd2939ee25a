//! Text to token ids and back.

/// What the engine needs of a tokenizer: the bytes each id stands for.
pub trait Vocabulary: Send + Sync {
    /// Number of ids.
    fn len(&self) -> usize;

    /// Whether there are no ids at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes this id adds to a text; empty for control tokens (BOS, EOS, `<|im_end|>`) and unknown ids.
    fn token_bytes(&self, id: u32) -> &[u8];
}
