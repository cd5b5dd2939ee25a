//! `x509` and `plain`: identities that somebody before us found out.

use super::{HeaderName, Problems};
use crate::auth::values::RawValueFrom;
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// A client certificate in a header.
#[derive(Clone, Debug, PartialEq)]
pub struct X509 {
    /// PEM; what the certificate must lead to. Reread when it changes.
    pub authorities: PathBuf,
    pub source: CertificateSource,
    pub vouchers: Vouchers,
}

#[derive(Clone, Debug, PartialEq)]
pub enum CertificateSource {
    /// Envoy's `x-forwarded-client-cert`.
    Xfcc(HeaderName),
    /// RFC 9440.
    ClientCert(HeaderName),
}

/// Whose header is believed.
#[derive(Clone, Debug, PartialEq)]
pub enum Vouchers {
    /// For servers that only a gateway can reach.
    Anybody,
    /// SPIFFE ids, as they were verified.
    Peers(Vec<String>),
    /// Any peer whose own certificate was verified, and gateways that ask us about their callers.
    Verified,
}

/// Whatever a selector or an expression finds in the authorization JSON.
#[derive(Clone, Debug, PartialEq)]
pub struct Plain {
    pub from: RawValueFrom,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawX509 {
    authorities: PathBuf,
    xfcc_header: Option<String>,
    client_cert_header: Option<String>,
    from_peers: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPlain {
    selector: Option<String>,
    expression: Option<String>,
}

impl RawX509 {
    pub(super) fn validate(self, path: &str, base: &Path, p: &mut Problems) -> Option<X509> {
        if self.from_peers.is_empty() {
            p.add(&format!("{path}.from_peers"), "must name the proxies whose header is believed, by SPIFFE id");
        }
        for id in &self.from_peers {
            if let Err(error) = crate::tls::identity::SpiffeId::parse(id) {
                p.add(&format!("{path}.from_peers"), format!("`{id}`: {error}"));
            }
        }
        let (name, make): (&str, fn(HeaderName) -> CertificateSource) =
            match (&self.xfcc_header, &self.client_cert_header) {
                (None, None) => ("x-forwarded-client-cert", CertificateSource::Xfcc),
                (Some(name), None) => (name, CertificateSource::Xfcc),
                (None, Some(name)) => (name, CertificateSource::ClientCert),
                (Some(_), Some(_)) => {
                    p.add(path, "has both xfcc_header and client_cert_header; a certificate is in one place");
                    return None;
                }
            };
        let Ok(name) = HeaderName::try_from(name) else {
            p.add(path, format!("`{name}` is no header's name"));
            return None;
        };
        let (authorities, vouchers) = (base.join(self.authorities), Vouchers::Peers(self.from_peers));
        Some(X509 { authorities, source: make(name), vouchers })
    }
}

impl RawPlain {
    pub(super) fn validate(self, path: &str, p: &mut Problems) -> Option<Plain> {
        let from = RawValueFrom { value: None, selector: self.selector, expression: self.expression };
        match from.compile("") {
            Ok(_) => Some(Plain { from }),
            Err(problem) => {
                let words = problem.message.replace("`value`, ", "");
                p.add(&format!("{path}{}", problem.path), words);
                None
            }
        }
    }
}

impl X509 {
    pub(super) fn dump(&self) -> Value {
        let (kind, name) = match &self.source {
            CertificateSource::Xfcc(name) => ("xfcc_header", name),
            CertificateSource::ClientCert(name) => ("client_cert_header", name),
        };
        let peers = match &self.vouchers {
            Vouchers::Anybody => json!("anybody"),
            Vouchers::Verified => json!("verified"),
            Vouchers::Peers(peers) => json!(peers),
        };
        json!({"authorities": self.authorities, kind: name.as_str(), "from_peers": peers})
    }
}

impl Plain {
    pub(super) fn dump(&self) -> Value {
        json!({"selector": self.from.selector, "expression": self.from.expression})
    }
}
