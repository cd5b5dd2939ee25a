//! Certificates, keys and revocation lists out of files and off the wire, bounded, with errors that name the file.
//!
//! Never keeps anything: what has been read is the caller's.

use super::material::MaterialError;
use super::revocation::Crl;
use super::trust::Trust;
use crate::config::TrustFiles;
use crate::files::read_bounded;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use std::io;
use std::path::{Path, PathBuf};

const FILE_BYTES_MAX: u64 = 4 << 20;

/// Why files do not make an identity; names the file.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("cannot read {}: {error}", path.display())]
    Read { path: PathBuf, error: io::Error },
    #[error("{} holds no {what} in PEM", path.display())]
    Nothing { path: PathBuf, what: &'static str },
    #[error("{} is not PEM: {reason}", path.display())]
    Pem { path: PathBuf, reason: String },
    #[error("{} and {} do not serve: {error}", certificate.display(), key.display())]
    Material { certificate: PathBuf, key: PathBuf, error: MaterialError },
    #[error("{} does not serve as trust bundle: {error}", path.display())]
    Bundle { path: PathBuf, error: MaterialError },
    #[error("{} does not serve as revocation list: {reason}", path.display())]
    Crl { path: PathBuf, reason: String },
    #[error("{} does not serve as authority: {reason}", path.display())]
    Authority { path: PathBuf, reason: String },
}

pub fn read(path: &Path) -> Result<Vec<u8>, SourceError> {
    read_bounded(path, FILE_BYTES_MAX).map_err(|error| SourceError::Read { path: path.into(), error })
}

/// Every certificate of a PEM file, in its order; at least one.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, SourceError> {
    let bytes = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let found = found.map_err(|error| bad_pem(path, "certificate", error))?;
    if found.is_empty() {
        return Err(SourceError::Nothing { path: path.into(), what: "certificate" });
    }
    Ok(found)
}

/// PKCS #8, SEC 1 or PKCS #1.
pub fn key(path: &Path) -> Result<PrivateKeyDer<'static>, SourceError> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|error| bad_pem(path, "private key", error))
}

fn bad_pem(path: &Path, what: &'static str, error: pem::Error) -> SourceError {
    match error {
        pem::Error::NoItemsFound => SourceError::Nothing { path: path.into(), what },
        error => SourceError::Pem { path: path.into(), reason: error.to_string() },
    }
}

/// Every list of a PEM file, or the one of a DER file. A file of no bytes holds none: it is how "nothing revoked yet"
/// is mounted.
pub fn crls(path: &Path) -> Result<Vec<Crl>, SourceError> {
    let bytes = read(path)?;
    let bad = |reason: String| SourceError::Crl { path: path.into(), reason };
    crls_of(&bytes).map_err(bad)
}

/// As [`crls`], of bytes.
pub fn crls_of(bytes: &[u8]) -> Result<Vec<Crl>, String> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    // 0x30 begins a DER sequence; no PEM text begins with `0`.
    if bytes[0] == 0x30 {
        return Ok(vec![Crl::parse(bytes)?]);
    }
    let found: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(bytes).collect();
    let found = found.map_err(|error| error.to_string())?;
    if found.is_empty() {
        return Err("it holds no list, neither in PEM nor in DER".into());
    }
    found.iter().map(|der| Crl::parse(der)).collect()
}

/// Adds what these files say to what is believed already.
pub fn with_trust_files(mut trust: Trust, files: &TrustFiles) -> Result<Trust, SourceError> {
    for (domain, path) in &files.federated {
        let roots = certificates(path)?;
        let added = trust.with_bundle(domain, &roots);
        trust = added.map_err(|error| SourceError::Bundle { path: path.clone(), error })?;
    }
    let mut lists = Vec::new();
    for path in &files.crl {
        lists.extend(crls(path)?);
    }
    Ok(trust.with_crls(lists, files.crl_required))
}

/// Certificates in DER, one after the other; `None` if any of it is something else. Of no bytes, none.
pub fn concatenated(mut bytes: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let (rest, _) = X509Certificate::from_der(bytes).ok()?;
        found.push(CertificateDer::from(bytes[..bytes.len() - rest.len()].to_vec()));
        bytes = rest;
    }
    Some(found)
}
