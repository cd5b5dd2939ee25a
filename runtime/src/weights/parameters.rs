//! Hyper-parameters of a model, under the names of Hugging Face's `config.json` whatever file they came from.
//!
//! Never knows what a model needs: a missing or ill-typed value is an error that names the file and the key.

use super::WeightsError;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// Larger integers than this are refused: no extent of a model comes near, and products of two still fit 64 bits.
const INTEGER_MAX: u64 = 1 << 31;

/// A JSON object, and the file to name in errors.
#[derive(Clone, Debug, Default)]
pub struct Parameters {
    path: PathBuf,
    /// Keys above this object, for errors: `"rope_scaling."`.
    prefix: String,
    values: Map<String, Value>,
}

impl Parameters {
    pub fn new(path: &Path, values: Map<String, Value>) -> Self {
        Self { path: path.to_owned(), prefix: String::new(), values }
    }

    /// The value as it is; JSON null counts as absent.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key).filter(|value| !value.is_null())
    }

    pub fn contains(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    pub fn insert(&mut self, key: &str, value: impl Into<Value>) {
        self.values.insert(key.to_owned(), value.into());
    }

    /// An error about one of these parameters, for a model that finds a value it cannot work with.
    pub fn refuse(&self, key: &str, reason: impl Into<String>) -> WeightsError {
        let key = format!("{}{key}", self.prefix);
        WeightsError::Parameter { path: self.path.clone(), key, reason: reason.into() }
    }

    fn typed<T>(&self, key: &str, wanted: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Option<T>, WeightsError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| self.refuse(key, format!("is {}, not {wanted}", shorten(value))))
    }

    fn required<T>(&self, key: &str, value: Result<Option<T>, WeightsError>) -> Result<T, WeightsError> {
        value?.ok_or_else(|| self.refuse(key, "is missing"))
    }

    /// An integer in `0 ..= 2³¹`.
    pub fn optional_usize(&self, key: &str) -> Result<Option<usize>, WeightsError> {
        let read = |value: &Value| value.as_u64().filter(|n| *n <= INTEGER_MAX).map(|n| n as usize);
        self.typed(key, "an integer of at least 0 (and at most 2^31)", read)
    }

    pub fn usize(&self, key: &str) -> Result<usize, WeightsError> {
        self.required(key, self.optional_usize(key))
    }

    pub fn usize_or(&self, key: &str, default: usize) -> Result<usize, WeightsError> {
        Ok(self.optional_usize(key)?.unwrap_or(default))
    }

    /// An integer of at least 1: an extent, a number of heads.
    pub fn extent(&self, key: &str) -> Result<usize, WeightsError> {
        match self.usize(key)? {
            0 => Err(self.refuse(key, "is 0; it must be at least 1")),
            extent => Ok(extent),
        }
    }

    /// A finite number.
    pub fn optional_f32(&self, key: &str) -> Result<Option<f32>, WeightsError> {
        self.typed(key, "a finite number", |value| value.as_f64().map(|n| n as f32).filter(|n| n.is_finite()))
    }

    pub fn f32(&self, key: &str) -> Result<f32, WeightsError> {
        self.required(key, self.optional_f32(key))
    }

    pub fn f32_or(&self, key: &str, default: f32) -> Result<f32, WeightsError> {
        Ok(self.optional_f32(key)?.unwrap_or(default))
    }

    pub fn bool_or(&self, key: &str, default: bool) -> Result<bool, WeightsError> {
        Ok(self.typed(key, "true or false", Value::as_bool)?.unwrap_or(default))
    }

    pub fn optional_str(&self, key: &str) -> Result<Option<&str>, WeightsError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.refuse(key, format!("is {}, not a string", shorten(other)))),
        }
    }

    pub fn str(&self, key: &str) -> Result<&str, WeightsError> {
        self.required(key, self.optional_str(key))
    }

    /// Elements of a list of finite numbers.
    pub fn optional_f32s(&self, key: &str) -> Result<Option<Vec<f32>>, WeightsError> {
        let finite = |value: &Value| value.as_f64().map(|n| n as f32).filter(|n| n.is_finite());
        self.typed(key, "a list of numbers", |value| value.as_array()?.iter().map(finite).collect())
    }

    /// An object inside: `rope_scaling`.
    pub fn section(&self, key: &str) -> Result<Option<Parameters>, WeightsError> {
        let values = self.typed(key, "an object", |value| value.as_object().cloned())?;
        let prefix = format!("{}{key}.", self.prefix);
        Ok(values.map(|values| Parameters { path: self.path.clone(), prefix, values }))
    }
}

/// A value for an error message, of bounded length.
fn shorten(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parameters(values: Value) -> Parameters {
        Parameters::new(Path::new("config.json"), values.as_object().expect("an object").clone())
    }

    #[test]
    fn is_every_ill_typed_value_refused_by_name() {
        let p = parameters(json!({"a": "x", "b": -1, "c": 1e300, "d": {"e": []}, "big": 1u64 << 40, "zero": 0}));
        let cases = [
            (p.usize("a").map(drop), "config.json: a: is \"x\", not an integer"),
            (p.usize("b").map(drop), "config.json: b: is -1, not an integer"),
            (p.usize("big").map(drop), "config.json: big: is 1099511627776, not an integer"),
            (p.usize("gone").map(drop), "config.json: gone: is missing"),
            (p.extent("zero").map(drop), "config.json: zero: is 0; it must be at least 1"),
            (p.f32("c").map(drop), "config.json: c: is 1e+300, not a finite number"),
            (p.str("b").map(drop), "config.json: b: is -1, not a string"),
            (p.section("a").map(drop), "config.json: a: is \"x\", not an object"),
            (
                p.section("d").and_then(|d| d.expect("d").usize("e")).map(drop),
                "config.json: d.e: is [], not an integer",
            ),
        ];
        for (result, words) in cases {
            let error = result.expect_err(words).to_string();
            assert!(error.starts_with(words), "{error:?} does not begin with {words:?}");
        }
    }

    #[test]
    fn does_null_count_as_absent() {
        let p = parameters(json!({"head_dim": null, "eps": 1e-5}));
        assert_eq!(p.optional_usize("head_dim").expect("null is no error"), None);
        assert_eq!(p.usize_or("head_dim", 64).expect("a default"), 64);
        assert_eq!(p.f32("eps").expect("a number"), 1e-5);
    }
}
