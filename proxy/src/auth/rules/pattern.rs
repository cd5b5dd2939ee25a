//! `patternMatching: {patterns: […]}`: conditions on attributes, all of which must hold.

use super::{Denied, Opening, Rule, at_once};
use crate::auth::ConfigProblem;
use crate::auth::patterns::{Condition, RawPattern};
use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::Value;

pub const NAME: &str = "patternMatching";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Setting {
    patterns: Vec<RawPattern>,
}

struct PatternRule {
    condition: Condition,
}

pub fn open(setting: &Value, opening: Opening<'_>) -> Result<Box<dyn Rule>, ConfigProblem> {
    let setting: Setting = opening.read(setting)?;
    let path = format!("{}.patterns", opening.path);
    let condition = Condition::compile(&setting.patterns, opening.named, opening.compat, &path)?;
    Ok(Box::new(PatternRule { condition }))
}

impl Rule for PatternRule {
    fn judge<'a>(&'a self, root: &'a Value) -> BoxFuture<'a, Result<Value, Denied>> {
        at_once(match self.condition.holds(root) {
            Ok(true) => Ok(Value::Bool(true)),
            Ok(false) => Err(Denied::unauthorized()),
            Err(fault) => Err(fault.into()),
        })
    }
}
