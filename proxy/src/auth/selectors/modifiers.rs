//! `@name:argument`: what a selector does with what it found. An open set: a modifier is a line in [`MODIFIERS`].
//!
//! Works on values, where gjson and Authorino work on JSON's text. So `@pretty` and `@ugly` change nothing (there is no
//! white space to change), and a quotation mark in a header never ends the string that `@extract` or `@replace` makes,
//! which in Authorino it does: there `x"y` is extracted as `x`.

use super::compile::{Compiler, GetId};
use super::texts::{self, Text};
use super::walk::{Exhausted, Hit, LEVELS_MAX, Walk};
use super::{Problem, text_of};
use serde_json::{Map, Value};
use std::borrow::Cow;

pub(super) enum Modifier {
    Same,
    Reverse,
    Flatten { deep: bool },
    Join { keep_first: bool },
    Keys,
    Values,
    ToText,
    FromText,
    Group,
    Dig(GetId),
    Text(Text),
}

type Compile = fn(&mut Compiler, &str) -> Result<Modifier, Problem>;

/// All modifiers, sorted by name.
static MODIFIERS: &[(&str, Compile)] = &[
    ("base64", |_, argument| texts::base64(argument).map(Modifier::Text)),
    ("case", |_, argument| texts::case(argument).map(Modifier::Text)),
    ("dig", |compiler, path| compiler.get(path).map(Modifier::Dig)),
    ("extract", |_, argument| texts::extract(&options(argument)?).map(Modifier::Text)),
    ("flatten", |_, argument| Ok(Modifier::Flatten { deep: is_set(&options(argument)?, "deep") })),
    ("fromstr", |_, _| Ok(Modifier::FromText)),
    ("group", |_, _| Ok(Modifier::Group)),
    ("join", |_, argument| Ok(Modifier::Join { keep_first: is_set(&options(argument)?, "preserve") })),
    ("keys", |_, _| Ok(Modifier::Keys)),
    ("pretty", |_, _| Ok(Modifier::Same)),
    ("replace", |_, argument| texts::replace(&options(argument)?).map(Modifier::Text)),
    ("reverse", |_, _| Ok(Modifier::Reverse)),
    ("strip", |_, _| Ok(Modifier::Text(Text::Strip))),
    ("this", |_, _| Ok(Modifier::Same)),
    ("tostr", |_, _| Ok(Modifier::ToText)),
    ("ugly", |_, _| Ok(Modifier::Same)),
    ("valid", |_, _| Ok(Modifier::Same)),
    ("values", |_, _| Ok(Modifier::Values)),
];

pub(super) fn is_known(name: &str) -> bool {
    MODIFIERS.iter().any(|(known, _)| *known == name)
}

pub(super) fn compile(compiler: &mut Compiler, name: &str, argument: &str) -> Result<Modifier, Problem> {
    let (_, compile) =
        MODIFIERS.iter().find(|(known, _)| *known == name).expect("the scanner asked whether it is known");
    compile(compiler, argument).map_err(|problem| Problem::new(format!("@{name}: {problem}")))
}

fn options(argument: &str) -> Result<Map<String, Value>, Problem> {
    if argument.is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_str(argument)
        .map_err(|_| Problem::new(format!("`{argument}` is no JSON object; write the argument as {{\"name\":value}}")))
}

fn is_set(options: &Map<String, Value>, name: &str) -> bool {
    options.get(name) == Some(&Value::Bool(true))
}

pub(super) fn apply<'p: 'a, 'a>(
    walk: &mut Walk<'p>,
    modifier: &'p Modifier,
    value: Hit<'a>,
) -> Result<Hit<'a>, Exhausted> {
    match modifier {
        Modifier::Same => Ok(value),
        Modifier::Text(text) => text.apply(walk, value),
        Modifier::ToText => {
            let text = value.map_or(String::new(), |value| value.to_string());
            walk.fuel.burn(text.len())?;
            made(Value::String(text))
        }
        Modifier::FromText => from_text(walk, value),
        Modifier::Dig(path) => {
            let mut found = Vec::new();
            if let Some(value) = &value {
                dig(walk, value, *path, &mut found)?;
            }
            made(Value::Array(found))
        }
        Modifier::Keys => {
            walk.fuel.burn(match value.as_deref() {
                Some(Value::Object(map)) => map.keys().map(|key| key.len() + 1).sum(),
                Some(Value::Array(items)) => items.len(),
                _ => 1,
            })?;
            made(Value::Array(keys(value.as_deref())))
        }
        Modifier::Group => match value.as_deref() {
            Some(Value::Object(map)) => made(group(walk, map)?),
            _ => Ok(None),
        },
        Modifier::Values => match value {
            None => made(Value::Array(Vec::new())),
            Some(value) => rearrange(walk, value, |value| match value {
                Value::Array(items) => Value::Array(items),
                Value::Object(map) => map.into_iter().map(|(_, value)| value).collect(),
                scalar => Value::Array(vec![scalar]),
            }),
        },
        Modifier::Reverse => rearrange_some(walk, value, |value| match value {
            Value::Array(items) => items.into_iter().rev().collect(),
            Value::Object(map) => Value::Object(map.into_iter().rev().collect()),
            scalar => scalar,
        }),
        Modifier::Flatten { deep } => rearrange_some(walk, value, |value| match value {
            Value::Array(items) => {
                let mut flat = Vec::new();
                flatten(items, *deep, &mut flat, LEVELS_MAX);
                Value::Array(flat)
            }
            other => other,
        }),
        Modifier::Join { keep_first } => rearrange_some(walk, value, |value| match value {
            Value::Array(items) => Value::Object(join(items, *keep_first)),
            other => other,
        }),
    }
}

fn made<'a>(value: Value) -> Result<Hit<'a>, Exhausted> {
    Ok(Some(Cow::Owned(value)))
}

fn rearrange<'a>(
    walk: &mut Walk<'_>,
    value: Cow<'_, Value>,
    how: impl FnOnce(Value) -> Value,
) -> Result<Hit<'a>, Exhausted> {
    let owned = walk.own(value)?;
    made(how(owned))
}

/// Nothing stays nothing.
fn rearrange_some<'a>(
    walk: &mut Walk<'_>,
    value: Hit<'_>,
    how: impl FnOnce(Value) -> Value,
) -> Result<Hit<'a>, Exhausted> {
    value.map_or(Ok(None), |value| rearrange(walk, value, how))
}

/// A string is read as JSON; what is JSON already stays.
fn from_text<'a>(walk: &mut Walk<'_>, value: Hit<'a>) -> Result<Hit<'a>, Exhausted> {
    match value.as_deref() {
        Some(Value::String(text)) => {
            walk.fuel.burn(text.len())?;
            Ok(serde_json::from_str(text).ok().map(Cow::Owned))
        }
        Some(Value::Null) => Ok(None),
        _ => Ok(value),
    }
}

/// The path over the value and over everything in it.
fn dig(walk: &mut Walk<'_>, value: &Value, path: GetId, found: &mut Vec<Value>) -> Result<(), Exhausted> {
    let mut left: Vec<&Value> = vec![value];
    while let Some(value) = left.pop() {
        if let Some(hit) = walk.get(path, Some(value))? {
            found.push(walk.own(hit)?);
        }
        match value {
            Value::Array(items) => left.extend(items.iter().rev()),
            Value::Object(map) => left.extend(map.values().rev()),
            _ => {}
        }
    }
    Ok(())
}

fn keys(value: Option<&Value>) -> Vec<Value> {
    match value {
        None => Vec::new(),
        Some(Value::Object(map)) => map.keys().map(|key| Value::String(key.clone())).collect(),
        Some(Value::Array(items)) => vec![Value::Null; items.len()],
        Some(_) => vec![Value::Null],
    }
}

fn flatten(items: Vec<Value>, deep: bool, flat: &mut Vec<Value>, levels: usize) {
    for item in items {
        match item {
            Value::Array(inner) if deep && levels > 0 => flatten(inner, deep, flat, levels - 1),
            Value::Array(inner) => flat.extend(inner),
            other => flat.push(other),
        }
    }
}

fn join(items: Vec<Value>, keep_first: bool) -> Map<String, Value> {
    let mut joined = Map::new();
    for item in items {
        let Value::Object(map) = item else { continue };
        for (key, value) in map {
            // gjson writes a kept key twice, and whoever looks for it finds the first.
            if !keep_first || !joined.contains_key(&key) {
                joined.insert(key, value);
            }
        }
    }
    joined
}

/// `{"a":[1,2],"b":[3,4]}` → `[{"a":1,"b":3},{"a":2,"b":4}]`
fn group(walk: &mut Walk<'_>, map: &Map<String, Value>) -> Result<Value, Exhausted> {
    let mut groups: Vec<Map<String, Value>> = Vec::new();
    for (key, value) in map {
        let Value::Array(items) = value else { continue };
        for (index, item) in items.iter().enumerate() {
            walk.fuel.burn(key.len())?;
            let item = walk.fuel.copy(item)?;
            if index == groups.len() {
                groups.push(Map::new());
            }
            groups[index].insert(key.clone(), item);
        }
    }
    Ok(groups.into_iter().map(Value::Object).collect())
}

/// As `text()` of what was found; nothing is the empty text.
pub(super) fn text<'v>(value: Option<&'v Value>) -> Cow<'v, str> {
    value.map_or(Cow::Borrowed(""), text_of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_table_sorted() {
        assert!(MODIFIERS.is_sorted_by_key(|(name, _)| *name));
    }
}
