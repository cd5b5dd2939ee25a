//! What a GGUF file says about its tokenizer, read once and checked, for every kind of tokenizer alike.

use super::TokenizerError;
use super::special::Kind;
use crate::weights::gguf::{Gguf, Metadata, Number, WrongType};

/// Tokens at most: a bound for hostile files. The largest published vocabularies have about 260,000.
const TOKENS_MAX: usize = 1 << 21;

/// The tokens of a vocabulary and the ids with a meaning.
pub(super) struct Stored<'a> {
    pub metadata: Metadata<'a>,
    pub tokens: Vec<&'a str>,
    pub kinds: Vec<Kind>,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub unknown: Option<u32>,
    pub add_bos: Option<bool>,
    pub add_eos: bool,
}

/// A metadata error in the words of this room.
pub(super) fn damaged(wrong: WrongType) -> TokenizerError {
    TokenizerError::Damaged { part: "metadata", reason: format!("{}: {}", wrong.key, wrong.reason) }
}

impl<'a> Stored<'a> {
    pub fn read(gguf: &'a Gguf) -> Result<Self, TokenizerError> {
        let metadata = gguf.metadata();
        let wrong = |reason: String| TokenizerError::Damaged { part: "list of tokens", reason };
        let tokens = metadata.strings("tokenizer.ggml.tokens").map_err(damaged)?.unwrap_or_default();
        if tokens.is_empty() || tokens.len() > TOKENS_MAX {
            return Err(wrong(format!("it has {} tokens; 1 to {TOKENS_MAX} are possible", tokens.len())));
        }
        let kinds = match metadata.numbers("tokenizer.ggml.token_type").map_err(damaged)? {
            None => vec![Kind::Normal; tokens.len()],
            Some(types) if types.len() == tokens.len() => types.into_iter().map(kind).collect(),
            Some(types) => return Err(wrong(format!("{} tokens have {} types", tokens.len(), types.len()))),
        };
        let id = |name: &str| -> Result<Option<u32>, TokenizerError> {
            let id = metadata.u64(&format!("tokenizer.ggml.{name}_token_id")).map_err(damaged)?;
            match id {
                Some(id) if id >= tokens.len() as u64 => Err(wrong(format!("the {name} id {id} is not in it"))),
                id => Ok(id.map(|id| id as u32)),
            }
        };
        let (bos, eos, unknown) = (id("bos")?, id("eos")?, id("unknown")?);
        let add_bos = metadata.bool("tokenizer.ggml.add_bos_token").map_err(damaged)?;
        let add_eos = metadata.bool("tokenizer.ggml.add_eos_token").map_err(damaged)?.unwrap_or(false);
        Ok(Self { metadata, tokens, kinds, bos, eos, unknown, add_bos, add_eos })
    }

    /// Text, id and kind of the tokens that may be written out in a text.
    pub fn written_out(&self) -> Vec<(&'a str, u32, Kind)> {
        let tokens = self.tokens.iter().zip(&self.kinds).enumerate();
        let wanted = tokens.filter(|(_, (_, kind))| matches!(kind, Kind::Control | Kind::UserDefined));
        wanted.map(|(id, (text, kind))| (*text, id as u32, *kind)).collect()
    }

    /// Bytes of all tokens together, about.
    pub fn bytes(&self) -> usize {
        self.tokens.iter().map(|token| token.len()).sum()
    }
}

fn kind(number: Number) -> Kind {
    match number {
        Number::Signed(number) => Kind::from_ggml(number),
        Number::Unsigned(number) => Kind::from_ggml(number as i64),
        _ => Kind::Normal,
    }
}
