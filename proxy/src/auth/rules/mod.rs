//! Ways to decide whether a caller may. An open set: a rule is one file and a line in the table.

use futures_util::future::BoxFuture;
use serde_json::Value;

/// Why a rule does not let a caller pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    pub words: String,
    /// It could not decide, which denies too.
    pub fault: bool,
}

/// Judges a request by the authorization JSON. What it returns stands in `auth.authorization.<name>` for later ones.
pub trait Rule: Send + Sync {
    fn judge<'a>(&'a self, root: &'a Value) -> BoxFuture<'a, Result<Value, Denied>>;
}
