//! Certificates in headers: whose are believed, of which authorities, and of which peers.

use super::*;
use crate::auth::Request;
use crate::auth::pipeline::Document;
use crate::auth::values::RawValueFrom;
use crate::message::Head;
use crate::tls::identity::{Peer, SpiffeId};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};

const NOW: u64 = 1_800_000_000;
const GATEWAY: &str = "spiffe://td/ns/edge/sa/gateway";

struct Ca {
    issuer: rcgen::Issuer<'static, KeyPair>,
    pem: String,
}

fn ca() -> Ca {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = params.self_signed(&key).unwrap().pem();
    Ca { issuer: rcgen::Issuer::new(params, key), pem }
}

fn leaf(ca: &Ca, change: impl FnOnce(&mut CertificateParams)) -> rcgen::Certificate {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::OrganizationName, "Blue");
    params.distinguished_name.push(DnType::CommonName, "ada");
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2040, 1, 1);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    change(&mut params);
    params.signed_by(&KeyPair::generate().unwrap(), &ca.issuer).unwrap()
}

fn url_encoded(text: &str) -> String {
    text.bytes()
        .map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}

fn xfcc_of(pem: &str) -> String {
    format!("By=spiffe://td/x;Cert=\"{}\"", url_encoded(pem))
}

fn method(ca: &Ca, source: Source, vouchers: Vouchers) -> X509 {
    X509 { authorities: Authorities::Fixed(anchors(ca.pem.as_bytes()).unwrap()), source, vouchers }
}

fn ask(method: &X509, headers: &[(&'static str, &str)], caller: Option<&str>) -> Result<Option<Identity>, Reason> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(*name, value.parse().unwrap());
    }
    let head = Head {
        method: http::Method::GET,
        path: "/".into(),
        query: None,
        headers: map,
        version: http::Version::HTTP_11,
        request_id: String::new(),
        arrived_unix_seconds: 0,
    };
    let spiffe = caller.map(|caller| SpiffeId::parse(caller).unwrap());
    let peer = Peer { spiffe, ..Peer::plaintext(([127, 0, 0, 1], 1).into()) };
    let destination = "10.0.0.1:8443".parse().unwrap();
    let request = Request { head: &head, peer: &peer, host: "model.test", destination, now_unix: NOW, extra: None };
    let document = Document::new(request, false);
    method.known(&Presented { request: &request, credential: None, document: &document })
}

fn label(result: Result<Option<Identity>, Reason>) -> &'static str {
    result.map_or_else(Reason::label, |identity| if identity.is_some() { "accepted" } else { "nobody" })
}

fn xfcc() -> Source {
    Source::Xfcc(HeaderName::from_static("x-forwarded-client-cert"))
}

fn gateway() -> Vouchers {
    Vouchers::Peers(vec![GATEWAY.into()])
}

#[test]
fn who_is_a_good_certificate() {
    let ca = ca();
    let pem = leaf(&ca, |_| ()).pem();
    let identity = ask(&method(&ca, xfcc(), gateway()), &[("x-forwarded-client-cert", &xfcc_of(&pem))], Some(GATEWAY));
    let identity = identity.unwrap().unwrap();
    assert_eq!((identity.subject.as_str(), identity.issuer.as_str()), ("O=Blue,CN=ada", "CN=ca"));
    assert_eq!((&identity.claims["CommonName"], &identity.claims["Organization"][0]), (&"ada".into(), &"Blue".into()));
    assert_eq!((identity.claims["Country"].is_null(), identity.expires_at_unix), (true, Some(2_208_988_800)));
}

#[test]
fn which_certificates_are_refused() {
    let (ca, other) = (ca(), ca());
    let method = method(&ca, xfcc(), gateway());
    let with = |from: &Ca, change: fn(&mut CertificateParams)| xfcc_of(&leaf(from, change).pem());
    let good = with(&ca, |_| ());
    let cases = [
        (good.clone(), "accepted"),
        (with(&ca, |params| params.extended_key_usages.clear()), "accepted"),
        (with(&other, |_| ()), "signature"),
        (with(&ca, |params| params.not_after = rcgen::date_time_ymd(2021, 1, 1)), "expired"),
        (with(&ca, |params| params.not_before = rcgen::date_time_ymd(2039, 1, 1)), "not_yet_valid"),
        (with(&ca, |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]), "unsupported"),
        (with(&ca, |params| params.distinguished_name = rcgen::DistinguishedName::new()), "subject"),
        // What our peer saw itself is the last element; an earlier one is hearsay.
        (format!("{good},By=spiffe://td/y;URI=spiffe://td/z"), "nobody"),
        (format!("{},{good}", with(&other, |_| ())), "accepted"),
        ("Cert=\"%zz\"".into(), "malformed"),
        ("Cert=\"abc\"".into(), "malformed"),
        ("Cert=\"".into(), "malformed"),
        ("By=spiffe://td/x".into(), "nobody"),
    ];
    for (header, want) in cases {
        assert_eq!(label(ask(&method, &[("x-forwarded-client-cert", &header)], Some(GATEWAY))), want, "{header}");
    }
    assert_eq!(label(ask(&method, &[], Some(GATEWAY))), "nobody");
}

#[test]
fn whose_word_is_believed() {
    let ca = ca();
    let header = xfcc_of(&leaf(&ca, |_| ()).pem());
    let headers = [("x-forwarded-client-cert", header.as_str())];
    let strict = method(&ca, xfcc(), gateway());
    for (caller, want) in [
        (Some(GATEWAY), "accepted"),
        (Some("spiffe://td/ns/edge/sa/gateway2"), "issuer"),
        (Some("spiffe://other/ns/edge/sa/gateway"), "issuer"),
        (None, "issuer"),
    ] {
        assert_eq!(label(ask(&strict, &headers, caller)), want, "{caller:?}");
    }
    assert_eq!(label(ask(&method(&ca, xfcc(), Vouchers::Anybody), &headers, None)), "accepted");
    let verified = method(&ca, xfcc(), Vouchers::Verified);
    assert_eq!(label(ask(&verified, &headers, Some("spiffe://td/ns/a/sa/b"))), "accepted");
    assert_eq!(label(ask(&verified, &headers, None)), "issuer");
}

#[test]
fn which_places_are_read() {
    let ca = ca();
    let certificate = leaf(&ca, |_| ());
    let field = format!(":{}:", STANDARD.encode(certificate.der()));
    let of = |source| method(&ca, source, Vouchers::Anybody);
    let client_cert = of(Source::ClientCert(HeaderName::from_static("client-cert")));
    assert_eq!(label(ask(&client_cert, &[("client-cert", &field)], None)), "accepted");
    assert_eq!(label(ask(&client_cert, &[("client-cert", &field), ("client-cert-chain", &field)], None)), "accepted");
    assert_eq!(label(ask(&client_cert, &[("client-cert", &field), ("client-cert", &field)], None)), "ambiguous");
    assert_eq!(label(ask(&client_cert, &[("client-cert", field.trim_matches(':'))], None)), "malformed");
    assert_eq!(label(ask(&client_cert, &[("client-cert", ":AAAA:")], None)), "malformed");
    let many = vec![field.clone(); CHAIN_MAX].join(", ");
    assert_eq!(label(ask(&client_cert, &[("client-cert", &field), ("client-cert-chain", &many)], None)), "malformed");
    let selector = RawValueFrom { selector: Some("request.headers.x-cert".into()), ..RawValueFrom::default() };
    let value = of(Source::Value(selector.compile("").unwrap()));
    assert_eq!(label(ask(&value, &[("x-cert", &url_encoded(&certificate.pem()))], None)), "accepted");
    assert_eq!(label(ask(&value, &[], None)), "nobody");
}
