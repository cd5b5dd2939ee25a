//! Secrets that policies refer to by name or by label: a folder of Kubernetes Secret documents, or whatever else is
//! turned into a [`Store`].
//!
//! Never shows what is in one: `Debug` has names only.

use crate::auth::ConfigProblem;
use crate::auth::secrets::Secrets;
use crate::policy::Problem;
use crate::watched::File;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt;

/// A Kubernetes Secret.
#[derive(Clone, Default, PartialEq)]
pub struct Secret {
    pub namespace: String,
    pub name: String,
    /// `metadata` as it stands in the document.
    pub metadata: Value,
    pub kind: String,
    pub data: BTreeMap<String, Bytes>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret {}/{} with {:?}", self.namespace, self.name, self.data.keys())
    }
}

/// All of them, as they are now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Store {
    secrets: Vec<Secret>,
}

/// `LabelSelector` of Kubernetes.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct LabelSelector {
    #[serde(default)]
    match_labels: BTreeMap<String, String>,
    #[serde(default)]
    match_expressions: Vec<Requirement>,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Requirement {
    key: String,
    operator: Operator,
    #[serde(default)]
    values: Vec<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

impl LabelSelector {
    /// An empty one would select everything there is.
    pub fn is_empty(&self) -> bool {
        self.match_labels.is_empty() && self.match_expressions.is_empty()
    }

    pub fn selects(&self, secret: &Secret) -> bool {
        let label = |key: &str| secret.metadata.get("labels")?.get(key)?.as_str();
        let equal = self.match_labels.iter().all(|(key, value)| label(key) == Some(value));
        equal
            && self.match_expressions.iter().all(|it| {
                let value = label(&it.key);
                let among = value.is_some_and(|value| it.values.iter().any(|one| one == value));
                match it.operator {
                    Operator::In => among,
                    Operator::NotIn => !among,
                    Operator::Exists => value.is_some(),
                    Operator::DoesNotExist => value.is_none(),
                }
            })
    }
}

impl Secret {
    /// As Authorino's identities of API keys are: the object, less what is secret in it.
    pub fn object(&self) -> Value {
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": self.metadata, "type": self.kind})
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    kind: String,
    #[serde(default)]
    metadata: Value,
    #[serde(default)]
    r#type: String,
    #[serde(default)]
    data: BTreeMap<String, String>,
    #[serde(default)]
    string_data: BTreeMap<String, String>,
}

impl Store {
    pub fn new(secrets: Vec<Secret>) -> Store {
        Store { secrets }
    }

    /// Those of objects that are Secrets; the others are nobody's, and told of.
    pub fn of_objects<'a>(objects: impl Iterator<Item = &'a Value>, namespace: &str) -> Store {
        let read = objects.filter_map(|object| match secret(object.clone(), namespace) {
            Ok(secret) => Some(secret),
            Err(message) => {
                tracing::warn!(message, "a Secret is left out");
                None
            }
        });
        Store { secrets: read.collect() }
    }

    /// All Secrets of some files; `namespace` is of those that name none. What is said of a problem never has a value.
    pub fn parse(files: &[File], namespace: &str) -> Result<Store, Vec<Problem>> {
        let (mut secrets, mut problems) = (Vec::new(), Vec::new());
        for (file, text) in files {
            for (number, document) in serde_yaml_ng::Deserializer::from_str(text).enumerate() {
                let read = Value::deserialize(document).map_err(|_| "is not YAML".to_owned());
                let read =
                    read.and_then(|value| if value.is_null() { Ok(None) } else { secret(value, namespace).map(Some) });
                match read {
                    Ok(secret) => secrets.extend(secret),
                    Err(message) => {
                        let document = format!("document {}", number + 1);
                        problems.push(Problem { file: file.clone(), document, path: String::new(), message });
                        break;
                    }
                }
            }
        }
        if problems.is_empty() { Ok(Store { secrets }) } else { Err(problems) }
    }

    /// All that a selector selects, in a namespace or (`None`) in all.
    pub fn selected(&self, namespace: Option<&str>, selector: &LabelSelector) -> impl Iterator<Item = &Secret> {
        let here = self.secrets.iter().filter(move |it| namespace.is_none_or(|namespace| it.namespace == namespace));
        here.filter(move |secret| selector.selects(secret))
    }

    pub fn named(&self, namespace: &str, name: &str) -> Option<&Secret> {
        self.secrets.iter().find(|it| it.namespace == namespace && it.name == name)
    }
}

impl Secrets for Store {
    fn value(&self, namespace: &str, name: &str, key: &str) -> Option<Bytes> {
        self.named(namespace, name)?.data.get(key).cloned()
    }
}

fn secret(value: Value, namespace: &str) -> Result<Secret, String> {
    // serde's own words would quote the value.
    let document: Document = serde_json::from_value(value).map_err(|_| "is not in the shape of a Secret".to_owned())?;
    if document.kind != "Secret" {
        return Err(format!("is a {}; this folder is for Secrets", document.kind));
    }
    let text = |key: &str| document.metadata.get(key).and_then(Value::as_str).map(str::to_owned);
    let name = text("name").ok_or("has no metadata.name")?;
    let mut data = BTreeMap::new();
    for (key, encoded) in document.data {
        let compact: String = encoded.split_ascii_whitespace().collect();
        let bytes = STANDARD.decode(compact).map_err(|_| format!("data.{key} of {name} is not base64"))?;
        data.insert(key, bytes.into());
    }
    data.extend(document.string_data.into_iter().map(|(key, value)| (key, value.into())));
    let namespace = text("namespace").unwrap_or_else(|| namespace.to_owned());
    Ok(Secret { namespace, name, metadata: document.metadata, kind: document.r#type, data })
}

/// For paths in problems.
pub fn problem(path: impl Into<String>, message: impl Into<String>) -> ConfigProblem {
    ConfigProblem { path: path.into(), message: message.into() }
}
