//! `#(path operator value)`: which items of a list are meant.
//!
//! Compares as gjson does: by the type of what was found, never across types; a number in quotation marks is a string.

use super::Problem;
use super::compile::{Compiler, GetId};
use super::glob;
use super::scan::QueryText;
use super::walk::{Exhausted, Fuel};
use serde_json::Value;

pub(super) struct Query {
    /// `None`: the item itself, if it is neither list nor object.
    pub path: Option<GetId>,
    /// Over a list or an object an empty path is the empty key.
    pub inner: GetId,
    comparison: Comparison,
    /// `#(…)#`: all that match, not the first.
    pub all: bool,
    pub more: Option<GetId>,
    pub pipe: Option<GetId>,
}

enum Comparison {
    Exists,
    Ish {
        ish: Ish,
        operator: Operator,
    },
    With {
        operator: Operator,
        text: String,
        number: f64,
    },
    /// `~` before something that is neither `true`, `false`, `null` nor `*`: never.
    Never,
}

#[derive(Clone, Copy)]
enum Ish {
    Present,
    Null,
    True,
    False,
}

#[derive(Clone, Copy, PartialEq)]
enum Operator {
    Is,
    IsNot,
    Less,
    LessOrIs,
    More,
    MoreOrIs,
    Like,
    Unlike,
}

pub(super) fn compile(compiler: &mut Compiler, text: &QueryText, all: bool) -> Result<Query, Problem> {
    let inner = compiler.get(&text.path)?;
    let path = (!text.path.is_empty()).then_some(inner);
    Ok(Query { path, inner, comparison: comparison(text)?, all, more: None, pipe: None })
}

fn comparison(text: &QueryText) -> Result<Comparison, Problem> {
    let operator = match text.operator.as_str() {
        "" if text.value.is_empty() => return Ok(Comparison::Exists),
        "=" => Operator::Is,
        "!=" => Operator::IsNot,
        "<" => Operator::Less,
        "<=" => Operator::LessOrIs,
        ">" => Operator::More,
        ">=" => Operator::MoreOrIs,
        "%" => Operator::Like,
        "!%" => Operator::Unlike,
        other => {
            let message = format!("`{other}{}` is no comparison; known are == != < <= > >= % !%", text.value);
            return Err(Problem::new(message));
        }
    };
    let Some(ish) = text.value.strip_prefix('~') else {
        // What is no number counts as zero, as in gjson.
        let number = text.value.parse().unwrap_or(0.0);
        return Ok(Comparison::With { operator, text: text.value.clone(), number });
    };
    let ish = match ish {
        "*" => Ish::Present,
        "null" => Ish::Null,
        "true" => Ish::True,
        "false" => Ish::False,
        _ => return Ok(Comparison::Never),
    };
    Ok(Comparison::Ish { ish, operator })
}

impl Query {
    pub(super) fn matches(&self, found: Option<&Value>, fuel: &mut Fuel) -> Result<bool, Exhausted> {
        match &self.comparison {
            Comparison::Never => Ok(false),
            Comparison::Exists => Ok(found.is_some()),
            Comparison::Ish { ish, operator } => Ok(compare_bool(*operator, ish.of(found), "true")),
            Comparison::With { operator, text, number } => match found {
                Some(Value::String(string)) => compare_text(*operator, string, text, fuel),
                Some(Value::Number(found)) => Ok(found.as_f64().is_some_and(|found| order(*operator, &found, number))),
                Some(Value::Bool(found)) => Ok(compare_bool(*operator, *found, text)),
                Some(Value::Null | Value::Array(_) | Value::Object(_)) | None => Ok(false),
            },
        }
    }
}

impl Ish {
    fn of(self, found: Option<&Value>) -> bool {
        match self {
            Ish::Present => found.is_some(),
            Ish::Null => matches!(found, None | Some(Value::Null)),
            Ish::True => truth(found) == Some(true),
            Ish::False => matches!(found, None | Some(Value::Null)) || truth(found) == Some(false),
        }
    }
}

/// What Go's ParseBool takes a string for, and any number.
fn truth(found: Option<&Value>) -> Option<bool> {
    match found? {
        Value::Bool(bool) => Some(*bool),
        Value::Number(number) => number.as_f64().map(|number| number != 0.0),
        Value::String(string) => match string.to_lowercase().as_str() {
            "1" | "t" | "true" => Some(true),
            "0" | "f" | "false" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

fn order<T: PartialOrd + ?Sized>(operator: Operator, left: &T, right: &T) -> bool {
    match operator {
        Operator::Is => left == right,
        Operator::IsNot => left != right,
        Operator::Less => left < right,
        Operator::LessOrIs => left <= right,
        Operator::More => left > right,
        Operator::MoreOrIs => left >= right,
        Operator::Like | Operator::Unlike => false,
    }
}

fn compare_text(operator: Operator, found: &str, text: &str, fuel: &mut Fuel) -> Result<bool, Exhausted> {
    match operator {
        Operator::Like => glob::matches(found, text, fuel),
        Operator::Unlike => glob::matches(found, text, fuel).map(|like| !like),
        _ => Ok(order(operator, found, text)),
    }
}

fn compare_bool(operator: Operator, found: bool, text: &str) -> bool {
    match (operator, found) {
        (Operator::Is, _) => text == if found { "true" } else { "false" },
        (Operator::IsNot, _) => text != if found { "true" } else { "false" },
        (Operator::More, true) => text == "false",
        (Operator::Less, false) => text == "true",
        (Operator::MoreOrIs, true) | (Operator::LessOrIs, false) => true,
        _ => false,
    }
}
