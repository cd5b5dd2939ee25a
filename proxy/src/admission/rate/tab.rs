//! What one request has taken of each limit it falls under, and how long its answer is by now. Pure.

use super::bucket::Rate;
use crate::config::rate_limits::Unit;

/// Of one request. Whoever drops it without settling keeps what it took.
#[derive(Debug, Default)]
pub struct Tab {
    pub(super) entries: Vec<Entry>,
}

impl Tab {
    /// Whether no limit is meant for this request.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether the tokens of its answer are charged to anybody.
    pub fn is_running(&self) -> bool {
        self.entries.iter().any(|entry| matches!(entry.state, State::Running { .. }))
    }
}

#[derive(Debug)]
pub(super) struct Entry {
    pub limit: usize,
    pub key: u64,
    pub rate: Rate,
    pub state: State,
}

#[derive(Debug)]
pub(super) enum State {
    /// Until the request was read; for good where it then turns out not to be meant.
    Waiting,
    /// One request.
    Taken,
    /// Tokens; the estimate is part of what is charged until the prompt is counted.
    Running { estimate: u64, charged: u64 },
}

/// Tokens so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// `None` until somebody counted them.
    pub prompt: Option<u64>,
    pub completion: u64,
}

impl Flow {
    /// What a limit of this unit is due.
    pub fn due(&self, unit: Unit, estimate: u64) -> u64 {
        let prompt = self.prompt.unwrap_or(estimate);
        match unit {
            Unit::Requests => 1,
            Unit::PromptTokens => prompt,
            Unit::CompletionTokens => self.completion,
            Unit::TotalTokens => prompt.saturating_add(self.completion),
        }
    }

    /// Nothing more will come: a prompt that was never counted and never answered was never read either.
    pub fn ended(self) -> Flow {
        match self {
            Flow { prompt: None, completion: 0 } => Flow { prompt: Some(0), completion: 0 },
            flow => flow,
        }
    }
}
