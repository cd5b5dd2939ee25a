//! YAML documents as trees whose every node knows its path, so that all problems of all files are told at once.
//!
//! Strict on purpose: an unknown field or a value of another type is a problem, never a default. A misspelt field must
//! not open a door.

use serde::Deserialize;
use serde_yaml_ng::{Mapping, Value};
use std::cell::RefCell;
use std::fmt;

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub file: String,
    /// `AuthorizationPolicy default/allow-gateway`, or the number of the document if it has no name.
    pub document: String,
    /// `spec.rules[0].from[1].source.principals`, or empty.
    pub path: String,
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [&self.file, &self.document, &self.path].map(String::as_str);
        for part in parts.iter().filter(|part| !part.is_empty()) {
            write!(f, "{part}: ")?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Problem {}

/// Which document a node is of, and where its problems go.
pub struct Origin<'a> {
    pub file: &'a str,
    pub document: String,
    pub problems: &'a RefCell<Vec<Problem>>,
}

/// A value with its path.
#[derive(Clone)]
pub struct Node<'a> {
    value: &'a Value,
    path: String,
    origin: &'a Origin<'a>,
}

impl<'a> Node<'a> {
    pub fn root(value: &'a Value, origin: &'a Origin<'a>) -> Node<'a> {
        Node { value, path: String::new(), origin }
    }

    pub fn problem(&self, message: impl Into<String>) {
        self.problem_at(&self.path, message);
    }

    fn problem_at(&self, path: &str, message: impl Into<String>) {
        self.origin.problems.borrow_mut().push(Problem {
            file: self.origin.file.into(),
            document: self.origin.document.clone(),
            path: path.into(),
            message: message.into(),
        });
    }

    fn below(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    fn mapping(&self) -> Option<&'a Mapping> {
        let mapping = self.value.as_mapping();
        if mapping.is_none() {
            self.problem("is not an object");
        }
        mapping
    }

    /// These fields of an object; every other one is a problem. One that is null is absent, as in Kubernetes.
    pub fn fields<const N: usize>(&self, names: [&str; N]) -> [Option<Node<'a>>; N] {
        for (key, _) in self.mapping().into_iter().flatten() {
            let name = key.as_str().unwrap_or("(not text)");
            if !names.contains(&name) {
                let known = if N == 0 { "none".to_owned() } else { names.join(", ") };
                self.problem_at(&self.below(name), format!("is not a field here; known are: {known}"));
            }
        }
        names.map(|name| self.field(name))
    }

    /// One field of an object, whatever else is in it.
    pub fn field(&self, name: &str) -> Option<Node<'a>> {
        let value = self.value.as_mapping()?.get(name).filter(|value| !value.is_null())?;
        Some(Node { value, path: self.below(name), origin: self.origin })
    }

    /// Members of an object with any keys, numbers among them (`8080: …`).
    pub fn entries(&self) -> Vec<(String, Node<'a>)> {
        let mut entries = Vec::new();
        for (key, value) in self.mapping().into_iter().flatten() {
            let key = match key {
                Value::String(text) => text.clone(),
                Value::Number(number) => number.to_string(),
                _ => {
                    self.problem("has a key that is not text");
                    continue;
                }
            };
            let path = self.below(&key);
            entries.push((key, Node { value, path, origin: self.origin }));
        }
        entries
    }

    pub fn items(&self) -> Vec<Node<'a>> {
        let Some(items) = self.value.as_sequence() else {
            self.problem("is not a list");
            return Vec::new();
        };
        let node = |(i, value)| Node { value, path: format!("{}[{i}]", self.path), origin: self.origin };
        items.iter().enumerate().map(node).collect()
    }

    /// How many items a list has; none if it is no list, which [`Node::items`] complains about.
    pub fn count(&self) -> usize {
        self.value.as_sequence().map_or(0, Vec::len)
    }

    /// A text that is not empty.
    pub fn text(&self) -> Option<&'a str> {
        match self.value.as_str() {
            Some("") => self.problem("is empty"),
            Some(text) => return Some(text),
            None if self.value.is_number() || self.value.is_bool() => self.problem("is not text; put it in quotes"),
            None => self.problem("is not text"),
        }
        None
    }

    pub fn boolean(&self) -> Option<bool> {
        let value = self.value.as_bool();
        if value.is_none() {
            self.problem("is neither true nor false");
        }
        value
    }

    /// Each text of a list, made into something; what cannot be is a problem.
    pub fn each<T>(&self, make: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        let one = |node: Node<'a>| match make(node.text()?) {
            Ok(made) => Some(made),
            Err(message) => {
                node.problem(message);
                None
            }
        };
        self.items().into_iter().filter_map(one).collect()
    }

    pub fn texts(&self) -> Vec<String> {
        self.each(|text| Ok(text.to_owned()))
    }
}

/// Every document of a file. What is not YAML ends the file, with a problem.
pub fn documents(file: &str, text: &str, problems: &RefCell<Vec<Problem>>) -> Vec<Value> {
    let mut found = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        match Value::deserialize(document) {
            Ok(Value::Null) => {}
            Ok(value) => found.push(value),
            Err(error) => {
                let document = format!("document {}", found.len() + 1);
                let message = format!("is not YAML: {error}");
                problems.borrow_mut().push(Problem { file: file.into(), document, path: String::new(), message });
                break;
            }
        }
    }
    found
}
