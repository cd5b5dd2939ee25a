//! Ways to learn more of a request from others. An open set: a source is one file and a line in the table.

use futures_util::future::BoxFuture;
use serde_json::Value;

/// Asks for what stands in `auth.metadata.<name>`; without it, nothing does.
pub trait Source: Send + Sync {
    fn fetch<'a>(&'a self, root: &'a Value) -> BoxFuture<'a, Result<Value, String>>;
}
