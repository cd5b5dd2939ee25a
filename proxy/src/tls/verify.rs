//! Whom we believe: one hot-swappable snapshot plays certificate resolver and client verifier.
//!
//! Never resumes a session: resumption restores the old peer without asking the verifier, so a revoked bundle would
//! live on. Never tells the caller which check failed: every refused certificate gets the same alert.

use super::identity::{SpiffeId, is_trust_domain, peer_of};
use arc_swap::ArcSwap;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, RootCertStore, SignatureScheme};
use std::sync::{Arc, LazyLock};

/// What a caller without a client certificate gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The handshake is refused.
    Strict,
    /// It goes on; but a certificate that is shown must verify all the same.
    Permissive,
}

/// ring, and never the process default: which crates are linked must not decide what we verify with.
pub fn provider() -> Arc<CryptoProvider> {
    static RING: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(rustls::crypto::ring::default_provider()));
    RING.clone()
}

/// Certificate, key and trust bundle at one moment; immutable, swapped as a whole.
#[derive(Debug)]
pub struct Material {
    certified: Arc<CertifiedKey>,
    clients: Arc<dyn ClientCertVerifier>,
    trust_domain: String,
    spiffe: Option<SpiffeId>,
    not_after_unix: i64,
}

/// Why certificate, key and bundle do not make an identity.
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
}

impl Material {
    /// `chain` leaf first; `roots` the trust bundle of `trust_domain`.
    ///
    /// The leaf need not be an SVID (a public certificate serves callers too), but if it is one it must be of ours.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        roots: Vec<CertificateDer<'static>>,
        trust_domain: &str,
    ) -> Result<Material, MaterialError> {
        if !is_trust_domain(trust_domain) {
            return Err(MaterialError::TrustDomain(trust_domain.into()));
        }
        let leaf = chain.first().ok_or(MaterialError::NoCertificate)?;
        let not_after_unix = not_after_unix(leaf).ok_or(MaterialError::BadCertificate)?;
        let spiffe = peer_of(leaf);
        if let Some(found) = spiffe.clone().filter(|id| id.trust_domain() != trust_domain) {
            return Err(MaterialError::ForeignCertificate { found, expected: trust_domain.into() });
        }
        let certified = CertifiedKey::from_der(chain, key, &provider()).map_err(MaterialError::Key)?;
        let clients = WebPkiClientVerifier::builder_with_provider(root_store(roots)?, provider())
            .build()
            .map_err(|_| MaterialError::NoRoot)?;
        let trust_domain = trust_domain.into();
        Ok(Material { certified: Arc::new(certified), clients, trust_domain, spiffe, not_after_unix })
    }

    /// Our own id, where our certificate is an SVID.
    pub fn spiffe(&self) -> Option<&SpiffeId> {
        self.spiffe.as_ref()
    }

    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// Whether our own chain leads to our own bundle at this moment: a label of [`HANDSHAKE_REASONS`] if not.
    pub fn verify_own(&self, now_unix: u64) -> Result<(), &'static str> {
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now_unix));
        let (leaf, rest) = self.certified.cert.split_first().expect("`new` refuses an empty chain");
        self.clients.verify_client_cert(leaf, rest, now).map(|_| ()).map_err(|error| label_of(&error))
    }

    /// When our own certificate ends, seconds since 1970: for a gauge, and for a warning in time.
    pub fn not_after_unix(&self) -> i64 {
        self.not_after_unix
    }
}

fn root_store(roots: Vec<CertificateDer<'static>>) -> Result<Arc<RootCertStore>, MaterialError> {
    if roots.is_empty() {
        return Err(MaterialError::NoRoot);
    }
    let mut store = RootCertStore::empty();
    for (index, root) in roots.into_iter().enumerate() {
        store.add(root).map_err(|error| MaterialError::BadRoot { index, reason: error.to_string() })?;
    }
    Ok(Arc::new(store))
}

/// The end of a certificate's validity, seconds since 1970; `None` if it is not X.509.
pub fn not_after_unix(der: &[u8]) -> Option<i64> {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

/// A client certificate that is not believed. The label is for logs and metrics; the alert says nothing of it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct PeerRefused(&'static str);

/// rustls shows errors that it does not know in their debug form: that is where [`handshake_reason`] finds the label.
impl std::fmt::Debug for PeerRefused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl std::fmt::Display for PeerRefused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{REFUSED_MARK}{}", self.0)
    }
}
impl std::error::Error for PeerRefused {}

const REFUSED_MARK: &str = "client certificate refused: ";

/// Every label that [`handshake_reason`] gives.
pub const HANDSHAKE_REASONS: &[&str] = &[
    "certificate_missing",
    "expired",
    "malformed",
    "not_an_svid",
    "not_yet_valid",
    "peer_alert",
    "protocol",
    "transport",
    "untrusted",
    "wrong_purpose",
    "wrong_trust_domain",
];

impl PeerRefused {
    /// `CertificateError::Other` is the one kind that rustls answers with the vaguest alert, certificate_unknown.
    fn into_rustls(self) -> rustls::Error {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(self))))
    }
}

fn label_of(error: &rustls::Error) -> &'static str {
    use CertificateError as C;
    match error {
        rustls::Error::NoCertificatesPresented => "certificate_missing",
        rustls::Error::AlertReceived(_) => "peer_alert",
        rustls::Error::InvalidCertificate(certificate) => match certificate {
            C::Other(OtherError(inner)) => match inner.downcast_ref::<PeerRefused>() {
                Some(PeerRefused(label)) => label,
                None => "malformed",
            },
            C::Expired | C::ExpiredContext { .. } => "expired",
            C::NotValidYet | C::NotValidYetContext { .. } => "not_yet_valid",
            C::InvalidPurpose | C::InvalidPurposeContext { .. } => "wrong_purpose",
            C::BadEncoding | C::UnhandledCriticalExtension => "malformed",
            _ => "untrusted",
        },
        _ => "protocol",
    }
}

/// Why a handshake failed, one of [`HANDSHAKE_REASONS`], for the log and the metric.
///
/// Walks the chain of causes; where a library on the way kept only the words, the words are searched.
pub fn handshake_reason(error: &(dyn std::error::Error + 'static)) -> &'static str {
    let mut cause = Some(error);
    while let Some(this) = cause {
        if let Some(found) = this.downcast_ref::<rustls::Error>() {
            return label_of(found);
        }
        // `io::Error::source` skips the error it wraps, which is the very one we look for.
        let inner = this.downcast_ref::<std::io::Error>().and_then(|io| io.get_ref());
        cause = match inner {
            Some(inner) => Some(inner),
            None => this.source(),
        };
    }
    let words = error.to_string();
    if words.contains("peer sent no certificates") {
        return "certificate_missing";
    }
    if words.contains("received fatal alert") {
        return "peer_alert";
    }
    let named = words.split(REFUSED_MARK).nth(1).unwrap_or_default();
    HANDSHAKE_REASONS.iter().find(|label| named.starts_with(**label)).copied().unwrap_or("transport")
}

/// The snapshot in both its roles towards rustls.
#[derive(Debug)]
struct Hot {
    material: Arc<ArcSwap<Material>>,
    mode: Mode,
}

impl ResolvesServerCert for Hot {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.material.load().certified.clone())
    }
}

impl ClientCertVerifier for Hot {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Nothing can be borrowed out of a snapshot that may be swapped; an empty list is legal (RFC 8446, 4.2.4).
        &[]
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
        let material = self.material.load();
        let verified = material
            .clients
            .verify_client_cert(leaf, intermediates, now)
            .map_err(|error| PeerRefused(label_of(&error)).into_rustls())?;
        match peer_of(leaf) {
            // X509-SVID section 2: the id of a leaf has a path; without one it names the trust domain itself.
            Some(id) if id.path().is_empty() => Err(PeerRefused("not_an_svid").into_rustls()),
            Some(id) if id.trust_domain() != material.trust_domain => {
                Err(PeerRefused("wrong_trust_domain").into_rustls())
            }
            Some(_) => Ok(verified),
            None => Err(PeerRefused("not_an_svid").into_rustls()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// TLS 1.3 and 1.2, ALPN h2 and http/1.1, no resumption. Swapping `material` changes the next handshake, and no other.
pub fn server_config(mode: Mode, material: Arc<ArcSwap<Material>>) -> Arc<rustls::ServerConfig> {
    let hot = Arc::new(Hot { material, mode });
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .expect("ring has cipher suites for both versions")
        .with_client_cert_verifier(hot.clone())
        .with_cert_resolver(hot);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Arc::new(config)
}
