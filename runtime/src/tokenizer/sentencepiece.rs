//! SentencePiece tokenizers from GGUF metadata (`tokenizer.ggml.model` = "llama"): Llama 1 and 2, TinyLlama, Mistral.
//!
//! Adjacent pieces whose union is a token are joined, the best score first; what is no token at the end is written in
//! byte tokens. A space is `▁` in the file and a space in memory.

use super::gguf::{Stored, damaged};
use super::pieces::Pieces;
use super::special::{Kind, Segment, SpecialTokens};
use super::{EncodeOptions, TokenizerError};
use crate::weights::Gguf;
use crate::weights::gguf::Number;
use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// The byte of a byte token: `<0x0A>`.
pub(super) fn byte_token(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok())?
}

/// A SentencePiece tokenizer.
#[derive(Debug)]
pub(super) struct SentencePiece {
    pieces: Pieces,
    kinds: Vec<Kind>,
    scores: Vec<f32>,
    /// The token of each byte.
    bytes: [Option<u32>; 256],
    special: SpecialTokens,
    space_prefix: bool,
    bos: Option<u32>,
    eos: Option<u32>,
    unknown: Option<u32>,
}

/// A join that was possible when it was found. The best score goes first, the leftmost of equals.
#[derive(PartialEq)]
struct Join {
    score: f32,
    left: usize,
    right: usize,
    length: usize,
}

impl Eq for Join {}

impl PartialOrd for Join {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Join {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

/// A piece of the text being joined: where it begins, its length (0 once joined away), its neighbours.
#[derive(Clone, Copy)]
struct Symbol {
    start: usize,
    length: usize,
    before: usize,
    after: usize,
}

const NONE: usize = usize::MAX;

impl SentencePiece {
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, TokenizerError> {
        let stored = Stored::read(gguf)?;
        let wrong = |reason: String| TokenizerError::Damaged { part: "list of scores", reason };
        let scores = stored.metadata.numbers("tokenizer.ggml.scores").map_err(damaged)?.unwrap_or_default();
        if scores.len() != stored.tokens.len() {
            return Err(wrong(format!("{} tokens have {} scores", stored.tokens.len(), scores.len())));
        }
        let scores = scores.into_iter().map(|score| Number::as_f64(score).unwrap_or(0.0) as f32).collect();
        let mut pieces = Pieces::with_capacity(stored.tokens.len(), stored.bytes());
        let mut bytes = [None; 256];
        for (id, (token, kind)) in stored.tokens.iter().zip(&stored.kinds).enumerate() {
            let byte = byte_token(token).filter(|_| *kind == Kind::Byte);
            if let Some(byte) = byte {
                bytes[byte as usize].get_or_insert(id as u32);
            }
            let pushed = pieces.push(*kind == Kind::Normal, |out| match byte {
                Some(byte) => out.push(byte),
                None => out.extend_from_slice(token.replace('▁', " ").as_bytes()),
            });
            pushed.map_err(|reason| wrong(reason.to_owned()))?;
        }
        let space_prefix = stored.metadata.bool("tokenizer.ggml.add_space_prefix").map_err(damaged)?.unwrap_or(true);
        Ok(Self {
            special: SpecialTokens::new(&stored.written_out())?,
            bos: stored.bos.filter(|_| stored.add_bos.unwrap_or(true)),
            eos: stored.eos.filter(|_| stored.add_eos),
            unknown: stored.unknown,
            kinds: stored.kinds,
            pieces,
            scores,
            bytes,
            space_prefix,
        })
    }

    pub fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Ids put before and after a text.
    pub fn around(&self) -> (Option<u32>, Option<u32>) {
        (self.bos, self.eos)
    }

    fn is_silent(&self, id: u32) -> bool {
        self.kinds.get(id as usize).is_none_or(|kind| kind.is_silent())
    }

    pub fn token_bytes(&self, id: u32) -> &[u8] {
        if self.is_silent(id) { &[] } else { self.pieces.bytes(id) }
    }

    /// Bytes of a text; the space put before it by [`SentencePiece::encode`] is taken off again.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Vec<u8> {
        let spoken = ids.iter().filter(|id| !(skip_special && self.is_silent(**id)));
        let bytes: Vec<u8> = spoken.flat_map(|id| self.pieces.bytes(*id)).copied().collect();
        let first = ids.iter().find(|id| !self.is_silent(**id)).map(|id| self.pieces.bytes(*id));
        match bytes.strip_prefix(b" ") {
            Some(rest) if self.space_prefix && first.is_some_and(|first| first.starts_with(b" ")) => rest.to_vec(),
            _ => bytes,
        }
    }

    pub fn encode(&self, text: &str, options: EncodeOptions) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() / 3 + 2);
        ids.extend(self.bos.filter(|_| options.add_special));
        let mut after_token = true;
        self.special.split(text, options.parse_special, &mut |segment| match segment {
            Segment::Token(id) => {
                ids.push(id);
                after_token = true;
            }
            Segment::Text(text) => {
                let prefix = if self.space_prefix && after_token { " " } else { "" };
                self.join(&format!("{prefix}{}", text.replace('▁', " ")), &mut ids);
                after_token = false;
            }
        });
        ids.extend(self.eos.filter(|_| options.add_special));
        ids
    }

    /// Appends the tokens of a text.
    fn join(&self, text: &str, ids: &mut Vec<u32>) {
        let mut symbols: Vec<Symbol> = Vec::with_capacity(text.len());
        for (at, (start, character)) in text.char_indices().enumerate() {
            symbols.push(Symbol { start, length: character.len_utf8(), before: at.wrapping_sub(1), after: at + 1 });
        }
        if let Some(last) = symbols.last_mut() {
            last.after = NONE;
        }
        let mut heap: BinaryHeap<Join> =
            (1..symbols.len()).filter_map(|at| self.possible(text, &symbols, at - 1)).collect();
        while let Some(Join { left, right, length, .. }) = heap.pop() {
            // Stale once either side has been joined to something else.
            let stale = symbols[left].length == 0 || symbols[right].length == 0;
            if stale || symbols[left].length + symbols[right].length != length {
                continue;
            }
            symbols[left].length = length;
            symbols[right].length = 0;
            symbols[left].after = symbols[right].after;
            if let Some(after) = symbols.get(symbols[right].after).map(|_| symbols[right].after) {
                symbols[after].before = left;
            }
            if symbols[left].before != NONE {
                heap.extend(self.possible(text, &symbols, symbols[left].before));
            }
            heap.extend(self.possible(text, &symbols, left));
        }
        for symbol in symbols.iter().filter(|symbol| symbol.length > 0) {
            let bytes = &text.as_bytes()[symbol.start..symbol.start + symbol.length];
            match self.pieces.find(bytes) {
                Some(id) => ids.push(id),
                None => ids.extend(bytes.iter().filter_map(|byte| self.bytes[*byte as usize].or(self.unknown))),
            }
        }
    }

    /// The join of a symbol with the one after it, if that is a token.
    fn possible(&self, text: &str, symbols: &[Symbol], left: usize) -> Option<Join> {
        let right = symbols[left].after;
        let length = symbols[left].length + symbols.get(right)?.length;
        let start = symbols[left].start;
        let id = self.pieces.find(&text.as_bytes()[start..start + length])?;
        Some(Join { score: self.scores[id as usize], left, right, length })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::gguf::testing::{Builder, Pair};

    fn tokenizer() -> SentencePiece {
        let mut tokens = vec!["<unk>", "<s>", "</s>"].into_iter().map(str::to_owned).collect::<Vec<_>>();
        tokens.extend((0..=255u8).map(|byte| format!("<0x{byte:02X}>")));
        let words = [("▁", -9.0), ("h", -8.0), ("i", -8.0), ("▁h", -2.0), ("hi", -1.0), ("▁hi", -3.0)];
        let mut types = vec![2, 3, 3];
        types.extend([6; 256]);
        types.extend([1; 6]);
        let mut scores = vec![0.0; 259];
        scores.extend(words.iter().map(|word| word.1));
        tokens.extend(words.iter().map(|word| word.0.to_owned()));
        let builder = Builder::new("llama")
            .pair("tokenizer.ggml.tokens", Pair::Strs(tokens))
            .pair("tokenizer.ggml.token_type", Pair::I32s(types))
            .pair("tokenizer.ggml.scores", Pair::F32s(scores))
            .pair("tokenizer.ggml.bos_token_id", Pair::U32(1));
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("t.gguf");
        std::fs::write(&path, builder.bytes()).expect("written");
        SentencePiece::from_gguf(&Gguf::open(&path).expect("sound")).expect("sound")
    }

    #[test]
    fn are_the_best_scores_joined_first_and_the_rest_written_in_bytes() {
        let tokenizer = tokenizer();
        let encode = |text| tokenizer.encode(text, EncodeOptions { add_special: true, parse_special: true });
        assert_eq!(encode("hi"), [1, 264]);
        assert_eq!(encode("hih"), [1, 264, 260]);
        assert_eq!(encode("é</s>"), [1, 259, 3 + 0xc3, 3 + 0xa9, 2]);
        assert_eq!(tokenizer.decode(&encode("hi é"), true), "hi é".as_bytes());
        assert_eq!(tokenizer.token_bytes(264), b" hi");
        assert_eq!((tokenizer.token_bytes(1), tokenizer.token_bytes(13)), (&b""[..], &b"\n"[..]));
    }
}
