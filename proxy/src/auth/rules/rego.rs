//! `opa: {rego: …}`: a policy in Rego, whose `allow` must be true. Its `input` is the authorization JSON.
//!
//! Compiled once; engines that are ready wait in a small stack, so that a request neither compiles nor copies one. It
//! reaches nothing outside the process, and it is stopped when it takes too long.

pub mod external;
mod text;

use super::{Denied, Opening, Rule, at_once};
use crate::auth::ConfigProblem;
use crate::auth::selectors::{Fault, Problem};
use futures_util::future::BoxFuture;
use regex::Regex;
use regorus::Engine;
use regorus::utils::limits::ExecutionTimerConfig;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

pub const NAME: &str = "opa";

const SOURCE_BYTES_MAX: usize = 256 << 10;
/// A policy holds its thread while it runs. One that people write takes some ten microseconds.
const EVALUATION_MAX: Duration = Duration::from_millis(25);
/// Steps between looks at the clock.
const CHECK_INTERVAL: NonZeroU32 = NonZeroU32::new(256).expect("not zero");
/// Engines kept. One for each core that evaluates at the same moment; a further one is copied and thrown away.
const READY_MAX: usize = 16;

/// The policy's own package, which is replaced: two policies never share one.
static PACKAGE: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"(?m)^[ \t]*package\b[^;\n]*[;\n]*").expect("a constant that a test compiles"));
static HTTP_SEND: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"(?m)^[^#\n]*\bhttp\.send\b").expect("a constant that a test compiles"));
static DEFAULT_ALLOW: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"(?m)^[ \t]*default[ \t]+allow\b").expect("a constant that a test compiles"));

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum RegoVersion {
    #[default]
    V0,
    V1,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Setting {
    rego: String,
    #[serde(default)]
    all_values: bool,
    #[serde(default)]
    version: RegoVersion,
}

/// A compiled policy.
pub struct Rego {
    prototype: Engine,
    ready: Mutex<Vec<Engine>>,
    all_values: bool,
}

pub fn open(setting: &Value, opening: Opening<'_>) -> Result<Box<dyn Rule>, ConfigProblem> {
    let setting: Setting = opening.read(setting)?;
    let rego = Rego::compile(&setting.rego, setting.version, setting.all_values)
        .map_err(|problem| opening.problem(".rego", problem.to_string()))?;
    Ok(Box::new(rego))
}

impl Rego {
    /// `all_values`: what the policy's other rules come to is told too.
    pub fn compile(source: &str, version: RegoVersion, all_values: bool) -> Result<Rego, Problem> {
        if source.len() > SOURCE_BYTES_MAX {
            return Err(Problem::new(format!("a policy longer than {SOURCE_BYTES_MAX} bytes")));
        }
        let v1 = version == RegoVersion::V1;
        let body = PACKAGE.replace(source, "");
        if let Some(name) = text::bare_name(&body).filter(|_| !v1) {
            return Err(Problem::new(format!(
                "no Rego of v0: `{name}` stands there without a body or a value; `if`, `in`, `contains` and `every` \
                 need `version: v1`, or `import rego.v1` in the policy"
            )));
        }
        if HTTP_SEND.is_match(&body) {
            let words =
                "asks others (`http.send`), which no rule does: ask in `metadata`, and read input.auth.metadata";
            return Err(Problem::new(words.into()));
        }
        let default = if DEFAULT_ALLOW.is_match(&body) { "" } else { "default allow := false\n" };
        let mut engine = Engine::new();
        engine.set_rego_v0(!v1);
        // As OPA: a builtin that fails makes its rule undefined.
        engine.set_strict_builtin_errors(false);
        // The default comes last, because imports must come first.
        let policy = |body: &str| format!("package authz\n{body}\n{default}");
        let bad = |error: &dyn std::fmt::Display| Problem::new(format!("no Rego policy that we can honour: {error}"));
        let add = |body: &str| {
            let mut engine = engine.clone();
            engine.add_policy("policy.rego".to_owned(), policy(body)).map(|_| engine)
        };
        let moved = text::with_loops_in_bodies(&body, v1).and_then(|moved| add(&moved).ok());
        let mut engine = moved.map_or_else(|| add(&body), Ok).map_err(|error| bad(&error))?;
        // Evaluated once, which prepares it and finds what only shows then: a function that nobody knows.
        engine.set_input(regorus::Value::new_object());
        engine.set_execution_timer_config(timer());
        engine.eval_rule(allow()).map_err(|error| bad(&error))?;
        Ok(Rego { prototype: engine, ready: Mutex::new(Vec::new()), all_values })
    }

    /// `{"allow": true}`, with the other rules' values if they were asked for.
    pub fn evaluate(&self, root: &Value) -> Result<Value, Denied> {
        let mut engine = self.take();
        engine.set_input(lift(root));
        // A policy is somebody's text, and the request somebody else's: should the two bring the engine down, this
        // request is refused, and that engine is not used again.
        let allowed = catch_unwind(AssertUnwindSafe(|| engine.eval_rule(allow())))
            .map_err(|_| fault("the engine failed"))?
            .map_err(|error| fault(kind_of(&error.to_string())))?;
        if allowed != regorus::Value::Bool(true) {
            self.put_back(engine);
            return Err(Denied::unauthorized());
        }
        let mut told = Map::from_iter([("allow".to_owned(), Value::Bool(true))]);
        if self.all_values {
            let values = catch_unwind(AssertUnwindSafe(|| engine.eval_query("data.authz".to_owned(), false)))
                .map_err(|_| fault("the engine failed"))?
                .map_err(|error| fault(kind_of(&error.to_string())))?;
            let values = values.result.first().and_then(|result| result.expressions.first());
            if let Some(Ok(Value::Object(values))) = values.map(|values| serde_json::to_value(&values.value)) {
                told.extend(values);
            }
        }
        self.put_back(engine);
        Ok(Value::Object(told))
    }

    fn take(&self) -> Engine {
        let ready = self.ready.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).pop();
        ready.unwrap_or_else(|| self.prototype.clone())
    }

    fn put_back(&self, engine: Engine) {
        let mut ready = self.ready.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if ready.len() < READY_MAX {
            ready.push(engine);
        }
    }
}

impl Rule for Rego {
    fn judge<'a>(&'a self, root: &'a Value) -> BoxFuture<'a, Result<Value, Denied>> {
        at_once(self.evaluate(root))
    }
}

fn allow() -> String {
    "data.authz.allow".to_owned()
}

fn timer() -> ExecutionTimerConfig {
    ExecutionTimerConfig { limit: EVALUATION_MAX, check_interval: CHECK_INTERVAL }
}

fn fault(why: &str) -> Denied {
    Fault { words: format!("the Rego policy could not be evaluated: {why}") }.into()
}

/// The engine's message quotes values of the request; which of the two it was is all that is told.
fn kind_of(error: &str) -> &'static str {
    if error.contains("time limit") { "it takes too long" } else { "an error in it, or a conflict between its rules" }
}

/// JSON as the engine's own values, without the detour by text.
fn lift(value: &Value) -> regorus::Value {
    match value {
        Value::Null => regorus::Value::Null,
        Value::Bool(bool) => regorus::Value::Bool(*bool),
        Value::String(string) => regorus::Value::from(string.as_str()),
        Value::Array(items) => regorus::Value::from(items.iter().map(lift).collect::<Vec<_>>()),
        Value::Object(map) => {
            let map = map.iter().map(|(key, value)| (regorus::Value::from(key.as_str()), lift(value)));
            regorus::Value::from(map.collect::<BTreeMap<_, _>>())
        }
        Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(int), _, _) => regorus::Value::from(int),
            (_, Some(uint), _) => regorus::Value::from(uint),
            (_, _, Some(float)) => regorus::Value::from(float),
            _ => regorus::Value::Undefined,
        },
    }
}
