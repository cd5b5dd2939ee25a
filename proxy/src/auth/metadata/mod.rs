//! What else there is to know of a request: asked of others between authentication and authorization. An open set: a
//! source is one file and a line in [`SOURCES`].
//!
//! Decides nothing: a source that cannot answer leaves its name out of `auth.metadata`, and rules see that.

pub mod http;
pub mod uma;
pub mod user_info;

use super::ConfigProblem;
use super::site::Site;
use futures_util::future::BoxFuture;
use serde_json::Value;

/// What a source found, or why it found nothing, in words for a log.
pub type Fetched<'a> = BoxFuture<'a, Result<Value, String>>;

pub trait Source: Send + Sync {
    /// `root`: the authorization JSON.
    fn fetch<'a>(&'a self, root: &'a Value) -> Fetched<'a>;
}

/// From the settings under a kind's key, which are at the path.
pub type Open = fn(Value, &str, &Site<'_>, &mut Vec<ConfigProblem>) -> Option<Box<dyn Source>>;

/// A line of the table.
pub struct Kind {
    /// The key of its settings in a policy.
    pub name: &'static str,
    /// As Authorino's metrics call it.
    pub label: &'static str,
    pub open: Open,
}

/// All sources, sorted by name.
pub static SOURCES: &[Kind] = &[
    Kind { name: http::NAME, label: "METADATA_GENERIC_HTTP", open: http::open },
    Kind { name: uma::NAME, label: "METADATA_UMA", open: uma::open },
    Kind { name: user_info::NAME, label: "METADATA_USERINFO", open: user_info::open },
];

#[cfg(test)]
mod tests;
