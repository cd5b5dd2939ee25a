//! Why a handshake failed, as one word out of a closed set: for logs and metrics, never for the other end.
//!
//! Every certificate that is not believed gets the same alert, whatever the reason: the alert must not tell a stranger
//! which check to get past.

use rustls::{CertificateError, OtherError};
use std::sync::Arc;

/// Every label that [`handshake_reason`] gives.
pub const HANDSHAKE_REASONS: &[&str] = &[
    "certificate_missing",
    "expired",
    "malformed",
    "no_identity",
    "not_an_svid",
    "not_yet_valid",
    "peer_alert",
    "protocol",
    "revocation_unknown",
    "revoked",
    "transport",
    "unexpected_id",
    "unknown_trust_domain",
    "untrusted",
    "wrong_purpose",
];

/// A certificate that is not believed, or an identity of ours that is not there. The alert says nothing of the label.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Refused(pub &'static str);

/// rustls shows errors that it does not know in their debug form: that is where [`handshake_reason`] finds the label.
impl std::fmt::Debug for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{REFUSED_MARK}{}", self.0)
    }
}
impl std::error::Error for Refused {}

const REFUSED_MARK: &str = "certificate refused: ";
/// What rustls says when the resolver of server certificates has none to give: before there is an identity.
const NO_IDENTITY: &str = "no server certificate chain resolved";

impl Refused {
    /// `CertificateError::Other` is the one kind that rustls answers with the vaguest alert, certificate_unknown.
    pub fn into_rustls(self) -> rustls::Error {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(self))))
    }

    /// From the path builder's own error.
    pub fn of(error: &webpki::Error) -> Refused {
        use webpki::Error as E;
        Refused(match error {
            E::CertExpired { .. } | E::InvalidCertValidity => "expired",
            E::CertNotValidYet { .. } => "not_yet_valid",
            E::RequiredEkuNotFoundContext(_) => "wrong_purpose",
            E::BadDer | E::TrailingData(_) | E::UnsupportedCriticalExtension | E::UnsupportedCertVersion => "malformed",
            // X509-SVID section 4.1: a leaf must not be an authority.
            E::CaUsedAsEndEntity => "not_an_svid",
            E::CertRevoked => "revoked",
            E::UnknownRevocationStatus => "revocation_unknown",
            _ => "untrusted",
        })
    }
}

fn label_of(error: &rustls::Error) -> &'static str {
    use CertificateError as C;
    match error {
        rustls::Error::NoCertificatesPresented => "certificate_missing",
        rustls::Error::AlertReceived(_) => "peer_alert",
        rustls::Error::General(words) if words.contains(NO_IDENTITY) => "no_identity",
        rustls::Error::InvalidCertificate(certificate) => match certificate {
            C::Other(OtherError(inner)) => match inner.downcast_ref::<Refused>() {
                Some(Refused(label)) => label,
                None => "malformed",
            },
            C::Expired | C::ExpiredContext { .. } => "expired",
            C::NotValidYet | C::NotValidYetContext { .. } => "not_yet_valid",
            C::InvalidPurpose | C::InvalidPurposeContext { .. } => "wrong_purpose",
            C::NotValidForName | C::NotValidForNameContext { .. } => "unexpected_id",
            C::BadEncoding | C::UnhandledCriticalExtension => "malformed",
            C::Revoked => "revoked",
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
    for (said, label) in [
        ("peer sent no certificates", "certificate_missing"),
        ("received fatal alert", "peer_alert"),
        (NO_IDENTITY, "no_identity"),
    ] {
        if words.contains(said) {
            return label;
        }
    }
    let named = words.split(REFUSED_MARK).nth(1).unwrap_or_default();
    HANDSHAKE_REASONS.iter().find(|label| named.starts_with(**label)).copied().unwrap_or("transport")
}
