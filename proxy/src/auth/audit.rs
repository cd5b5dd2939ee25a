//! What was decided about a caller, by whom and why: for the log, and never with a secret in it.

pub mod trail;

use crate::record::json::Object;
use std::sync::Arc;

/// One decision.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Audit {
    pub policy: Arc<str>,
    /// Whether the decision is a policy's, and worth a measurement; our own list of methods decides in no time.
    pub measured: bool,
    /// `authentication` or `authorization`, and the type of evaluator that had the last word in it.
    pub phase: &'static str,
    pub kind: &'static str,
    /// Which evaluator knew the caller, and what kind it is.
    pub known_by: Option<Arc<str>>,
    pub method: &'static str,
    pub subject: String,
    pub issuer: String,
    /// The evaluator whose word was the last one; none if nobody objected.
    pub decided_by: Option<Arc<str>>,
    /// `allowed`, or a fault's label.
    pub outcome: &'static str,
    pub reason: Option<String>,
    /// Evaluators whose answer was known from before.
    pub cached: Vec<Arc<str>>,
    /// Conditions that could not be decided, and parts that failed without changing the outcome.
    pub notes: Vec<String>,
}

/// Notes of one decision.
const NOTES_MAX: usize = 8;

impl Audit {
    /// Before anything is known.
    pub fn nobody() -> Audit {
        Audit { phase: "authentication", kind: "none", ..Audit::default() }
    }

    pub fn note(&mut self, words: String) {
        if self.notes.len() < NOTES_MAX {
            self.notes.push(words);
        }
    }

    pub fn write(&self, line: &mut Object) {
        line.text("outcome", Some(self.outcome));
        line.text("phase", Some(self.phase));
        let mut put = |name: &str, text: &str| line.text(name, Some(text).filter(|text| !text.is_empty()));
        put("policy", &self.policy);
        put("known_by", self.known_by.as_deref().unwrap_or_default());
        put("method", self.method);
        put("subject", &self.subject);
        put("issuer", &self.issuer);
        put("decided_by", self.decided_by.as_deref().unwrap_or_default());
        put("reason", self.reason.as_deref().unwrap_or_default());
        line.list("cached", &self.cached);
        line.list("notes", &self.notes);
    }
}
