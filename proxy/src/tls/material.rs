//! Certificate, key and trust at one moment: an immutable snapshot, swapped as a whole.
//!
//! Parts that do not fit together make no [`Material`]; so whatever is in force has once fitted.

use super::identity::{SpiffeId, is_trust_domain, peer_of};
use super::trust::{Role, Shown, Trust};
use super::verify::provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::sign::CertifiedKey;
use std::sync::Arc;
use std::time::Duration;

/// Certificate, key and trust bundles at one moment.
#[derive(Debug)]
pub struct Material {
    certified: Arc<CertifiedKey>,
    trust: Trust,
    trust_domain: String,
    spiffe: Option<SpiffeId>,
    not_before_unix: i64,
    not_after_unix: i64,
}

/// Why certificate, key and bundles do not make an identity.
#[derive(Clone, Debug, thiserror::Error)]
pub enum MaterialError {
    #[error("`{0}` is not a trust domain name (a-z, 0-9, '.', '-', '_')")]
    TrustDomain(String),
    #[error("the certificate chain is empty")]
    NoCertificate,
    #[error("the certificate cannot be read as X.509")]
    BadCertificate,
    #[error("the certificate names {found}, which is outside the trust domain {expected}")]
    ForeignCertificate { found: SpiffeId, expected: String },
    #[error("the key does not serve: {0}")]
    Key(rustls::Error),
    #[error("the trust bundle holds no certificate")]
    NoRoot,
    #[error("the trust bundle's certificate {index} cannot be an authority: {reason}")]
    BadRoot { index: usize, reason: String },
    #[error("revocation list {index} cannot be read: {reason}")]
    BadCrl { index: usize, reason: String },
}

impl Material {
    /// `chain` leaf first; `trust` must have a bundle of `trust_domain`.
    ///
    /// The leaf need not be an SVID (a public certificate serves callers too), but if it is one it must be of ours.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        trust: Trust,
        trust_domain: &str,
    ) -> Result<Material, MaterialError> {
        if !is_trust_domain(trust_domain) {
            return Err(MaterialError::TrustDomain(trust_domain.into()));
        }
        let leaf = chain.first().ok_or(MaterialError::NoCertificate)?;
        let (not_before_unix, not_after_unix) = validity_unix(leaf).ok_or(MaterialError::BadCertificate)?;
        let spiffe = peer_of(leaf);
        if let Some(found) = spiffe.clone().filter(|id| id.trust_domain() != trust_domain) {
            return Err(MaterialError::ForeignCertificate { found, expected: trust_domain.into() });
        }
        let certified = CertifiedKey::from_der(chain, key, &provider()).map_err(MaterialError::Key)?;
        if !trust.has_bundle(trust_domain) {
            return Err(MaterialError::NoRoot);
        }
        let (certified, trust_domain) = (Arc::new(certified), trust_domain.into());
        Ok(Material { certified, trust, trust_domain, spiffe, not_before_unix, not_after_unix })
    }

    /// Our own id, where our certificate is an SVID.
    pub fn spiffe(&self) -> Option<&SpiffeId> {
        self.spiffe.as_ref()
    }

    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    pub(super) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }

    /// Whether our own chain leads to our own bundle at this moment: a label of
    /// [`HANDSHAKE_REASONS`](super::HANDSHAKE_REASONS) if not.
    pub fn verify_own(&self, now_unix: u64) -> Result<(), &'static str> {
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now_unix));
        let (leaf, intermediates) = self.certified.cert.split_first().expect("`new` refuses an empty chain");
        let shown = Shown { leaf, intermediates };
        self.trust.verify_chain(shown, &self.trust_domain, Role::Client, now).map_err(|refused| refused.0)
    }

    /// Whether it says and believes the same, so that nothing would change.
    pub fn same_as(&self, other: &Material) -> bool {
        self.certified.cert == other.certified.cert
            && self.trust_domain == other.trust_domain
            && self.trust.same_as(&other.trust)
    }

    pub fn not_before_unix(&self) -> i64 {
        self.not_before_unix
    }

    /// When our own certificate ends, seconds since 1970: for a gauge, and for renewal in time.
    pub fn not_after_unix(&self) -> i64 {
        self.not_after_unix
    }
}

/// Begin and end of a certificate's validity, seconds since 1970; `None` if it is not X.509.
fn validity_unix(der: &[u8]) -> Option<(i64, i64)> {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let validity = certificate.validity();
    Some((validity.not_before.timestamp(), validity.not_after.timestamp()))
}

/// The end of a certificate's validity, seconds since 1970; `None` if it is not X.509.
pub fn not_after_unix(der: &[u8]) -> Option<i64> {
    validity_unix(der).map(|(_, end)| end)
}
