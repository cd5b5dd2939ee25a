//! Who is at the other end of a connection: SPIFFE ids and the peer.
//!
//! Never decides whether a certificate is to be believed: that is `verify`.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// SPIFFE-ID section 2.3: an implementation must take ids of this many bytes and must not make longer ones.
const SPIFFE_ID_BYTES_MAX: usize = 2048;
/// SPIFFE-ID section 2.3: the same for the trust domain name alone.
const TRUST_DOMAIN_BYTES_MAX: usize = 255;

/// A workload's name, `spiffe://<trust domain>/<path>`, checked against the SPIFFE-ID standard, section 2.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SpiffeId {
    /// Shared: every exchange of a connection has it.
    text: Arc<str>,
    /// Where the trust domain ends and the path, with its slash, begins.
    path_at: usize,
}

/// What is wrong with a would-be SPIFFE id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeIdError {
    #[error("a SPIFFE id begins with spiffe://")]
    Scheme,
    #[error("a SPIFFE id is at most {SPIFFE_ID_BYTES_MAX} bytes long")]
    TooLong,
    #[error("a trust domain is 1 to {TRUST_DOMAIN_BYTES_MAX} characters out of a-z, 0-9, '.', '-' and '_'")]
    TrustDomain,
    #[error(
        "a SPIFFE id's path is made of segments out of A-Z, a-z, 0-9, '.', '-' and '_'; \
         none is empty, '.' or '..', and no slash ends it"
    )]
    Path,
}

impl SpiffeId {
    const SCHEME: &str = "spiffe://";

    pub fn parse(text: &str) -> Result<SpiffeId, SpiffeIdError> {
        if text.len() > SPIFFE_ID_BYTES_MAX {
            return Err(SpiffeIdError::TooLong);
        }
        let rest = text.strip_prefix(Self::SCHEME).ok_or(SpiffeIdError::Scheme)?;
        let (trust_domain, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        if !is_trust_domain(trust_domain) {
            return Err(SpiffeIdError::TrustDomain);
        }
        if !path.is_empty() && !path[1..].split('/').all(is_segment) {
            return Err(SpiffeIdError::Path);
        }
        Ok(SpiffeId { text: text.into(), path_at: Self::SCHEME.len() + trust_domain.len() })
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn trust_domain(&self) -> &str {
        &self.text[Self::SCHEME.len()..self.path_at]
    }

    /// With its leading slash; empty for the id of the trust domain itself.
    pub fn path(&self) -> &str {
        &self.text[self.path_at..]
    }

    /// `NS` of a path `/ns/NS/sa/SA`, the shape Istio and Kubernetes give.
    pub fn namespace(&self) -> Option<&str> {
        self.kubernetes().map(|(namespace, _)| namespace)
    }

    /// `SA` of a path `/ns/NS/sa/SA`.
    pub fn service_account(&self) -> Option<&str> {
        self.kubernetes().map(|(_, account)| account)
    }

    fn kubernetes(&self) -> Option<(&str, &str)> {
        let mut segments = self.path().strip_prefix('/')?.split('/');
        match (segments.next(), segments.next(), segments.next(), segments.next(), segments.next()) {
            (Some("ns"), Some(namespace), Some("sa"), Some(account), None) => Some((namespace, account)),
            _ => None,
        }
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::str::FromStr for SpiffeId {
    type Err = SpiffeIdError;
    fn from_str(text: &str) -> Result<SpiffeId, SpiffeIdError> {
        SpiffeId::parse(text)
    }
}

/// Whether this is the name of a trust domain (SPIFFE-ID section 2.1).
pub fn is_trust_domain(name: &str) -> bool {
    (1..=TRUST_DOMAIN_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_'))
}

fn is_segment(segment: &str) -> bool {
    !matches!(segment, "" | "." | "..")
        && segment.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

/// The other end of a connection, as the handshake left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// From a client certificate that was verified; `None` without one.
    pub spiffe: Option<SpiffeId>,
    pub tls: bool,
    pub address: SocketAddr,
    /// The name the caller asked for in its handshake.
    pub sni: Option<String>,
    /// When its certificate ends, seconds since 1970.
    pub not_after_unix: Option<i64>,
}

impl Peer {
    pub fn plaintext(address: SocketAddr) -> Peer {
        Peer { spiffe: None, tls: false, address, sni: None, not_after_unix: None }
    }
}

/// The SPIFFE id in a certificate (DER), if its subject alternative names hold exactly one URI and that is one.
///
/// X509-SVID section 2: more than one URI SAN must be refused, not searched.
pub fn peer_of(der: &[u8]) -> Option<SpiffeId> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let only = uris.next()?;
    if uris.next().is_some() {
        return None;
    }
    SpiffeId::parse(only).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn which_texts_are_spiffe_ids() {
        let good = [
            "spiffe://outrider.local/ns/default/sa/client",
            "spiffe://cluster.local",
            "spiffe://a-b_c.1/x",
            "spiffe://td/A/b.c/-_..x",
        ];
        for text in good {
            assert_eq!(SpiffeId::parse(text).unwrap().as_str(), text);
        }
        let bad = [
            ("", SpiffeIdError::Scheme),
            ("https://td/x", SpiffeIdError::Scheme),
            ("SPIFFE://td/x", SpiffeIdError::Scheme),
            ("spiffe:/td/x", SpiffeIdError::Scheme),
            ("spiffe://", SpiffeIdError::TrustDomain),
            ("spiffe:///x", SpiffeIdError::TrustDomain),
            ("spiffe://TD/x", SpiffeIdError::TrustDomain),
            ("spiffe://td:443/x", SpiffeIdError::TrustDomain),
            ("spiffe://user@td/x", SpiffeIdError::TrustDomain),
            ("spiffe://td?q", SpiffeIdError::TrustDomain),
            ("spiffe://t%64/x", SpiffeIdError::TrustDomain),
            ("spiffe://td/", SpiffeIdError::Path),
            ("spiffe://td/x/", SpiffeIdError::Path),
            ("spiffe://td//x", SpiffeIdError::Path),
            ("spiffe://td/./x", SpiffeIdError::Path),
            ("spiffe://td/../x", SpiffeIdError::Path),
            ("spiffe://td/x?q", SpiffeIdError::Path),
            ("spiffe://td/x#f", SpiffeIdError::Path),
            ("spiffe://td/x%2e", SpiffeIdError::Path),
            ("spiffe://td/é", SpiffeIdError::Path),
        ];
        for (text, error) in bad {
            assert_eq!(SpiffeId::parse(text), Err(error), "{text}");
        }
        let long = format!("spiffe://td/{}", "x".repeat(SPIFFE_ID_BYTES_MAX - 12));
        assert!(SpiffeId::parse(&long).is_ok());
        assert_eq!(SpiffeId::parse(&(long + "x")), Err(SpiffeIdError::TooLong));
        assert_eq!(SpiffeId::parse(&format!("spiffe://{}", "x".repeat(256))), Err(SpiffeIdError::TrustDomain));
    }

    #[test]
    fn what_namespace_and_account_an_id_names() {
        let id = SpiffeId::parse("spiffe://td/ns/default/sa/client").unwrap();
        assert_eq!((id.trust_domain(), id.path()), ("td", "/ns/default/sa/client"));
        assert_eq!((id.namespace(), id.service_account()), (Some("default"), Some("client")));
        for other in ["spiffe://td", "spiffe://td/ns/a/sa", "spiffe://td/ns/a/sa/b/c", "spiffe://td/sa/a/ns/b"] {
            assert_eq!(SpiffeId::parse(other).unwrap().namespace(), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(der in proptest::collection::vec(any::<u8>(), 0..200), text in ".{0,80}") {
            let _ = peer_of(&der);
            let _ = SpiffeId::parse(&text);
            let _ = SpiffeId::parse(&format!("spiffe://{text}"));
        }
    }
}
