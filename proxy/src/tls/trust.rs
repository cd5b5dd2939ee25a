//! Whom we believe: one bundle of authorities for each trust domain, and the lists of what they have revoked.
//!
//! The bundle is chosen by the trust domain the peer's own certificate names, before any chain is built (SPIFFE
//! Trust Domain and Bundle, section 4): an authority of one domain can never vouch for a workload of another. Never
//! reads a clock and never fetches a revocation list.

use super::identity::{SpiffeId, is_trust_domain, peer_of};
use super::material::MaterialError;
use super::refusal::Refused;
use super::revocation::Crl;
use super::verify::provider;
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use std::collections::BTreeMap;
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};

/// Which end of a connection shows the certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Client,
    Server,
}

/// A leaf and what was shown with it.
#[derive(Clone, Copy)]
pub struct Shown<'a> {
    pub leaf: &'a CertificateDer<'a>,
    pub intermediates: &'a [CertificateDer<'a>],
}

/// Bundles by trust domain, and revocation lists; immutable.
#[derive(Debug, Default)]
pub struct Trust {
    bundles: BTreeMap<String, Vec<TrustAnchor<'static>>>,
    crls: Vec<Crl>,
    crl_required: bool,
}

impl Trust {
    /// Believes nobody.
    pub fn new() -> Trust {
        Trust::default()
    }

    /// Believes `roots` about workloads of `trust_domain`; replaces an earlier bundle of that domain.
    pub fn with_bundle(mut self, trust_domain: &str, roots: &[CertificateDer<'_>]) -> Result<Trust, MaterialError> {
        if !is_trust_domain(trust_domain) {
            return Err(MaterialError::TrustDomain(trust_domain.into()));
        }
        self.bundles.insert(trust_domain.into(), anchors(roots)?);
        Ok(self)
    }

    /// Knows the domain, and believes nobody of it: for a server that asks for no certificate.
    pub fn with_nobody(mut self, trust_domain: &str) -> Trust {
        self.bundles.insert(trust_domain.into(), Vec::new());
        self
    }

    /// Believes these lists, each only in what is said of certificates of the very key that signed it.
    ///
    /// With `required`, a certificate whose issuer has no list here is refused.
    pub fn with_crls(mut self, crls: Vec<Crl>, required: bool) -> Trust {
        (self.crls, self.crl_required) = (crls, required);
        self
    }

    pub fn same_as(&self, other: &Trust) -> bool {
        let lists = |trust: &Trust| trust.crls.iter().map(|crl| crl.der().to_vec()).collect::<Vec<_>>();
        self.bundles == other.bundles && self.crl_required == other.crl_required && lists(self) == lists(other)
    }

    pub fn has_bundle(&self, trust_domain: &str) -> bool {
        self.bundles.contains_key(trust_domain)
    }

    pub fn trust_domains(&self) -> impl Iterator<Item = &str> {
        self.bundles.keys().map(String::as_str)
    }

    pub fn crls(&self) -> usize {
        self.crls.len()
    }

    /// Lists past their `nextUpdate`. They are used all the same: what they revoke stays revoked.
    pub fn crls_stale(&self, now_unix: i64) -> usize {
        self.crls.iter().filter(|crl| crl.next_update_unix() < now_unix).count()
    }

    /// The workload that a peer has proven to be, or the label of what is wrong.
    pub fn verify(&self, shown: Shown<'_>, role: Role, now: UnixTime) -> Result<SpiffeId, Refused> {
        let id = peer_of(shown.leaf).ok_or(Refused("not_an_svid"))?;
        // X509-SVID section 2: the id of a leaf has a path; without one it names the trust domain itself.
        if id.path().is_empty() || may_sign(shown.leaf) {
            return Err(Refused("not_an_svid"));
        }
        self.verify_chain(shown, id.trust_domain(), role, now)?;
        Ok(id)
    }

    /// Whether a chain leads to the bundle of this trust domain, whatever the leaf's name is.
    pub fn verify_chain(&self, shown: Shown<'_>, trust_domain: &str, role: Role, now: UnixTime) -> Result<(), Refused> {
        let bundle = self.bundles.get(trust_domain).ok_or(Refused("unknown_trust_domain"))?;
        let leaf = EndEntityCert::try_from(shown.leaf).map_err(|error| Refused::of(&error))?;
        let usage = match role {
            Role::Client => KeyUsage::client_auth(),
            Role::Server => KeyUsage::server_auth(),
        };
        let unrevoked = |path: &VerifiedPath<'_>| self.unrevoked(path);
        let algorithms = provider().signature_verification_algorithms.all;
        leaf.verify_for_usage(algorithms, bundle, shown.intermediates, now, usage, None, Some(&unrevoked))
            .map(|_| ())
            .map_err(|error| Refused::of(&error))
    }

    /// Asks the lists about every certificate of a path but the anchor. Not left to the path builder: it takes the
    /// first list with the issuer's name, and during the rotation of an authority two keys have one name.
    fn unrevoked(&self, path: &VerifiedPath<'_>) -> Result<(), webpki::Error> {
        if self.crls.is_empty() {
            return if self.crl_required { Err(webpki::Error::UnknownRevocationStatus) } else { Ok(()) };
        }
        // From the leaf up; each one's issuer is the next one, and the last one's is the anchor.
        let issuers = path.intermediate_certificates().map(|issuer| issuer.subject_public_key_info());
        let issuers = issuers.chain([webpki::spki_for_anchor(path.anchor())]);
        let leaf: &webpki::Cert<'_> = path.end_entity();
        for (certificate, issuer) in std::iter::once(leaf).chain(path.intermediate_certificates()).zip(issuers) {
            let mut listed = false;
            for crl in self.crls.iter().filter(|crl| crl.covers(certificate.issuer(), &issuer)) {
                listed = true;
                if crl.revokes(certificate.serial()) {
                    return Err(webpki::Error::CertRevoked);
                }
            }
            if self.crl_required && !listed {
                return Err(webpki::Error::UnknownRevocationStatus);
            }
        }
        Ok(())
    }
}

/// X509-SVID section 4.3: a leaf's key usage has neither keyCertSign nor cRLSign. The path builder looks at
/// `basicConstraints` only.
fn may_sign(der: &[u8]) -> bool {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return false };
    matches!(certificate.key_usage(), Ok(Some(usage)) if usage.value.key_cert_sign() || usage.value.crl_sign())
}

/// Certificates as anchors; at least one, and each must be fit to be one.
pub fn anchors(roots: &[CertificateDer<'_>]) -> Result<Vec<TrustAnchor<'static>>, MaterialError> {
    if roots.is_empty() {
        return Err(MaterialError::NoRoot);
    }
    let anchor = |(index, root): (usize, &CertificateDer<'_>)| match webpki::anchor_from_trusted_cert(root) {
        Ok(anchor) => Ok(anchor.to_owned()),
        Err(error) => Err(MaterialError::BadRoot { index, reason: error.to_string() }),
    };
    roots.iter().enumerate().map(anchor).collect()
}
