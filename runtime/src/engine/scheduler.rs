//! Who is computed in the next step, and how much of him.
//!
//! First every running sequence that only lacks its last token (decode), then prompts that are half computed (chunked
//! prefill), then the waiting ones in the order they came. A sequence is admitted when blocks for all its tokens are
//! free, so a prefill never stops for want of blocks; only a growing answer can lack one, and then the newest running
//! sequence gives up its blocks and goes back to the head of the queue, to be computed again.
//!
//! Why nothing waits forever: running sequences are all older than waiting ones; the oldest is never preempted, since
//! alone it fits (`Limits::validate`); it gets at least one row in each step; and when nothing runs, all blocks are
//! free, so the head of the queue is admitted. Never touches a token's value, except to find shared prefixes.

use std::collections::VecDeque;
use std::ops::Range;

use super::blocks::{Block, BlockPool, Prefix};
use super::sequence::Sequence;

/// What one step may hold.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    pub block_tokens: usize,
    /// Rows in a batch. At least `sequences_max`, so that every decode gets its row.
    pub tokens_per_step_max: usize,
    pub sequences_max: usize,
    /// Rows whose logits only score a prompt, over all sequences: each costs a row of the whole vocabulary.
    pub scored_rows_per_step_max: usize,
    pub prefix_sharing: bool,
}

/// Rows of one running sequence in this step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Work {
    /// Place in `Scheduler::running`.
    pub running: usize,
    /// Its next tokens, this many.
    pub rows: usize,
    /// Positions whose logits score the prompt.
    pub scores: Range<usize>,
    /// The last row's logits choose the next token.
    pub samples: bool,
}

/// One step's work.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub works: Vec<Work>,
    pub preempted: usize,
    /// Sequences that were taken up now: place in `running`, and tokens whose keys and values were in the cache.
    pub admitted: Vec<(usize, usize)>,
}

#[derive(Debug)]
pub struct Scheduler {
    pub budget: Budget,
    pub pool: BlockPool,
    /// In order of arrival; all older than all of `waiting`.
    pub running: Vec<Sequence>,
    pub waiting: VecDeque<Sequence>,
}

/// What is left of the budget.
struct Left {
    rows: usize,
    scored: usize,
}

impl Scheduler {
    pub fn new(budget: Budget, blocks: usize) -> Scheduler {
        Scheduler { budget, pool: BlockPool::new(blocks), running: Vec::new(), waiting: VecDeque::new() }
    }

    /// Decides the next step. Empty only if there is no sequence at all.
    pub fn schedule(&mut self) -> Plan {
        let mut plan = Plan::default();
        let mut left = Left { rows: self.budget.tokens_per_step_max, scored: self.budget.scored_rows_per_step_max };
        self.decode(&mut plan, &mut left);
        for at in 0..self.running.len() {
            if self.running[at].missing() > 1 {
                self.take_rows(at, &mut plan, &mut left);
            }
        }
        self.admit(&mut plan, &mut left);
        plan
    }

    /// One row for each sequence that lacks one. Who is preempted here has no work yet: he is newer than `at`.
    fn decode(&mut self, plan: &mut Plan, left: &mut Left) {
        let mut at = 0;
        while at < self.running.len() {
            if self.running[at].missing() == 1 {
                plan.preempted += self.make_room(at);
                if at < self.running.len() {
                    self.take_rows(at, plan, left);
                }
            }
            at += 1;
        }
    }

    /// Gives sequence `at` a block for its next token; preempts the newest, at last itself. How many were preempted.
    fn make_room(&mut self, at: usize) -> usize {
        let mut preempted = 0;
        while at < self.running.len()
            && self.running[at].table.blocks.len() * self.budget.block_tokens <= self.running[at].computed
        {
            match self.pool.allocate() {
                Some(block) => self.running[at].table.blocks.push(block),
                None => {
                    let mut newest = self.running.pop().expect("`at` runs");
                    newest.table.release(&mut self.pool);
                    newest.computed = 0;
                    newest.preemptions += 1;
                    self.waiting.push_front(newest);
                    preempted += 1;
                }
            }
        }
        preempted
    }

    /// As many of sequence `at`'s missing tokens as the budget leaves; its blocks are there.
    fn take_rows(&mut self, at: usize, plan: &mut Plan, left: &mut Left) {
        let sequence = &mut self.running[at];
        let missing = sequence.missing();
        let mut rows = missing.min(left.rows);
        let scores = sequence.scoring_rows(rows);
        if scores.len() > left.scored {
            rows = scores.start + left.scored - sequence.computed;
        }
        if rows == 0 {
            return;
        }
        let scores = sequence.scoring_rows(rows);
        left.rows -= rows;
        left.scored -= scores.len();
        if self.budget.prefix_sharing {
            // Known before they are computed: rows of this very step may read them, being stored first. If the step
            // fails, the engine forgets them all.
            let filled = sequence.computed + rows;
            sequence.table.publish(&mut self.pool, &sequence.tokens, filled, self.budget.block_tokens);
        }
        let samples = rows == missing && sequence.terms.max_tokens > 0;
        plan.works.push(Work { running: at, rows, scores, samples });
    }

    /// Takes up waiting sequences, strictly in order: the first that does not fit stops all behind it.
    fn admit(&mut self, plan: &mut Plan, left: &mut Left) {
        while self.running.len() < self.budget.sequences_max && left.rows > 0 {
            let Some(head) = self.waiting.front() else { return };
            if head.scoring && left.scored == 0 {
                return;
            }
            let shared = self.shared_prefix(head);
            let needed = head.tokens.len().div_ceil(self.budget.block_tokens) - shared.len();
            let revived = shared.iter().filter(|(block, _)| self.pool.is_free(*block)).count();
            // One block of headroom for each that runs, lest a newcomer be preempted in the next step.
            if needed + revived + self.running.len() > self.pool.available() {
                return;
            }
            let mut sequence = self.waiting.pop_front().expect("it was just looked at");
            for (block, prefix) in &shared {
                self.pool.share(*block);
                sequence.table.adopt(*block, *prefix);
            }
            let fresh = std::iter::from_fn(|| self.pool.allocate()).take(needed);
            sequence.table.blocks.extend(fresh);
            sequence.computed = shared.len() * self.budget.block_tokens;
            plan.admitted.push((self.running.len(), sequence.computed));
            self.running.push(sequence);
            self.take_rows(self.running.len() - 1, plan, left);
        }
    }

    /// Full blocks in the cache that begin like this sequence. Its last token is always computed, for its logits.
    fn shared_prefix(&self, sequence: &Sequence) -> Vec<(Block, Prefix)> {
        if !self.budget.prefix_sharing || sequence.scoring {
            return Vec::new();
        }
        let mut prefix = Prefix::EMPTY;
        let whole = &sequence.tokens[..sequence.tokens.len() - 1];
        let find = |tokens: &[u32]| {
            let found = self.pool.find(prefix, tokens)?;
            prefix = found.1;
            Some(found)
        };
        whole.chunks_exact(self.budget.block_tokens).map_while(find).collect()
    }

    /// Removes every sequence of which `condition` holds, gives its blocks back, and hands it out, the oldest first.
    pub fn remove(&mut self, condition: impl Fn(&Sequence) -> bool) -> Vec<Sequence> {
        let mut removed: Vec<Sequence> = self.running.extract_if(.., |sequence| condition(sequence)).collect();
        for sequence in &mut removed {
            sequence.table.release(&mut self.pool);
        }
        if self.waiting.iter().any(&condition) {
            let (gone, kept) = self.waiting.drain(..).partition(|sequence| condition(sequence));
            self.waiting = kept;
            removed.extend::<VecDeque<Sequence>>(gone);
        }
        removed
    }
}
