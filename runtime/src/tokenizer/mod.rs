//! Text to token ids and back, and conversations to text.
//!
//! Two sources: the metadata of a GGUF file, with our own tokenizers, and `tokenizer.json` through the `tokenizers`
//! crate. Never pads and never truncates unless told to; never keeps a text.

mod bpe;
pub mod error;
mod gguf;
mod json;
mod pieces;
mod pretokenize;
mod sentencepiece;
mod special;
pub mod template;

use crate::weights::{Checkpoint, Gguf, TokenizerSource};
use bpe::Bpe;
pub use error::TokenizerError;
use json::JsonTokenizer;
use sentencepiece::SentencePiece;
pub use template::{ChatTemplate, Conversation};

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

/// How to read a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Add the tokens the model puts around a text: BOS, `[CLS]` and `[SEP]`.
    pub add_special: bool,
    /// Read a written-out control token (`<|im_start|>`) as that token. Off for text that nobody vouches for.
    pub parse_special: bool,
}

/// A model's tokenizer.
#[derive(Debug)]
pub struct Tokenizer {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Bpe(Box<Bpe>),
    SentencePiece(Box<SentencePiece>),
    Json(Box<JsonTokenizer>),
}

impl Tokenizer {
    /// The tokenizer that belongs to a checkpoint.
    pub fn from_checkpoint(checkpoint: &Checkpoint) -> Result<Self, TokenizerError> {
        match checkpoint.tokenizer() {
            TokenizerSource::Gguf(gguf) => Self::from_gguf(gguf),
            TokenizerSource::Json(path) => {
                let damaged = |reason: String| TokenizerError::Damaged { part: "tokenizer.json", reason };
                Self::from_json(&std::fs::read(path).map_err(|error| damaged(format!("{}: {error}", path.display())))?)
            }
            TokenizerSource::Absent => Err(TokenizerError::Absent),
        }
    }

    /// The tokenizer in the metadata of a GGUF file.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, TokenizerError> {
        let model =
            gguf.metadata().str("tokenizer.ggml.model").map_err(gguf::damaged)?.ok_or(TokenizerError::Absent)?;
        let kind = match model {
            "gpt2" => Kind::Bpe(Box::new(Bpe::from_gguf(gguf)?)),
            "llama" => Kind::SentencePiece(Box::new(SentencePiece::from_gguf(gguf)?)),
            other => {
                let supported = "gpt2 (byte-level BPE) and llama (SentencePiece)".to_owned();
                return Err(TokenizerError::UnsupportedModel { found: other.to_owned(), supported });
            }
        };
        Ok(Self { kind })
    }

    /// The tokenizer in the bytes of a `tokenizer.json`.
    pub fn from_json(bytes: &[u8]) -> Result<Self, TokenizerError> {
        Ok(Self { kind: Kind::Json(Box::new(JsonTokenizer::from_bytes(bytes)?)) })
    }

    /// Ids of a text, in which written-out control tokens count as such.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, TokenizerError> {
        self.encode_with(text, EncodeOptions { add_special, parse_special: true })
    }

    /// Ids of a text.
    pub fn encode_with(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>, TokenizerError> {
        match &self.kind {
            Kind::Bpe(bpe) => Ok(bpe.encode(text, options)),
            Kind::SentencePiece(pieces) => Ok(pieces.encode(text, options)),
            Kind::Json(json) => json.encode(text, options),
        }
    }

    /// Ids of a text with the tokens around it, `max_tokens` at most: the end of the text is cut off, not the tokens
    /// around it. For sentence encoders. Control tokens in the text count as plain characters.
    pub fn encode_within(&self, text: &str, max_tokens: usize) -> Result<Vec<u32>, TokenizerError> {
        let (bos, eos) = match &self.kind {
            Kind::Json(json) => return json.encode_within(text, max_tokens),
            Kind::Bpe(bpe) => bpe.around(),
            Kind::SentencePiece(pieces) => pieces.around(),
        };
        let mut ids = self.encode_with(text, EncodeOptions { add_special: true, parse_special: false })?;
        if ids.len() > max_tokens {
            let tail = eos.iter().count();
            ids.truncate(max_tokens.saturating_sub(tail).max(bos.iter().count()));
            ids.extend(eos);
        }
        Ok(ids)
    }

    /// The text of these ids. Bytes that are no UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TokenizerError> {
        let size = self.len();
        if let Some(id) = ids.iter().copied().find(|id| *id as usize >= size) {
            return Err(TokenizerError::UnknownId { id, size });
        }
        let written = match &self.kind {
            Kind::Json(json) => return json.decode(ids, skip_special),
            Kind::SentencePiece(pieces) => pieces.decode(ids, skip_special),
            Kind::Bpe(bpe) => {
                let spoken = ids.iter().filter(|id| !(skip_special && bpe.is_silent(**id)));
                spoken.flat_map(|id| bpe.written(*id)).copied().collect()
            }
        };
        Ok(String::from_utf8_lossy(&written).into_owned())
    }
}

impl Vocabulary for Tokenizer {
    fn len(&self) -> usize {
        match &self.kind {
            Kind::Bpe(bpe) => bpe.len(),
            Kind::SentencePiece(pieces) => pieces.len(),
            Kind::Json(json) => json.len(),
        }
    }

    fn token_bytes(&self, id: u32) -> &[u8] {
        match &self.kind {
            Kind::Bpe(bpe) if bpe.is_silent(id) => &[],
            Kind::Bpe(bpe) => bpe.written(id),
            Kind::SentencePiece(pieces) => pieces.token_bytes(id),
            Kind::Json(json) => json.token_bytes(id),
        }
    }
}
