//! Real handshakes, in memory: who gets in, who does not, and what is left to read in the log.

mod files;
mod istio_ca;
mod openssl;
mod originate;
mod refusals;
mod workload_api;

use super::sources::self_signed::{Authority, Pair, TRUST_DOMAIN, Wish, make_authority};
use super::*;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// rustls verifies against the machine's clock.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

struct Domain {
    ca: Pair,
    authority: Authority,
}

fn domain(trust_domain: &str) -> Domain {
    let ca = make_authority(trust_domain, now());
    let authority = Authority::parse(&ca.certificate, &ca.key, now()).unwrap();
    Domain { ca, authority }
}

impl Domain {
    fn sign(&self, spiffe: &str, ttl_seconds: u64, at: u64) -> Pair {
        let wish = Wish {
            spiffe: spiffe.parse().unwrap(),
            dns: vec!["localhost".into()],
            ip: vec![[127, 0, 0, 1].into()],
            ttl_seconds,
        };
        self.authority.sign(&wish, at).unwrap()
    }

    fn workload(&self) -> Pair {
        self.sign("spiffe://outrider.local/ns/default/sa/client", 600, now())
    }

    fn issuer(&self) -> rcgen::Issuer<'static, rcgen::KeyPair> {
        let key = rcgen::KeyPair::from_pem(&self.ca.key).unwrap();
        rcgen::Issuer::from_ca_cert_pem(&self.ca.certificate, key).unwrap()
    }

    /// A workload's certificate with something changed.
    fn leaf(&self, change: impl FnOnce(&mut rcgen::CertificateParams)) -> Pair {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.subject_alt_names = vec![uri("spiffe://outrider.local/ns/default/sa/client")];
        params.not_before = time::OffsetDateTime::now_utc() - time::Duration::minutes(1);
        params.not_after = time::OffsetDateTime::now_utc() + time::Duration::minutes(10);
        change(&mut params);
        Pair { certificate: params.signed_by(&key, &self.issuer()).unwrap().pem(), key: key.serialize_pem() }
    }

    fn trust(&self) -> Trust {
        Trust::new().with_bundle(TRUST_DOMAIN, &[der(&self.ca)]).unwrap()
    }

    fn material(&self) -> Material {
        let server = self.sign("spiffe://outrider.local/ns/default/sa/outrider", 600, now());
        Material::new(chain(&server), key(&server), self.trust(), TRUST_DOMAIN).unwrap()
    }
}

fn uri(text: &str) -> rcgen::SanType {
    rcgen::SanType::URI(text.try_into().unwrap())
}

/// Asks until it is so; a minute is not to be reached by a machine that works.
async fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..6000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("waited a minute: {what}");
}

fn held(material: Material) -> Arc<Identity> {
    let identity = Identity::new("test");
    identity.install(material);
    identity
}

fn der(pair: &Pair) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap()
}

fn chain(pair: &Pair) -> Vec<CertificateDer<'static>> {
    vec![der(pair)]
}

fn key(pair: &Pair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap()
}

fn client(trusts: &Domain, shows: Option<&Pair>) -> Arc<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(der(&trusts.ca)).unwrap();
    let builder = rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match shows {
        Some(pair) => builder.with_client_auth_cert(chain(pair), key(pair)).unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

/// A workload that takes any server of the trust domain, whatever name was dialled.
fn caller(trusts: &Domain, shows: &Pair) -> Arc<rustls::ClientConfig> {
    let material = Material::new(chain(shows), key(shows), trusts.trust(), TRUST_DOMAIN).unwrap();
    client_config(held(material), Expect::TrustDomain(TRUST_DOMAIN.into()), &[b"h2"])
}

/// The id the server knows the client by, or the reason it refused and the words the client heard.
async fn meet(
    server: Arc<rustls::ServerConfig>,
    client: Arc<rustls::ClientConfig>,
) -> Result<Option<SpiffeId>, (&'static str, String)> {
    use tokio::io::AsyncReadExt;
    let (near, far) = tokio::io::duplex(1 << 16);
    let asking = tokio::spawn(async move {
        let name = "127.0.0.1".try_into().unwrap();
        let mut tls = tokio_rustls::TlsConnector::from(client).connect(name, near).await?;
        // In TLS 1.3 a client is done before the server has looked at its certificate: the verdict comes on reading.
        let mut byte = [0u8; 1];
        tls.read(&mut byte).await.map(|_| ())
    });
    match tokio_rustls::TlsAcceptor::from(server).accept(far).await {
        Ok(tls) => {
            let (_, connection) = tls.get_ref();
            assert_eq!(connection.alpn_protocol(), Some(&b"h2"[..]));
            Ok(connection.peer_certificates().and_then(|chain| peer_of(&chain[0])))
        }
        Err(error) => {
            let reason = handshake_reason(&error);
            // A library on the way may keep the words only.
            let words = std::io::Error::other(format!("TLS accept() failed: {error}"));
            assert_eq!(handshake_reason(&words), reason, "{words}");
            let heard = asking.await.unwrap().unwrap_err().to_string();
            Err((reason, heard))
        }
    }
}

#[tokio::test]
async fn who_is_let_in() {
    let ours = domain(TRUST_DOMAIN);
    let theirs = domain(TRUST_DOMAIN);
    let hot = held(ours.material());
    let strict = server_config(Mode::Strict, hot.clone());
    let permissive = server_config(Mode::Permissive, hot.clone());

    let good = ours.workload();
    let id: SpiffeId = "spiffe://outrider.local/ns/default/sa/client".parse().unwrap();
    for server in [&strict, &permissive] {
        assert_eq!(meet(server.clone(), client(&ours, Some(&good))).await, Ok(Some(id.clone())));
    }
    assert_eq!(meet(permissive.clone(), client(&ours, None)).await, Ok(None));
    let (reason, _) = meet(strict.clone(), client(&ours, None)).await.unwrap_err();
    assert_eq!(reason, "certificate_missing");

    let foreign = "spiffe://elsewhere.test/ns/default/sa/client";
    let cases = [
        ("untrusted", theirs.workload()),
        ("expired", ours.sign(id.as_str(), 0, now() - 10)),
        ("not_yet_valid", ours.sign(id.as_str(), 900, now() + 600)),
        ("unknown_trust_domain", ours.sign(foreign, 600, now())),
        ("not_an_svid", ours.sign("spiffe://outrider.local", 600, now())),
        ("not_an_svid", ours.leaf(|params| params.subject_alt_names = vec![])),
    ];
    let mut heard = std::collections::BTreeSet::new();
    for (expected, pair) in cases {
        for server in [&strict, &permissive] {
            let (reason, words) = meet(server.clone(), client(&ours, Some(&pair))).await.unwrap_err();
            assert_eq!(reason, expected);
            assert!(HANDSHAKE_REASONS.contains(&reason));
            heard.insert(words);
        }
    }
    assert_eq!(heard.len(), 1, "the alert tells a stranger which check to get past: {heard:?}");
}

#[tokio::test]
async fn does_a_rotation_change_the_next_handshake() {
    let (old, new) = (domain(TRUST_DOMAIN), domain(TRUST_DOMAIN));
    let hot = held(old.material());
    let server = server_config(Mode::Strict, hot.clone());
    // One client configuration for both: were a session resumed, the second handshake would not ask the verifier.
    let (held, shown) = (old.workload(), new.workload());
    let returning = client(&old, Some(&held));
    assert!(meet(server.clone(), returning.clone()).await.is_ok());
    hot.install(new.material());
    assert!(meet(server.clone(), returning).await.is_err());
    assert!(meet(server, client(&new, Some(&shown))).await.is_ok());
}

#[test]
fn which_parts_make_no_identity() {
    let ours = domain(TRUST_DOMAIN);
    let (one, other) = (ours.workload(), ours.workload());
    let make = |chain, key, trust, domain: &str| Material::new(chain, key, trust, domain).unwrap_err();
    assert!(matches!(make(chain(&one), key(&one), ours.trust(), "Not A Domain"), MaterialError::TrustDomain(_)));
    assert!(matches!(make(vec![], key(&one), ours.trust(), TRUST_DOMAIN), MaterialError::NoCertificate));
    assert!(matches!(make(chain(&one), key(&other), ours.trust(), TRUST_DOMAIN), MaterialError::Key(_)));
    assert!(matches!(make(chain(&one), key(&one), Trust::new(), TRUST_DOMAIN), MaterialError::NoRoot));
    assert!(matches!(make(chain(&one), key(&one), ours.trust(), "other"), MaterialError::ForeignCertificate { .. }));
    let junk = CertificateDer::from(vec![1, 2, 3]);
    assert!(matches!(make(vec![junk.clone()], key(&one), ours.trust(), TRUST_DOMAIN), MaterialError::BadCertificate));
    let bundle = |roots: &[CertificateDer<'_>]| Trust::new().with_bundle(TRUST_DOMAIN, roots).unwrap_err();
    assert!(matches!(bundle(&[junk]), MaterialError::BadRoot { .. }));
    assert!(matches!(bundle(&[]), MaterialError::NoRoot));
    let list = revocation::Crl::parse_all(&[b"junk"]).map(|_| ()).unwrap_err();
    assert!(matches!(list, MaterialError::BadCrl { index: 0, .. }));
    let material = ours.material();
    assert_eq!(material.spiffe().unwrap().service_account(), Some("outrider"));
    assert!(material.not_after_unix() > i64::try_from(now()).unwrap());
}
