//! Byte-level byte-pair encoding from GGUF metadata: the tokenizer of the GPT-2 family, Llama 3, Qwen, SmolLM.
//!
//! Built in a few milliseconds because a cold start waits for it: token bytes lie in one allocation and merges are
//! pairs of ids. Never allocates for a single token or merge.

use super::gguf::{Stored, damaged};
use super::pieces::{Pieces, byte_of, push_bytes};
use super::pretokenize::{PreTokenizer, rules};
use super::special::{Kind, Segment, SpecialTokens};
use super::{EncodeOptions, TokenizerError};
use crate::weights::Gguf;
use foldhash::fast::RandomState;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// Words up to this many bytes are merged by scanning; longer ones with a heap. At 32 both cost about the same.
const SCAN_MAX: usize = 32;

/// What two adjacent tokens become, and how early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Merge {
    rank: u32,
    id: u32,
}

/// Merges by the ids of their parts.
type Merges = HashMap<(u32, u32), Merge, RandomState>;

/// A byte-level BPE tokenizer.
#[derive(Debug)]
pub(super) struct Bpe {
    pieces: Pieces,
    kinds: Vec<Kind>,
    /// The token of each byte.
    bytes: [Option<u32>; 256],
    merges: Merges,
    special: SpecialTokens,
    words: PreTokenizer,
    whole_words: bool,
    bos: Option<u32>,
    eos: Option<u32>,
    unknown: Option<u32>,
}

impl Bpe {
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, TokenizerError> {
        let stored = Stored::read(gguf)?;
        let pre = stored.metadata.str("tokenizer.ggml.pre").map_err(damaged)?.unwrap_or("default");
        let rules = rules(pre)?;
        let pieces = pieces(&stored)?;
        let mut bytes = [None; 256];
        (0..=255u8).for_each(|byte| bytes[byte as usize] = pieces.find(&[byte]));
        Ok(Self {
            merges: merges(&stored, &pieces)?,
            special: SpecialTokens::new(&stored.written_out())?,
            words: PreTokenizer::new(rules),
            whole_words: rules.whole_words,
            bos: stored.bos.filter(|_| stored.add_bos.unwrap_or(rules.add_bos)),
            eos: stored.eos.filter(|_| stored.add_eos),
            unknown: stored.unknown,
            bytes,
            pieces,
            kinds: stored.kinds,
        })
    }

    pub fn len(&self) -> usize {
        self.pieces.len()
    }

    /// The bytes of a token as they are written, control tokens included.
    pub fn written(&self, id: u32) -> &[u8] {
        self.pieces.bytes(id)
    }

    pub fn is_silent(&self, id: u32) -> bool {
        self.kinds.get(id as usize).is_none_or(|kind| kind.is_silent())
    }

    /// Ids put before and after a text.
    pub fn around(&self) -> (Option<u32>, Option<u32>) {
        (self.bos, self.eos)
    }

    pub fn encode(&self, text: &str, options: EncodeOptions) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() / 3 + 2);
        ids.extend(self.bos.filter(|_| options.add_special));
        self.special.split(text, options.parse_special, &mut |segment| match segment {
            Segment::Token(id) => ids.push(id),
            Segment::Text(text) => self.words.split(text, &mut |word| self.merge(word.as_bytes(), &mut ids)),
        });
        ids.extend(self.eos.filter(|_| options.add_special));
        ids
    }

    /// Appends the tokens of one word.
    fn merge(&self, word: &[u8], ids: &mut Vec<u32>) {
        if self.whole_words
            && let Some(id) = self.pieces.find(word)
        {
            return ids.push(id);
        }
        let start = ids.len();
        ids.extend(word.iter().filter_map(|byte| self.bytes[*byte as usize].or(self.unknown)));
        if ids.len() - start <= SCAN_MAX {
            self.merge_by_scan(ids, start);
        } else {
            let merged = self.merge_by_heap(&ids[start..]);
            ids.truncate(start);
            ids.extend(merged);
        }
    }

    /// Applies the earliest merge there is, the leftmost of equals, until there is none. Quadratic.
    fn merge_by_scan(&self, ids: &mut Vec<u32>, start: usize) {
        loop {
            let pairs = ids[start..].windows(2).enumerate();
            let found = pairs.filter_map(|(at, pair)| self.merges.get(&(pair[0], pair[1])).map(|merge| (merge, at)));
            let Some((merge, at)) = found.min_by_key(|(merge, at)| (merge.rank, *at)) else { return };
            ids[start + at] = merge.id;
            ids.remove(start + at + 1);
        }
    }

    /// The same result in n log n: a chain of tokens, and a heap of the merges that are possible in it.
    fn merge_by_heap(&self, ids: &[u32]) -> Vec<u32> {
        let mut chain = Chain::new(ids);
        let mut heap = BinaryHeap::new();
        let possible = |chain: &Chain, at: usize| {
            let (left, right) = chain.pair(at)?;
            let merge = self.merges.get(&(left, right))?;
            Some(Reverse((merge.rank, at, left, right, merge.id)))
        };
        heap.extend((0..ids.len()).filter_map(|at| possible(&chain, at)));
        while let Some(Reverse((_, at, left, right, id))) = heap.pop() {
            // An entry is stale once either of its tokens has been merged away.
            if chain.pair(at) != Some((left, right)) {
                continue;
            }
            chain.merge(at, id);
            let before = chain.before(at);
            heap.extend(before.and_then(|before| possible(&chain, before)));
            heap.extend(possible(&chain, at));
        }
        chain.ids()
    }
}

/// Tokens in a doubly linked list, by position of their first byte.
struct Chain {
    /// Id (none once merged away), position of the token before, of the token after.
    links: Vec<(Option<u32>, usize, usize)>,
}

const END: usize = usize::MAX;

impl Chain {
    fn new(ids: &[u32]) -> Self {
        let last = ids.len() - 1;
        let link = |(at, id): (usize, &u32)| (Some(*id), at.wrapping_sub(1), if at == last { END } else { at + 1 });
        Self { links: ids.iter().enumerate().map(link).collect() }
    }

    /// The token at a position, and the one after it.
    fn pair(&self, at: usize) -> Option<(u32, u32)> {
        let (id, _, next) = self.links[at];
        Some((id?, self.links.get(next)?.0?))
    }

    fn before(&self, at: usize) -> Option<usize> {
        Some(self.links[at].1).filter(|before| *before != END)
    }

    /// Makes one token of the token at `at` and the one after it.
    fn merge(&mut self, at: usize, id: u32) {
        let gone = self.links[at].2;
        let next = self.links[gone].2;
        self.links[gone].0 = None;
        self.links[at] = (Some(id), self.links[at].1, next);
        if let Some(link) = self.links.get_mut(next) {
            link.1 = at;
        }
    }

    fn ids(&self) -> Vec<u32> {
        self.links.iter().filter_map(|link| link.0).collect()
    }
}

/// Bytes of all tokens. Only ordinary tokens are found by their bytes: a control token is no word.
fn pieces(stored: &Stored<'_>) -> Result<Pieces, TokenizerError> {
    let mut pieces = Pieces::with_capacity(stored.tokens.len(), stored.bytes());
    for (token, kind) in stored.tokens.iter().zip(&stored.kinds) {
        let pushed = pieces.push(*kind == Kind::Normal, |out| match kind {
            Kind::Normal | Kind::Byte => push_bytes(token, out),
            _ => out.extend_from_slice(token.as_bytes()),
        });
        pushed.map_err(|reason| TokenizerError::Damaged { part: "list of tokens", reason: reason.to_owned() })?;
    }
    Ok(pieces)
}

/// Merges by the ids of their parts. One that names parts or a result that are no tokens can never apply.
fn merges(stored: &Stored<'_>, pieces: &Pieces) -> Result<Merges, TokenizerError> {
    let wrong = |reason: String| TokenizerError::Damaged { part: "list of merges", reason };
    let list = stored.metadata.strings("tokenizer.ggml.merges").map_err(damaged)?;
    let list = list.ok_or_else(|| wrong("tokenizer.ggml.merges is missing".into()))?;
    let mut merges = Merges::with_capacity_and_hasher(list.len(), RandomState::default());
    let mut bytes = Vec::with_capacity(64);
    for (rank, merge) in list.iter().enumerate() {
        // The space that separates the parts cannot be in a part: the byte 32 is written as U+0120.
        let (left, right) = merge
            .split_once(' ')
            .filter(|(left, right)| !left.is_empty() && !right.is_empty())
            .ok_or_else(|| wrong(format!("merge {rank} is not two tokens with a space between")))?;
        bytes.clear();
        push_bytes(left, &mut bytes);
        let middle = bytes.len();
        push_bytes(right, &mut bytes);
        let parts = (pieces.find(&bytes[..middle]), pieces.find(&bytes[middle..]));
        if let ((Some(left), Some(right)), Some(id)) = (parts, pieces.find(&bytes)) {
            merges.entry((left, right)).or_insert(Merge { rank: rank as u32, id });
        }
    }
    Ok(merges)
}

/// Bytes a token of a byte-level vocabulary stands for, for vocabularies stored elsewhere.
pub(super) fn byte_level(token: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(token.len());
    match token.chars().all(|character| byte_of(character).is_some()) {
        true => push_bytes(token, &mut bytes),
        false => bytes.extend_from_slice(token.as_bytes()),
    }
    bytes
}

#[cfg(test)]
mod tests;
