//! The identity as a server plays it: certificate resolver and verifier of clients, both on what is in force now.
//!
//! Never resumes a session: resumption restores the old peer without asking the verifier, so a revoked bundle would
//! live on. Never tells the caller which check failed: every refused certificate gets the same alert.

use super::alpn::SERVER_NAMES;
use super::live::Identity;
use super::refusal::Refused;
use super::trust::{Role, Shown};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};
use std::sync::{Arc, LazyLock};

/// What a caller without a client certificate gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The handshake is refused.
    Strict,
    /// It goes on; but a certificate that is shown must verify all the same.
    Permissive,
    /// It goes on, and nobody is asked for one.
    Simple,
}

/// ring, and never the process default: which crates are linked must not decide what we verify with.
pub fn provider() -> Arc<CryptoProvider> {
    static RING: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(rustls::crypto::ring::default_provider()));
    RING.clone()
}

/// The identity in both its roles towards rustls.
#[derive(Debug)]
struct Hot {
    identity: Arc<Identity>,
    mode: Mode,
}

impl ResolvesServerCert for Hot {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.identity.load()?.certified().clone())
    }
}

impl ClientCertVerifier for Hot {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Nothing can be borrowed out of a snapshot that may be swapped; an empty list is legal (RFC 8446, 4.2.4).
        &[]
    }

    fn offer_client_auth(&self) -> bool {
        self.mode != Mode::Simple
    }

    fn client_auth_mandatory(&self) -> bool {
        self.mode == Mode::Strict
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let material = self.identity.load().ok_or(Refused("no_identity").into_rustls())?;
        let verified = material.trust().verify(Shown { leaf, intermediates }, Role::Client, now);
        verified.map(|_| ClientCertVerified::assertion()).map_err(Refused::into_rustls)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// TLS 1.3 and 1.2, ALPN by [`SERVER_NAMES`], no resumption. What `identity` takes on changes the next handshake, and
/// no other.
pub fn server_config(mode: Mode, identity: Arc<Identity>) -> Arc<rustls::ServerConfig> {
    let hot = Arc::new(Hot { identity, mode });
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .expect("ring has cipher suites for both versions")
        .with_client_cert_verifier(hot.clone())
        .with_cert_resolver(hot);
    config.alpn_protocols = SERVER_NAMES.iter().map(|name| name.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Arc::new(config)
}
