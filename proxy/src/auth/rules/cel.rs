//! `cel: {predicate: …}`: one expression that must be true. Ours; an AuthConfig puts predicates among its patterns.

use super::{Denied, Opening, Rule, at_once};
use crate::auth::ConfigProblem;
use crate::auth::expressions::Expression;
use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::Value;

pub const NAME: &str = "cel";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Setting {
    predicate: String,
}

struct CelRule {
    predicate: Expression,
}

pub fn open(setting: &Value, opening: Opening<'_>) -> Result<Box<dyn Rule>, ConfigProblem> {
    let setting: Setting = opening.read(setting)?;
    let predicate = Expression::compile(&setting.predicate)
        .map_err(|problem| opening.problem(".predicate", problem.to_string()))?;
    Ok(Box::new(CelRule { predicate }))
}

impl Rule for CelRule {
    fn judge<'a>(&'a self, root: &'a Value) -> BoxFuture<'a, Result<Value, Denied>> {
        at_once(match self.predicate.holds(root) {
            Ok(true) => Ok(Value::Bool(true)),
            Ok(false) => Err(Denied::unauthorized()),
            Err(fault) => Err(fault.into()),
        })
    }
}
