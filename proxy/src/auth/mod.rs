//! Who asks, and may they: `identify` turns a head and a peer into an [`Identity`], `authorize` lets it pass.
//!
//! Knows no dialect, reads no body, and takes the time as an argument.

pub mod api_keys;
mod cache;
pub mod credential;
pub mod issuer;
pub mod jwks;
pub mod jwks_fetch;
pub mod jwt;
mod keys;
pub mod methods;
pub mod request;
mod reread;
pub mod verdicts;

use crate::config;
use crate::error::Error;
use crate::message::Head;
use crate::tls::identity::{Peer, SpiffeId};
use credential::Location;
use methods::{Memory, Method, Presented, Tools};
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
    methods: Vec<(Location, Box<dyn Method>)>,
    tools: Tools,
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
        let tools = Tools::new();
        let mut methods = Vec::with_capacity(configs.len());
        for (index, config) in configs.iter().enumerate() {
            let kind = methods::kind(config);
            let method = (kind.open)(config, &tools).map_err(|problem| ConfigProblem {
                path: format!("auth.methods[{index}].{}{}", kind.name, problem.path),
                message: problem.message,
            })?;
            methods.push((config.credentials().clone(), method));
        }
        Ok(Authenticator { methods, tools })
    }

    /// Fetches the keys of issuers, for ever. Start it on one runtime only.
    pub async fn tend(self: Arc<Self>) {
        self.tools.keys.clone().run().await
    }

    /// Where callers show credentials: what the server behind us is not to see.
    pub fn locations(&self) -> impl Iterator<Item = &Location> {
        self.methods.iter().map(|(location, _)| location)
    }

    /// Tries the methods in order; the first that knows the caller decides.
    ///
    /// A credential that was shown and refused is never forgiven by `anonymous`: who mistypes a token must hear of it.
    pub async fn identify(&self, request: Request<'_>) -> Result<Identity, Error> {
        let mut refused = None;
        for (location, method) in &self.methods {
            if method.takes_strangers() && refused.is_some() {
                continue;
            }
            let credential = match credential::take(request.head, location) {
                Ok(credential) => credential,
                Err(reason) => {
                    refused = refused.max(Some(reason));
                    None
                }
            };
            match method.identify(&Presented { request: &request, credential }).await {
                Ok(Some(identity)) => return Ok(identity),
                Ok(None) => {}
                // Of two methods' reasons the later check says more: "expired" beats "another issuer's".
                Err(reason) => refused = refused.max(Some(reason)),
            }
        }
        Err(refused.map_or(Error::CredentialMissing, Error::from))
    }

    /// Whether the connection alone says enough of who calls: bytes of an unknown protocol carry no other credential.
    pub fn knows_by_connection(&self, peer: &Peer) -> bool {
        self.methods.iter().any(|(_, method)| method.knows_by_connection(peer))
    }

    /// What the methods remember of others' answers, each with its method's name.
    pub fn memories(&self) -> Vec<Memory> {
        self.methods.iter().filter_map(|(_, method)| method.remembers()).collect()
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
