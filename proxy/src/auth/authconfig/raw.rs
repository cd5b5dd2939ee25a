//! The shapes of the documents. Evaluators stay values until their kind is known: each kind reads its own settings.

use crate::auth::ConfigProblem;
use crate::auth::patterns::RawPattern;
use crate::auth::values::RawValueFrom;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;

/// What a document says it is.
pub struct Named {
    pub kind: String,
    pub namespace: Option<String>,
    pub name: String,
}

impl Named {
    pub fn of(document: &Value) -> Named {
        let text = |path: &str| document.pointer(path).and_then(Value::as_str).map(str::to_owned);
        Named {
            kind: text("/kind").unwrap_or_default(),
            namespace: text("/metadata/namespace"),
            name: text("/metadata/name").unwrap_or_default(),
        }
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

/// `spec` of an AuthConfig.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawSpec {
    #[serde(default)]
    pub hosts: Vec<String>,
    #[serde(default)]
    pub patterns: BTreeMap<String, Value>,
    #[serde(default)]
    pub when: Vec<RawPattern>,
    #[serde(default)]
    pub authentication: Evaluators,
    #[serde(default)]
    pub metadata: Evaluators,
    #[serde(default)]
    pub authorization: Evaluators,
    pub response: Option<RawResponse>,
    #[serde(default)]
    pub callbacks: Evaluators,
}

/// By name.
pub type Evaluators = BTreeMap<String, Map<String, Value>>;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawResponse {
    pub unauthenticated: Option<RawDenyWith>,
    pub unauthorized: Option<RawDenyWith>,
    pub success: Option<RawSuccess>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawDenyWith {
    pub code: Option<u16>,
    pub message: Option<RawValueFrom>,
    #[serde(default)]
    pub headers: BTreeMap<String, RawValueFrom>,
    pub body: Option<RawValueFrom>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RawSuccess {
    #[serde(default)]
    pub headers: Evaluators,
    /// `filters` is what an AuthPolicy calls it.
    #[serde(default, alias = "filters")]
    pub dynamic_metadata: Evaluators,
}

/// What every evaluator may have, whatever it does.
pub struct Common {
    pub priority: i64,
    pub metrics: bool,
    pub when: Vec<RawPattern>,
    pub cache: Option<RawCache>,
    /// Whether it can keep anybody out: then the condition under which it is asked must not fail to hold because
    /// something is not there.
    pub restricts: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawCache {
    pub key: RawValueFrom,
    pub ttl: Option<u64>,
}

/// One evaluator's settings while they are read.
pub struct Entry<'p> {
    fields: Map<String, Value>,
    pub path: String,
    pub problems: &'p mut Vec<ConfigProblem>,
}

impl<'p> Entry<'p> {
    pub fn new(fields: Map<String, Value>, path: String, problems: &'p mut Vec<ConfigProblem>) -> Entry<'p> {
        Entry { fields, path, problems }
    }

    /// A field in its shape; the default if it is absent, or wrong, which is told.
    pub fn take<T: DeserializeOwned + Default>(&mut self, name: &str) -> T {
        let Some(value) = self.fields.remove(name) else { return T::default() };
        serde_json::from_value(value).unwrap_or_else(|error| {
            let path = format!("{}.{name}", self.path);
            self.problems.push(ConfigProblem { path, message: error.to_string() });
            T::default()
        })
    }

    pub fn common(&mut self) -> Common {
        Common {
            priority: self.take("priority"),
            metrics: self.take("metrics"),
            when: self.take("when"),
            cache: self.take("cache"),
            restricts: false,
        }
    }

    pub fn problem(&mut self, message: impl Into<String>) {
        self.problems.push(ConfigProblem { path: self.path.clone(), message: message.into() });
    }

    /// What is left: the one field that says what the evaluator does, and its settings.
    pub fn kind(&mut self) -> Option<(String, Value)> {
        let fields = std::mem::take(&mut self.fields);
        let names: Vec<&str> = fields.keys().map(String::as_str).collect();
        if names.len() != 1 {
            let names = if names.is_empty() { "has none".into() } else { format!("has {}", names.join(", ")) };
            self.problem(format!("must have exactly one field that says what it does, and {names}"));
            return None;
        }
        fields.into_iter().next()
    }
}
