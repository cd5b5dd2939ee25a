//! The way out: which servers we take for the workload we meant, and what they get to see of us.

use super::*;

const SERVER: &str = "spiffe://outrider.local/ns/models/sa/llama";

fn identity_of(domain: &Domain, spiffe: &str, trust: Trust) -> Arc<Identity> {
    let pair = domain.sign(spiffe, 600, now());
    let trust_domain = spiffe.parse::<SpiffeId>().unwrap().trust_domain().to_owned();
    held(Material::new(chain(&pair), key(&pair), trust, &trust_domain).unwrap())
}

/// What was negotiated and whom the server saw, or the label under which the client refused.
async fn dial(
    server: Arc<rustls::ServerConfig>,
    client: Arc<rustls::ClientConfig>,
) -> Result<(Alpn, SpiffeId), &'static str> {
    let (near, far) = tokio::io::duplex(1 << 16);
    let serving = tokio::spawn(async move { tokio_rustls::TlsAcceptor::from(server).accept(far).await });
    // The name that is dialled names no workload.
    let name = "10.1.2.3".try_into().unwrap();
    let dialled = tokio_rustls::TlsConnector::from(client).connect(name, near).await;
    let alpn = match dialled {
        Ok(stream) => Alpn::of(stream.get_ref().1.alpn_protocol()),
        Err(error) => return Err(handshake_reason(&error)),
    };
    let served = serving.await.unwrap().unwrap();
    Ok((alpn, peer_of(&served.get_ref().1.peer_certificates().unwrap()[0]).unwrap()))
}

#[tokio::test]
async fn which_servers_are_the_one_we_meant() {
    let (ours, theirs) = (domain(TRUST_DOMAIN), domain("elsewhere.test"));
    let trust = || ours.trust().with_bundle("elsewhere.test", &[der(&theirs.ca)]).unwrap();
    let me = identity_of(&ours, "spiffe://outrider.local/ns/default/sa/client", trust());
    let here = server_config(Mode::Strict, identity_of(&ours, SERVER, trust()));
    let there = "spiffe://elsewhere.test/ns/models/sa/llama";
    let federated_trust = Trust::new()
        .with_bundle("elsewhere.test", &[der(&theirs.ca)])
        .and_then(|trust| trust.with_bundle(TRUST_DOMAIN, &[der(&ours.ca)]))
        .unwrap();
    let federated = server_config(Mode::Strict, identity_of(&theirs, there, federated_trust));

    let of = |ids: &[&str]| Expect::AnyOf(ids.iter().map(|id| id.parse().unwrap()).collect());
    let namespace = |name: &str| Expect::Namespace { trust_domain: TRUST_DOMAIN.into(), namespace: name.into() };
    let cases = [
        (&here, of(&[SERVER]), true),
        (&here, of(&["spiffe://outrider.local/x", SERVER]), true),
        (&here, of(&["spiffe://outrider.local/ns/models/sa/other"]), false),
        (&here, of(&[]), false),
        (&here, Expect::TrustDomain(TRUST_DOMAIN.into()), true),
        (&here, Expect::TrustDomain("elsewhere.test".into()), false),
        (&here, namespace("models"), true),
        (&here, namespace("default"), false),
        (&federated, of(&[there]), true),
        (&federated, Expect::TrustDomain(TRUST_DOMAIN.into()), false),
        (&federated, namespace("models"), false),
    ];
    for (server, expect, met) in cases {
        let config = client_config(me.clone(), expect.clone(), &[b"h2"]);
        match dial(server.clone(), config).await {
            Ok((alpn, seen)) => {
                assert!(met, "{expect:?}");
                assert_eq!((alpn, seen.service_account()), (Alpn::H2, Some("client")));
            }
            Err(label) => assert_eq!((label, met), ("unexpected_id", false), "{expect:?}"),
        }
    }
}

#[tokio::test]
async fn which_servers_are_refused_whatever_we_meant() {
    let (ours, rogue) = (domain(TRUST_DOMAIN), domain(TRUST_DOMAIN));
    let me = identity_of(&ours, "spiffe://outrider.local/ns/default/sa/client", ours.trust());
    let any = || Expect::TrustDomain(TRUST_DOMAIN.into());
    let dial_as = |me: &Arc<Identity>, server: &Arc<Identity>| {
        dial(server_config(Mode::Strict, server.clone()), client_config(me.clone(), any(), &[b"h2"]))
    };
    let serve = |pair: &Pair| held(Material::new(chain(pair), key(pair), ours.trust(), TRUST_DOMAIN).unwrap());
    assert_eq!(dial_as(&me, &serve(&rogue.workload())).await, Err("untrusted"));
    assert_eq!(dial_as(&me, &serve(&ours.sign(SERVER, 0, now() - 10))).await, Err("expired"));
    let without =
        ours.leaf(|params| params.subject_alt_names = vec![rcgen::SanType::DnsName("a.b".try_into().unwrap())]);
    assert_eq!(dial_as(&me, &serve(&without)).await, Err("not_an_svid"));
    let only_calls = ours.leaf(|params| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    });
    assert_eq!(dial_as(&me, &serve(&only_calls)).await, Err("wrong_purpose"));
    assert_eq!(dial_as(&Identity::new("test"), &serve(&ours.workload())).await, Err("no_identity"));
    // One configuration lives through rotations: the next handshake asks the trust of then.
    let config = client_config(me.clone(), any(), &[b"istio-http/1.1"]);
    let server = server_config(Mode::Permissive, serve(&ours.workload()));
    assert_eq!(dial(server.clone(), config.clone()).await.unwrap().0, Alpn::Http1);
    me.install(rogue.material());
    assert_eq!(dial(server, config).await, Err("untrusted"));
}

#[tokio::test]
async fn are_ordinary_servers_known_by_name() {
    let (ours, rogue) = (domain(TRUST_DOMAIN), domain(TRUST_DOMAIN));
    let server = server_config(Mode::Permissive, held(ours.material()));
    let dial = |roots: &Domain, name: &'static str| {
        let (near, far) = tokio::io::duplex(1 << 16);
        let config = plain_client_config(&[der(&roots.ca)], &[b"h2"]).unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(server.clone());
        tokio::spawn(async move { acceptor.accept(far).await });
        let name = rustls::pki_types::ServerName::try_from(name).unwrap();
        async move {
            let dialled = tokio_rustls::TlsConnector::from(config).connect(name, near).await;
            dialled.map(|_| ()).map_err(|error| handshake_reason(&error))
        }
    };
    assert_eq!(dial(&ours, "localhost").await, Ok(()));
    assert_eq!(dial(&ours, "127.0.0.1").await, Ok(()));
    assert_eq!(dial(&ours, "example.test").await, Err("unexpected_id"));
    assert_eq!(dial(&rogue, "localhost").await, Err("untrusted"));
    assert!(plain_client_config(&[], &[]).is_err());
}
