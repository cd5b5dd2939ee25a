//! What an authorizer is asked. Pure.

use crate::tls::Peer;
use http::header::COOKIE;
use http::{HeaderMap, HeaderName, Method, Version};
use std::collections::HashMap;
use std::net::SocketAddr;

/// A connection, and the request on it if there is HTTP.
#[derive(Clone, Debug)]
pub struct Question {
    pub source: SocketAddr,
    /// The peer's SPIFFE ID.
    pub principal: Option<String>,
    /// Where the caller meant to go.
    pub destination: SocketAddr,
    pub tls: bool,
    pub sni: Option<String>,
    pub http: Option<Asked>,
}

/// A request up to its body.
#[derive(Clone, Debug)]
pub struct Asked {
    pub id: String,
    pub method: Method,
    pub host: String,
    /// Canonical path, and the query.
    pub target: String,
    pub version: Version,
    pub headers: HeaderMap,
    pub unix_seconds: u64,
}

impl Question {
    pub fn of_connection(peer: &Peer, destination: SocketAddr) -> Question {
        Question {
            source: peer.address,
            principal: peer.spiffe.as_ref().map(ToString::to_string),
            destination,
            tls: peer.tls,
            sni: peer.sni.clone(),
            http: None,
        }
    }

    pub fn scheme(&self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }
}

impl Asked {
    /// As Envoy spells it.
    pub fn protocol(&self) -> &'static str {
        match self.version {
            Version::HTTP_2 => "HTTP/2",
            Version::HTTP_10 => "HTTP/1.0",
            _ => "HTTP/1.1",
        }
    }

    /// Of the body, as the caller announced it; -1 where it did not.
    pub fn size(&self) -> i64 {
        let announced = self.headers.get("content-length").and_then(|value| value.to_str().ok()?.parse().ok());
        announced.unwrap_or(-1)
    }

    /// One text for each name, and pseudo-headers as if all were HTTP/2, as Envoy sees every request.
    pub fn flat_headers(&self, scheme: &str) -> HashMap<String, String> {
        let names = self.headers.keys().filter(|name| *name != http::header::HOST);
        let mut flat: HashMap<String, String> =
            names.filter_map(|name| Some((name.to_string(), joined(&self.headers, name)?))).collect();
        let pseudo = [
            (":method", self.method.as_str()),
            (":path", &self.target),
            (":authority", &self.host),
            (":scheme", scheme),
        ];
        flat.extend(pseudo.map(|(name, value)| (name.to_owned(), value.to_owned())));
        flat
    }
}

/// All lines of a header as one (RFC 9110 §5.3; cookies RFC 9113 §8.2.3); bytes that are no text are replaced.
pub fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let separator = if name == COOKIE { "; " } else { "," };
    let lines: Vec<_> = headers.get_all(name).iter().map(|line| String::from_utf8_lossy(line.as_bytes())).collect();
    (!lines.is_empty()).then(|| lines.join(separator))
}
