//! The Istio source against a fake: a certificate authority written for these tests that speaks the service over TLS on
//! the loopback, signs what its caller's token allows, and can be told to turn over or to fail.

use super::*;
use crate::config;
use crate::tls::sources::{self, Source};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::{StreamExt, stream};
use outrider_protos::istio::v1::auth::istio_certificate_service_server::{
    IstioCertificateService, IstioCertificateServiceServer,
};
use outrider_protos::istio::v1::auth::{IstioCertificateRequest, IstioCertificateResponse};
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tonic::{Request, Response, Status};

/// What the fake does, and what it has seen.
struct Book {
    signs: Domain,
    /// The last entries of the answer.
    roots: String,
    ttl_seconds: i64,
    fails: bool,
    tokens: Vec<String>,
}

#[derive(Clone)]
struct Fake(Arc<Mutex<Book>>);

#[tonic::async_trait]
impl IstioCertificateService for Fake {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let text = |name: &str| request.metadata().get(name).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(text("clusterid").as_deref(), Some("Kubernetes"));
        let token = text("authorization").and_then(|value| value.strip_prefix("Bearer ").map(str::to_owned));
        let mut book = self.0.lock().unwrap();
        book.tokens.push(token.ok_or(Status::unauthenticated("no token"))?);
        if book.fails {
            return Err(Status::unavailable("the authority is not in the mood"));
        }
        let mut csr = rcgen::CertificateSigningRequestParams::from_pem(&request.get_ref().csr).unwrap();
        assert!(matches!(&csr.params.subject_alt_names[..], [rcgen::SanType::URI(_)]));
        csr.params.not_before = time::OffsetDateTime::now_utc() - time::Duration::minutes(2);
        csr.params.not_after = time::OffsetDateTime::now_utc() + time::Duration::seconds(book.ttl_seconds);
        let leaf = csr.signed_by(&book.signs.issuer()).unwrap().pem();
        Ok(Response::new(IstioCertificateResponse { cert_chain: vec![leaf, book.roots.clone()] }))
    }
}

/// tonic asks a stream who its peer is; the fake does not care.
struct Bytes(tokio_rustls::server::TlsStream<TcpStream>);

impl tonic::transport::server::Connected for Bytes {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl AsyncRead for Bytes {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Bytes {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Serves with a certificate of `shows`, on a port of its own.
async fn start(shows: &Domain, book: Arc<Mutex<Book>>) -> (SocketAddr, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(server_config(Mode::Permissive, held(shows.material())));
    let incoming = stream::unfold((listener, acceptor), |(listener, acceptor)| async move {
        loop {
            let (tcp, _) = listener.accept().await.ok()?;
            if let Ok(tls) = acceptor.accept(tcp).await {
                return Some((Ok::<_, std::io::Error>(Bytes(tls)), (listener, acceptor)));
            }
        }
    });
    let server = tonic::transport::Server::builder().add_service(IstioCertificateServiceServer::new(Fake(book)));
    (address, tokio::spawn(async move { drop(server.serve_with_incoming(incoming.boxed()).await) }))
}

fn token(name: &str) -> String {
    let claims = format!(r#"{{"sub":"system:serviceaccount:models:{name}"}}"#);
    format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims))
}

struct Stage {
    folder: tempfile::TempDir,
    book: Arc<Mutex<Book>>,
}

impl Stage {
    fn new(root: &Domain, signs: Domain, ttl_seconds: i64) -> Stage {
        let folder = tempfile::tempdir().unwrap();
        let roots = signs.ca.certificate.clone();
        let book = Book { signs, roots, ttl_seconds, fails: false, tokens: Vec::new() };
        let stage = Stage { folder, book: Arc::new(Mutex::new(book)) };
        stage.write("root.pem", &root.ca.certificate);
        stage.write("token", &token("llama"));
        stage
    }

    fn write(&self, name: &str, text: &str) {
        crate::files::write_private(&self.folder.path().join(name), text.as_bytes()).unwrap();
    }

    fn open(&self, address: SocketAddr) -> (Arc<Identity>, Box<dyn Source>) {
        let yaml = format!(
            "tls: {{mode: strict, trust_domain: {TRUST_DOMAIN}, \
             istio_ca: {{address: '{address}', token: token, root: root.pem}}}}\n\
             auth: {{methods: [{{anonymous: {{}}}}]}}\nworker: {{socket: w.sock, models: [toy]}}",
        );
        let config = config::Config::parse(&yaml, self.folder.path(), Path::new("test.yaml")).unwrap();
        sources::open(&config.tls).unwrap().unwrap()
    }

    fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        self.book.lock().unwrap()
    }
}

fn again(domain: &Domain) -> Domain {
    let ca = Pair { certificate: domain.ca.certificate.clone(), key: domain.ca.key.clone() };
    let authority = Authority::parse(&ca.certificate, &ca.key, now()).unwrap();
    Domain { ca, authority }
}

#[tokio::test]
async fn does_identity_follow_the_authority() {
    let (old, new) = (domain(TRUST_DOMAIN), domain(TRUST_DOMAIN));
    let stage = Stage::new(&old, again(&old), 3);
    let (address, serving) = start(&old, stage.book.clone()).await;
    let (identity, source) = stage.open(address);
    let running = tokio::spawn(source.run(identity.clone()));
    let status = || identity.status(now());
    wait_until("the first certificate", || status().generation > 0).await;
    assert_eq!(status().spiffe.as_deref(), Some("spiffe://outrider.local/ns/models/sa/llama"));
    let server = server_config(Mode::Strict, identity.clone());
    let (before, after) = (old.workload(), new.workload());
    assert!(meet(server.clone(), caller(&old, &before)).await.is_ok());

    // Renewed long before its end, with the token of then.
    stage.write("token", &token("qwen"));
    wait_until("the account of the new token", || status().spiffe.is_some_and(|id| id.ends_with("/sa/qwen"))).await;
    assert_eq!(stage.book().tokens.last(), Some(&token("qwen")));

    // The root turns over.
    let both = format!("{}{}", old.ca.certificate, new.ca.certificate);
    (stage.book().signs, stage.book().roots) = (again(&new), both);
    wait_until("both roots", || {
        identity.load().unwrap().verify_own(now()).is_ok() && {
            let known = identity.load().unwrap();
            let leaf = [der(&after)];
            let shown = trust::Shown { leaf: &leaf[0], intermediates: &[] };
            let at = rustls::pki_types::UnixTime::since_unix_epoch(Duration::from_secs(now()));
            known.trust().verify(shown, trust::Role::Client, at).is_ok()
        }
    })
    .await;
    for pair in [&before, &after] {
        assert!(meet(server.clone(), caller(&new, pair)).await.is_ok());
    }

    // A failure keeps what is there, until its end.
    stage.book().fails = true;
    wait_until("a failure is told", || status().renewal_failures > 0).await;
    assert!(status().last_error.unwrap().contains("not in the mood"));
    assert!(identity.load().is_some());
    wait_until("the end of the certificate", || status().ready(now()).is_err()).await;
    let words = status().ready(now()).unwrap_err();
    assert!(words.contains("expired") && words.contains("not in the mood"), "{words}");
    stage.book().fails = false;
    wait_until("a new one", || status().ready(now()).is_ok()).await;
    running.abort();
    serving.abort();
}

#[tokio::test]
async fn does_an_impostor_get_to_see_the_token() {
    let (ours, rogue) = (domain(TRUST_DOMAIN), domain(TRUST_DOMAIN));
    let stage = Stage::new(&ours, again(&rogue), 600);
    let (address, serving) = start(&rogue, stage.book.clone()).await;
    let (identity, source) = stage.open(address);
    let running = tokio::spawn(source.run(identity.clone()));
    let status = || identity.status(now());
    wait_until("two failures", || status().renewal_failures > 1).await;
    assert!(stage.book().tokens.is_empty());
    assert!(identity.load().is_none());
    let words = status().ready(now()).unwrap_err();
    assert!(words.contains("invalid peer certificate"), "{words}");

    // A good server whose certificates lead nowhere: nothing of it is taken.
    serving.abort();
    stage.book().roots = ours.ca.certificate.clone();
    let (address, serving) = start(&ours, stage.book.clone()).await;
    let (identity, source) = stage.open(address);
    running.abort();
    let running = tokio::spawn(source.run(identity.clone()));
    wait_until("a failure", || identity.status(now()).renewal_failures > 0).await;
    assert!(identity.status(now()).last_error.unwrap().contains("own root (untrusted)"));
    running.abort();
    serving.abort();
}
