//! Tokenizers described by a `tokenizer.json`, through the `tokenizers` crate.
//!
//! The padding and truncation that a file may have baked in (MiniLM pads every text to 128) are taken off: how long a
//! text may be is the caller's business. Never panics on a vocabulary with holes.

use super::bpe::byte_level;
use super::{EncodeOptions, TokenizerError};
use std::collections::HashSet;
use std::sync::OnceLock;
use tokenizers::Tokenizer;
use tokenizers::tokenizer::{PostProcessor, TruncationDirection};

/// How a token's text stands for bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writing {
    /// GPT-2's table of characters.
    ByteLevel,
    /// `##` continues a word, anything else begins one.
    WordPiece,
    /// `▁` is a space, `<0x0A>` a byte.
    SentencePiece,
    Plain,
}

/// A tokenizer of the `tokenizers` crate, and what each id stands for.
#[derive(Debug)]
pub(super) struct JsonTokenizer {
    tokenizer: Tokenizer,
    /// The same, reading control tokens as plain characters; made when first asked for.
    plain: OnceLock<Box<Tokenizer>>,
    writing: Writing,
    len: usize,
    /// Bytes of each id; made when first asked for, because sentence encoders never ask.
    bytes: OnceLock<Vec<Box<[u8]>>>,
}

impl JsonTokenizer {
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TokenizerError> {
        let damaged = |reason: String| TokenizerError::Damaged { part: "tokenizer.json", reason };
        let mut tokenizer = Tokenizer::from_bytes(bytes).map_err(|error| damaged(error.to_string()))?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| damaged(error.to_string()))?;
        let added = tokenizer.get_added_tokens_decoder();
        let len = added.keys().map(|id| *id as usize + 1).max().unwrap_or(0).max(tokenizer.get_vocab_size(true));
        // An added token may claim any id; a table of bytes for it must stay in proportion.
        if len > tokenizer.get_vocab_size(true).saturating_mul(4).saturating_add(1 << 16) {
            return Err(damaged(format!("it has ids up to {len} for {} tokens", tokenizer.get_vocab_size(true))));
        }
        let decoder = serde_json::to_string(&tokenizer.get_decoder()).unwrap_or_default();
        let has = |kind: &str| decoder.contains(&format!("\"type\":\"{kind}\""));
        let writing = match () {
            () if has("ByteLevel") => Writing::ByteLevel,
            () if has("WordPiece") => Writing::WordPiece,
            () if has("Metaspace") || has("ByteFallback") => Writing::SentencePiece,
            () => Writing::Plain,
        };
        Ok(Self { tokenizer, plain: OnceLock::new(), writing, len, bytes: OnceLock::new() })
    }

    pub fn len(&self) -> usize {
        self.len
    }

    fn plain(&self) -> &Tokenizer {
        self.plain.get_or_init(|| {
            let mut plain = self.tokenizer.clone();
            plain.set_encode_special_tokens(true);
            Box::new(plain)
        })
    }

    pub fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>, TokenizerError> {
        let tokenizer = if options.parse_special { &self.tokenizer } else { self.plain() };
        let encoding = tokenizer.encode_fast(text, options.add_special).map_err(refused)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Cuts the text's own tokens, then puts the tokens around them.
    pub fn encode_within(&self, text: &str, max_tokens: usize) -> Result<Vec<u32>, TokenizerError> {
        let tokenizer = self.plain();
        let mut encoding = tokenizer.encode_fast(text, false).map_err(refused)?;
        let around = tokenizer.get_post_processor().map_or(0, |processor| processor.added_tokens(false));
        encoding.truncate(max_tokens.saturating_sub(around), 0, TruncationDirection::Right);
        let encoding = tokenizer.post_process(encoding, None, true).map_err(refused)?;
        Ok(encoding.get_ids().to_vec())
    }

    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TokenizerError> {
        let decoded = self.tokenizer.decode(ids, skip_special);
        decoded.map_err(|error| TokenizerError::Decode { reason: error.to_string() })
    }

    pub fn token_bytes(&self, id: u32) -> &[u8] {
        let bytes = self.bytes.get_or_init(|| self.all_bytes());
        bytes.get(id as usize).map_or(&[], |bytes| bytes)
    }

    fn all_bytes(&self) -> Vec<Box<[u8]>> {
        let added = self.tokenizer.get_added_tokens_decoder();
        let special: HashSet<u32> = added.iter().filter(|(_, token)| token.special).map(|(id, _)| *id).collect();
        let one = |id: u32| match self.tokenizer.id_to_token(id) {
            _ if special.contains(&id) => Box::default(),
            None => Box::default(),
            // Added tokens are stored as they are written.
            Some(token) if added.contains_key(&id) => token.into_bytes().into_boxed_slice(),
            Some(token) => self.writing.bytes(&token).into_boxed_slice(),
        };
        (0..self.len as u32).map(one).collect()
    }
}

impl Writing {
    fn bytes(self, token: &str) -> Vec<u8> {
        match self {
            Writing::Plain => token.as_bytes().to_vec(),
            Writing::ByteLevel => byte_level(token),
            Writing::WordPiece => match token.strip_prefix("##") {
                Some(rest) => rest.as_bytes().to_vec(),
                None => format!(" {token}").into_bytes(),
            },
            Writing::SentencePiece => match super::sentencepiece::byte_token(token) {
                Some(byte) => vec![byte],
                None => token.replace('▁', " ").into_bytes(),
            },
        }
    }
}

fn refused(error: tokenizers::Error) -> TokenizerError {
    TokenizerError::Encode { reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A word-level vocabulary with baked-in padding and truncation.
    const WORDS: &str = r#"{
        "version": "1.0",
        "truncation": {"max_length": 3, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        "padding": {"strategy": {"Fixed": 9}, "direction": "Right", "pad_id": 0, "pad_type_id": 0, "pad_token": "[P]"},
        "added_tokens": [{"id": 1, "content": "[C]", "special": true, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false}],
        "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {"type": "BertProcessing", "sep": ["[S]", 2], "cls": ["[C]", 1]},
        "decoder": {"type": "WordPiece", "prefix": "\u0023\u0023", "cleanup": true},
        "model": {"type": "WordLevel", "unk_token": "[P]",
            "vocab": {"[P]": 0, "[C]": 1, "[S]": 2, "a": 3, "\u0023\u0023b": 4}}
    }"#;

    #[test]
    fn are_baked_in_padding_and_truncation_taken_off() {
        let tokenizer = JsonTokenizer::from_bytes(WORDS.as_bytes()).expect("sound");
        let options = |add_special, parse_special| EncodeOptions { add_special, parse_special };
        let encode = |text, options| tokenizer.encode(text, options).expect("known words");
        assert_eq!(encode("a a a a a", options(true, true)), [1, 3, 3, 3, 3, 3, 2]);
        assert_eq!(encode("a [C] a", options(false, true)), [3, 1, 3]);
        assert_eq!(encode("a [C]", options(false, false)), [3, 0, 0, 0]);
        assert_eq!(tokenizer.encode_within("a a a a", 4).expect("known words"), [1, 3, 3, 2]);
        assert_eq!(tokenizer.encode_within("a a", 0).expect("known words"), [1, 2]);
        assert_eq!((tokenizer.token_bytes(3), tokenizer.token_bytes(4)), (&b" a"[..], &b"b"[..]));
        assert_eq!((tokenizer.token_bytes(1), tokenizer.token_bytes(99)), (&b""[..], &b""[..]));
    }

    #[test]
    fn is_rubbish_refused_with_words() {
        for bytes in [&b"{}"[..], b"", b"\xff", b"[1]"] {
            let error = JsonTokenizer::from_bytes(bytes).expect_err("rubbish").to_string();
            assert!(error.starts_with("the tokenizer's tokenizer.json is wrong"), "{error}");
        }
    }
}
