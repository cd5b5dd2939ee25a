//! An object of named values.
//!
//! One value that cannot be made unmakes the whole: half an object would be taken for one.

use super::{Made, Response};
use crate::auth::ConfigProblem;
use crate::auth::site::{Site, parse, sound};
use crate::auth::values::{RawValueFrom, ValueFrom};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

pub const NAME: &str = "json";

/// `JsonAuthResponseSpec` of AuthConfig v1beta3.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    properties: BTreeMap<String, RawValueFrom>,
}

/// Names and how their values are made.
pub struct Properties(Vec<(String, ValueFrom)>);

impl Properties {
    /// Settings at `path`; every problem among them is told.
    pub fn compile(
        raw: &BTreeMap<String, RawValueFrom>,
        path: &str,
        problems: &mut Vec<ConfigProblem>,
    ) -> Option<Properties> {
        let before = problems.len();
        let compile = |(name, value): (&String, &RawValueFrom)| {
            sound(value.compile(&format!("{path}.{name}")), problems).map(|value| (name.clone(), value))
        };
        let compiled: Vec<_> = raw.iter().filter_map(compile).collect();
        (problems.len() == before).then_some(Properties(compiled))
    }

    pub fn resolve_into(&self, root: &Value, object: &mut Map<String, Value>) -> Result<(), String> {
        for (name, value) in &self.0 {
            let value = value.resolve(root).map_err(|fault| format!("{name}: {fault}"))?;
            object.insert(name.clone(), value);
        }
        Ok(())
    }
}

pub fn open(given: Value, path: &str, _: &Site<'_>, problems: &mut Vec<ConfigProblem>) -> Option<Box<dyn Response>> {
    let raw: Raw = parse(given, path, problems)?;
    Some(Box::new(Properties::compile(&raw.properties, &format!("{path}.properties"), problems)?))
}

impl Response for Properties {
    fn make<'a>(&'a self, root: &'a Value, _now_unix: u64) -> Made<'a> {
        let mut object = Map::new();
        let made = self.resolve_into(root, &mut object);
        Box::pin(std::future::ready(made.map(|()| Value::Object(object))))
    }
}
