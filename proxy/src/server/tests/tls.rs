//! Who gets in over TLS, and as whom.

use super::*;
use crate::tls::SpiffeId;
use crate::tls::provider;
use crate::tls::sources::self_signed::{Authority, Pair, Wish, make_authority};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// A trust domain with a server in it.
struct Domain {
    folder: tempfile::TempDir,
    authority: Authority,
    ca: String,
}

impl Domain {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let now = unix_now().as_secs();
        let pair = make_authority("td", now);
        let authority = Authority::parse(&pair.certificate, &pair.key, now).unwrap();
        let domain = Domain { folder, authority, ca: pair.certificate };
        let server = domain.workload("server");
        for (name, text) in [("server.pem", &server.certificate), ("server.key", &server.key), ("ca.pem", &domain.ca)] {
            std::fs::write(domain.folder.path().join(name), text).unwrap();
        }
        domain
    }

    fn workload(&self, name: &str) -> Pair {
        let spiffe = SpiffeId::parse(&format!("spiffe://td/ns/default/sa/{name}")).unwrap();
        let wish = Wish { spiffe, dns: vec![], ip: vec!["127.0.0.1".parse().unwrap()], ttl_seconds: 600 };
        self.authority.sign(&wish, unix_now().as_secs()).unwrap()
    }

    fn sidecar(&self, mode: &str) -> Sidecar {
        let at = self.folder.path().display();
        let tls = format!(
            "{{mode: {mode}, trust_domain: td, certificate: {at}/server.pem, key: {at}/server.key, \
             trust_bundle: {at}/ca.pem}}"
        );
        start(&PLAIN.replace("{mode: disable}", &tls), vec![generated(&["x"])], Sleepy::default())
    }

    /// Asks over TLS; the words of the handshake's refusal, if it is refused.
    fn ask(&self, sidecar: &Sidecar, client: Option<&Pair>) -> Result<String, String> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca.as_bytes()).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(roots);
        let config = match client {
            Some(pair) => {
                let chain = vec![CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap()];
                config
                    .with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap())
                    .unwrap()
            }
            None => config.with_no_client_auth(),
        };
        let connection = ClientConnection::new(Arc::new(config), "127.0.0.1".try_into().unwrap()).unwrap();
        let mut stream = StreamOwned::new(connection, sidecar.connect());
        stream.write_all(post("hi", "connection: close\r\n").as_bytes()).map_err(|error| error.to_string())?;
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Err(error) if answer.is_empty() => Err(error.to_string()),
            _ => Ok(String::from_utf8(answer).unwrap()),
        }
    }
}

#[test]
fn does_permissive_take_all_three_on_one_port() {
    let domain = Domain::new();
    let sidecar = domain.sidecar("permissive");
    assert!(sidecar.post("hi").contains("200 OK"));
    assert!(domain.ask(&sidecar, None).unwrap().contains("200 OK"));
    assert!(domain.ask(&sidecar, Some(&domain.workload("client"))).unwrap().contains("200 OK"));
    let known = sidecar.line(|line| line["peer"].is_string());
    assert_eq!(known["peer"], "spiffe://td/ns/default/sa/client");
    let stranger = Domain::new().workload("client");
    assert!(domain.ask(&sidecar, Some(&stranger)).is_err(), "a certificate that is shown must be good");
    assert!(sidecar.admin("GET /metrics").contains("outrider_connections_total{protocol=\"h1\",tls=\"mtls\"} 1"));
}

#[test]
fn does_strict_take_clients_of_the_trust_domain_alone() {
    let domain = Domain::new();
    let sidecar = domain.sidecar("strict");
    assert!(domain.ask(&sidecar, Some(&domain.workload("client"))).unwrap().contains("200 OK"));
    assert!(domain.ask(&sidecar, None).is_err());
    assert_eq!(sidecar.post("hi"), "", "plaintext");
    wait_for(|| {
        let metrics = sidecar.admin("GET /metrics");
        ["plaintext", "certificate_missing"]
            .iter()
            .all(|reason| metrics.contains(&format!("{{reason=\"{reason}\"}} 1")))
    });
}

#[test]
fn is_a_sidecar_without_an_identity_not_ready() {
    let folder = tempfile::tempdir().unwrap();
    let tls = format!(
        "{{mode: permissive, trust_domain: td, workload_api: {{socket: {}/agent.sock}}}}",
        folder.path().display()
    );
    let sidecar = start(&PLAIN.replace("{mode: disable}", &tls), vec![generated(&["x"])], Sleepy::default());
    wait_for(|| sidecar.admin("GET /healthz/ready").contains("cannot be reached"));
    let ready = sidecar.admin("GET /healthz/ready");
    assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("no identity yet from workload_api"), "{ready}");
    assert!(sidecar.admin("GET /healthz/live").starts_with("HTTP/1.1 200"));
    let metrics = sidecar.admin("GET /metrics");
    assert!(metrics.contains("outrider_identity_ready 0") && metrics.contains("outrider_identity_not_after_seconds 0"));
    assert!(!metrics.contains("outrider_identity_renewal_failures_total 0"), "{metrics}");
    // Plaintext needs no identity; a handshake does.
    assert!(sidecar.post("hi").contains("200 OK"));
    let domain = Domain::new();
    assert!(domain.ask(&sidecar, None).is_err());
    wait_for(|| sidecar.admin("GET /metrics").contains("{reason=\"no_identity\"} 1"));
    // With one, all is well.
    let sidecar = domain.sidecar("strict");
    assert!(sidecar.admin("GET /healthz/ready").starts_with("HTTP/1.1 200"));
    assert!(sidecar.admin("GET /metrics").contains("outrider_identity_ready 1"));
}
