//! Which certificates are refused, by which label: trust domains, revocation, leaves that are more than leaves.

use super::*;
use crate::tls::pem::crls_of;
use crate::tls::revocation::Crl;
use rcgen::{BasicConstraints, CertificateRevocationListParams, IsCa, KeyIdMethod, KeyUsagePurpose, RevokedCertParams};
use time::OffsetDateTime;

const FOREIGN: &str = "spiffe://elsewhere.test/ns/default/sa/client";

fn at(unix: u64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(unix as i64).unwrap()
}

fn serial(pair: &Pair) -> rcgen::SerialNumber {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let der = der(pair);
    let (_, certificate) = X509Certificate::from_der(&der).unwrap();
    rcgen::SerialNumber::from_slice(certificate.raw_serial())
}

/// A revocation list of this authority, PEM.
pub fn list(domain: &Domain, revoked: &[&Pair], next_update: u64) -> String {
    let revoked = revoked.iter().map(|pair| RevokedCertParams {
        serial_number: serial(pair),
        revocation_time: at(now() - 60),
        reason_code: None,
        invalidity_date: None,
    });
    let params = CertificateRevocationListParams {
        this_update: at(now() - 3600),
        next_update: at(next_update),
        crl_number: rcgen::SerialNumber::from(7u64),
        issuing_distribution_point: None,
        revoked_certs: revoked.collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(&domain.issuer()).unwrap().pem().unwrap()
}

fn lists(texts: &[String]) -> Vec<Crl> {
    crls_of(texts.concat().as_bytes()).unwrap()
}

/// A server of `ours` with this trust.
fn server(ours: &Domain, trust: Trust) -> Arc<rustls::ServerConfig> {
    let own = ours.workload();
    server_config(Mode::Strict, held(Material::new(chain(&own), key(&own), trust, TRUST_DOMAIN).unwrap()))
}

async fn refused(server: &Arc<rustls::ServerConfig>, client: Arc<rustls::ClientConfig>) -> &'static str {
    let (label, _) = meet(server.clone(), client).await.unwrap_err();
    assert!(HANDSHAKE_REASONS.contains(&label), "{label}");
    label
}

#[tokio::test]
async fn does_each_trust_domain_have_its_own_authorities() {
    let (ours, theirs) = (domain(TRUST_DOMAIN), domain("elsewhere.test"));
    let both = ours.trust().with_bundle("elsewhere.test", &[der(&theirs.ca)]).unwrap();
    let (alone, federated) = (server(&ours, ours.trust()), server(&ours, both));
    let friend = theirs.sign(FOREIGN, 600, now());
    let known = meet(federated.clone(), client(&ours, Some(&friend))).await.unwrap();
    assert_eq!(known.unwrap().as_str(), FOREIGN);
    assert_eq!(refused(&alone, client(&ours, Some(&friend))).await, "unknown_trust_domain");
    // Each authority is believed, but not about the other's workloads.
    let posing = theirs.workload();
    assert_eq!(refused(&federated, client(&ours, Some(&posing))).await, "untrusted");
    let posing = ours.sign(FOREIGN, 600, now());
    assert_eq!(refused(&federated, client(&ours, Some(&posing))).await, "untrusted");
}

#[tokio::test]
async fn which_leaves_are_more_than_leaves() {
    let ours = domain(TRUST_DOMAIN);
    let server = server(&ours, ours.trust());
    let id = "spiffe://outrider.local/ns/default/sa/client";
    let cases = [
        ours.leaf(|params| params.subject_alt_names = vec![uri(id), uri("spiffe://outrider.local/ns/kube/sa/admin")]),
        ours.leaf(|params| params.subject_alt_names = vec![uri(id), uri(id)]),
        ours.leaf(|params| params.subject_alt_names = vec![uri(id), uri("https://outrider.local/")]),
        ours.leaf(|params| params.subject_alt_names = vec![uri("https://outrider.local/ns/default/sa/client")]),
        ours.leaf(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        ours.leaf(|params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign]),
        ours.leaf(|params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign]),
    ];
    for (index, pair) in cases.iter().enumerate() {
        assert_eq!(refused(&server, client(&ours, Some(pair))).await, "not_an_svid", "case {index}");
    }
    let plain = ours.leaf(|params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature]);
    assert!(meet(server.clone(), client(&ours, Some(&plain))).await.is_ok());
    let only_serves = ours.leaf(|params| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    });
    assert_eq!(refused(&server, client(&ours, Some(&only_serves))).await, "wrong_purpose");
}

#[tokio::test]
async fn what_does_a_revocation_list_do() {
    // Two authorities of one name, as while one replaces the other.
    let (old, new) = (domain(TRUST_DOMAIN), domain(TRUST_DOMAIN));
    let roots = || Trust::new().with_bundle(TRUST_DOMAIN, &[der(&old.ca), der(&new.ca)]).unwrap();
    let (bad, good, fresh) = (old.workload(), old.workload(), new.workload());
    let later = now() + 3600;
    let shows = |pair: &Pair| client(&old, Some(pair));

    let by_old = server(&old, roots().with_crls(lists(&[list(&old, &[&bad], later)]), false));
    assert_eq!(refused(&by_old, shows(&bad)).await, "revoked");
    assert!(meet(by_old.clone(), shows(&good)).await.is_ok());
    assert!(meet(by_old.clone(), shows(&fresh)).await.is_ok(), "the list is not its issuer's, though of one name");

    // What the new authority says of the old one's certificates counts for nothing.
    let by_new = server(&old, roots().with_crls(lists(&[list(&new, &[&bad], later)]), false));
    assert!(meet(by_new, shows(&bad)).await.is_ok());

    let one = || lists(&[list(&old, &[&bad], later)]);
    let required = server(&old, roots().with_crls(one(), true));
    assert_eq!(refused(&required, shows(&bad)).await, "revoked");
    assert_eq!(refused(&required, shows(&fresh)).await, "revocation_unknown");
    assert!(meet(required, shows(&good)).await.is_ok());
    let none = server(&old, roots().with_crls(Vec::new(), true));
    assert_eq!(refused(&none, shows(&good)).await, "revocation_unknown");

    // Several lists, one of them old: what is revoked stays revoked.
    let trust = roots().with_crls(lists(&[list(&new, &[], later), list(&old, &[&bad], now() - 60)]), true);
    assert_eq!((trust.crls(), trust.crls_stale(now() as i64)), (2, 1));
    let stale = server(&old, trust);
    assert_eq!(refused(&stale, shows(&bad)).await, "revoked");
    for pair in [&good, &fresh] {
        assert!(meet(stale.clone(), shows(pair)).await.is_ok());
    }
}

#[tokio::test]
async fn is_a_revoked_intermediate_refused_too() {
    let root = rcgen::KeyPair::generate().unwrap();
    let authority = |name: &str| {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
    };
    let root_pair =
        Pair { certificate: authority("root").self_signed(&root).unwrap().pem(), key: root.serialize_pem() };
    let between = rcgen::KeyPair::generate().unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_pem(&root_pair.certificate, &root).unwrap();
    let signed = authority("between").signed_by(&between, &issuer).unwrap();
    let between = Pair { certificate: signed.pem(), key: between.serialize_pem() };
    let of = |ca: &Pair| Domain {
        ca: Pair { certificate: ca.certificate.clone(), key: ca.key.clone() },
        authority: Authority::parse(&ca.certificate, &ca.key, now()).unwrap(),
    };
    let (top, middle) = (of(&root_pair), of(&between));
    let leaf = middle.workload();
    let shown = [der(&leaf), der(&between)];
    let verify = |lists: Vec<Crl>, required| {
        let trust = top.trust().with_crls(lists, required);
        let shown = trust::Shown { leaf: &shown[0], intermediates: &shown[1..] };
        let now = rustls::pki_types::UnixTime::since_unix_epoch(std::time::Duration::from_secs(now()));
        trust.verify(shown, trust::Role::Client, now).map(|id| id.to_string()).map_err(|refused| refused.0)
    };
    let later = now() + 600;
    assert_eq!(verify(vec![], false), Ok("spiffe://outrider.local/ns/default/sa/client".into()));
    assert_eq!(verify(lists(&[list(&top, &[&between], later)]), false), Err("revoked"));
    assert_eq!(verify(lists(&[list(&middle, &[&leaf], later)]), false), Err("revoked"));
    assert!(verify(lists(&[list(&top, &[], later), list(&middle, &[], later)]), true).is_ok());
    // The whole chain needs lists, not the leaf alone.
    assert_eq!(verify(lists(&[list(&middle, &[], later)]), true), Err("revocation_unknown"));
    assert_eq!(verify(lists(&[list(&top, &[], later)]), true), Err("revocation_unknown"));
}

#[test]
fn which_bytes_are_revocation_lists() {
    let ours = domain(TRUST_DOMAIN);
    let pem = list(&ours, &[], now() + 60);
    let one = crls_of(pem.as_bytes()).unwrap();
    assert_eq!(crls_of(one[0].der()).unwrap().len(), 1, "DER serves too");
    assert_eq!(crls_of(pem.repeat(3).as_bytes()).unwrap().len(), 3);
    assert_eq!(crls_of(b"").unwrap().len(), 0);
    for bad in [&b"garbage"[..], ours.ca.certificate.as_bytes(), &one[0].der()[..40], &[0x30]] {
        assert!(crls_of(bad).is_err());
    }
    let mut longer = one[0].der().to_vec();
    longer.push(0);
    assert!(crls_of(&longer).is_err());
}

#[tokio::test]
async fn what_happens_before_there_is_an_identity() {
    let ours = domain(TRUST_DOMAIN);
    let identity = Identity::new("test");
    let server = server_config(Mode::Permissive, identity.clone());
    assert_eq!(refused(&server, client(&ours, Some(&ours.workload()))).await, "no_identity");
    let words = identity.status(now()).ready(now()).unwrap_err();
    assert_eq!(words, "no identity yet from test");
    identity.failed(&"the authority is away");
    let words = identity.status(now()).ready(now()).unwrap_err();
    assert!(words.ends_with("; the authority is away"), "{words}");

    identity.install(ours.material());
    assert!(meet(server, client(&ours, Some(&ours.workload()))).await.is_ok());
    let status = identity.status(now());
    assert_eq!(status.ready(now()), Ok(()));
    assert_eq!((status.generation, status.rotations, status.renewal_failures), (1, 0, 1));
    assert_eq!(status.last_error, None);
    let end = u64::try_from(status.not_after_unix.unwrap()).unwrap();
    assert!(status.ready(end).is_ok());
    assert!(status.ready(end + 1).unwrap_err().contains("expired"));
}

proptest::proptest! {
    #[test]
    fn do_no_bytes_make_a_list_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
        let _ = crls_of(&bytes);
        let _ = Crl::parse(&bytes);
        let _ = crate::tls::pem::concatenated(&bytes);
    }
}
