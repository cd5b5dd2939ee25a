//! What a policy may ask about: the connection, the request on it, and what its token said. Borrowed, never copied.
//!
//! Nothing is normalised here: the caller gives the one canonical path that is also forwarded.

use crate::tls::identity::SpiffeId;
use http::HeaderMap;
use serde_json::Value;
use std::net::IpAddr;
use std::sync::Arc;

/// A connection, with or without HTTP on it.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionAttributes<'a> {
    /// From a verified client certificate; `None` over plaintext or TLS without one.
    pub peer: Option<&'a SpiffeId>,
    /// The other end of the socket.
    pub source_ip: IpAddr,
    /// The caller as proxies before us told of it (`x-forwarded-for`, PROXY protocol); else the same as `source_ip`.
    pub remote_ip: IpAddr,
    /// Where the caller meant to go, before any redirect.
    pub destination_ip: IpAddr,
    pub destination_port: u16,
    pub sni: Option<&'a str>,
}

/// A request.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    pub connection: ConnectionAttributes<'a>,
    pub method: &'a str,
    /// `:authority` or `Host` as it came, port included: Istio compares it whole.
    pub host: &'a str,
    /// Canonical, without the query.
    pub path: &'a str,
    pub headers: &'a HeaderMap,
    /// What a verified token said, if one was shown.
    pub token: Option<&'a RequestPrincipal>,
}

/// The caller as a verified JWT names it. `source.principal` is another: that one is the peer of the connection.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestPrincipal {
    pub issuer: String,
    /// Empty if the token has none; then no `requestPrincipals` pattern matches.
    pub subject: String,
    /// `aud`, whether it was one or a list.
    pub audiences: Vec<String>,
    /// `azp`, else empty.
    pub presenter: String,
    /// All claims, space-delimited ones already split into lists.
    pub claims: Arc<Value>,
    /// When the rights end, leeway included; a stream must not outlive it.
    pub expires_at_unix: u64,
}

impl RequestPrincipal {
    /// From the claims of a token that was verified.
    pub fn of(claims: Arc<Value>, expires_at_unix: u64) -> RequestPrincipal {
        let text = |name: &str| claims.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let audiences = match claims.get("aud") {
            Some(Value::String(one)) => vec![one.clone()],
            Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            _ => Vec::new(),
        };
        let (issuer, subject, presenter) = (text("iss"), text("sub"), text("azp"));
        RequestPrincipal { issuer, subject, audiences, presenter, claims, expires_at_unix }
    }
}

/// What the rules see: a connection, and the request on it if there is HTTP.
#[derive(Clone, Copy)]
pub(super) struct Facts<'a> {
    pub connection: &'a ConnectionAttributes<'a>,
    pub request: Option<&'a Attributes<'a>>,
}

impl<'a> Facts<'a> {
    pub fn of_request(request: &'a Attributes<'a>) -> Facts<'a> {
        Facts { connection: &request.connection, request: Some(request) }
    }

    pub fn of_connection(connection: &'a ConnectionAttributes<'a>) -> Facts<'a> {
        Facts { connection, request: None }
    }
}
