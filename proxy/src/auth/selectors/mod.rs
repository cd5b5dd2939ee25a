//! Selectors: GJSON paths over the authorization JSON, with its modifiers and Authorino's, and templates made of them.
//!
//! Compiled once when a policy is loaded, because they run for every request. Never panics and never runs away: what a
//! selector looks at and copies is counted, and past the limit it is [exhausted](Found::exhausted), which no rule may
//! take for "absent".

mod compile;
mod glob;
mod modifiers;
mod query;
mod scan;
mod template;
mod texts;
mod walk;

pub use template::Template;

use serde_json::Value;
use std::borrow::Cow;
use walk::{Exhausted, Fuel, Hit, Walk};

/// What is wrong with a policy's text. Whoever loads it puts the path of the setting in front.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Problem {
    pub message: String,
}

impl Problem {
    pub fn new(message: String) -> Problem {
        Problem { message }
    }
}

/// A rule that could not be evaluated for this request. Whoever asks must refuse.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{words}")]
pub struct Fault {
    /// For the log; no value of the request is in it.
    pub words: String,
}

/// A compiled path.
pub struct Selector {
    source: String,
    program: compile::Program,
    entry: compile::GetId,
}

impl std::fmt::Debug for Selector {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Selector({:?})", self.source)
    }
}

impl Selector {
    pub fn parse(path: &str) -> Result<Selector, Problem> {
        let (program, entry) =
            compile::compile(path).map_err(|problem| Problem::new(format!("selector `{path}`: {problem}")))?;
        Ok(Selector { source: path.to_owned(), program, entry })
    }

    pub fn source(&self) -> &str {
        &self.source
    }

    /// What the path leads to in `root`, borrowed unless it was made on the way.
    pub fn find<'a>(&'a self, root: &'a Value) -> Found<'a> {
        let mut walk = Walk { program: &self.program, fuel: Fuel::full() };
        Found(walk.get(self.entry, Some(root)))
    }

    pub fn fault(&self) -> Fault {
        Fault { words: format!("selector `{}` would take too long, or make too much, of this request", self.source) }
    }
}

/// What a selector found.
#[derive(Debug, PartialEq)]
pub struct Found<'a>(Result<Hit<'a>, Exhausted>);

impl<'a> Found<'a> {
    /// `null` exists.
    pub fn exists(&self) -> bool {
        self.get().is_some()
    }

    /// Neither found nor absent: the limit was reached.
    pub fn exhausted(&self) -> bool {
        self.0.is_err()
    }

    pub fn get(&self) -> Option<&Value> {
        self.0.as_ref().ok().and_then(|hit| hit.as_deref())
    }

    /// `null` if nothing was found.
    pub fn value(self) -> Value {
        self.0.ok().flatten().map_or(Value::Null, Cow::into_owned)
    }

    /// A string without quotation marks; a number in digits; lists and objects as JSON; `null` and nothing empty.
    pub fn text(&self) -> Cow<'_, str> {
        modifiers::text(self.get())
    }

    /// A list's items; anything else as the only item; none for `null` and nothing.
    pub fn array(&self) -> &[Value] {
        match self.get() {
            None | Some(Value::Null) => &[],
            Some(Value::Array(items)) => items,
            Some(other) => std::slice::from_ref(other),
        }
    }
}

/// A value as gjson's `String()` says it.
pub fn text_of(value: &Value) -> Cow<'_, str> {
    match value {
        Value::Null => Cow::Borrowed(""),
        Value::Bool(true) => Cow::Borrowed("true"),
        Value::Bool(false) => Cow::Borrowed("false"),
        Value::String(string) => Cow::Borrowed(string),
        // No exponent, ever: 1e3 is 1000.
        Value::Number(number) => Cow::Owned(match number.as_f64() {
            Some(float) if number.is_f64() => float.to_string(),
            _ => number.to_string(),
        }),
        Value::Array(_) | Value::Object(_) => Cow::Owned(value.to_string()),
    }
}

#[cfg(test)]
mod tests;
