//! Who the server is, who we are, and what happens when either changes.

use super::harness::*;
use crate::outbound::origin::Ourselves;
use crate::tls::sources::self_signed::{Authority, Pair, TRUST_DOMAIN, Wish, make_authority};
use crate::tls::{Identity, Material, Mode, Trust, server_config};
use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Frame, Incoming};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::sync::Arc;
use std::time::Duration;

struct Domain {
    ca: Pair,
    authority: Authority,
}

impl Domain {
    fn new() -> Domain {
        let now = crate::record::unix_now().as_secs();
        let ca = make_authority(TRUST_DOMAIN, now);
        let authority = Authority::parse(&ca.certificate, &ca.key, now).unwrap();
        Domain { ca, authority }
    }

    fn material(&self, account: &str) -> Material {
        let spiffe = format!("spiffe://{TRUST_DOMAIN}/ns/default/sa/{account}").parse().unwrap();
        let wish = Wish { spiffe, dns: vec!["localhost".into()], ip: vec![], ttl_seconds: 600 };
        let pair = self.authority.sign(&wish, crate::record::unix_now().as_secs()).unwrap();
        let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let trust = Trust::new().with_bundle(TRUST_DOMAIN, &[der(&self.ca.certificate)]).unwrap();
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
        Material::new(vec![der(&pair.certificate)], key, trust, TRUST_DOMAIN).unwrap()
    }

    fn identity(&self, account: &str) -> Arc<Identity> {
        let identity = Identity::new("test");
        identity.install(self.material(account));
        identity
    }

    async fn server(&self, account: &str) -> Server {
        let config = server_config(Mode::Strict, self.identity(account));
        Server::with(Some(config), |request: Request<Incoming>| async move {
            let version = format!("{:?}", request.version());
            let (text, _) = read(request.into_body()).await.unwrap();
            Response::new(full(format!("{version} {text}")))
        })
        .await
    }

    async fn way(&self, server: &Server, tls: &str) -> (Way, Arc<Identity>) {
        let identity = self.identity("caller");
        let ourselves = Ourselves { identity: Some(identity.clone()), trust_domain: TRUST_DOMAIN.into() };
        let yaml =
            Way::yaml(&[server.address], "", &format!("tls: {{mode: mutual, {tls}}}, limits: {{stale_age_max: 1ms}}"));
        (Way::with(&yaml, ourselves, Arc::new(|_| Ok(None))).await, identity)
    }
}

#[tokio::test]
async fn do_both_sides_prove_who_they_are() {
    let domain = Domain::new();
    let server = domain.server("models").await;
    let ids = [
        "ids: ['spiffe://outrider.local/ns/default/sa/models']",
        "namespace: default, service_accounts: [other, models]",
        "namespace: default",
        "ids: []",
    ];
    for tls in ids {
        let (way, _) = domain.way(&server, tls).await;
        assert_eq!(way.get().await, (200, false, "HTTP/1.1 ".into()), "{tls}");
        let request = Request::get("http://m/").body(full("")).unwrap();
        let (text, _) = read(way.h2().await.send_request(request).await.unwrap().into_body()).await.unwrap();
        assert_eq!(text, "HTTP/2.0 ");
    }
    let peers = server.peers.lock().unwrap().clone();
    let caller = Some("spiffe://outrider.local/ns/default/sa/caller".to_owned());
    assert_eq!((peers.len(), peers.iter().all(|peer| *peer == caller)), (8, true), "{peers:?}");
}

#[tokio::test]
async fn is_a_server_refused_that_is_somebody_else() {
    let (domain, rogue) = (Domain::new(), Domain::new());
    let cases = [
        (domain.server("impostor").await, "ids: ['spiffe://outrider.local/ns/default/sa/models']", "unexpected_id"),
        (domain.server("models").await, "namespace: production", "unexpected_id"),
        (rogue.server("models").await, "namespace: default", "untrusted"),
    ];
    for (server, tls, reason) in cases {
        let (way, _) = domain.way(&server, tls).await;
        let (status, ours, text) = way.get().await;
        assert_eq!((status, ours, server.count().1), (503, true, 0));
        assert!(text.contains(reason), "{text}");
        assert!(way.outbound.journal.metrics.outbound.connections.with_label_values(&["c", reason]).get() > 0);
    }
}

#[tokio::test]
async fn does_a_new_identity_make_new_connections_and_leave_streams_alone() {
    let domain = Domain::new();
    let config = server_config(Mode::Strict, domain.identity("models"));
    let server = Server::with(Some(config), |request: Request<Incoming>| async move {
        let (pipe, body) = piped();
        tokio::spawn(async move {
            let mut incoming = request.into_body();
            while let Some(Ok(frame)) = next(&mut incoming).await {
                pipe.send(Ok(frame)).await.unwrap();
            }
        });
        Response::new(body)
    })
    .await;
    let (way, identity) = domain.way(&server, "namespace: default").await;
    let mut sender = way.h2().await;
    let (pipe, body) = piped();
    let request = Request::post("http://m/").body(body).unwrap();
    let mut stream = sender.send_request(request).await.unwrap().into_body();
    let mut generations = vec![server.count().0];
    for round in 0..3 {
        for _ in 0..3 {
            let request = Request::post("http://m/").body(full("x")).unwrap();
            read(sender.send_request(request).await.unwrap().into_body()).await.unwrap();
        }
        generations.push(server.count().0);
        identity.install(domain.material(&format!("caller-{round}")));
        tokio::time::sleep(Duration::from_millis(5)).await;
        pipe.send(Ok(Frame::data(Bytes::from("still here")))).await.unwrap();
        assert_eq!(next(&mut stream).await.unwrap().unwrap().into_data().unwrap(), "still here");
    }
    assert_eq!(generations, [1, 1, 2, 3]);
    let peers = server.peers.lock().unwrap().clone();
    assert!(peers[2].as_ref().unwrap().ends_with("caller-1"), "{peers:?}");
}

#[tokio::test]
async fn is_an_ordinary_server_known_by_its_name() {
    let domain = Domain::new();
    let folder = tempfile::tempdir().unwrap();
    let roots = folder.path().join("roots.pem");
    std::fs::write(&roots, &domain.ca.certificate).unwrap();
    let config = server_config(Mode::Permissive, domain.identity("web"));
    let server = Server::with(Some(config), |_| async { Response::new(full("web")) }).await;
    for (name, status) in [("localhost", 200), ("elsewhere.example", 503)] {
        let tls = format!("tls: {{mode: simple, sni: {name}, roots: '{}'}}", roots.display());
        let way = Way::to(&[server.address], "", &tls).await;
        assert_eq!(way.get().await.0, status, "{name}");
    }
    assert_eq!(*server.peers.lock().unwrap(), [None]);
}
