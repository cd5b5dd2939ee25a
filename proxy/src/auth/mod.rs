//! Who asks, and may they: one engine, [`pipeline`], fed by our own list of methods or by policies that others wrote.
//!
//! Knows no dialect, reads no body, and takes the time as an argument.

pub mod api_keys;
pub mod audit;
pub mod authconfig;
pub mod barred;
mod cache;
pub mod callbacks;
pub mod callers;
pub mod credential;
pub mod endpoint;
pub mod expressions;
pub mod go_regex;
pub mod issuer;
pub mod jwks;
pub mod jwks_fetch;
pub mod jwt;
mod keys;
pub mod metadata;
pub mod methods;
pub mod patterns;
pub mod pipeline;
pub mod request;
mod reread;
pub mod responses;
pub mod revocations;
pub mod rules;
pub mod secrets;
pub mod selectors;
pub mod site;
pub mod values;
pub mod verdicts;
pub mod vouched;

pub use callers::{Authenticator, Authorized, Caller};

use crate::error::Error;
use crate::message::Head;
use crate::tls::identity::{Peer, SpiffeId};
use std::net::SocketAddr;
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
    /// A claim that must be there is not.
    Claim,
    NotYetValid,
    Expired,
    /// Whoever was asked about it does not know it, or knows it no more.
    Rejected,
    /// Whoever would know did not answer; the last, for then nothing is known of the caller.
    Unavailable,
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
            Reason::Claim => "claim",
            Reason::NotYetValid => "not_yet_valid",
            Reason::Expired => "expired",
            Reason::Rejected => "rejected",
            Reason::Unavailable => "unavailable",
        }
    }

    /// Nobody could be asked: the credential may be good.
    pub fn is_unavailable(self) -> bool {
        matches!(self, Reason::KeysUnavailable | Reason::Unavailable)
    }

    /// Of two reasons, what is told. Who could not be asked might have known; else the later check says more: "expired"
    /// beats "another issuer's".
    pub fn or(self, earlier: Option<Reason>) -> Reason {
        earlier.map_or(self, |earlier| match (earlier.is_unavailable(), self.is_unavailable()) {
            (true, false) => earlier,
            (false, true) => self,
            _ => earlier.max(self),
        })
    }
}

impl From<Reason> for Error {
    fn from(reason: Reason) -> Error {
        match reason {
            Reason::Unavailable => Error::AuthUnavailable,
            reason => Error::CredentialRefused { reason: reason.label() },
        }
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

/// A request as it is judged, before any body is read.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    pub head: &'a Head,
    pub peer: &'a Peer,
    /// `:authority` or `Host` as it came, port included.
    pub host: &'a str,
    /// Where the caller meant to go, before any redirect.
    pub destination: SocketAddr,
    pub now_unix: u64,
    /// What a gateway that asks for others said of the request, in the shape of the authorization JSON; goes over what we
    /// see of its own connection.
    pub extra: Option<&'a serde_json::Value>,
}

/// A host as a caller named it, less its port.
pub(crate) fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !name.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// A caller whose name is known.
#[derive(Clone, Debug)]
pub struct Identity {
    /// `sub` of a JWT, the user name of a TokenReview, the SPIFFE id of a peer, or `anonymous`.
    pub subject: String,
    /// `iss` of a JWT, the trust domain of a peer, else empty.
    pub issuer: String,
    /// Which entry of [`METHODS`](methods::METHODS) knew the caller.
    pub method: &'static str,
    /// What the method learned of the caller, as rules see it in `auth.identity`: the claims of a JWT, the status of a
    /// TokenReview; an object.
    pub claims: Arc<serde_json::Value>,
    /// Of the connection, whichever method knew the caller.
    pub spiffe: Option<SpiffeId>,
    /// When the rights end, leeway included; a stream must not outlive it.
    pub expires_at_unix: Option<u64>,
}

#[cfg(test)]
mod rsa_vectors;
#[cfg(test)]
mod tests;
