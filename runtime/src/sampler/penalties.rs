//! What is done to the logits before the draw: forbidden ids, bias, repetition, frequency and presence.
//!
//! Touches only the ids concerned: the cost is that of the tokens so far, never of the vocabulary.

use std::collections::HashMap;

use super::Settings;

/// Which tokens a sequence has so far. Empty unless a penalty asks for it.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Token id → (is in the prompt, occurrences in the answer).
    tokens: HashMap<u32, (bool, u32)>,
}

impl History {
    /// The history of a sequence that has only its prompt; empty if no penalty reads it.
    pub fn of_prompt(prompt: &[u32], settings: &Settings) -> History {
        let mut history = History::default();
        if settings.needs_history() {
            history.tokens.extend(prompt.iter().map(|id| (*id, (true, 0))));
        }
        history
    }

    /// A token was generated.
    pub fn push(&mut self, id: u32, settings: &Settings) {
        if settings.needs_history() {
            self.tokens.entry(id).or_default().1 += 1;
        }
    }
}

/// Applies everything that comes before the temperature, in vLLM's order.
pub fn apply(logits: &mut [f32], settings: &Settings, history: &History, forbidden: &[u32]) {
    for id in forbidden {
        if let Some(logit) = logits.get_mut(*id as usize) {
            *logit = f32::NEG_INFINITY;
        }
    }
    for (id, bias) in &settings.logit_bias {
        if let Some(logit) = logits.get_mut(*id as usize) {
            *logit += bias;
        }
    }
    for (id, (_, occurrences)) in &history.tokens {
        let Some(logit) = logits.get_mut(*id as usize) else { continue };
        let repetition = settings.repetition_penalty;
        *logit = if *logit > 0.0 { *logit / repetition } else { *logit * repetition };
        if *occurrences > 0 {
            *logit -= settings.frequency_penalty * *occurrences as f32;
            *logit -= settings.presence_penalty;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings::from(&outrider_protos::worker::v1::Sampling::default())
    }

    #[test]
    fn do_penalties_touch_the_right_tokens() {
        let settings = Settings {
            repetition_penalty: 2.0,
            presence_penalty: 0.5,
            frequency_penalty: 0.25,
            logit_bias: vec![(3, 10.0), (99, 1.0)],
            ..settings()
        };
        let mut history = History::of_prompt(&[0, 1], &settings);
        history.push(1, &settings);
        history.push(2, &settings);
        history.push(2, &settings);
        let mut logits = [4.0, -4.0, 4.0, 1.0, 1.0];
        apply(&mut logits, &settings, &history, &[4, 99]);
        // 0: prompt only, halved. 1: prompt and once in the answer. 2: twice in the answer. 3: biased. 4: forbidden.
        assert_eq!(logits, [2.0, -8.75, 1.0, 11.0, f32::NEG_INFINITY]);
    }

    #[test]
    fn is_history_free_when_nobody_asks() {
        let mut history = History::of_prompt(&[1, 2, 3], &settings());
        history.push(4, &settings());
        assert!(history.tokens.is_empty());
    }
}
