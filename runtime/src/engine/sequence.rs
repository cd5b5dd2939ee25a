//! One choice of one request on its way through the engine: its tokens, its blocks, how far it is computed.
//!
//! Knows when it ends; decides nothing about when it is computed.

use std::sync::Arc;

use outrider_protos::worker::v1::{FinishReason, Finished, Timings, Token};

use super::blocks::{Block, BlockPool, Prefix};
use super::request::{Request, RequestId};
use super::stops::Stops;
use super::text::Text;
use crate::sampler::{History, Settings, random};

/// What all choices of a request have in common, defaults resolved.
#[derive(Debug)]
pub struct Terms {
    pub settings: Settings,
    /// Tokens to generate at most; 0 only with `echo`.
    pub max_tokens: usize,
    pub min_tokens: usize,
    /// Ids that end the answer: stop ids, and end-of-sequence unless it is ignored.
    pub ending_ids: Vec<u32>,
    /// Alternatives to report, if log-probabilities are wanted.
    pub logprobs: Option<usize>,
    /// Whether the prompt's tokens are reported, in the prompt's first choice.
    pub scores_prompt: bool,
    stops: Stops,
    include_stop: bool,
}

impl Terms {
    /// Resolves a valid request; `length_max` is what prompt and answer may have together.
    pub fn new(request: &Request, eos_ids: &[u32], length_max: usize) -> Terms {
        let stopping = &request.stopping;
        let room = length_max - request.prompt.len();
        let mut ending_ids = stopping.stop_token_ids.clone();
        if !stopping.ignore_eos {
            ending_ids.extend_from_slice(eos_ids);
        }
        Terms {
            settings: Settings::from(&request.sampling),
            max_tokens: stopping.max_tokens.map_or(room, |max| room.min(max as usize)),
            min_tokens: stopping.min_tokens as usize,
            ending_ids,
            logprobs: request.logprobs.map(|count| count as usize),
            scores_prompt: request.scores_prompt(),
            stops: Stops::new(&stopping.stop),
            include_stop: stopping.include_stop_string,
        }
    }
}

/// Which blocks hold a sequence's keys and values, in order of position.
#[derive(Debug, Default)]
pub struct BlockTable {
    pub blocks: Vec<Block>,
    /// Of these, how many are full and known to the pool, and the prefix they stand for.
    published: usize,
    prefix: Prefix,
}

impl BlockTable {
    /// Takes up a full block that the pool has found.
    pub fn adopt(&mut self, block: Block, prefix: Prefix) {
        debug_assert_eq!(self.published, self.blocks.len(), "shared blocks come first");
        self.blocks.push(block);
        self.published += 1;
        self.prefix = prefix;
    }

    /// Makes the blocks known that the first `computed` of `tokens` fill.
    pub fn publish(&mut self, pool: &mut BlockPool, tokens: &[u32], computed: usize, block_tokens: usize) {
        while (self.published + 1) * block_tokens <= computed {
            let from = self.published * block_tokens;
            let block = self.blocks[self.published];
            self.prefix = pool.publish(block, self.prefix, &tokens[from..from + block_tokens]);
            self.published += 1;
        }
    }

    /// Gives all blocks back, the last first: the start of a prompt is worth keeping longest.
    pub fn release(&mut self, pool: &mut BlockPool) {
        std::mem::take(self).blocks.into_iter().rev().for_each(|block| pool.release(block));
    }
}

/// When things happened, in seconds.
#[derive(Clone, Copy, Debug, Default)]
struct Times {
    arrived: f64,
    begun: Option<f64>,
    first_token: Option<f64>,
    last_token: f64,
}

#[derive(Debug)]
pub struct Sequence {
    pub request: RequestId,
    /// Which choice of the request, from 0.
    pub index: u32,
    pub terms: Arc<Terms>,
    /// Prompt, then answer.
    pub tokens: Vec<u32>,
    pub prompt_tokens: usize,
    /// Tokens whose keys and values are in the cache.
    pub computed: usize,
    pub table: BlockTable,
    /// Some of the prompt's tokens still have to be scored: only in the first choice, and only if asked for.
    pub scoring: bool,
    /// The prompt's tokens as they are reported, as far as they are scored.
    pub scored: Vec<Token>,
    /// Generated tokens that no chunk has reported.
    pub unreported: u32,
    pub text: Text,
    pub history: History,
    pub preemptions: u32,
    seed: u64,
    times: Times,
}

impl Sequence {
    pub fn new(id: (RequestId, u32), request: &Request, terms: Arc<Terms>, seed: u64, now: f64) -> Sequence {
        Sequence {
            request: id.0,
            index: id.1,
            tokens: request.prompt.clone(),
            prompt_tokens: request.prompt.len(),
            computed: 0,
            table: BlockTable::default(),
            scoring: terms.scores_prompt && id.1 == 0,
            scored: Vec::new(),
            unreported: 0,
            text: Text::new(terms.stops.clone(), terms.include_stop),
            history: History::of_prompt(&request.prompt, &terms.settings),
            preemptions: 0,
            // Choice i of n uses seed + i.
            seed: seed.wrapping_add(u64::from(id.1)),
            times: Times { arrived: now, ..Times::default() },
            terms,
        }
    }

    /// Tokens not in the cache yet; 1 while decoding, 0 never between steps.
    pub fn missing(&self) -> usize {
        self.tokens.len() - self.computed
    }

    pub fn generated(&self) -> usize {
        self.tokens.len() - self.prompt_tokens
    }

    /// Rows of the next `rows` whose logits score a prompt token: row p scores token p + 1.
    pub fn scoring_rows(&self, rows: usize) -> std::ops::Range<usize> {
        if !self.scoring {
            return 0..0;
        }
        let first = self.computed.max(self.scored.len().saturating_sub(1));
        let end = (self.computed + rows).min(self.prompt_tokens - 1);
        first..end.max(first)
    }

    /// The draw for the next token: depends on the seed and the answer's length alone.
    pub fn uniform(&self) -> f64 {
        random::uniform(self.seed, self.generated() as u64)
    }

    /// Ids that may not be chosen next: before min_tokens nothing may end the answer.
    pub fn forbidden(&self) -> &[u32] {
        if self.generated() < self.terms.min_tokens { &self.terms.ending_ids } else { &[] }
    }

    /// It is taken up for the first time, or again.
    pub fn begin(&mut self, now: f64) {
        self.times.begun.get_or_insert(now);
    }

    /// Appends a chosen token.
    pub fn push(&mut self, id: u32, now: f64) {
        self.tokens.push(id);
        self.history.push(id, &self.terms.settings);
        self.unreported += 1;
        self.times.first_token.get_or_insert(now);
        self.times.last_token = now;
    }

    /// The event that completes it.
    pub fn finished(&self, ending: Ending, now: f64) -> Finished {
        let (reason, stop_string, stop_token_id) = match ending {
            Ending::StopString(string) => (FinishReason::Stop, string, None),
            Ending::StopToken(id) => (FinishReason::Stop, String::new(), Some(id)),
            Ending::Length => (FinishReason::Length, String::new(), None),
            Ending::Aborted => (FinishReason::Aborted, String::new(), None),
        };
        let times = self.times;
        let begun = times.begun.unwrap_or(now);
        let first = times.first_token.unwrap_or(now);
        Finished {
            index: self.index,
            reason: reason.into(),
            stop_string,
            stop_token_id,
            completion_tokens: self.generated() as u32,
            timings: Some(Timings {
                queue_seconds: begun - times.arrived,
                prefill_seconds: first - begun,
                decode_seconds: if times.first_token.is_some() { times.last_token - first } else { 0.0 },
                preemptions: self.preemptions,
            }),
        }
    }
}

/// Why a sequence is complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    StopString(String),
    StopToken(u32),
    /// max_tokens or the context is used up.
    Length,
    /// The worker stops.
    Aborted,
}
