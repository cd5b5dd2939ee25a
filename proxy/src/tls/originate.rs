//! The identity as a client plays it: who the server must prove to be, and what we show it.
//!
//! Two kinds of servers: workloads of a mesh, known by SPIFFE id and never by DNS name; and ordinary ones, known by
//! DNS name under given roots. Never resumes a session: each connection asks the verifier, with the trust of now.

use super::identity::SpiffeId;
use super::live::Identity;
use super::material::MaterialError;
use super::refusal::Refused;
use super::trust::{Role, Shown, anchors};
use super::verify::provider;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption, WantsClientCert};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::sync::Arc;

/// Which workload a server may be. That its certificate chain leads to the bundle of its own trust domain is asked in
/// any case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// One of these; of none, nobody.
    AnyOf(Vec<SpiffeId>),
    /// Any workload of this trust domain.
    TrustDomain(String),
    /// Any workload with a path `/ns/NAMESPACE/sa/…` in this trust domain.
    Namespace { trust_domain: String, namespace: String },
}

impl Expect {
    pub fn met_by(&self, id: &SpiffeId) -> bool {
        match self {
            Expect::AnyOf(ids) => ids.contains(id),
            Expect::TrustDomain(name) => id.trust_domain() == name,
            Expect::Namespace { trust_domain, namespace } => {
                id.trust_domain() == trust_domain && id.namespace() == Some(namespace)
            }
        }
    }
}

#[derive(Debug)]
struct Hot {
    identity: Arc<Identity>,
    expect: Expect,
}

impl ResolvesClientCert for Hot {
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let certified = self.identity.load()?.certified().clone();
        certified.key.choose_scheme(schemes).is_some().then_some(certified)
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ServerCertVerifier for Hot {
    /// The name that was dialled does not matter: SVIDs carry none.
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let material = self.identity.load().ok_or(Refused("no_identity").into_rustls())?;
        let verified = material.trust().verify(Shown { leaf, intermediates }, Role::Server, now);
        let id = verified.map_err(Refused::into_rustls)?;
        if !self.expect.met_by(&id) {
            // The log is where an operator learns that traffic went astray; the server learns nothing.
            tracing::warn!(found = %id, expected = ?self.expect, "a server is not the workload it should be");
            return Err(Refused("unexpected_id").into_rustls());
        }
        Ok(ServerCertVerified::assertion())
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

fn builder() -> ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .expect("ring has cipher suites for both versions")
}

fn finish(mut config: ClientConfig, alpn: &[&[u8]]) -> Arc<ClientConfig> {
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// Mutual TLS with a workload: shows the identity of now, and takes servers as `expect` says. Without an identity every
/// handshake fails with the label `no_identity`.
pub fn client_config(identity: Arc<Identity>, expect: Expect, alpn: &[&[u8]]) -> Arc<ClientConfig> {
    let hot = Arc::new(Hot { identity, expect });
    let verified = builder().dangerous().with_custom_certificate_verifier(hot.clone());
    finish(verified.with_client_cert_resolver(hot), alpn)
}

fn by_name(roots: &[CertificateDer<'_>]) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, MaterialError> {
    Ok(builder().with_root_certificates(RootCertStore { roots: anchors(roots)? }))
}

/// Ordinary TLS: the server is known by its DNS name, under these roots; it is shown no certificate.
pub fn plain_client_config(roots: &[CertificateDer<'_>], alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, MaterialError> {
    Ok(finish(by_name(roots)?.with_no_client_auth(), alpn))
}
