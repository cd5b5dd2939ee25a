//! One turn of the crank: schedule → forward → sample → advance → publish.
//!
//! All state is here and in the scheduler; no clock, no thread, no channel. A failed forward pass ends every running
//! request, never the engine.

use std::collections::HashMap;
use std::sync::Arc;

use super::batch::{Batch, Forward, ForwardError};
use super::config::EngineConfig;
use super::publish::Outlet;
use super::request::{Limits, Request, RequestId, SubmitError};
use super::scheduler::{Budget, Plan, Scheduler};
use super::sequence::{Ending, Sequence, Terms};
use super::sink::{EngineError, Sink};
use crate::sampler::select::Candidate;
use crate::sampler::{Sampler, random};
use crate::tokenizer::Vocabulary;

/// What one step did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepReport {
    /// Rows computed. 0: there was nothing to do.
    pub rows: usize,
    /// Of these, tokens of prompts (or of answers computed again).
    pub prefill_rows: usize,
    /// Prompt tokens found in the cache.
    pub cached_tokens: usize,
    /// Tokens chosen.
    pub generated: usize,
    /// Choices completed.
    pub finished: usize,
    pub preempted: usize,
    /// Requests whose caller had left.
    pub cancelled: usize,
    /// Requests given up: the device failed, or computed no usable logits.
    pub failed: usize,
}

/// Continuous batching over a paged cache.
pub struct Engine {
    config: EngineConfig,
    pub(super) limits: Limits,
    pub(super) vocabulary: Arc<dyn Vocabulary>,
    pub(super) scheduler: Scheduler,
    pub(super) outlets: HashMap<RequestId, Outlet>,
    pub(super) sampler: Sampler,
    /// Scratch, reused from step to step: the batch, the candidates of log-probabilities, a row as the model gave it.
    batch: Batch,
    pub(super) candidates: Vec<Candidate>,
    pub(super) raw: Vec<f32>,
    submitted: u64,
}

impl Engine {
    /// An engine with an empty cache. Sizes that could not work are raised to the least that can.
    pub fn new(mut config: EngineConfig, vocabulary: Arc<dyn Vocabulary>) -> Engine {
        config.block_tokens = config.block_tokens.max(1);
        config.tokens_per_step_max = config.tokens_per_step_max.max(1);
        config.sequences_max = config.sequences_max.clamp(1, config.tokens_per_step_max);
        let budget = Budget {
            block_tokens: config.block_tokens,
            tokens_per_step_max: config.tokens_per_step_max,
            sequences_max: config.sequences_max,
            scored_rows_per_step_max: config.scored_rows_per_step_max.max(1),
            prefix_sharing: config.prefix_sharing,
        };
        Engine {
            limits: config.limits(vocabulary.len()),
            scheduler: Scheduler::new(budget, config.blocks),
            config,
            vocabulary,
            outlets: HashMap::new(),
            sampler: Sampler::default(),
            batch: Batch::default(),
            candidates: Vec::new(),
            raw: Vec::new(),
            submitted: 0,
        }
    }

    pub fn limits(&self) -> Limits {
        self.limits
    }

    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// Puts a request at the end of the queue. `now` in seconds.
    pub fn submit(&mut self, request: Request, sink: Box<dyn Sink>, now: f64) -> Result<RequestId, SubmitError> {
        self.limits.validate(&request)?;
        let (waiting, waiting_max) = (self.waiting(), self.config.waiting_max);
        // A request with many choices is taken if nothing waits, else it could never be.
        if waiting > 0 && waiting + request.choices() as usize > waiting_max {
            return Err(SubmitError::QueueFull { waiting, waiting_max });
        }
        let id = RequestId(self.submitted);
        self.enqueue(id, &request, sink, now);
        Ok(id)
    }

    /// As [`Engine::submit`], for a request that was validated and counted elsewhere.
    pub(super) fn enqueue(&mut self, id: RequestId, request: &Request, sink: Box<dyn Sink>, now: f64) {
        let terms = Arc::new(Terms::new(request, &self.config.eos_ids, self.limits.length_max()));
        let seed = request.sampling.seed.unwrap_or_else(|| random::derive(self.config.seed, self.submitted));
        self.submitted += 1;
        for index in 0..request.choices() {
            self.scheduler.waiting.push_back(Sequence::new((id, index), request, Arc::clone(&terms), seed, now));
        }
        self.outlets.insert(id, Outlet::new(request, sink, &*self.vocabulary));
    }

    /// Ends a request without a word; its blocks are free at once. Unknown ids are ignored.
    pub fn cancel(&mut self, id: RequestId) {
        if self.outlets.remove(&id).is_some() {
            self.scheduler.remove(|sequence| sequence.request == id);
        }
    }

    /// Ends everything: what was begun with `Finished` ABORTED and the text so far, the rest with `fail`.
    pub fn abort(&mut self, now: f64) {
        for mut sequence in self.scheduler.remove(|_| true) {
            if let Some(outlet) = self.outlets.get_mut(&sequence.request).filter(|outlet| outlet.is_accepted()) {
                let rest = sequence.text.finish(false).text;
                outlet.chunk(&mut sequence, rest, Vec::new(), true);
                outlet.finish(&sequence, Ending::Aborted, now);
            }
        }
        for (_, outlet) in self.outlets.drain().filter(|(_, outlet)| !outlet.is_accepted()) {
            outlet.fail(EngineError::Stopping);
        }
    }

    /// Whether there is nothing to compute.
    pub fn is_idle(&self) -> bool {
        self.outlets.is_empty()
    }

    /// Sequences being computed.
    pub fn running(&self) -> usize {
        self.scheduler.running.len()
    }

    /// Sequences that wait to be taken up.
    pub fn waiting(&self) -> usize {
        self.scheduler.waiting.len()
    }

    /// Blocks held by sequences.
    pub fn blocks_used(&self) -> usize {
        self.scheduler.pool.total() - self.scheduler.pool.available()
    }

    pub fn blocks_total(&self) -> usize {
        self.scheduler.pool.total()
    }

    /// One step. `clock` gives seconds; it is read before the forward pass and after it.
    pub fn step(&mut self, forward: &mut dyn Forward, clock: &dyn Fn() -> f64) -> StepReport {
        let mut report = StepReport { cancelled: self.reap(), ..StepReport::default() };
        let plan = self.scheduler.schedule();
        report.preempted = plan.preempted;
        self.welcome(&plan, clock(), &mut report);
        if plan.works.is_empty() {
            return report;
        }
        self.batch.fill(&self.scheduler.running, &plan, self.config.block_tokens);
        report.rows = self.batch.ids.len();
        let logits = forward.forward(&self.batch).and_then(|logits| self.checked(logits));
        match logits {
            Ok(logits) => self.advance(&plan, logits, clock(), &mut report),
            Err(error) => self.lose(error, &mut report),
        }
        report
    }

    /// Drops the requests whose receivers have left. How many.
    fn reap(&mut self) -> usize {
        let gone: Vec<RequestId> =
            self.outlets.iter().filter(|(_, outlet)| outlet.is_gone()).map(|(id, _)| *id).collect();
        gone.iter().for_each(|id| self.cancel(*id));
        gone.len()
    }

    /// Tells the callers of newly admitted sequences that they are; unless their prompt has to be scored first.
    fn welcome(&mut self, plan: &Plan, now: f64, report: &mut StepReport) {
        for (at, cached) in &plan.admitted {
            let sequence = &mut self.scheduler.running[*at];
            sequence.begin(now);
            report.cached_tokens += cached;
            if sequence.index == 0
                && !sequence.terms.scores_prompt
                && let Some(outlet) = self.outlets.get_mut(&sequence.request)
            {
                outlet.accept(sequence.prompt_tokens, (*cached).min(sequence.prompt_tokens), Vec::new());
            }
        }
    }

    /// A model that returns something else than it was asked for has failed.
    fn checked(&self, mut logits: Vec<Vec<f32>>) -> Result<Vec<Vec<f32>>, ForwardError> {
        let (asked, got) = (self.batch.logit_rows.len(), logits.len());
        if asked != got {
            return Err(ForwardError { reason: format!("{asked} rows of logits were asked for, {got} came") });
        }
        // Models pad their vocabulary; nobody can read the ids beyond the tokenizer's.
        logits.iter_mut().for_each(|row| row.truncate(self.limits.vocabulary));
        Ok(logits)
    }

    /// The device failed: nobody knows what is in the cache, and whoever had blocks there is lost.
    fn lose(&mut self, error: ForwardError, report: &mut StepReport) {
        let running: Vec<RequestId> = self.scheduler.running.iter().map(|sequence| sequence.request).collect();
        for id in running {
            self.give_up(id, EngineError::Forward(error.clone()), report);
        }
        self.scheduler.pool.forget();
    }

    pub(super) fn give_up(&mut self, id: RequestId, error: EngineError, report: &mut StepReport) {
        if let Some(outlet) = self.outlets.remove(&id) {
            report.failed += 1;
            outlet.fail(error);
            self.scheduler.remove(|sequence| sequence.request == id);
        }
    }
}
