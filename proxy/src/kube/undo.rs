//! Every change to a pod goes through an [`Editor`], which writes down how to take it back.
//!
//! The record is an annotation. It names list items by their `name`, so that it still holds after somebody has added
//! others; and a list or map that we made is taken away again only when nothing but ours was in it.

use serde::{Deserialize, Serialize};
use serde_yaml_ng::{Mapping, Value};

/// Where the record is kept.
pub const INJECTED: &str = "outrider.dev/injected";

type Path = Vec<String>;

/// One change, as it is taken back.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Change {
    /// A collection that was not there; goes if it is empty.
    Made(Path),
    /// A key that was not there, or an item of a list, by its name; goes.
    Added(Path),
    /// A key that held something else; gets it back.
    Replaced(Path, serde_json::Value),
}

#[derive(Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
struct Record {
    /// Of this form; a later one will still read this one.
    version: u32,
    changes: Vec<Change>,
}

pub struct Editor<'a> {
    pod: &'a mut Value,
    changes: Vec<Change>,
}

fn path(keys: &[&str]) -> Path {
    keys.iter().map(|key| (*key).to_owned()).collect()
}

/// A key of a mapping, or an item of a list by its name.
fn step<'a>(value: &'a mut Value, key: &str) -> Option<&'a mut Value> {
    match value {
        Value::Sequence(items) => items.iter_mut().find(|item| item.get("name").and_then(Value::as_str) == Some(key)),
        other => other.get_mut(key),
    }
}

fn walk<'a>(pod: &'a mut Value, keys: &[impl AsRef<str>]) -> Option<&'a mut Value> {
    keys.iter().try_fold(pod, |value, key| step(value, key.as_ref()))
}

impl<'a> Editor<'a> {
    pub fn new(pod: &'a mut Value) -> Self {
        Editor { pod, changes: Vec::new() }
    }

    pub fn pod(&self) -> &Value {
        self.pod
    }

    /// Makes the mapping or list at `keys` if it is not there; the words say what stands in the way.
    fn make(&mut self, keys: &[&str], empty: Value) -> Result<(), String> {
        let (last, parents) = keys.split_last().expect("a path has a key");
        let parent = walk(self.pod, parents).and_then(Value::as_mapping_mut);
        let parent = parent.ok_or_else(|| format!("{} is no mapping", parents.join(".")))?;
        let there = parent.get(*last).filter(|value| !value.is_null());
        match there {
            Some(value) if std::mem::discriminant(value) == std::mem::discriminant(&empty) => Ok(()),
            Some(_) => Err(format!("{} is not of the right kind", keys.join("."))),
            None => {
                // An explicit null comes back as one.
                let change = match parent.insert((*last).into(), empty) {
                    Some(_) => Change::Replaced(path(keys), serde_json::Value::Null),
                    None => Change::Made(path(keys)),
                };
                self.changes.push(change);
                Ok(())
            }
        }
    }

    /// Makes every mapping down to `keys`.
    fn make_all(&mut self, keys: &[&str]) -> Result<(), String> {
        (1..=keys.len()).try_for_each(|depth| match walk(self.pod, &keys[..depth]) {
            Some(value) if !value.is_null() => Ok(()),
            _ => self.make(&keys[..depth], Mapping::new().into()),
        })
    }

    /// Sets a key.
    pub fn set(&mut self, keys: &[&str], value: impl Into<Value>) -> Result<(), String> {
        let (last, parents) = keys.split_last().expect("a path has a key");
        self.make_all(parents)?;
        let parent = walk(self.pod, parents).and_then(Value::as_mapping_mut);
        let parent = parent.ok_or_else(|| format!("{} is no mapping", parents.join(".")))?;
        self.changes.push(match parent.insert((*last).into(), value.into()) {
            Some(was) => {
                let was = serde_json::to_value(&was).map_err(|error| format!("{}: {error}", keys.join(".")))?;
                Change::Replaced(path(keys), was)
            }
            None => Change::Added(path(keys)),
        });
        Ok(())
    }

    /// Puts a named item into a list, which is made if it is not there.
    pub fn add(&mut self, keys: &[&str], at: At, item: Value) -> Result<(), String> {
        self.make(keys, Vec::<Value>::new().into())?;
        let Some(Value::Sequence(items)) = walk(self.pod, keys) else { unreachable!("it was made") };
        let name = item.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        if items.iter().any(|other| other.get("name").and_then(Value::as_str) == Some(&name)) {
            return Err(format!("{} already has a `{name}` that was not put there by us; rename it", keys.join(".")));
        }
        match at {
            At::First => items.insert(0, item),
            At::Last => items.push(item),
        }
        let mut keys = path(keys);
        keys.push(name);
        self.changes.push(Change::Added(keys));
        Ok(())
    }

    /// Writes the record, last of all.
    pub fn finish(mut self) -> Result<(), String> {
        self.make_all(&["metadata", "annotations"])?;
        let record = Record { version: 1, changes: self.changes };
        let record = serde_json::to_string(&record).expect("a record is plain JSON");
        let annotations = walk(self.pod, &["metadata", "annotations"]).and_then(Value::as_mapping_mut);
        annotations.expect("they were made").insert(INJECTED.into(), record.into());
        Ok(())
    }
}

/// At which end of a list.
#[derive(Clone, Copy)]
pub enum At {
    First,
    Last,
}

/// Takes back every change in the pod's record. Whether there was one.
pub fn undo(pod: &mut Value) -> Result<bool, String> {
    let annotations = walk(pod, &["metadata", "annotations"]).and_then(Value::as_mapping_mut);
    let Some(record) = annotations.and_then(|annotations| annotations.shift_remove(INJECTED)) else { return Ok(false) };
    let record: Record = serde_json::from_str(record.as_str().unwrap_or_default())
        .map_err(|error| format!("the annotation {INJECTED} is not as it was written: {error}"))?;
    for change in record.changes.into_iter().rev() {
        match change {
            Change::Made(keys) => {
                let Some((last, parents)) = keys.split_last() else { continue };
                let Some(Value::Mapping(parent)) = walk(pod, parents) else { continue };
                let empty = parent.get(last.as_str()).is_some_and(|value| match value {
                    Value::Mapping(map) => map.is_empty(),
                    Value::Sequence(items) => items.is_empty(),
                    _ => false,
                });
                if empty {
                    parent.shift_remove(last.as_str());
                }
            }
            Change::Added(keys) => remove(pod, &keys),
            Change::Replaced(keys, was) => {
                let Some((last, parents)) = keys.split_last() else { continue };
                let was = serde_yaml_ng::to_value(was).map_err(|error| error.to_string())?;
                // A pod that has lost the parent since has lost what stood in it, too.
                if let Some(Value::Mapping(parent)) = walk(pod, parents) {
                    parent.insert(last.as_str().into(), was);
                }
            }
        }
    }
    Ok(true)
}

fn remove(pod: &mut Value, keys: &[String]) {
    let Some((last, parents)) = keys.split_last() else { return };
    match walk(pod, parents) {
        Some(Value::Sequence(items)) => {
            items.retain(|item| item.get("name").and_then(Value::as_str) != Some(last));
        }
        Some(Value::Mapping(parent)) => drop(parent.shift_remove(last.as_str())),
        _ => {}
    }
}
