//! CEL over the authorization JSON: predicates and values, with cel-go's functions on strings.
//!
//! Only what an expression refers to is ever handed to CEL, and that is borrowed. A loop over a list pays for each turn,
//! so no document makes an expression run away; what cannot be evaluated is a [`Fault`], which nobody may take for `true`.

mod analyse;
mod lift;

use super::selectors::{Fault, Problem};
use analyse::{FUEL_NAME, Wanted};
use cel::common::types::CelBool;
use cel::common::value::{CowVal, Val};
use cel::context::VariableResolver;
use cel::{Context, Env, ExecutionError, IdedExpr};
use serde_json::Value;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

const SOURCE_BYTES_MAX: usize = 8192;
/// Brackets within each other. The parser takes some 20 KB of stack for each, in a build without optimisation.
const NESTING_MAX: u16 = 24;
/// Turns of all loops of one evaluation. A turn costs about a microsecond.
const TURNS_MAX: usize = 10_000;

static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut env = Env::stdlib();
    for extension in [cel::extensions::strings, cel::extensions::encoders] {
        env.add_extension(extension).expect("the crate's extensions do not collide: a test evaluates them");
    }
    Arc::new(env)
});

/// A compiled expression.
pub struct Expression {
    source: String,
    tree: IdedExpr,
    wanted: Wanted,
}

impl std::fmt::Debug for Expression {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Expression({:?})", self.source)
    }
}

impl Expression {
    pub fn compile(source: &str) -> Result<Expression, Problem> {
        if source.len() > SOURCE_BYTES_MAX {
            return Err(Problem::new(format!("expression longer than {SOURCE_BYTES_MAX} bytes")));
        }
        if nesting(source) > NESTING_MAX {
            return Err(Problem::new(format!("more than {NESTING_MAX} brackets within each other")));
        }
        let mut tree = ENV.parser().max_recursion_depth(NESTING_MAX).parse(source).map_err(|errors| {
            let errors = errors.to_string();
            let first = errors.lines().next().unwrap_or_default();
            Problem::new(format!("`{source}` is no CEL expression: {first}"))
        })?;
        let wanted = analyse::analyse(&mut tree).map_err(|problem| Problem::new(format!("`{source}`: {problem}")))?;
        Ok(Expression { source: source.to_owned(), tree, wanted })
    }

    pub fn source(&self) -> &str {
        &self.source
    }

    pub fn evaluate(&self, root: &Value) -> Result<Value, Fault> {
        self.with(root, |value| {
            let value = cel::Value::try_from(value).map_err(|error| self.fault(&error))?;
            lift::to_json(&value).ok_or_else(|| self.say("its value has no form in JSON"))
        })
    }

    pub fn holds(&self, root: &Value) -> Result<bool, Fault> {
        self.with(root, |value| match value.downcast_ref::<CelBool>() {
            Some(bool) => Ok(*bool.inner()),
            None => {
                Err(self.say(&format!("it is of type {}, and a predicate must be a bool", value.get_type().name())))
            }
        })
    }

    fn with<T>(&self, root: &Value, then: impl FnOnce(&dyn Val) -> Result<T, Fault>) -> Result<T, Fault> {
        let scope = Scope::new(root, &self.wanted);
        let mut context = Context::with_env(Arc::clone(&ENV));
        context.set_variable_resolver(&scope);
        // The crate has panics for trees that its parser never makes. Should it have others, they refuse one request.
        let result = catch_unwind(AssertUnwindSafe(|| match cel::Value::resolve_val(&self.tree, &context) {
            Ok(value) => then(value.as_ref()),
            Err(error) => Err(self.fault(&error)),
        }))
        .unwrap_or_else(|_| Err(self.say("the evaluator failed")));
        // Whatever `||` made of it: a loop that was cut short decides nothing.
        if scope.turns_left.load(Ordering::Relaxed) == 0 {
            return Err(self.say(&format!("its loops take more than {TURNS_MAX} turns over this request")));
        }
        result
    }

    /// The kind of error without its words: they may quote values of the request.
    fn fault(&self, error: &ExecutionError) -> Fault {
        match error {
            ExecutionError::NoSuchKey(key) => self.say(&format!("there is no `{key}`; ask has(…) first")),
            ExecutionError::UndeclaredReference(name) => self.say(&format!("nothing is called `{name}`")),
            _ => {
                let kind = format!("{error:?}");
                let end = kind.find(|char: char| !char.is_alphanumeric()).unwrap_or(kind.len());
                self.say(&format!("evaluation failed ({})", &kind[..end]))
            }
        }
    }

    fn say(&self, why: &str) -> Fault {
        Fault { words: format!("expression `{}`: {why}", self.source) }
    }
}

/// Counts those in strings too, which errs on the safe side.
fn nesting(source: &str) -> u16 {
    let (mut depth, mut deepest) = (0u16, 0);
    for byte in source.bytes() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// What the expression can name, made of what it does name.
struct Scope<'a> {
    variables: Vec<(&'a str, Box<dyn Val + 'a>)>,
    turns_left: AtomicUsize,
}

impl<'a> Scope<'a> {
    fn new(root: &'a Value, wanted: &'a Wanted) -> Scope<'a> {
        let variables = wanted
            .roots
            .iter()
            .map(|(name, want)| (name.as_str(), lift::lift(root.get(name).unwrap_or(&Value::Null), want)))
            .collect();
        Scope { variables, turns_left: AtomicUsize::new(TURNS_MAX) }
    }
}

impl VariableResolver for Scope<'_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        if variable == FUEL_NAME {
            let left = self.turns_left.load(Ordering::Relaxed).saturating_sub(1);
            self.turns_left.store(left, Ordering::Relaxed);
            return (left > 0).then(|| CowVal::owned(CelBool::from(true)));
        }
        let variable = variable.strip_prefix('.').unwrap_or(variable);
        let (_, value) = self.variables.iter().find(|(name, _)| *name == variable)?;
        Some(CowVal::Borrowed(value.as_ref()))
    }
}

#[cfg(test)]
mod tests;
