//! A trust domain for development: an authority of its own and the identities it signs. Nothing outside trusts it.
//!
//! The authority is pure: keys and certificates as PEM text in and out. Only the source at the end, which signs for its
//! own process, reads a clock, and the authority's files if it is given some. Never writes a file.

use super::{Source, chance, life, put};
use crate::config::{self, IdentitySource};
use crate::record::unix_now;
use crate::tls::identity::{SpiffeId, peer_of};
use crate::tls::material::not_after_unix;
use crate::tls::pem::{SourceError, read, with_trust_files};
use crate::tls::rotate::Schedule;
use crate::tls::{Identity, Material, Trust};
use async_trait::async_trait;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use time::OffsetDateTime;

pub const TRUST_DOMAIN: &str = "outrider.local";

const DAY: u64 = 86_400;
/// Remaking the authority makes every client's bundle stale: in development that should not happen by itself.
pub const AUTHORITY_TTL_SECONDS: u64 = 3650 * DAY;
/// Long enough to forget about, short enough that renewal is exercised.
pub const LEAF_TTL_SECONDS: u64 = 30 * DAY;
/// Containers and virtual machines start with clocks that are off by minutes.
const BACKDATE_SECONDS: u64 = 300;

/// A private key and its certificate, PEM.
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

/// The development authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    not_after_unix: u64,
}

/// What a certificate shall say.
#[derive(Clone, Debug)]
pub struct Wish {
    pub spiffe: SpiffeId,
    pub dns: Vec<String>,
    pub ip: Vec<IpAddr>,
    pub ttl_seconds: u64,
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("the authority's private key cannot be read: {0}")]
    Key(String),
    #[error("the authority's certificate cannot be read: {0}")]
    Certificate(String),
    #[error("the authority's key and certificate do not belong together")]
    Mismatch,
    #[error("the authority's certificate has expired")]
    Expired,
    #[error("`{0}` cannot be a DNS name in a certificate")]
    Dns(String),
    #[error("the authority cannot sign: {0}")]
    Sign(String),
}

/// A new authority for a trust domain.
pub fn make_authority(trust_domain: &str, now_unix: u64) -> Pair {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("ring makes P-256 keys");
    let mut params = CertificateParams::default();
    params.distinguished_name = name("outrider development authority");
    params.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}"))];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (params.not_before, params.not_after) = validity(now_unix, now_unix.saturating_add(AUTHORITY_TTL_SECONDS));
    let certificate = params.self_signed(&key).expect("a P-256 key signs its own certificate");
    Pair { certificate: certificate.pem(), key: key.serialize_pem() }
}

impl Authority {
    pub fn parse(certificate: &str, key: &str, now_unix: u64) -> Result<Authority, AuthorityError> {
        let key = KeyPair::from_pem(key).map_err(|error| AuthorityError::Key(error.to_string()))?;
        let bad = |reason: String| AuthorityError::Certificate(reason);
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|error| bad(error.to_string()))?;
        let not_after = not_after_unix(&der).ok_or_else(|| bad("it is not X.509".into()))?;
        let not_after_unix = u64::try_from(not_after).unwrap_or(0);
        if !certifies(&der, &key) {
            return Err(AuthorityError::Mismatch);
        }
        if now_unix >= not_after_unix {
            return Err(AuthorityError::Expired);
        }
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(|error| bad(error.to_string()))?;
        Ok(Authority { issuer, not_after_unix })
    }

    /// A new key, and a certificate for it that serves both ends of a connection.
    pub fn sign(&self, wish: &Wish, now_unix: u64) -> Result<Pair, AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("ring makes P-256 keys");
        let mut params = CertificateParams::default();
        // X509-SVID section 4.1: exactly one URI; DNS names and addresses may stand beside it.
        params.subject_alt_names = vec![uri(wish.spiffe.as_str())];
        for dns in &wish.dns {
            let name = dns.as_str().try_into().map_err(|_| AuthorityError::Dns(dns.clone()))?;
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        params.subject_alt_names.extend(wish.ip.iter().map(|ip| SanType::IpAddress(*ip)));
        params.distinguished_name = name(wish.spiffe.service_account().unwrap_or("workload"));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let end = now_unix.saturating_add(wish.ttl_seconds).min(self.not_after_unix);
        (params.not_before, params.not_after) = validity(now_unix, end);
        let signed = params.signed_by(&key, &self.issuer).map_err(|error| AuthorityError::Sign(error.to_string()))?;
        Ok(Pair { certificate: signed.pem(), key: key.serialize_pem() })
    }
}

/// Whether a certificate (DER) says all that is wished, so that it need not be made anew.
pub fn fulfils(der: &[u8], wish: &Wish) -> bool {
    use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return false };
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return false };
    let has = |wanted: &dyn Fn(&GeneralName<'_>) -> bool| names.value.general_names.iter().any(wanted);
    let octets = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    peer_of(der).as_ref() == Some(&wish.spiffe)
        && wish.dns.iter().all(|dns| has(&|name| matches!(name, GeneralName::DNSName(it) if it == dns)))
        && wish.ip.iter().all(|ip| has(&|name| matches!(name, GeneralName::IPAddress(it) if *it == octets(ip))))
}

fn certifies(der: &[u8], key: &KeyPair) -> bool {
    use x509_parser::prelude::{FromDer, X509Certificate};
    X509Certificate::from_der(der)
        .is_ok_and(|(_, certificate)| certificate.public_key().raw == key.subject_public_key_info().as_slice())
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("a SPIFFE id is ASCII"))
}

fn name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "outrider");
    name.push(DnType::CommonName, common);
    name
}

fn validity(now_unix: u64, end_unix: u64) -> (OffsetDateTime, OffsetDateTime) {
    // X.509 has no year above 9999.
    let at = |unix: u64| {
        OffsetDateTime::from_unix_timestamp(i64::try_from(unix).unwrap_or(i64::MAX).min(253_402_300_799))
            .expect("a moment before the year 10000")
    };
    (at(now_unix.saturating_sub(BACKDATE_SECONDS)), at(end_unix))
}

pub const NAME: &str = "self_signed";

/// The source: signs for this process, and again at half of each certificate's life.
pub struct SelfSigned {
    config: config::SelfSigned,
    trust: config::TrustFiles,
    /// Made here, unless there are files of one.
    own: Option<Pair>,
}

pub fn open(tls: &config::Tls) -> Option<Box<dyn Source>> {
    let Some(IdentitySource::SelfSigned(config)) = &tls.source else { return None };
    let own = config.authority.is_none().then(|| make_authority(&tls.trust_domain, unix_now().as_secs()));
    Some(Box::new(SelfSigned { config: config.clone(), trust: tls.trust.clone(), own }))
}

#[async_trait]
impl Source for SelfSigned {
    fn first(&self) -> Result<Option<Material>, SourceError> {
        self.sign().map(Some)
    }

    async fn run(self: Box<Self>, identity: Arc<Identity>) {
        let mut schedule = Schedule::default();
        if let Some(material) = identity.load() {
            schedule.renewed(life(&material));
        }
        loop {
            tokio::time::sleep(schedule.wait(unix_now(), chance())).await;
            match self.sign() {
                Ok(material) => {
                    schedule.renewed(life(&material));
                    put(&identity, material);
                }
                Err(error) => {
                    identity.failed(&error);
                    schedule.failed();
                }
            }
        }
    }
}

impl SelfSigned {
    fn sign(&self) -> Result<Material, SourceError> {
        let now = unix_now().as_secs();
        let at = self.config.authority.as_ref().map_or(Path::new("the authority of this process"), |(at, _)| at);
        let bad = |reason: String| SourceError::Authority { path: at.into(), reason };
        let (certificate, key) = match (&self.config.authority, &self.own) {
            (Some((certificate, key)), _) => {
                let text = |path| Ok(String::from_utf8_lossy(&read(path)?).into_owned());
                (text(certificate)?, text(key)?)
            }
            (None, Some(own)) => (own.certificate.clone(), own.key.clone()),
            (None, None) => return Err(bad("there is none".into())),
        };
        let authority = Authority::parse(&certificate, &key, now).map_err(|error| bad(error.to_string()))?;
        let wish = Wish {
            spiffe: self.config.spiffe_id.clone(),
            dns: vec!["localhost".into()],
            ip: vec![Ipv4Addr::LOCALHOST.into()],
            ttl_seconds: self.config.lifetime.as_secs().max(1),
        };
        let pair = authority.sign(&wish, now).map_err(|error| bad(error.to_string()))?;
        let roots: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect();
        let roots = roots.map_err(|error| bad(error.to_string()))?;
        let leaf = CertificateDer::from_pem_slice(pair.certificate.as_bytes()).expect("rcgen writes PEM");
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("rcgen writes PEM");
        let domain = wish.spiffe.trust_domain();
        let trust = Trust::new().with_bundle(domain, &roots).map_err(|error| bad(error.to_string()))?;
        let trust = with_trust_files(trust, &self.trust)?;
        Material::new(vec![leaf], key, trust, domain).map_err(|error| bad(error.to_string()))
    }
}
