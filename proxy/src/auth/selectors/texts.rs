//! Authorino's own modifiers, which are about text: `@extract`, `@replace`, `@case`, `@base64`, `@strip`.
//!
//! Whatever their arguments lack is said when the policy is loaded; none fails on a document.

use super::Problem;
use super::modifiers::text;
use super::walk::{Exhausted, Hit, Walk};
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use regex::Regex;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::sync::LazyLock;

pub(super) enum Text {
    Extract { separator: String, position: usize },
    Replace { old: String, new: String },
    Upper,
    Lower,
    Encode,
    Decode,
    Strip,
}

/// Encodes with padding; reads with or without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// What Go calls not printable: no letter, mark, number, punctuation or symbol, and not the ASCII space.
static UNPRINTABLE: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"[^\p{L}\p{M}\p{N}\p{P}\p{S} ]+").expect("a constant that a test compiles"));

fn option<'o>(options: &'o Map<String, Value>, name: &str, default: &'o str) -> Cow<'o, str> {
    options.get(name).map_or(Cow::Borrowed(default), |value| text(Some(value)))
}

pub(super) fn extract(options: &Map<String, Value>) -> Result<Text, Problem> {
    let position = option(options, "pos", "0").parse().map_err(|_| Problem::new("`pos` counts from 0".to_owned()))?;
    Ok(Text::Extract { separator: option(options, "sep", " ").into_owned(), position })
}

pub(super) fn replace(options: &Map<String, Value>) -> Result<Text, Problem> {
    if !options.contains_key("old") {
        return Err(Problem::new("say what to replace: {\"old\":\"…\",\"new\":\"…\"}".to_owned()));
    }
    Ok(Text::Replace { old: option(options, "old", "").into_owned(), new: option(options, "new", "").into_owned() })
}

pub(super) fn case(argument: &str) -> Result<Text, Problem> {
    match argument {
        "upper" => Ok(Text::Upper),
        "lower" => Ok(Text::Lower),
        _ => Err(Problem::new(format!("`{argument}` is neither `upper` nor `lower`"))),
    }
}

pub(super) fn base64(argument: &str) -> Result<Text, Problem> {
    match argument {
        "encode" => Ok(Text::Encode),
        "decode" => Ok(Text::Decode),
        _ => Err(Problem::new(format!("`{argument}` is neither `encode` nor `decode`"))),
    }
}

impl Text {
    pub(super) fn apply<'a>(&self, walk: &mut Walk<'_>, value: Hit<'a>) -> Result<Hit<'a>, Exhausted> {
        match self {
            Text::Upper => inside(walk, value, &|text| text.to_uppercase()),
            Text::Lower => inside(walk, value, &|text| text.to_lowercase()),
            Text::Strip => inside(walk, value, &|text| UNPRINTABLE.replace_all(text, "").into_owned()),
            Text::Extract { separator, position } => {
                whole(walk, value, |_, text| Ok(extracted(text, separator, *position)))
            }
            Text::Replace { old, new } => whole(walk, value, |walk, text| {
                // An empty `old` stands between all characters, as in Go.
                walk.fuel.burn(text.matches(old.as_str()).count().saturating_mul(new.len()))?;
                Ok(Value::String(text.replace(old.as_str(), new)))
            }),
            Text::Encode => whole(walk, value, |_, text| Ok(Value::String(BASE64.encode(text)))),
            // What cannot be decoded is the empty text; Authorino gives what came before the fault.
            Text::Decode => whole(walk, value, |_, text| {
                let bytes = BASE64.decode(text.replace(['\r', '\n'], "")).unwrap_or_default();
                Ok(Value::String(String::from_utf8_lossy(&bytes).into_owned()))
            }),
        }
    }
}

/// The value as one text; what is not there is the empty one.
fn whole<'a>(
    walk: &mut Walk<'_>,
    value: Hit<'_>,
    how: impl FnOnce(&mut Walk<'_>, &str) -> Result<Value, Exhausted>,
) -> Result<Hit<'a>, Exhausted> {
    let text = text(value.as_deref());
    walk.fuel.burn(text.len())?;
    Ok(Some(Cow::Owned(how(walk, &text)?)))
}

fn extracted(text: &str, separator: &str, position: usize) -> Value {
    let part = if separator.is_empty() {
        text.char_indices().nth(position).map(|(at, char)| &text[at..at + char.len_utf8()])
    } else {
        text.split(separator).nth(position)
    };
    part.map_or(Value::Null, |part| Value::String(part.to_owned()))
}

/// Every string in the value, keys too: Authorino changes the JSON's whole text.
fn inside<'a>(walk: &mut Walk<'_>, value: Hit<'a>, how: &dyn Fn(&str) -> String) -> Result<Hit<'a>, Exhausted> {
    let Some(value) = value else { return Ok(None) };
    // Weighed by the copy, which also bounds how deep it is.
    let mut value = walk.fuel.copy(&value)?;
    change(&mut value, how);
    Ok(Some(Cow::Owned(value)))
}

fn change(value: &mut Value, how: &dyn Fn(&str) -> String) {
    match value {
        Value::String(string) => *string = how(string),
        Value::Array(items) => items.iter_mut().for_each(|item| change(item, how)),
        Value::Object(map) => {
            for (key, mut value) in std::mem::take(map) {
                change(&mut value, how);
                map.insert(how(&key), value);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
