//! What templates written for Python expect: methods of strings and dicts, `json.dumps`, and how values are printed.
//!
//! Never a method that changes its value in place: values are immutable here, and published templates use none.

use minijinja::value::{Value, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State};
use serde_json::Value as Data;

/// Bytes a method may make at most (`ljust`, `replace` and `join` can multiply their input).
const RESULT_BYTES_MAX: usize = 64 << 20;

/// Calls a method that Python's values have and minijinja's have not.
pub(super) fn call_method(_: &mut State<'_, '_>, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    match (value.kind(), value.as_str()) {
        (_, Some(text)) => string_method(text, method, args),
        (ValueKind::Map, _) => map_method(value, method, args),
        (ValueKind::Seq, _) => list_method(value, method, args),
        _ => Err(ErrorKind::UnknownMethod.into()),
    }
}

fn invalid(reason: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason.into())
}

fn string_method(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let no_args = || from_args::<()>(args);
    Ok(match method {
        "strip" => Value::from(strip(text, args, true, true)?),
        "lstrip" => Value::from(strip(text, args, true, false)?),
        "rstrip" => Value::from(strip(text, args, false, true)?),
        "split" | "rsplit" => split(text, method == "rsplit", args)?,
        "splitlines" => no_args().map(|()| text.lines().map(Value::from).collect())?,
        "startswith" => Value::from(affix(args, |affix| text.starts_with(affix))?),
        "endswith" => Value::from(affix(args, |affix| text.ends_with(affix))?),
        "removeprefix" => from_args::<(&str,)>(args).map(|(p,)| Value::from(text.strip_prefix(p).unwrap_or(text)))?,
        "removesuffix" => from_args::<(&str,)>(args).map(|(s,)| Value::from(text.strip_suffix(s).unwrap_or(text)))?,
        "upper" => no_args().map(|()| Value::from(text.to_uppercase()))?,
        "lower" => no_args().map(|()| Value::from(text.to_lowercase()))?,
        "title" => no_args().map(|()| Value::from(title(text)))?,
        "capitalize" => no_args().map(|()| Value::from(capitalize(text)))?,
        "isdigit" | "isnumeric" => no_args().map(|()| all(text, char::is_numeric))?,
        "isalpha" => no_args().map(|()| all(text, char::is_alphabetic))?,
        "isalnum" => no_args().map(|()| all(text, char::is_alphanumeric))?,
        "isspace" => no_args().map(|()| all(text, char::is_whitespace))?,
        "isupper" => no_args().map(|()| Value::from(text != text.to_lowercase() && text == text.to_uppercase()))?,
        "islower" => no_args().map(|()| Value::from(text != text.to_uppercase() && text == text.to_lowercase()))?,
        "find" => from_args::<(&str,)>(args).map(|(part,)| Value::from(position(text, text.find(part))))?,
        "rfind" => from_args::<(&str,)>(args).map(|(part,)| Value::from(position(text, text.rfind(part))))?,
        "count" => from_args::<(&str,)>(args).map(|(part,)| Value::from(text.matches(part).count()))?,
        "replace" => replace(text, args)?,
        "join" => join(text, args)?,
        _ => return Err(ErrorKind::UnknownMethod.into()),
    })
}

fn all(text: &str, is: fn(char) -> bool) -> Value {
    Value::from(!text.is_empty() && text.chars().all(is))
}

/// A byte position as a count of characters, -1 for none.
fn position(text: &str, at: Option<usize>) -> i64 {
    at.map_or(-1, |at| text[..at].chars().count() as i64)
}

fn strip<'t>(text: &'t str, args: &[Value], left: bool, right: bool) -> Result<&'t str, Error> {
    let (characters,): (Option<&str>,) = from_args(args)?;
    let cut = |character: char| match characters {
        Some(characters) => characters.contains(character),
        None => character.is_whitespace(),
    };
    let text = if left { text.trim_start_matches(cut) } else { text };
    Ok(if right { text.trim_end_matches(cut) } else { text })
}

fn split(text: &str, from_right: bool, args: &[Value]) -> Result<Value, Error> {
    let (separator, limit): (Option<&str>, Option<i64>) = from_args(args)?;
    let limit = limit.and_then(|limit| usize::try_from(limit).ok()).map(|limit| limit.saturating_add(1));
    let limit = limit.unwrap_or(usize::MAX);
    Ok(match (separator, from_right) {
        (Some(""), _) => return Err(invalid("split: the separator is empty")),
        (Some(separator), false) => text.splitn(limit, separator).map(Value::from).collect(),
        (Some(separator), true) => {
            let mut parts: Vec<Value> = text.rsplitn(limit, separator).map(Value::from).collect();
            parts.reverse();
            Value::from(parts)
        }
        (None, _) if limit == usize::MAX => text.split_whitespace().map(Value::from).collect(),
        (None, _) => return Err(invalid("split: a limit needs a separator")),
    })
}

/// Whether the text has this affix, or one of a list of them.
fn affix(args: &[Value], has: impl Fn(&str) -> bool) -> Result<bool, Error> {
    let (affixes,): (Value,) = from_args(args)?;
    if let Some(one) = affixes.as_str() {
        return Ok(has(one));
    }
    Ok(affixes.try_iter()?.any(|one| one.as_str().is_some_and(&has)))
}

fn capitalize(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(characters.as_str().to_lowercase().chars()).collect()
    })
}

fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for character in text.chars() {
        match inside {
            true => out.extend(character.to_lowercase()),
            false => out.extend(character.to_uppercase()),
        }
        inside = character.is_alphabetic();
    }
    out
}

fn replace(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (from, to, count): (&str, &str, Option<i64>) = from_args(args)?;
    let count = count.and_then(|count| usize::try_from(count).ok()).unwrap_or(usize::MAX);
    let found = text.matches(from).take(count).count();
    bounded(text.len().saturating_add(found.saturating_mul(to.len())))?;
    Ok(Value::from(text.replacen(from, to, count)))
}

fn join(separator: &str, args: &[Value]) -> Result<Value, Error> {
    let (list,): (Value,) = from_args(args)?;
    let mut out = String::new();
    for (number, item) in list.try_iter()?.enumerate() {
        let item = item
            .as_str()
            .ok_or_else(|| invalid(format!("join: item {number} is {}, no string", item.kind())))?
            .to_owned();
        bounded(out.len() + separator.len() + item.len())?;
        out.push_str(if number == 0 { "" } else { separator });
        out.push_str(&item);
    }
    Ok(Value::from(out))
}

fn bounded(bytes: usize) -> Result<(), Error> {
    if bytes > RESULT_BYTES_MAX { Err(invalid("a string of the template grows too long")) } else { Ok(()) }
}

fn map_method(map: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let value_of = |key: &Value| map.get_item(key).unwrap_or_default();
    Ok(match method {
        "get" => {
            let (key, default): (Value, Option<Value>) = from_args(args)?;
            let found = value_of(&key);
            if found.is_undefined() { default.unwrap_or(Value::from(())) } else { found }
        }
        "keys" => from_args::<()>(args).and_then(|()| Ok(map.try_iter()?.collect()))?,
        "values" => from_args::<()>(args).and_then(|()| Ok(map.try_iter()?.map(|key| value_of(&key)).collect()))?,
        "items" => {
            from_args::<()>(args)?;
            let pair = |key: Value| Value::from(vec![key.clone(), value_of(&key)]);
            map.try_iter()?.map(pair).collect()
        }
        "copy" => from_args::<()>(args).map(|()| map.clone())?,
        _ => return Err(ErrorKind::UnknownMethod.into()),
    })
}

fn list_method(list: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let (wanted,): (Value,) = from_args(args)?;
    match method {
        "count" => Ok(Value::from(list.try_iter()?.filter(|item| *item == wanted).count())),
        "index" => match list.try_iter()?.position(|item| item == wanted) {
            Some(at) => Ok(Value::from(at)),
            None => Err(invalid("index: the value is not in the list")),
        },
        _ => Err(ErrorKind::UnknownMethod.into()),
    }
}

/// A value as `str()` writes it: `True`, `None`, `{'a': [1, 2.0]}`.
pub(super) fn print(value: &Value) -> String {
    match (value.as_str(), value.kind()) {
        (Some(text), _) => text.to_owned(),
        (_, ValueKind::Bool | ValueKind::None | ValueKind::Seq | ValueKind::Map | ValueKind::Number) => {
            match serde_json::to_value(value) {
                Ok(data) => {
                    let mut out = String::new();
                    repr(&data, &mut out);
                    out
                }
                Err(_) => value.to_string(),
            }
        }
        _ => value.to_string(),
    }
}

/// As `repr()` writes it. Depth is bounded by that of the JSON the value came from.
fn repr(data: &Data, out: &mut String) {
    match data {
        Data::Null => out.push_str("None"),
        Data::Bool(true) => out.push_str("True"),
        Data::Bool(false) => out.push_str("False"),
        Data::Number(number) => out.push_str(&float(number)),
        Data::String(text) => quote(text, out),
        Data::Array(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                out.push_str(if at == 0 { "" } else { ", " });
                repr(item, out);
            }
            out.push(']');
        }
        Data::Object(items) => {
            out.push('{');
            for (at, (key, item)) in items.iter().enumerate() {
                out.push_str(if at == 0 { "" } else { ", " });
                quote(key, out);
                out.push_str(": ");
                repr(item, out);
            }
            out.push('}');
        }
    }
}

/// A string in single quotes, or in double quotes if only single ones are inside.
fn quote(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for character in text.chars() {
        match character {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => out.extend(['\\', c]),
            c if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push(quote);
}

/// A number as Python writes it: exponents have a sign and two digits, whole floats end in `.0`.
fn float(number: &serde_json::Number) -> String {
    let Some(real) = number.as_f64().filter(|_| number.is_f64()) else { return number.to_string() };
    let size = real.abs();
    if size == 0.0 || (1e-4..1e16).contains(&size) {
        return format!("{real:?}");
    }
    let text = format!("{real:e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
    format!("{mantissa}e{sign}{digits:0>2}")
}

/// `json.dumps`, with the options that templates give it.
pub(super) struct Json {
    pub indent: Option<usize>,
    pub sort_keys: bool,
    pub comma: String,
    pub colon: String,
}

impl Json {
    pub fn dump(&self, data: &Data) -> String {
        let mut out = String::new();
        self.write(data, 0, &mut out);
        out
    }

    fn write(&self, data: &Data, depth: usize, out: &mut String) {
        match data {
            Data::Array(items) if !items.is_empty() => {
                self.list(('[', ']'), depth, out, items.len(), |at, out| self.write(&items[at], depth + 1, out));
            }
            Data::Object(items) if !items.is_empty() => {
                let mut pairs: Vec<(&String, &Data)> = items.iter().collect();
                if self.sort_keys {
                    pairs.sort_by_key(|pair| pair.0);
                }
                self.list(('{', '}'), depth, out, pairs.len(), |at, out| {
                    out.push_str(&escaped(pairs[at].0));
                    out.push_str(&self.colon);
                    self.write(pairs[at].1, depth + 1, out);
                });
            }
            Data::String(text) => out.push_str(&escaped(text)),
            Data::Number(number) => out.push_str(&float(number)),
            other => out.push_str(&other.to_string()),
        }
    }

    fn list(
        &self,
        brackets: (char, char),
        depth: usize,
        out: &mut String,
        len: usize,
        item: impl Fn(usize, &mut String),
    ) {
        let line = |depth: usize, out: &mut String| {
            if let Some(indent) = self.indent {
                out.push('\n');
                out.extend(std::iter::repeat_n(' ', indent * depth));
            }
        };
        out.push(brackets.0);
        for at in 0..len {
            out.push_str(if at == 0 { "" } else { &self.comma });
            line(depth + 1, out);
            item(at, out);
        }
        line(depth, out);
        out.push(brackets.1);
    }
}

/// A JSON string; beyond ASCII nothing is escaped.
fn escaped(text: &str) -> String {
    // DEL is the one character on which serde_json and Python's json agree anyway; both escape only what they must.
    Data::from(text).to_string()
}
