//! Stand-in until the languages of rules are merged: dotted paths, and expressions that add strings.

use crate::auth::ConfigProblem;
use crate::auth::site::problem;
use serde::Deserialize;
use serde_json::Value;

#[derive(Clone, Debug)]
pub struct Selector(Vec<String>);

impl Selector {
    pub fn parse(text: &str) -> Result<Selector, String> {
        Ok(Selector(text.split('.').map(str::to_owned).collect()))
    }

    pub fn value(&self, root: &Value) -> Value {
        self.0.iter().try_fold(root, |at, key| at.get(key)).cloned().unwrap_or(Value::Null)
    }
}

#[derive(Clone, Debug)]
pub struct Expression(Vec<Result<String, Selector>>);

impl Expression {
    pub fn compile(text: &str) -> Result<Expression, String> {
        let part = |part: &str| match part.trim().strip_prefix('\'') {
            Some(literal) => Ok(Ok(literal.trim_end_matches('\'').to_owned())),
            None => Selector::parse(part.trim()).map(Err),
        };
        Ok(Expression(text.split('+').map(part).collect::<Result<_, String>>()?))
    }

    pub fn evaluate(&self, root: &Value) -> Result<Value, String> {
        let texts = self.0.iter().map(|part| match part {
            Ok(literal) => literal.clone(),
            Err(selector) => super::text(&selector.value(root)),
        });
        Ok(Value::String(texts.collect()))
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawValueFrom {
    value: Option<Value>,
    selector: Option<String>,
    expression: Option<String>,
}

#[derive(Clone, Debug)]
pub enum ValueFrom {
    Value(Value),
    Selector(Selector),
    Expression(Expression),
}

impl RawValueFrom {
    pub fn compile(self, path: &str, problems: &mut Vec<ConfigProblem>) -> Option<ValueFrom> {
        let compiled = match (self.value, self.selector, self.expression) {
            (_, None, Some(text)) => Expression::compile(&text).map(ValueFrom::Expression),
            (_, Some(text), None) => Selector::parse(&text).map(ValueFrom::Selector),
            (value, None, None) => Ok(ValueFrom::Value(value.unwrap_or(Value::Null))),
            _ => Err("one of value, selector and expression is needed".into()),
        };
        compiled.map_err(|words| problem(problems, path, words)).ok()
    }
}

impl ValueFrom {
    pub fn resolve(&self, root: &Value) -> Result<Value, String> {
        match self {
            ValueFrom::Value(value) => Ok(value.clone()),
            ValueFrom::Selector(selector) => Ok(selector.value(root)),
            ValueFrom::Expression(expression) => expression.evaluate(root),
        }
    }
}
