//! What a caller asks of the engine, and every reason to refuse it before any work is done.
//!
//! Validation is pure: it reads [`Limits`] and the request, so that any thread may do it. Never touches a queue.

use outrider_protos::worker::v1::{Sampling, Stopping};

/// Choices one request may ask for.
pub const CHOICES_MAX: u32 = 128;
/// Alternatives reported for each token.
pub const LOGPROBS_MAX: u32 = 20;
/// Stop strings of one request, and bytes of each.
pub const STOP_STRINGS_MAX: usize = 64;
pub const STOP_STRING_BYTES_MAX: usize = 1024;
/// Beyond this the distribution is flat to the eye; an upper bound keeps `logit / temperature` a normal number.
const TEMPERATURE_MAX: f32 = 100.0;
const LOGIT_BIAS_MAX: f32 = 100.0;

/// One generation request, after the chat template and the tokenizer. Fields as in `worker.proto`'s GenerateRequest.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Request {
    /// Token ids of the prompt; at least one.
    pub prompt: Vec<u32>,
    pub stopping: Stopping,
    pub sampling: Sampling,
    /// Choices to generate; 0 means 1.
    pub n: u32,
    /// Log-probabilities of each token and of this many alternatives; `None`: none.
    pub logprobs: Option<u32>,
    /// Report the prompt too.
    pub echo: bool,
}

impl Request {
    /// Number of choices, the default resolved.
    pub fn choices(&self) -> u32 {
        self.n.max(1)
    }

    /// Whether the log-probabilities of the prompt's own tokens are wanted.
    pub fn scores_prompt(&self) -> bool {
        self.echo && self.logprobs.is_some()
    }
}

/// Names a submitted request, for as long as the engine lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// Why a request is refused. Nothing was done for it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// It can never succeed as it is: INVALID_ARGUMENT.
    #[error("{field}: {reason}")]
    Invalid { field: &'static str, reason: String },
    /// Too many wait already: RESOURCE_EXHAUSTED, ask again later.
    #[error("the worker's queue is full: {waiting} sequences wait, at most {waiting_max} may; ask again later")]
    QueueFull { waiting: usize, waiting_max: usize },
    /// Draining or stopped: UNAVAILABLE.
    #[error("the worker is draining and takes no new work; ask again")]
    Draining,
}

fn invalid(field: &'static str, reason: impl Into<String>) -> SubmitError {
    SubmitError::Invalid { field, reason: reason.into() }
}

/// What the model and the cache can take: the constants of validation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Tokens of prompt and answer together, as the model says.
    pub context_length: usize,
    /// Tokens whose keys and values the whole cache holds.
    pub cache_tokens: usize,
    /// Number of token ids.
    pub vocabulary: usize,
}

impl Limits {
    /// Tokens one sequence may ever have.
    pub fn length_max(&self) -> usize {
        self.context_length.min(self.cache_tokens)
    }

    /// Refuses what can never succeed; names the field and says what to change.
    pub fn validate(&self, request: &Request) -> Result<(), SubmitError> {
        self.prompt(&request.prompt)?;
        if request.n > CHOICES_MAX {
            return Err(invalid("n", format!("{} choices asked for; at most {CHOICES_MAX}", request.n)));
        }
        if let Some(logprobs) = request.logprobs.filter(|logprobs| *logprobs > LOGPROBS_MAX) {
            return Err(invalid("logprobs", format!("{logprobs} alternatives asked for; at most {LOGPROBS_MAX}")));
        }
        self.stopping(&request.stopping, request.echo)?;
        self.sampling(&request.sampling)
    }

    fn prompt(&self, prompt: &[u32]) -> Result<(), SubmitError> {
        if prompt.is_empty() {
            return Err(invalid("prompt", "it has no tokens; at least one is needed"));
        }
        let tokens = prompt.len();
        if tokens >= self.context_length {
            let context = self.context_length;
            return Err(invalid(
                "prompt",
                format!("the prompt has {tokens} tokens, the context is {context}; leave room for one token of answer"),
            ));
        }
        if tokens >= self.cache_tokens {
            let cache = self.cache_tokens;
            return Err(invalid(
                "prompt",
                format!(
                    "the prompt has {tokens} tokens, the KV cache holds {cache}; shorten it or give the worker more blocks"
                ),
            ));
        }
        match prompt.iter().find(|id| **id as usize >= self.vocabulary) {
            Some(id) => {
                Err(invalid("prompt", format!("token id {id} is not in the vocabulary of {}", self.vocabulary)))
            }
            None => Ok(()),
        }
    }

    fn stopping(&self, stopping: &Stopping, echo: bool) -> Result<(), SubmitError> {
        if stopping.max_tokens == Some(0) && !echo {
            return Err(invalid("max_tokens", "0 generates nothing; at least 1, or set echo"));
        }
        if let Some(max) = stopping.max_tokens.filter(|max| *max < stopping.min_tokens) {
            return Err(invalid("min_tokens", format!("{} is more than max_tokens, {max}", stopping.min_tokens)));
        }
        if stopping.stop.len() > STOP_STRINGS_MAX {
            return Err(invalid("stop", format!("{} strings; at most {STOP_STRINGS_MAX}", stopping.stop.len())));
        }
        if stopping.stop.iter().any(String::is_empty) {
            return Err(invalid("stop", "a stop string is empty; it would end every answer at once"));
        }
        if let Some(long) = stopping.stop.iter().find(|stop| stop.len() > STOP_STRING_BYTES_MAX) {
            return Err(invalid("stop", format!("a string of {} bytes; at most {STOP_STRING_BYTES_MAX}", long.len())));
        }
        match stopping.stop_token_ids.iter().find(|id| **id as usize >= self.vocabulary) {
            Some(id) => {
                Err(invalid("stop_token_ids", format!("id {id} is not in the vocabulary of {}", self.vocabulary)))
            }
            None if stopping.stop_token_ids.len() > STOP_STRINGS_MAX => {
                let count = stopping.stop_token_ids.len();
                Err(invalid("stop_token_ids", format!("{count} ids; at most {STOP_STRINGS_MAX}")))
            }
            None => Ok(()),
        }
    }

    fn sampling(&self, sampling: &Sampling) -> Result<(), SubmitError> {
        // Written with contains(), so that NaN is refused by every line.
        let in_range = |field, value: f32, low: f32, high: f32| match (low..=high).contains(&value) {
            true => Ok(()),
            false => Err(invalid(field, format!("{value} is not in [{low}, {high}]"))),
        };
        in_range("temperature", sampling.temperature.unwrap_or(1.0), 0.0, TEMPERATURE_MAX)?;
        in_range("min_p", sampling.min_p, 0.0, 1.0)?;
        in_range("presence_penalty", sampling.presence_penalty, -2.0, 2.0)?;
        in_range("frequency_penalty", sampling.frequency_penalty, -2.0, 2.0)?;
        let top_p = sampling.top_p.unwrap_or(1.0);
        if !(top_p > 0.0 && top_p <= 1.0) {
            return Err(invalid("top_p", format!("{top_p} is not in (0, 1]")));
        }
        let repetition = sampling.repetition_penalty.unwrap_or(1.0);
        if !(repetition > 0.0 && repetition <= 100.0) {
            return Err(invalid("repetition_penalty", format!("{repetition} is not in (0, 100]")));
        }
        for (id, bias) in &sampling.logit_bias {
            if *id as usize >= self.vocabulary {
                let reason = format!("token id {id} is not in the vocabulary of {}", self.vocabulary);
                return Err(invalid("logit_bias", reason));
            }
            in_range("logit_bias", *bias, -LOGIT_BIAS_MAX, LOGIT_BIAS_MAX)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { context_length: 32, cache_tokens: 64, vocabulary: 10 };

    fn with(change: impl FnOnce(&mut Request)) -> Result<(), SubmitError> {
        let mut request = Request { prompt: vec![1, 2, 3], ..Request::default() };
        change(&mut request);
        LIMITS.validate(&request)
    }

    #[test]
    fn which_requests_are_taken() {
        assert_eq!(with(|_| {}), Ok(()));
        assert_eq!(with(|r| r.n = 128), Ok(()));
        assert_eq!(with(|r| r.logprobs = Some(20)), Ok(()));
        assert_eq!(with(|r| r.prompt = vec![9; 31]), Ok(()));
        assert_eq!(with(|r| r.sampling.temperature = Some(0.0)), Ok(()));
        assert_eq!(with(|r| (r.echo, r.stopping.max_tokens) = (true, Some(0))), Ok(()));
        assert_eq!(with(|r| r.sampling.logit_bias = [(9, -100.0)].into()), Ok(()));
    }

    #[test]
    fn does_a_refusal_name_the_field() {
        type Change = fn(&mut Request);
        let table: &[(&str, Change)] = &[
            ("prompt", |r| r.prompt.clear()),
            ("prompt", |r| r.prompt = vec![1; 32]),
            ("prompt", |r| r.prompt = vec![10]),
            ("n", |r| r.n = 129),
            ("logprobs", |r| r.logprobs = Some(21)),
            ("max_tokens", |r| r.stopping.max_tokens = Some(0)),
            ("min_tokens", |r| (r.stopping.max_tokens, r.stopping.min_tokens) = (Some(3), 4)),
            ("stop", |r| r.stopping.stop = vec![String::new()]),
            ("stop", |r| r.stopping.stop = vec!["x".into(); 65]),
            ("stop", |r| r.stopping.stop = vec!["x".repeat(1025)]),
            ("stop_token_ids", |r| r.stopping.stop_token_ids = vec![10]),
            ("stop_token_ids", |r| r.stopping.stop_token_ids = vec![1; 65]),
            ("temperature", |r| r.sampling.temperature = Some(-0.1)),
            ("temperature", |r| r.sampling.temperature = Some(f32::NAN)),
            ("temperature", |r| r.sampling.temperature = Some(f32::INFINITY)),
            ("top_p", |r| r.sampling.top_p = Some(0.0)),
            ("top_p", |r| r.sampling.top_p = Some(1.1)),
            ("top_p", |r| r.sampling.top_p = Some(f32::NAN)),
            ("min_p", |r| r.sampling.min_p = 1.5),
            ("repetition_penalty", |r| r.sampling.repetition_penalty = Some(0.0)),
            ("presence_penalty", |r| r.sampling.presence_penalty = 2.5),
            ("frequency_penalty", |r| r.sampling.frequency_penalty = -2.5),
            ("logit_bias", |r| r.sampling.logit_bias = [(10, 1.0)].into()),
            ("logit_bias", |r| r.sampling.logit_bias = [(1, 101.0)].into()),
        ];
        for (expected, change) in table {
            match with(change) {
                Err(SubmitError::Invalid { field, .. }) => assert_eq!(field, *expected),
                other => panic!("{expected}: {other:?}"),
            }
        }
    }

    #[test]
    fn is_a_prompt_that_can_never_fit_refused_in_clear_words() {
        let too_long = with(|r| r.prompt = vec![1; 40]).unwrap_err().to_string();
        assert!(too_long.contains("the prompt has 40 tokens, the context is 32"), "{too_long}");
        let small = Limits { cache_tokens: 16, ..LIMITS };
        let request = Request { prompt: vec![1; 16], ..Request::default() };
        let no_room = small.validate(&request).unwrap_err().to_string();
        assert!(no_room.contains("the KV cache holds 16"), "{no_room}");
    }
}
