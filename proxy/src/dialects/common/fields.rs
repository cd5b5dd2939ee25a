//! Reads typed fields out of a JSON object, and blames the right one by its path (`messages[2].content`).
//!
//! By hand and not by `serde` derive: a derive can say what it wanted, but not where, and not what to do instead.
//! Never decides what a field means.

use crate::error::Error;
use crate::message::Head;
use serde_json::{Map, Value};
use std::ops::RangeInclusive;

/// A JSON object and where it lies in the request.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    map: &'a Map<String, Value>,
    at: String,
    /// Take `"0.5"` for `0.5` and `"true"` for `true`, where the field wants a number or a truth value.
    texts_count: bool,
}

/// Reads a body that must be one JSON object.
///
/// # Errors
/// [`Error::Invalid`] with line and column, or the kind of value found; [`Error::UnsupportedMediaType`] and
/// [`Error::Unsupported`] where the head says that the body is something else.
pub fn object(head: &Head, body: &[u8]) -> Result<Map<String, Value>, Error> {
    expect_json(head)?;
    if body.is_empty() {
        return Err(Error::invalid("the request body is empty; send a JSON object"));
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(other) => Err(Error::invalid(format!("the request body must be a JSON object, got {}", kind(&other)))),
        Err(error) => Err(Error::invalid(format!("the request body is not valid JSON: {error}"))),
    }
}

/// Refuses a body that the head declares to be no plain JSON. No declaration is fine.
fn expect_json(head: &Head) -> Result<(), Error> {
    expect_identity(head)?;
    let Some(got) = head.header("content-type") else { return Ok(()) };
    let media_type = got.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if media_type.is_empty() || media_type == "application/json" || media_type.ends_with("+json") {
        return Ok(());
    }
    Err(Error::UnsupportedMediaType { got: got.chars().take(128).collect(), want: "application/json" })
}

/// Refuses a compressed body: inflating on a stranger's behalf would make the body limit meaningless.
pub fn expect_identity(head: &Head) -> Result<(), Error> {
    match head.header("content-encoding") {
        None | Some("" | "identity") => Ok(()),
        Some(other) => {
            let other: String = other.chars().take(64).collect();
            Err(Error::Unsupported { feature: format!("content-encoding `{other}` of a request") })
        }
    }
}

/// What a value is, in a sentence: `a string`, `the number -1`.
pub fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(flag) => format!("{flag}"),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) if text.is_empty() => "an empty string".into(),
        Value::String(_) => "a string".into(),
        Value::Array(items) if items.is_empty() => "an empty array".into(),
        Value::Array(_) => "an array".into(),
        Value::Object(_) => "an object".into(),
    }
}

impl<'a> Fields<'a> {
    pub fn new(map: &'a Map<String, Value>) -> Fields<'a> {
        Fields { map, at: String::new(), texts_count: false }
    }

    /// As an element of something: `at` is its own path.
    ///
    /// # Errors
    /// `value` is no object.
    pub fn of(value: &'a Value, at: impl Into<String>) -> Result<Fields<'a>, Error> {
        let at = at.into();
        match value {
            Value::Object(map) => Ok(Fields { map, at, texts_count: false }),
            other => Err(wrong(&at, "an object", other)),
        }
    }

    /// The same fields under a path.
    pub fn at(mut self, at: impl Into<String>) -> Fields<'a> {
        self.at = at.into();
        self
    }

    /// The same fields, where numbers and truth values may be written as strings.
    pub fn texts_count(mut self) -> Fields<'a> {
        self.texts_count = true;
        self
    }

    /// Path of one field.
    pub fn path(&self, name: &str) -> String {
        if self.at.is_empty() { name.to_owned() } else { format!("{}.{name}", self.at) }
    }

    /// Where the object itself lies.
    pub fn place(&self) -> &str {
        &self.at
    }

    /// The field, where it is there and not null.
    pub fn get(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// "`name` must be …, got …".
    pub fn wrong(&self, name: &str, wanted: &str) -> Error {
        wrong(&self.path(name), wanted, self.map.get(name).unwrap_or(&Value::Null))
    }

    /// "`name` …".
    pub fn refuse(&self, name: &str, words: &str) -> Error {
        let path = self.path(name);
        Error::invalid_param(path.clone(), format!("`{path}` {words}"))
    }

    pub fn string(&self, name: &str) -> Result<Option<&'a str>, Error> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(name, "a string")),
        }
    }

    pub fn required_string(&self, name: &str) -> Result<&'a str, Error> {
        match self.string(name)? {
            Some(text) if !text.is_empty() => Ok(text),
            Some(_) => Err(self.refuse(name, "must not be empty")),
            None => Err(self.refuse(name, "is required")),
        }
    }

    /// Absent is false.
    pub fn flag(&self, name: &str) -> Result<bool, Error> {
        match self.get(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(Value::String(text)) if self.texts_count => match text.trim().to_ascii_lowercase().as_str() {
                "true" | "1" => Ok(true),
                "false" | "0" => Ok(false),
                _ => Err(self.wrong(name, "true or false")),
            },
            Some(_) => Err(self.wrong(name, "true or false")),
        }
    }

    pub fn number(&self, name: &str, range: RangeInclusive<f64>) -> Result<Option<f64>, Error> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let number = match value {
            Value::Number(number) => number.as_f64(),
            Value::String(text) if self.texts_count => text.trim().parse().ok(),
            _ => None,
        };
        match number {
            Some(number) if range.contains(&number) => Ok(Some(number)),
            _ => Err(self.wrong(name, &format!("a number from {} to {}", range.start(), range.end()))),
        }
    }

    /// A whole number; `3.0` is one.
    pub fn integer(&self, name: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, Error> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let integer = match value {
            Value::String(text) if self.texts_count => text.trim().parse().ok(),
            other => whole(other),
        };
        match integer {
            Some(integer) if range.contains(&integer) => Ok(Some(integer)),
            _ if *range.end() == i64::MAX => Err(self.wrong(name, &format!("a whole number ≥ {}", range.start()))),
            _ => Err(self.wrong(name, &format!("a whole number from {} to {}", range.start(), range.end()))),
        }
    }

    pub fn array(&self, name: &str) -> Result<Option<&'a [Value]>, Error> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items)),
            Some(_) => Err(self.wrong(name, "an array")),
        }
    }

    pub fn fields(&self, name: &str) -> Result<Option<Fields<'a>>, Error> {
        let Some(value) = self.get(name) else { return Ok(None) };
        Ok(Some(Fields { texts_count: self.texts_count, ..Fields::of(value, self.path(name))? }))
    }

    pub fn iter(&self) -> impl Iterator<Item = (&'a String, &'a Value)> {
        self.map.iter()
    }

    pub fn takes_texts(&self) -> bool {
        self.texts_count
    }
}

/// A number without a fraction, within ±2⁵³ where it is written as a float.
pub fn whole(value: &Value) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    value.as_i64().or_else(|| {
        let float = value.as_f64()?;
        (float.fract() == 0.0 && float.abs() <= EXACT).then_some(float as i64)
    })
}

/// A token id or another count that fits 32 bits.
pub fn small(value: &Value) -> Option<u32> {
    whole(value).and_then(|number| u32::try_from(number).ok())
}

/// "`at` must be …, got …".
pub fn wrong(at: &str, wanted: &str, got: &Value) -> Error {
    Error::invalid_param(at, format!("`{at}` must be {wanted}, got {}", kind(got)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn words(error: Error) -> String {
        error.verdict().words
    }

    #[test]
    fn does_an_error_name_field_wish_and_finding() {
        let value = json!({"a": {"t": "x", "n": -1, "f": 1.5, "big": 1e300, "null": null}});
        let outer = Fields::new(value.as_object().expect("an object"));
        let fields = outer.fields("a").expect("is an object").expect("is there");
        assert_eq!(words(fields.flag("t").unwrap_err()), "`a.t` must be true or false, got a string");
        assert_eq!(
            words(fields.integer("n", 0..=5).unwrap_err()),
            "`a.n` must be a whole number from 0 to 5, got the number -1"
        );
        assert_eq!(
            words(fields.integer("f", 0..=i64::MAX).unwrap_err()),
            "`a.f` must be a whole number ≥ 0, got the number 1.5"
        );
        assert!(fields.integer("big", 0..=i64::MAX).is_err());
        assert_eq!(fields.integer("null", 0..=5).expect("null is absent"), None);
        assert_eq!(words(fields.required_string("none").unwrap_err()), "`a.none` is required");
    }

    #[test]
    fn are_numbers_in_strings_taken_only_where_asked() {
        let value = json!({"n": "3", "f": "0.5", "b": "True", "nan": "nan"});
        let strict = Fields::new(value.as_object().expect("an object"));
        assert!(
            strict.integer("n", 0..=9).is_err() && strict.number("f", 0.0..=1.0).is_err() && strict.flag("b").is_err()
        );
        let lenient = strict.texts_count();
        assert_eq!(lenient.integer("n", 0..=9).expect("taken"), Some(3));
        assert_eq!(lenient.number("f", 0.0..=1.0).expect("taken"), Some(0.5));
        assert!(lenient.flag("b").expect("taken"));
        assert!(lenient.number("nan", 0.0..=1.0).is_err());
    }
}
