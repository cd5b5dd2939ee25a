//! What an allowed request is told to whoever stands behind. An open set: a response is one file and a line in
//! [`RESPONSES`].
//!
//! Decides nothing, and is never half of itself: a value that no header can carry is an error, and not cut.

pub mod json;
pub mod plain;
pub mod wristband;

pub use super::endpoint::header_value;

use super::ConfigProblem;
use super::site::Site;
use futures_util::future::BoxFuture;
use serde_json::Value;

/// A value, or why there is none, in words for a log.
pub type Made<'a> = BoxFuture<'a, Result<Value, String>>;

/// Makes a value for a header, or for dynamic metadata.
///
/// A header that could not be made must not be left to the caller: whoever sets it takes the caller's own away.
pub trait Response: Send + Sync {
    /// `root`: the authorization JSON.
    fn make<'a>(&'a self, root: &'a Value, now_unix: u64) -> Made<'a>;

    /// What it must tell those who verify it, of a response that is signed.
    fn published(&self) -> Option<&wristband::Published> {
        None
    }
}

/// From the settings under a kind's key, which are at the path.
pub type Open = fn(Value, &str, &Site<'_>, &mut Vec<ConfigProblem>) -> Option<Box<dyn Response>>;

/// A line of the table.
pub struct Kind {
    /// The key of its settings in a policy.
    pub name: &'static str,
    /// As Authorino's metrics call it.
    pub label: &'static str,
    pub open: Open,
}

/// All responses, sorted by name.
pub static RESPONSES: &[Kind] = &[
    Kind { name: json::NAME, label: "RESPONSE_JSON", open: json::open },
    Kind { name: plain::NAME, label: "RESPONSE_PLAIN", open: plain::open },
    Kind { name: wristband::NAME, label: "RESPONSE_WRISTBAND", open: wristband::open },
];

#[cfg(test)]
mod tests;
