//! Conditions: `{selector, operator, value}`, named sets of them, CEL predicates, and any and all of those.
//!
//! Compiled when a policy is loaded. A condition that cannot be decided is a [`Fault`] and never `true`; nor is one about
//! an attribute that is not there, unless [`Compat`] asks for what Authorino does.

use super::ConfigProblem;
use super::expressions::Expression;
use super::go_regex;
use super::selectors::{Fault, Selector, text_of};
use regex::Regex;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// Conditions in conditions. A person writes three.
const DEPTH_MAX: usize = 16;

/// One item of a list of conditions, as it stands in the YAML.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RawPattern {
    pub selector: Option<String>,
    pub operator: Option<String>,
    pub value: Option<String>,
    pub pattern_ref: Option<String>,
    pub predicate: Option<String>,
    pub all: Option<Vec<RawPattern>>,
    pub any: Option<Vec<RawPattern>>,
}

/// `patterns` of an AuthConfig: what a `patternRef` may name.
pub type NamedPatterns = BTreeMap<String, Vec<RawPattern>>;

/// Where Authorino lets in what we refuse.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Compat {
    /// An attribute that is absent or `null` is the empty text to `neq` and an empty list to `excl`: unlike any other.
    pub missing_matches_neq: bool,
}

#[derive(Debug)]
pub enum Condition {
    All(Vec<Condition>),
    Any(Vec<Condition>),
    Pattern(Pattern),
    Predicate(Expression),
}

#[derive(Debug)]
pub struct Pattern {
    selector: Selector,
    operator: Operator,
    missing_matches_neq: bool,
}

#[derive(Debug)]
enum Operator {
    Eq(String),
    Neq(String),
    Incl(String),
    Excl(String),
    Matches(Regex),
}

impl Condition {
    /// All of `raw` must hold; of none, nothing is asked. `path` is where the list stands: `authorization.rbac.when`.
    pub fn compile(
        raw: &[RawPattern],
        named: &NamedPatterns,
        compat: Compat,
        path: &str,
    ) -> Result<Condition, ConfigProblem> {
        Compiler { named, compat }.list(raw, path, 0).map(Condition::All)
    }

    pub fn holds(&self, root: &Value) -> Result<bool, Fault> {
        match self {
            Condition::Pattern(pattern) => pattern.holds(root),
            Condition::Predicate(expression) => expression.holds(root),
            Condition::All(conditions) => {
                for condition in conditions {
                    if !condition.holds(root)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Condition::Any(conditions) => {
                for condition in conditions {
                    if condition.holds(root)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
        }
    }

    /// Whether it holds whatever is asked.
    pub fn is_empty(&self) -> bool {
        matches!(self, Condition::All(conditions) if conditions.is_empty())
    }
}

impl Pattern {
    fn holds(&self, root: &Value) -> Result<bool, Fault> {
        let found = self.selector.find(root);
        if found.exhausted() {
            return Err(self.selector.fault());
        }
        let missing = matches!(found.get(), None | Some(Value::Null));
        let has = |value: &str| found.array().iter().any(|item| text_of(item) == value);
        Ok(match &self.operator {
            Operator::Neq(_) | Operator::Excl(_) if missing && !self.missing_matches_neq => false,
            Operator::Eq(value) => found.text() == value.as_str(),
            Operator::Neq(value) => found.text() != value.as_str(),
            Operator::Incl(value) => has(value),
            Operator::Excl(value) => !has(value),
            Operator::Matches(regex) => regex.is_match(&found.text()),
        })
    }
}

struct Compiler<'c> {
    named: &'c NamedPatterns,
    compat: Compat,
}

impl Compiler<'_> {
    fn list(&self, raw: &[RawPattern], path: &str, depth: usize) -> Result<Vec<Condition>, ConfigProblem> {
        if depth > DEPTH_MAX {
            return Err(at(path, format!("more than {DEPTH_MAX} conditions within each other")));
        }
        raw.iter().enumerate().map(|(index, raw)| self.one(raw, &format!("{path}[{index}]"), depth)).collect()
    }

    fn one(&self, raw: &RawPattern, path: &str, depth: usize) -> Result<Condition, ConfigProblem> {
        let is_pattern = raw.selector.is_some() || raw.operator.is_some() || raw.value.is_some();
        let kinds =
            [is_pattern, raw.pattern_ref.is_some(), raw.predicate.is_some(), raw.all.is_some(), raw.any.is_some()];
        if kinds.iter().filter(|given| **given).count() != 1 {
            let message =
                "give exactly one of: `selector` with `operator` and `value`; `patternRef`; `predicate`; `all`; `any`";
            return Err(at(path, message.into()));
        }
        if let Some(name) = &raw.pattern_ref {
            return self.reference(name, path, depth);
        }
        if let Some(predicate) = &raw.predicate {
            return Expression::compile(predicate)
                .map(Condition::Predicate)
                .map_err(|problem| at(&format!("{path}.predicate"), problem.to_string()));
        }
        if let Some(all) = &raw.all {
            return self.list(all, &format!("{path}.all"), depth + 1).map(Condition::All);
        }
        if let Some(any) = &raw.any {
            return self.list(any, &format!("{path}.any"), depth + 1).map(Condition::Any);
        }
        self.pattern(raw, path).map(Condition::Pattern)
    }

    /// A named set is patterns and nothing else, so none can lead back to itself.
    fn reference(&self, name: &str, path: &str, depth: usize) -> Result<Condition, ConfigProblem> {
        let path = format!("{path}.patternRef");
        let Some(set) = self.named.get(name) else {
            let known: Vec<&str> = self.named.keys().map(String::as_str).collect();
            return Err(at(&path, format!("no set of patterns is named `{name}`; there are: [{}]", known.join(", "))));
        };
        if set.iter().any(|raw| raw.pattern_ref.is_some()) {
            return Err(at(&path, format!("the set `{name}` refers to another set; write its patterns out")));
        }
        self.list(set, &format!("patterns.{name}"), depth + 1).map(Condition::All)
    }

    fn pattern(&self, raw: &RawPattern, path: &str) -> Result<Pattern, ConfigProblem> {
        let (Some(selector), Some(operator)) = (&raw.selector, &raw.operator) else {
            return Err(at(path, "a pattern has a `selector`, an `operator` and a `value`".into()));
        };
        // As Kubernetes has it, an empty value may be left out.
        let value = raw.value.clone().unwrap_or_default();
        let operator = match operator.as_str() {
            "eq" => Operator::Eq(value),
            "neq" => Operator::Neq(value),
            "incl" => Operator::Incl(value),
            "excl" => Operator::Excl(value),
            "matches" => go_regex::compile(&value)
                .map(Operator::Matches)
                .map_err(|problem| at(&format!("{path}.value"), problem.to_string()))?,
            other => {
                let message = format!("`{other}` is no operator; known are eq, neq, incl, excl, matches");
                return Err(at(&format!("{path}.operator"), message));
            }
        };
        let selector =
            Selector::parse(selector).map_err(|problem| at(&format!("{path}.selector"), problem.to_string()))?;
        Ok(Pattern { selector, operator, missing_matches_neq: self.compat.missing_matches_neq })
    }
}

fn at(path: &str, message: String) -> ConfigProblem {
    ConfigProblem { path: path.to_owned(), message }
}

#[cfg(test)]
mod tests;
