//! Secrets that policies name: where they come from, and a wrapper that no log can look into.
//!
//! Never says a secret's value, only where it should be.

use bytes::Bytes;

/// Kubernetes Secrets, or files that look like them.
pub trait Secrets: Send + Sync {
    /// The bytes of one key of one Secret, decoded; `None`: there is no such Secret, or it has no such key.
    fn value(&self, namespace: &str, name: &str, key: &str) -> Option<Bytes>;
}

/// A secret in memory. Prints as nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Hidden(String);

impl Hidden {
    pub fn new(secret: String) -> Hidden {
        Hidden(secret)
    }

    /// For the one place that sends it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[hidden]")
    }
}
