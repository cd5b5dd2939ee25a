//! `{value | selector | expression}`: how a policy says what something is, Authorino's ValueOrSelector.
//!
//! Compiled when the policy is loaded; never reads a selector's text while a request waits.

use super::ConfigProblem;
use super::expressions::Expression;
use super::selectors::{Fault, Template, text_of};
use serde::Deserialize;
use serde_json::Value;

/// As it stands in the YAML. Exactly one of the three must.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct RawValueFrom {
    #[serde(default, deserialize_with = "present")]
    pub value: Option<Value>,
    pub selector: Option<String>,
    pub expression: Option<String>,
}

/// `value: null` is a value, and not the absence of one.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

#[derive(Debug)]
pub enum ValueFrom {
    Value(Value),
    Selector(Template),
    Expression(Expression),
}

impl RawValueFrom {
    /// `path` is where it stands, for whoever must mend it.
    pub fn compile(&self, path: &str) -> Result<ValueFrom, ConfigProblem> {
        let problem = |field: &str, message: String| ConfigProblem { path: format!("{path}{field}"), message };
        match (&self.value, &self.selector, &self.expression) {
            (Some(value), None, None) => Ok(ValueFrom::Value(value.clone())),
            (None, Some(selector), None) => Template::parse(selector)
                .map(ValueFrom::Selector)
                .map_err(|error| problem(".selector", error.to_string())),
            (None, None, Some(expression)) => Expression::compile(expression)
                .map(ValueFrom::Expression)
                .map_err(|error| problem(".expression", error.to_string())),
            _ => Err(problem("", "give exactly one of `value`, `selector` and `expression`".into())),
        }
    }
}

impl ValueFrom {
    /// What it is for this request; `null` for an attribute that is not there.
    pub fn resolve(&self, root: &Value) -> Result<Value, Fault> {
        match self {
            ValueFrom::Value(value) => Ok(value.clone()),
            ValueFrom::Selector(template) => template.resolve(root),
            ValueFrom::Expression(expression) => expression.evaluate(root),
        }
    }

    /// The same as text: a string as it is, anything else as JSON, `null` as nothing.
    pub fn text(&self, root: &Value) -> Result<String, Fault> {
        match self {
            ValueFrom::Value(value) => Ok(text_of(value).into_owned()),
            ValueFrom::Selector(template) => template.text(root),
            ValueFrom::Expression(expression) => Ok(text_of(&expression.evaluate(root)?).into_owned()),
        }
    }
}
