//! What a rate limit service is asked about one request: descriptors with the caller's values in them. Pure.
//!
//! A descriptor with a value that is absent is left out, as Envoy leaves it out: a service that wants to limit those too
//! has a limit for what remains.

use crate::admission::rate::{Caller, Flow};
use crate::config::rate_limits::{Descriptor, Source, Unit};
use outrider_protos::ratelimit::v3::RateLimitDescriptor;
use outrider_protos::ratelimit::v3::rate_limit_descriptor::Entry;

/// One call's worth of descriptors.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// Of limits of tokens, else of requests.
    pub tokens: bool,
    pub descriptors: Vec<RateLimitDescriptor>,
}

#[derive(Clone, Debug)]
pub struct Question {
    parts: Vec<Part>,
    /// The tokens of its answer are to be reported.
    reports: bool,
}

#[derive(Clone, Debug)]
struct Part {
    unit: Unit,
    /// Where the model's name goes, once it is known.
    models: Vec<usize>,
    entries: Vec<Entry>,
}

impl Question {
    pub fn of(descriptors: &[Descriptor], caller: &Caller<'_>) -> Question {
        let part = |descriptor: &Descriptor| {
            let (mut models, mut entries) = (Vec::new(), Vec::new());
            for (at, (key, source)) in descriptor.entries.iter().enumerate() {
                let value = caller.value(source).into_owned();
                match source {
                    Source::Model => models.push(at),
                    _ if value.is_empty() => return None,
                    _ => {}
                }
                entries.push(Entry { key: key.clone(), value });
            }
            Some(Part { unit: descriptor.unit, models, entries })
        };
        Question { parts: descriptors.iter().filter_map(part).collect(), reports: false }
    }

    fn calls(&self, wanted: impl Fn(&Part) -> bool) -> Vec<Call> {
        let call = |tokens: bool| {
            let parts = self.parts.iter().filter(|part| wanted(part) && (part.unit != Unit::Requests) == tokens);
            let descriptors = parts.map(|part| RateLimitDescriptor { entries: part.entries.clone() });
            Call { tokens, descriptors: descriptors.collect() }
        };
        [call(false), call(true)].into_iter().filter(|call| !call.descriptors.is_empty()).collect()
    }

    /// Before anything was read.
    pub fn early(&self) -> Vec<Call> {
        self.calls(|part| part.unit == Unit::Requests && part.models.is_empty())
    }

    /// When it was read; `costs`: it uses tokens.
    pub fn late(&mut self, model: Option<&str>, costs: bool) -> Vec<Call> {
        self.parts.retain(|part| part.models.is_empty() || model.is_some());
        let early = |part: &Part| part.unit == Unit::Requests && part.models.is_empty();
        for part in &mut self.parts {
            for at in &part.models {
                part.entries[*at].value = model.unwrap_or_default().to_owned();
            }
        }
        let calls = self.calls(|part| !early(part) && (part.unit == Unit::Requests || costs));
        self.reports = calls.iter().any(|call| call.tokens);
        calls
    }

    /// Whether its answer's tokens matter.
    pub fn reports(&self) -> bool {
        self.reports
    }

    /// What is to be reported, by count.
    pub fn due(&self, flow: Flow) -> Vec<(u64, Vec<RateLimitDescriptor>)> {
        let mut due = Vec::new();
        for unit in [Unit::PromptTokens, Unit::CompletionTokens, Unit::TotalTokens] {
            let parts = self.parts.iter().filter(|part| part.unit == unit && self.reports);
            let descriptors: Vec<_> = parts.map(|part| RateLimitDescriptor { entries: part.entries.clone() }).collect();
            if !descriptors.is_empty() {
                due.push((flow.due(unit, 0), descriptors));
            }
        }
        due
    }
}
