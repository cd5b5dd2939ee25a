//! Logits to a token: bias, penalties, temperature, truncation, one draw.
//!
//! The order is vLLM's: forbidden ids and logit bias, repetition, frequency and presence penalty, temperature, then
//! min-p and top-k, then top-p over what they left. No state between steps: the draw for step t of a sequence depends
//! on (seed, t) and its own logits alone, so neither preemption nor the rest of the batch can change an answer.
//! [`reference`](mod@reference) is the same in obvious code; the two are tested against each other.

pub mod logprobs;
pub mod penalties;
pub mod random;
#[cfg(test)]
pub mod reference;
pub mod select;
pub mod weights;

pub use logprobs::{Logprobs, Scored};
pub use penalties::History;

/// How to choose a token, defaults resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Below [`GREEDY_BELOW`]: the most likely token.
    pub temperature: f32,
    /// 0: all.
    pub top_k: usize,
    /// In (0, 1]; 1: all.
    pub top_p: f32,
    /// In [0, 1]; 0: all.
    pub min_p: f32,
    pub repetition_penalty: f32,
    pub presence_penalty: f32,
    pub frequency_penalty: f32,
    /// Token id and what is added to its logit.
    pub logit_bias: Vec<(u32, f32)>,
}

/// A temperature under this one is greedy: dividing by it would leave the range of f32.
pub const GREEDY_BELOW: f32 = 1e-5;

impl From<&outrider_protos::worker::v1::Sampling> for Settings {
    fn from(wire: &outrider_protos::worker::v1::Sampling) -> Settings {
        Settings {
            temperature: wire.temperature.unwrap_or(1.0),
            top_k: wire.top_k as usize,
            top_p: wire.top_p.unwrap_or(1.0),
            min_p: wire.min_p,
            repetition_penalty: wire.repetition_penalty.unwrap_or(1.0),
            presence_penalty: wire.presence_penalty,
            frequency_penalty: wire.frequency_penalty,
            logit_bias: wire.logit_bias.iter().map(|(id, bias)| (*id, *bias)).collect(),
        }
    }
}

impl Settings {
    /// Whether the most likely token is taken without a draw.
    pub fn greedy(&self) -> bool {
        self.temperature < GREEDY_BELOW
    }

    /// Whether any penalty looks at the tokens so far.
    pub fn needs_history(&self) -> bool {
        self.repetition_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }
}

/// Logits no token can be chosen from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SampleError {
    #[error("a logit is not a number or is infinite")]
    NotFinite,
    #[error("every token is forbidden")]
    NothingLeft,
}

/// Chooses tokens; holds only scratch memory, reused from call to call.
#[derive(Debug, Default)]
pub struct Sampler {
    scratch: select::Scratch,
}

impl Sampler {
    /// Chooses a token.
    ///
    /// `logits [vocabulary]` is the model's row; bias and penalties are applied to it in place. `forbidden` ids are
    /// not chosen. `uniform` in [0, 1) is this step's draw: [`random::uniform`].
    pub fn sample(
        &mut self,
        logits: &mut [f32],
        settings: &Settings,
        history: &History,
        forbidden: &[u32],
        uniform: f64,
    ) -> Result<u32, SampleError> {
        penalties::apply(logits, settings, history, forbidden);
        let max = select::max(logits)?;
        if settings.greedy() {
            return Ok(select::first_equal(logits, max));
        }
        let truncation = select::Truncation {
            weights: weights::Weights { max, scale: 1.0 / settings.temperature, floor: settings.min_p },
            top_k: if settings.top_k == 0 { logits.len() } else { settings.top_k },
            top_p: f64::from(settings.top_p),
        };
        Ok(truncation.draw(logits, &mut self.scratch, uniform))
    }
}
