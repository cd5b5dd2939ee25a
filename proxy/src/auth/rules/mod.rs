//! What an identified caller may do: rules that judge a request's authorization JSON.
//!
//! An open set: a rule is one file and a line in [`RULES`]. A rule never lets through what it could not decide.

pub mod access_review;
mod cel;
mod pattern;
mod rego;

pub use rego::external;
pub use rego::{Rego, RegoVersion};

use super::ConfigProblem;
use super::methods::Memory;
use super::patterns::{Compat, NamedPatterns};
use super::selectors::Fault;
use futures_util::future::BoxFuture;
use serde_json::Value;

/// What the caller is told when a rule says no, as Authorino has it.
pub const UNAUTHORIZED: &str = "Unauthorized";

/// Why a request may not pass.
#[derive(Clone, Debug, PartialEq)]
pub struct Denied {
    /// For the caller when the rule said no; for the log alone when it is a fault.
    pub words: String,
    /// The rule could not decide. That denies too.
    pub fault: bool,
}

impl Denied {
    pub fn unauthorized() -> Denied {
        Denied { words: UNAUTHORIZED.to_owned(), fault: false }
    }
}

impl From<Fault> for Denied {
    fn from(fault: Fault) -> Denied {
        Denied { words: fault.words, fault: true }
    }
}

pub trait Rule: Send + Sync {
    /// What the rule has to say of a request that may pass: `auth.authorization.<name>` for whoever comes after.
    fn judge<'a>(&'a self, root: &'a Value) -> BoxFuture<'a, Result<Value, Denied>>;

    /// What it remembers of others' answers: an operator may make it forget.
    fn remembers(&self) -> Option<Memory> {
        None
    }
}

/// What a rule is opened with besides its own setting.
#[derive(Clone, Copy)]
pub struct Opening<'o> {
    pub named: &'o NamedPatterns,
    pub compat: Compat,
    /// Where the rule's setting stands, its own name included: `authorization.rbac.opa`.
    pub path: &'o str,
}

impl Opening<'_> {
    fn problem(&self, field: &str, message: impl Into<String>) -> ConfigProblem {
        ConfigProblem { path: format!("{}{field}", self.path), message: message.into() }
    }

    /// The setting in the rule's own shape.
    fn read<T: serde::de::DeserializeOwned>(&self, setting: &Value) -> Result<T, ConfigProblem> {
        serde_json::from_value(setting.clone()).map_err(|error| self.problem("", error.to_string()))
    }
}

/// From a rule's setting.
pub type Open = fn(&Value, Opening<'_>) -> Result<Box<dyn Rule>, ConfigProblem>;

/// A line of the table.
pub struct Kind {
    /// As in an AuthConfig, where it has such a rule.
    pub name: &'static str,
    pub open: Open,
}

/// All rules that need nothing but the request, sorted by name.
pub static RULES: &[Kind] = &[
    Kind { name: cel::NAME, open: cel::open },
    Kind { name: rego::NAME, open: rego::open },
    Kind { name: pattern::NAME, open: pattern::open },
];

/// The line of [`RULES`] with that name.
pub fn kind(name: &str) -> Option<&'static Kind> {
    RULES.iter().find(|kind| kind.name == name)
}

/// A verdict that took no waiting.
fn at_once<'a>(verdict: Result<Value, Denied>) -> BoxFuture<'a, Result<Value, Denied>> {
    Box::pin(std::future::ready(verdict))
}

#[cfg(test)]
mod tests;
