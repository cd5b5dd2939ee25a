//! A certificate authority for tests: leaves that must be accepted, and one of each kind that must not. Nothing it signs
//! is trusted by anything but the test that made it.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevocationReason, RevokedCertParams, SanType, SerialNumber,
};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// The trust domain of the tests.
pub const TRUST_DOMAIN: &str = "cluster.local";
/// What callers are, unless a test says otherwise.
pub const CALLER: &str = "spiffe://cluster.local/ns/default/sa/caller";
/// What sidecars and servers are, unless a test says otherwise.
pub const SERVER: &str = "spiffe://cluster.local/ns/default/sa/server";

/// An authority with a key of its own.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate, PEM.
    pub root: String,
}

/// A certificate with its key, both PEM.
#[derive(Clone, Debug)]
pub struct Leaf {
    pub certificate: String,
    pub key: String,
    serial: u64,
}

/// What a leaf says; change what a test is about.
#[derive(Clone, Debug)]
pub struct Shape {
    pub uris: Vec<String>,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
    /// What it may be used for: both sides of a handshake, if nothing else is asked for.
    pub purposes: Vec<ExtendedKeyUsagePurpose>,
}

impl Shape {
    /// Valid for an hour, from a minute ago.
    pub fn of(uris: &[&str]) -> Shape {
        let now = SystemTime::now();
        Shape {
            uris: uris.iter().map(|uri| uri.to_string()).collect(),
            not_before: now - Duration::from_secs(60),
            not_after: now + Duration::from_secs(3600),
            purposes: vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
        }
    }

    /// Ended a minute ago.
    pub fn expired(uri: &str) -> Shape {
        let now = SystemTime::now();
        let not_before = now - Duration::from_secs(7200);
        Shape { not_before, not_after: now - Duration::from_secs(60), ..Shape::of(&[uri]) }
    }
}

impl Authority {
    pub fn new(name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("ring makes P-256 keys");
        let root = params.self_signed(&key).expect("an authority signs itself").pem();
        Authority { issuer: Issuer::new(params, key), root }
    }

    /// A leaf of this id, with `localhost` and 127.0.0.1 besides, so that it serves clients that go by name too.
    pub fn leaf(&self, uri: &str) -> Leaf {
        self.issue(&Shape::of(&[uri]))
    }

    pub fn issue(&self, shape: &Shape) -> Leaf {
        let mut params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])
            .expect("both are names a certificate may have");
        for uri in &shape.uris {
            params.subject_alt_names.push(SanType::URI(uri.as_str().try_into().expect("a URI is ASCII")));
        }
        // A serial of our own: a revocation list names it.
        let mut random = [0; 8];
        std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom").expect("the kernel's chance"), &mut random)
            .expect("eight bytes of it");
        let serial = u64::from_be_bytes(random) >> 1;
        params.serial_number = Some(SerialNumber::from(serial));
        params.not_before = shape.not_before.into();
        params.not_after = shape.not_after.into();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = shape.purposes.clone();
        params.distinguished_name.push(rcgen::DnType::CommonName, "leaf");
        let key = KeyPair::generate().expect("ring makes P-256 keys");
        let certificate = params.signed_by(&key, &self.issuer).expect("an authority signs").pem();
        Leaf { certificate, key: key.serialize_pem(), serial }
    }

    /// A revocation list that names these leaves, PEM.
    pub fn revoke(&self, leaves: &[&Leaf]) -> String {
        let now = SystemTime::now();
        let revoked = leaves.iter().map(|leaf| RevokedCertParams {
            serial_number: SerialNumber::from(leaf.serial),
            revocation_time: (now - Duration::from_secs(30)).into(),
            reason_code: Some(RevocationReason::KeyCompromise),
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: (now - Duration::from_secs(60)).into(),
            next_update: (now + Duration::from_secs(3600)).into(),
            crl_number: SerialNumber::from(1u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).expect("an authority signs").pem().expect("a list is PEM")
    }
}

impl Leaf {
    /// Writes `<name>.pem` and `<name>.key` into `folder`.
    pub fn write(&self, folder: &Path, name: &str) {
        std::fs::write(folder.join(format!("{name}.pem")), &self.certificate).expect("the folder takes a certificate");
        std::fs::write(folder.join(format!("{name}.key")), &self.key).expect("the folder takes a key");
    }

    /// Certificate and key as rustls wants them.
    pub fn parts(&self) -> (Vec<rustls_pki_types::CertificateDer<'static>>, rustls_pki_types::PrivateKeyDer<'static>) {
        use rustls_pki_types::pem::PemObject;
        let chain = rustls_pki_types::CertificateDer::pem_slice_iter(self.certificate.as_bytes());
        let key = rustls_pki_types::PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("a key we made");
        (chain.collect::<Result<_, _>>().expect("a certificate we made"), key)
    }
}

/// Roots in PEM as rustls wants them.
pub fn roots(pem: &str) -> rustls::RootCertStore {
    use rustls_pki_types::pem::PemObject;
    let mut roots = rustls::RootCertStore::empty();
    for certificate in rustls_pki_types::CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(certificate.expect("a root we made")).expect("a root that can be one");
    }
    roots
}
