//! What an allowed request is told to whoever stands behind. An open set: a response is one file and a line in the table.

use futures_util::future::BoxFuture;
use serde_json::Value;

/// Makes a value for a header, or for dynamic metadata.
pub trait Response: Send + Sync {
    fn make<'a>(&'a self, root: &'a Value, now_unix: u64) -> BoxFuture<'a, Result<Value, String>>;
}
