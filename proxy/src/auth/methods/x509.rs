//! A client certificate that a proxy before us was shown and passed on in a header, checked against authorities of this
//! method's own.
//!
//! Believes the header of named peers only: who holds a key was proven to them, and anybody can copy a certificate. The
//! certificate of our own connection is the method `mtls`'s. Never fetches anything, and never reads a clock.

use super::{Known, Method, Presented, Tools};
use crate::auth::reread::Reread;
use crate::auth::values::ValueFrom;
use crate::auth::{ConfigProblem, Identity, Reason};
use crate::config::{self, Vouchers};
use crate::files::read_bounded;
use crate::tls::subject::rfc2253;
use crate::tls::xfcc;
use crate::tls::{provider, trust};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::ready;
use http::{HeaderMap, HeaderName};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use serde_json::{Map, Value};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::X509Name;

pub const NAME: &str = "x509";

const PEM_BYTES_MAX: u64 = 8 << 20;
/// Longer chains are nobody's; each costs a signature's check.
const CHAIN_MAX: usize = 8;

pub type Anchors = Vec<TrustAnchor<'static>>;

pub enum Authorities {
    File(Reread<Anchors>),
    Fixed(Anchors),
}

/// Where the certificate is.
pub enum Source {
    /// `Cert` and `Chain` of the last element: what our peer saw itself.
    Xfcc(HeaderName),
    /// RFC 9440, with `client-cert-chain` beside it.
    ClientCert(HeaderName),
    /// PEM, perhaps URL-encoded, somewhere in the authorization JSON.
    Value(ValueFrom),
}

struct X509 {
    authorities: Authorities,
    source: Source,
    vouchers: Vouchers,
}

pub fn open(config: &config::Method, _: &Tools) -> Result<Box<dyn Method>, ConfigProblem> {
    let config::Method::X509(config) = config else { unreachable!("METHODS pairs this with config::Method::X509") };
    let file = Reread::open(&config.authorities, load);
    let file = file.map_err(|message| ConfigProblem { path: ".authorities".into(), message })?;
    let source = match &config.source {
        config::CertificateSource::Xfcc(name) => Source::Xfcc(name.clone()),
        config::CertificateSource::ClientCert(name) => Source::ClientCert(name.clone()),
    };
    Ok(of(Authorities::File(file), source, config.vouchers.clone()))
}

/// With authorities from anywhere.
pub fn of(authorities: Authorities, source: Source, vouchers: Vouchers) -> Box<dyn Method> {
    Box::new(X509 { authorities, source, vouchers })
}

fn load(path: &Path) -> Result<Anchors, String> {
    anchors(&read_bounded(path, PEM_BYTES_MAX).map_err(|error| error.to_string())?)
}

/// From PEM: as it stands in a file, or in the `ca.crt` or `tls.crt` of a Secret.
pub fn anchors(pem: &[u8]) -> Result<Anchors, String> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).collect();
    trust::anchors(&certificates).map_err(|error| error.to_string())
}

impl Method for X509 {
    fn identify<'a>(&'a self, presented: &'a Presented<'a>) -> Known<'a> {
        Box::pin(ready(self.known(presented)))
    }
}

impl X509 {
    fn known(&self, presented: &Presented<'_>) -> Result<Option<Identity>, Reason> {
        let request = presented.request;
        let Some(chain) = self.shown(presented)? else { return Ok(None) };
        let vouched = match &self.vouchers {
            Vouchers::Anybody => true,
            Vouchers::Verified => request.peer.spiffe.is_some() || request.extra.is_some(),
            Vouchers::Peers(peers) => {
                request.peer.spiffe.as_ref().is_some_and(|id| peers.iter().any(|p| p == id.as_str()))
            }
        };
        // Told apart in the log: the certificate may be good.
        if !vouched {
            tracing::debug!(peer = ?request.peer.spiffe, "a certificate in a header of a peer that is not listed");
            return Err(Reason::Issuer);
        }
        let (leaf, intermediates) = chain.split_first().ok_or(Reason::Malformed)?;
        let bad = |error| match error {
            webpki::Error::CertExpired { .. } => Reason::Expired,
            webpki::Error::CertNotValidYet { .. } => Reason::NotYetValid,
            webpki::Error::UnknownIssuer => Reason::UnknownKey,
            webpki::Error::RequiredEkuNotFoundContext(_) => Reason::Unsupported,
            _ => Reason::Signature,
        };
        let certificate = EndEntityCert::try_from(leaf).map_err(|_| Reason::Malformed)?;
        let now = UnixTime::since_unix_epoch(Duration::from_secs(request.now_unix));
        let algorithms = provider().signature_verification_algorithms.all;
        let check = |anchors: &Anchors| {
            let usage = KeyUsage::client_auth();
            certificate
                .verify_for_usage(algorithms, anchors, intermediates, now, usage, None, None)
                .map(|_| ())
                .map_err(bad)
        };
        match &self.authorities {
            Authorities::File(file) => check(&file.current(request.now_unix))?,
            Authorities::Fixed(anchors) => check(anchors)?,
        }
        let (_, leaf) = X509Certificate::from_der(leaf).map_err(|_| Reason::Malformed)?;
        let subject = rfc2253(leaf.subject());
        if subject.is_empty() {
            return Err(Reason::Subject);
        }
        Ok(Some(Identity {
            subject,
            issuer: rfc2253(leaf.issuer()),
            method: NAME,
            claims: Arc::new(Value::Object(names(leaf.subject()))),
            spiffe: request.peer.spiffe.clone(),
            expires_at_unix: u64::try_from(leaf.validity().not_after.timestamp()).ok(),
        }))
    }

    /// Leaf first.
    fn shown(&self, presented: &Presented<'_>) -> Result<Option<Vec<CertificateDer<'static>>>, Reason> {
        let headers = &presented.request.head.headers;
        let chain = match &self.source {
            Source::Xfcc(name) => match line(headers, name)? {
                Some(text) => from_xfcc(&text)?,
                None => return Ok(None),
            },
            Source::ClientCert(name) => match line(headers, name)? {
                Some(text) => {
                    let mut chain = from_fields(&text)?;
                    if chain.len() != 1 {
                        return Err(Reason::Ambiguous);
                    }
                    chain.extend(from_fields(&line(headers, &CHAIN)?.unwrap_or_default())?);
                    Some(chain)
                }
                None => return Ok(None),
            },
            Source::Value(from) => {
                let text = from.text(presented.document.root()).map_err(|_| Reason::Malformed)?;
                if text.is_empty() { None } else { Some(from_pem(&text)?) }
            }
        };
        match chain {
            Some(chain) if chain.len() > CHAIN_MAX => Err(Reason::Malformed),
            chain => Ok(chain),
        }
    }
}

static CHAIN: HeaderName = HeaderName::from_static("client-cert-chain");

/// All lines of a header as one (RFC 9110, section 5.2).
fn line(headers: &HeaderMap, name: &HeaderName) -> Result<Option<String>, Reason> {
    let lines: Result<Vec<&str>, _> = headers.get_all(name).iter().map(|line| line.to_str()).collect();
    let lines = lines.map_err(|_| Reason::Malformed)?;
    Ok(if lines.is_empty() { None } else { Some(lines.join(",")) })
}

fn from_xfcc(text: &str) -> Result<Option<Vec<CertificateDer<'static>>>, Reason> {
    let elements = xfcc::parse(text).map_err(|_| Reason::Malformed)?;
    let Some(last) = elements.last() else { return Ok(None) };
    match (&last.chain, &last.cert) {
        (Some(chain), _) => from_pem(chain).map(Some),
        (None, Some(cert)) => from_pem(cert).map(Some),
        (None, None) => Ok(None),
    }
}

/// RFC 8941's byte sequences, separated by commas.
fn from_fields(text: &str) -> Result<Vec<CertificateDer<'static>>, Reason> {
    let fields = text.split(',').map(str::trim).filter(|field| !field.is_empty());
    let decoded = fields.map(|field| {
        let base64 = field.strip_prefix(':').and_then(|field| field.strip_suffix(':')).ok_or(Reason::Malformed)?;
        STANDARD.decode(base64).map(CertificateDer::from).map_err(|_| Reason::Malformed)
    });
    decoded.collect()
}

fn from_pem(text: &str) -> Result<Vec<CertificateDer<'static>>, Reason> {
    let pem = if text.contains('%') { decoded(text).ok_or(Reason::Malformed)? } else { text.as_bytes().to_vec() };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    chain.ok().filter(|chain| !chain.is_empty()).ok_or(Reason::Malformed)
}

/// RFC 3986, section 2.1. A `+` is a plus here: base64 has it.
fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        rest = more;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, more) = rest.split_at_checked(2)?;
        let digits = std::str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = more;
    }
    Some(bytes)
}

/// The subject as Authorino shows it to rules: the names of Go's `pkix.Name`, lists where a subject may have several.
fn names(subject: &X509Name<'_>) -> Map<String, Value> {
    let mut names = Map::new();
    let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| attribute.as_str().ok().map(Value::from);
    let mut list = |name: &str, values: Vec<Value>| {
        names.insert(name.into(), if values.is_empty() { Value::Null } else { Value::Array(values) });
    };
    list("Country", subject.iter_country().filter_map(text).collect());
    list("Organization", subject.iter_organization().filter_map(text).collect());
    list("OrganizationalUnit", subject.iter_organizational_unit().filter_map(text).collect());
    list("Locality", subject.iter_locality().filter_map(text).collect());
    list("Province", subject.iter_state_or_province().filter_map(text).collect());
    // Of several common names Go keeps the last.
    let common = subject.iter_common_name().filter_map(text).last();
    names.insert("CommonName".into(), common.unwrap_or_else(|| "".into()));
    names
}

#[cfg(test)]
mod tests;
