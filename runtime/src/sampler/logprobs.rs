//! Log-probabilities under the model itself: of the raw logits, before bias, penalties and temperature.

use super::select::{self, Candidate};
use super::weights::{CHUNK, Weights};

/// A token and the natural logarithm of its probability.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scored {
    pub id: u32,
    pub logprob: f32,
}

/// `log_softmax` of one row, kept as what is needed to ask it for any token.
#[derive(Clone, Debug)]
pub struct Logprobs {
    /// What is subtracted from a logit: `max + ln Σ exp(logit − max)`.
    normalizer: f64,
    /// The likeliest tokens, likeliest first, lowest id first among equals.
    pub top: Vec<Scored>,
}

impl Logprobs {
    /// Scores a row; `count` alternatives are kept. An error if the row has NaN or +∞ or nothing finite.
    pub fn of(logits: &[f32], count: usize, scratch: &mut Vec<Candidate>) -> Result<Logprobs, super::SampleError> {
        let max = select::max(logits)?;
        let weights = Weights { max, scale: 1.0, floor: 0.0 };
        let sum: f64 = logits.chunks(CHUNK).map(|chunk| weights.sum(chunk)).sum();
        let normalizer = f64::from(max) + sum.ln();
        select::largest(logits, count.min(logits.len()), scratch);
        let score = |c: &Candidate| Scored { id: c.id, logprob: (f64::from(c.logit) - normalizer) as f32 };
        Ok(Logprobs { normalizer, top: scratch.iter().map(score).collect() })
    }

    /// The log-probability of the token with this raw logit.
    pub fn score(&self, logit: f32) -> f32 {
        (f64::from(logit) - self.normalizer) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn do_probabilities_sum_to_one_and_top_come_sorted() {
        let logits = [0.5, 3.0, -1.0, 3.0, 2.0];
        let scored = Logprobs::of(&logits, 3, &mut Vec::new()).expect("finite logits");
        let sum: f32 = logits.iter().map(|logit| scored.score(*logit).exp()).sum();
        assert!((sum - 1.0).abs() < 1e-5, "{sum}");
        assert_eq!(scored.top.iter().map(|s| s.id).collect::<Vec<_>>(), [1, 3, 4]);
        assert_eq!(scored.top[0].logprob, scored.score(3.0));
    }

    #[test]
    fn are_bad_rows_refused() {
        assert!(Logprobs::of(&[1.0, f32::NAN], 1, &mut Vec::new()).is_err());
        assert!(Logprobs::of(&[], 1, &mut Vec::new()).is_err());
    }
}
