//! Fetching from servers that are good, bad, slow, huge, or not there.

use super::source::{BODY_BYTES_MAX, discovered};
use super::*;
use crate::auth::issuer::Issuer;
use crate::tls::provider;
use futures_util::FutureExt;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use std::path::Path;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

fn client(authorities: Option<&Path>) -> Client {
    Client::new(Trust { authorities: authorities.map(Path::to_path_buf), identity: None })
}

const SOON: Duration = Duration::from_secs(20);

/// Answers the n-th connection with the n-th text, the last one again and again.
async fn serve(answers: Vec<String>) -> (String, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let task = tokio::spawn(async move {
        for n in 0.. {
            let Ok((stream, _)) = listener.accept().await else { return };
            answer(stream, &answers[answers.len().min(n + 1) - 1]).await;
        }
    });
    (address, AbortOnDropHandle::new(task))
}

async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, text: &str) {
    let mut request = [0; 1024];
    let _ = stream.read(&mut request).await;
    let _ = stream.write_all(text.as_bytes()).await;
    let _ = stream.shutdown().await;
}

fn http(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

async fn look(source: &KeySource, client: &Client) -> Result<KeySet, KeysError> {
    understood(source, &fetch(source, client, SOON).await?)
}

async fn fetched(answers: Vec<String>, path: &str) -> Result<KeySet, KeysError> {
    let (address, _server) = serve(answers).await;
    look(&KeySource::Uri(format!("{address}{path}")), &client(None)).await
}

#[tokio::test]
async fn which_answers_are_keys() {
    let keys = Issuer::generate().jwks();
    assert!(fetched(vec![http("200 OK", &keys)], "/keys?x=y").await.is_ok());
    let chunked =
        format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{keys}\r\n0\r\n\r\n", keys.len());
    assert!(fetched(vec![chunked], "/keys").await.is_ok());
    assert_eq!(fetched(vec![http("404 Not Found", &keys)], "/").await.err(), Some(KeysError::Status(404)));
    assert_eq!(fetched(vec![http("302 Found", "")], "/").await.err(), Some(KeysError::Status(302)));
    assert!(matches!(fetched(vec![http("200 OK", "<html>")], "/").await, Err(KeysError::Keys(_))));
    assert!(matches!(fetched(vec!["garbage\r\n\r\n".into()], "/").await, Err(KeysError::Fetch(FetchError::Http(_)))));
    let huge = http("200 OK", &" ".repeat(BODY_BYTES_MAX + 1));
    assert!(matches!(fetched(vec![huge], "/").await, Err(KeysError::Fetch(FetchError::TooLarge(_)))));
    for bad in ["/keys", "ftp://127.0.0.1:1/keys", "http://", "http://a b/"] {
        let error = look(&KeySource::Uri(bad.into()), &client(None)).await.err().unwrap();
        assert!(matches!(error, KeysError::Fetch(FetchError::Address(_) | FetchError::Connect(_))), "{bad}: {error}");
    }
}

#[tokio::test]
async fn is_an_openid_configuration_followed() {
    let keys = Issuer::generate().jwks();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let issuer = format!("http://{}/realm", listener.local_addr().unwrap());
    let configuration = format!(r#"{{"issuer": "{issuer}", "jwks_uri": "{issuer}/keys"}}"#);
    let server = tokio::spawn(async move {
        for body in [configuration, keys] {
            let (stream, _) = listener.accept().await.unwrap();
            answer(stream, &http("200 OK", &body)).await;
        }
    });
    assert!(look(&KeySource::Discovery(issuer), &client(None)).await.is_ok());
    server.await.unwrap();
    let cases = [
        (r#"{"issuer": "https://b", "jwks_uri": "https://a/k"}"#, "another issuer"),
        (r#"{"issuer": "https://a"}"#, "no jwks_uri"),
        (r#"{"issuer": "https://a", "jwks_uri": "http://a/k"}"#, "away from https"),
        ("[", "not JSON"),
    ];
    for (answer, words) in cases {
        let error = discovered("https://a", answer.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[tokio::test]
async fn whose_tls_is_believed() {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let folder = tempfile::tempdir().unwrap();
    let authority = folder.path().join("ca.pem");
    std::fs::write(&authority, ca.self_signed(&ca_key).unwrap().pem()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".into(), "127.0.0.1".into()]).unwrap();
    let certificate = params.signed_by(&key, &rcgen::Issuer::new(ca, ca_key)).unwrap();
    let other = folder.path().join("other.pem");
    std::fs::write(&other, CertificateParams::default().self_signed(&KeyPair::generate().unwrap()).unwrap().pem())
        .unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let keys = Issuer::generate().jwks();
    let _server = AbortOnDropHandle::new(tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(stream) = acceptor.accept(stream).await {
                answer(stream, &http("200 OK", &keys)).await;
            }
        }
    }));
    let source = KeySource::Uri(format!("https://127.0.0.1:{port}/keys"));
    let result = look(&source, &client(Some(&authority))).await;
    assert!(result.is_ok(), "{:?}", result.err());
    assert!(matches!(look(&source, &client(Some(&other))).await, Err(KeysError::Fetch(FetchError::Tls(_)))));
    assert!(matches!(
        look(&source, &client(Some(&folder.path().join("none")))).await,
        Err(KeysError::Fetch(FetchError::Trust(_)))
    ));
}

#[tokio::test]
async fn does_one_bad_source_stop_the_others() {
    let keys = Issuer::generate().jwks();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent_source = KeySource::Uri(format!("http://{}/", silent.local_addr().unwrap()));
    // The first answer is a failure: the next try comes soon, not after minutes.
    let (address, _server) = serve(vec![http("500 Oh", ""), http("200 OK", &keys)]).await;
    let remote = Arc::new(RemoteKeys::new(None));
    let _run = AbortOnDropHandle::new(tokio::spawn(remote.clone().run()));
    let bad = remote.want(&Wanted::new(silent_source.clone(), Duration::from_secs(30)));
    let good = remote.want(&Wanted::new(KeySource::Uri(format!("{address}/keys")), Duration::from_secs(5)));
    assert!(Arc::ptr_eq(&bad, &remote.want(&Wanted::new(silent_source, Duration::from_secs(30)))));
    let waited = tokio::time::timeout(SOON, async {
        while good.keys().is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    waited.await.expect("keys come within the bound");
    assert!(bad.keys().is_none());
    let status = remote.status();
    assert_eq!(status.iter().map(|status| status.has_keys).filter(|has| *has).count(), 1);
    let good = status.iter().find(|status| status.has_keys).unwrap();
    assert_eq!((good.fetches, good.failures, good.last_error.clone()), (2, 1, None));
}

#[tokio::test]
async fn are_the_last_good_keys_kept() {
    let keys = Issuer::generate().jwks();
    let answers = vec![http("200 OK", &keys), http("200 OK", &keys), http("200 OK", "{}")];
    let (address, _server) = serve(answers).await;
    let wanted = Wanted::new(KeySource::Uri(format!("{address}/keys")), Duration::from_secs(5));
    let remote = RemoteKeys::new(None).want(&wanted);
    let (pause, failures) = remote.refresh(0).await;
    assert!((REFRESH * 9 / 10..=REFRESH).contains(&pause) && failures == 0, "{pause:?}");
    let first = remote.keys().unwrap();
    assert_eq!(remote.refresh(0).await.1, 0);
    assert!(Arc::ptr_eq(&first, &remote.keys().unwrap()), "the same keys are the same set");
    assert_eq!(remote.refresh(0).await, (STALE_RETRY[0], 1));
    assert!(Arc::ptr_eq(&first, &remote.keys().unwrap()));
    assert!(matches!(*lock(&remote.last_error), Some(KeysError::Keys(_))));
}

#[tokio::test]
async fn is_a_copy_of_good_keys_there_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let (address, _server) = serve(vec![http("200 OK", &Issuer::generate().jwks()), http("500 Oh", "")]).await;
    let source = KeySource::Uri(format!("{address}/keys"));
    let wanted = Wanted { copy: Some(folder.path().join("copy")), ..Wanted::new(source, Duration::from_secs(5)) };
    let first = RemoteKeys::new(None).want(&wanted);
    assert!(first.keys().is_none());
    first.refresh(0).await;
    assert!(first.keys().is_some());
    let next = RemoteKeys::new(None).want(&wanted);
    assert!(next.keys().is_some());
    assert_eq!(next.refresh(0).await, (STALE_RETRY[0], 1), "the issuer is down");
    assert!(next.keys().is_some());
    let other = Wanted { source: KeySource::Uri("http://127.0.0.1:1/".into()), ..wanted.clone() };
    assert!(RemoteKeys::new(None).want(&other).keys().is_none(), "another source's copy");
    for broken in ["", "{}", "[]", "\u{0}"] {
        std::fs::write(folder.path().join("copy"), broken).unwrap();
        assert!(RemoteKeys::new(None).want(&wanted).keys().is_none());
    }
}

#[tokio::test]
async fn do_all_in_a_hurry_wait_for_one_look() {
    let (old, new) = (Issuer::generate(), Issuer::generate());
    let (address, _server) = serve(vec![http("200 OK", &old.jwks()), http("200 OK", &new.jwks())]).await;
    let mut all = RemoteKeys::new(None);
    all.hurry = Duration::from_millis(1);
    let all = Arc::new(all);
    let remote = all.want(&Wanted::new(KeySource::Uri(format!("{address}/keys")), Duration::from_secs(5)));
    let _run = AbortOnDropHandle::new(tokio::spawn(all.clone().run()));
    remote.hurried().await;
    let first = remote.keys().expect("who comes before the first look waits for it");
    let mut phase = remote.phase.subscribe();
    tokio::time::timeout(SOON, phase.wait_for(|phase| *phase == Phase::Ready)).await.unwrap().unwrap();
    futures_util::future::join_all((0..50).map(|_| remote.hurried())).await;
    assert!(!Arc::ptr_eq(&first, &remote.keys().unwrap()));
    assert_eq!(remote.fetches.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn does_nobody_wait_for_a_look_that_is_not_due() {
    let (address, _server) = serve(vec![http("500 Oh", "")]).await;
    let remote = RemoteKeys::new(None).want(&Wanted::new(KeySource::Uri(address), Duration::from_secs(5)));
    remote.refresh(0).await;
    for _ in 0..1000 {
        remote.hurried().now_or_never().expect("an answer at once");
    }
    assert_eq!(remote.fetches.load(Ordering::Relaxed), 1);
}

#[test]
fn how_long_is_the_pause_after_failures() {
    let seconds = |has_keys, failures| pause(has_keys, failures).as_secs();
    assert_eq!([0, 1, 5, 6, 40].map(|n| seconds(false, n)), [1, 2, 32, 60, 60]);
    assert_eq!([0, 1, 5, 6, 40].map(|n| seconds(true, n)), [60, 120, 1920, 3600, 3600]);
}
