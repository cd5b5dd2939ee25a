//! The second half of a step: from logits to tokens, to text, to events.
//!
//! Each sequence is advanced by its own rows alone; whatever else is in the batch cannot show in its answer.

use super::publish;
use super::request::RequestId;
use super::scheduler::{Plan, Work};
use super::sequence::{Ending, Sequence};
use super::sink::EngineError;
use super::step::{Engine, StepReport};
use crate::sampler::select::Candidate;
use crate::sampler::{Logprobs, SampleError};
use crate::tokenizer::Vocabulary;

impl Engine {
    /// Sample, advance, publish: everything that follows from the logits.
    pub(super) fn advance(&mut self, plan: &Plan, logits: Vec<Vec<f32>>, now: f64, report: &mut StepReport) {
        let mut rows = logits.into_iter();
        let mut complete: Vec<(RequestId, u32)> = Vec::new();
        let mut broken: Vec<(RequestId, EngineError)> = Vec::new();
        for work in &plan.works {
            let outcome = self.advance_one(work, &mut rows, now, report);
            let sequence = &self.scheduler.running[work.running];
            match outcome {
                Ok(None) => {}
                Ok(Some(ending)) => {
                    complete.push((sequence.request, sequence.index));
                    let outlet = self.outlets.get_mut(&sequence.request).expect("a sequence has an outlet");
                    outlet.finish(sequence, ending, now);
                }
                Err(source) => {
                    let position = sequence.computed;
                    broken.push((sequence.request, EngineError::Logits { position, source }));
                }
            }
        }
        report.finished = complete.len();
        if !complete.is_empty() {
            self.scheduler.remove(|sequence| complete.contains(&(sequence.request, sequence.index)));
            self.outlets.retain(|_, outlet| !outlet.is_done());
        }
        if !broken.is_empty() {
            // What such a row was computed from must not be found by the next request with the same prompt.
            self.scheduler.pool.forget();
            broken.into_iter().for_each(|(id, error)| self.give_up(id, error, report));
        }
    }

    /// One sequence's share of a step; why it is complete, if it is. Takes the same rows from `rows` on every path.
    fn advance_one(
        &mut self,
        work: &Work,
        rows: &mut impl Iterator<Item = Vec<f32>>,
        now: f64,
        report: &mut StepReport,
    ) -> Result<Option<Ending>, SampleError> {
        let scoring: Vec<Vec<f32>> = rows.by_ref().take(work.scores.len()).collect();
        let last = if work.samples { rows.next() } else { None };
        let sequence = &mut self.scheduler.running[work.running];
        if sequence.missing() > 1 || work.rows > 1 {
            report.prefill_rows += work.rows;
        }
        for row in scoring {
            score_prompt(sequence, &row, &*self.vocabulary, &mut self.candidates)?;
        }
        sequence.computed += work.rows;
        let outlet = self.outlets.get_mut(&sequence.request).expect("a sequence has an outlet");
        if sequence.scoring {
            score_first(sequence, &*self.vocabulary);
            if sequence.scored.len() == sequence.prompt_tokens {
                sequence.scoring = false;
                outlet.accept(sequence.prompt_tokens, 0, std::mem::take(&mut sequence.scored));
            }
        }
        let Some(mut row) = last else {
            // Only a prompt that was to be scored and nothing else is complete without a token.
            return Ok((sequence.missing() == 0).then_some(Ending::Length));
        };
        report.generated += 1;
        let logprobs = match sequence.terms.logprobs {
            Some(count) => {
                self.raw.clone_from(&row);
                Some(Logprobs::of(&row, count, &mut self.candidates)?)
            }
            None => None,
        };
        let (forbidden, uniform) = (sequence.forbidden(), sequence.uniform());
        let id = self.sampler.sample(&mut row, &sequence.terms.settings, &sequence.history, forbidden, uniform)?;
        let report_token = |logprobs: Logprobs| {
            publish::token(&*self.vocabulary, id, Some(logprobs.score(self.raw[id as usize])), &logprobs.top)
        };
        let tokens: Vec<_> = logprobs.map(report_token).into_iter().collect();
        let (ending, text) = append(sequence, id, &*self.vocabulary, self.limits.length_max(), now);
        outlet.chunk(sequence, text, tokens, ending.is_some());
        Ok(ending)
    }
}

/// The prompt's first token follows nothing: it is reported without a log-probability.
fn score_first(sequence: &mut Sequence, vocabulary: &dyn Vocabulary) {
    if sequence.scored.is_empty() {
        sequence.scored.push(publish::token(vocabulary, sequence.tokens[0], None, &[]));
    }
}

/// Scores the next prompt token by the logits of the one before it.
fn score_prompt(
    sequence: &mut Sequence,
    row: &[f32],
    vocabulary: &dyn Vocabulary,
    candidates: &mut Vec<Candidate>,
) -> Result<(), SampleError> {
    score_first(sequence, vocabulary);
    let count = sequence.terms.logprobs.unwrap_or(0);
    let logprobs = Logprobs::of(row, count, candidates)?;
    let id = sequence.tokens[sequence.scored.len()];
    let logprob = row.get(id as usize).map(|logit| logprobs.score(*logit));
    sequence.scored.push(publish::token(vocabulary, id, logprob, &logprobs.top));
    Ok(())
}

/// Appends a chosen token; why the sequence is now complete, if it is, and the text that came of it.
fn append(
    sequence: &mut Sequence,
    id: u32,
    vocabulary: &dyn Vocabulary,
    length_max: usize,
    now: f64,
) -> (Option<Ending>, String) {
    sequence.push(id, now);
    let may_stop = sequence.generated() > sequence.terms.min_tokens;
    if may_stop && sequence.terms.ending_ids.contains(&id) {
        let piece = sequence.text.finish(may_stop);
        return (Some(piece.stop.map_or(Ending::StopToken(id), Ending::StopString)), piece.text);
    }
    let mut piece = sequence.text.push(vocabulary.token_bytes(id), may_stop);
    if piece.stop.is_none()
        && (sequence.generated() >= sequence.terms.max_tokens || sequence.tokens.len() >= length_max)
    {
        let rest = sequence.text.finish(may_stop);
        piece.text.push_str(&rest.text);
        return (Some(rest.stop.map_or(Ending::Length, Ending::StopString)), piece.text);
    }
    (piece.stop.map(Ending::StopString), piece.text)
}
