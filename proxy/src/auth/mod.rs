//! Who asks, and may they: `identify` turns a head and a peer into an [`Identity`], `authorize` lets it pass.
//!
//! Knows no dialect, reads no body, opens no socket, and takes the time as an argument. The only I/O is a look at a
//! key set's modification time, at most every two seconds, by one request at a time.

mod cache;
pub mod credential;
pub mod expressions;
pub mod go_regex;
pub mod issuer;
pub mod jwks;
pub mod jwks_fetch;
pub mod methods;
pub mod patterns;
pub mod request;
pub mod rules;
pub mod selectors;
pub mod values;

use crate::config;
use crate::error::Error;
use crate::message::Head;
use crate::tls::identity::{Peer, SpiffeId};
use methods::{Method, Presented};
use std::sync::Arc;

/// Why a credential was refused: the closed set of labels for logs and metrics. Callers are told none of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Too long, not three parts, not base64url, not JSON, a claim of the wrong type.
    Malformed,
    /// More than one Authorization header: two parsers could pick two different ones.
    Ambiguous,
    /// An algorithm that is not taken, or not the one the key is for.
    Algorithm,
    /// The keys of the token's issuer were never fetched yet.
    KeysUnavailable,
    /// No key of the set fits.
    UnknownKey,
    Signature,
    /// Signed by us-knows-whom, and for something else (`typ`), or demanding an extension (`crit`).
    Unsupported,
    Issuer,
    Audience,
    Subject,
    NotYetValid,
    Expired,
}

impl Reason {
    pub fn label(self) -> &'static str {
        match self {
            Reason::Malformed => "malformed",
            Reason::Ambiguous => "ambiguous",
            Reason::Algorithm => "algorithm",
            Reason::KeysUnavailable => "keys_unavailable",
            Reason::UnknownKey => "unknown_key",
            Reason::Signature => "signature",
            Reason::Unsupported => "unsupported",
            Reason::Issuer => "issuer",
            Reason::Audience => "audience",
            Reason::Subject => "subject",
            Reason::NotYetValid => "not_yet_valid",
            Reason::Expired => "expired",
        }
    }
}

impl From<Reason> for Error {
    fn from(reason: Reason) -> Error {
        Error::CredentialRefused { reason: reason.label() }
    }
}

/// A setting that cannot be honoured, with its place below `auth.methods`.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct ConfigProblem {
    /// `auth.methods[1].jwt.issuer`
    pub path: String,
    pub message: String,
}

/// A caller whose name is known.
#[derive(Clone, Debug)]
pub struct Identity {
    /// `sub` of a JWT, the SPIFFE id of a peer, or `anonymous`.
    pub subject: String,
    /// `iss` of a JWT, the trust domain of a peer, else empty.
    pub issuer: String,
    /// Which entry of [`METHODS`](methods::METHODS) knew the caller.
    pub method: &'static str,
    /// All claims of a JWT, else an empty object.
    pub claims: Arc<serde_json::Value>,
    /// Of the connection, whichever method knew the caller.
    pub spiffe: Option<SpiffeId>,
    /// When the rights end, leeway included; a stream must not outlive it.
    pub expires_at_unix: Option<u64>,
}

/// A caller who may go on. Only [`Authenticator::authorize`] makes one, so no stage after it can be reached without.
#[derive(Clone, Debug)]
pub struct Authorized {
    identity: Identity,
}

impl Authorized {
    pub fn identity(&self) -> &Identity {
        &self.identity
    }
}

/// The configured methods, in order.
pub struct Authenticator {
    methods: Vec<Box<dyn Method>>,
}

impl Authenticator {
    /// Opens every method: reads key sets, so that a missing one stops the start and not the first caller.
    pub fn from_config(configs: &[config::Method]) -> Result<Authenticator, ConfigProblem> {
        if configs.is_empty() {
            return Err(ConfigProblem {
                path: "auth.methods".into(),
                message: "no method is listed, so nobody could enter; list `anonymous: {}` to let everybody in".into(),
            });
        }
        let mut methods = Vec::with_capacity(configs.len());
        for (index, config) in configs.iter().enumerate() {
            let kind = methods::kind(config);
            methods.push((kind.open)(config).map_err(|problem| ConfigProblem {
                path: format!("auth.methods[{index}].{}{}", kind.name, problem.path),
                message: problem.message,
            })?);
        }
        Ok(Authenticator { methods })
    }

    /// Tries the methods in order; the first that knows the caller decides.
    ///
    /// A credential that was shown and refused is never forgiven by `anonymous`: who mistypes a token must hear of it.
    pub fn identify(&self, head: &Head, peer: &Peer, now_unix: u64) -> Result<Identity, Error> {
        let presented = Presented { head, peer, now_unix };
        let mut refused: Option<Reason> = None;
        for method in &self.methods {
            if method.takes_strangers() && refused.is_some() {
                continue;
            }
            match method.identify(&presented) {
                Ok(Some(identity)) => return Ok(identity),
                Ok(None) => {}
                // Of two methods' reasons the later check says more: "expired" beats "another issuer's".
                Err(reason) => refused = refused.max(Some(reason)),
            }
        }
        Err(refused.map_or(Error::CredentialMissing, Error::from))
    }

    /// Whether the connection alone says enough of who calls: bytes of an unknown protocol carry no other credential.
    pub fn knows_by_connection(&self, peer: &Peer, now_unix: u64) -> bool {
        let head = Head {
            method: http::Method::OPTIONS,
            path: "/".into(),
            query: None,
            headers: http::HeaderMap::new(),
            version: http::Version::HTTP_11,
            request_id: String::new(),
            arrived_unix_seconds: now_unix,
        };
        self.identify(&head, peer, now_unix).is_ok()
    }

    /// Whether this caller may ask at all. Every identified caller may, until rules are configured here.
    pub fn authorize(&self, identity: Identity) -> Result<Authorized, Error> {
        Ok(Authorized { identity })
    }
}

#[cfg(test)]
mod rsa_vectors;
#[cfg(test)]
mod tests;
