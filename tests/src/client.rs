//! A small HTTP client for tests that must see exactly what is on the wire: HTTP/1.1 or h2, plaintext, TLS or mTLS.

use crate::proxy::Sidecar;
use crate::up::{PATIENCE, Up};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    H2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    Plain,
    /// TLS without a client certificate.
    Tls,
    Mtls,
}

/// A complete answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
    /// False if the body broke off before its end.
    pub complete: bool,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("no JSON ({error}): {}", self.text()))
    }

    /// The `data:` lines of a server-sent event stream.
    pub fn events(&self) -> Vec<String> {
        self.text().split("\n\n").filter_map(|event| event.strip_prefix("data: ").map(str::to_owned)).collect()
    }
}

/// One connection.
pub enum Connection {
    Http1(hyper::client::conn::http1::SendRequest<Full<Bytes>>),
    H2(hyper::client::conn::http2::SendRequest<Full<Bytes>>),
}

impl Connection {
    /// Connects to `up` as its `client.env` says.
    pub async fn open(up: &Up, protocol: Protocol, security: Security) -> std::io::Result<Connection> {
        let env = |name: &str| std::path::PathBuf::from(up.env(name));
        let identity = (security == Security::Mtls).then(|| (env("OUTRIDER_CERT"), env("OUTRIDER_KEY")));
        let identity = identity.as_ref().map(|(cert, key)| (cert.as_path(), key.as_path()));
        let tcp = TcpStream::connect(up.address()).await?;
        if security == Security::Plain {
            return Self::handshake(tcp, protocol).await;
        }
        Self::handshake(tls(tcp, &env("OUTRIDER_CA"), identity, protocol).await?, protocol).await
    }

    /// Over whatever already carries bytes.
    pub async fn handshake<I>(io: I, protocol: Protocol) -> std::io::Result<Connection>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let io = TokioIo::new(io);
        match protocol {
            Protocol::Http1 => {
                let (send, drive) = hyper::client::conn::http1::handshake(io).await.map_err(std::io::Error::other)?;
                tokio::spawn(drive);
                Ok(Connection::Http1(send))
            }
            Protocol::H2 => {
                let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), io);
                let (send, drive) = handshake.await.map_err(std::io::Error::other)?;
                tokio::spawn(drive);
                Ok(Connection::H2(send))
            }
        }
    }

    /// Sends a request; the answer's body is still to come.
    pub async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        match self {
            Connection::Http1(send) => {
                send.ready().await?;
                send.send_request(request).await
            }
            Connection::H2(send) => {
                send.ready().await?;
                send.send_request(request).await
            }
        }
    }

    /// Sends a request and reads the answer to its end.
    pub async fn ask(&mut self, request: Request<Full<Bytes>>) -> Answer {
        let response = tokio::time::timeout(PATIENCE, self.send(request)).await.expect("an answer in time");
        read(response.expect("an answer")).await
    }
}

/// Reads an answer to its end, or to where it broke off.
pub async fn read(response: Response<Incoming>) -> Answer {
    let (head, mut incoming) = response.into_parts();
    let (mut body, mut trailers, mut complete) = (Vec::new(), None, true);
    let all = async {
        while let Some(frame) = incoming.frame().await {
            match frame.map(|frame| frame.into_data()) {
                Ok(Ok(data)) => body.extend_from_slice(&data),
                Ok(Err(frame)) => trailers = frame.into_trailers().ok(),
                Err(_) => {
                    complete = false;
                    break;
                }
            }
        }
    };
    tokio::time::timeout(PATIENCE, all).await.expect("the body's end in time");
    Answer { status: head.status, headers: head.headers, body: body.into(), trailers, complete }
}

/// A TLS handshake as this client.
pub async fn tls(
    tcp: TcpStream,
    ca: &Path,
    identity: Option<(&Path, &Path)>,
    protocol: Protocol,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).expect("the CA file") {
        roots.add(certificate.expect("a certificate")).expect("a root");
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring speaks TLS 1.2 and 1.3")
        .with_root_certificates(roots);
    let mut config = match identity {
        Some((certificate, key)) => {
            let chain = CertificateDer::pem_file_iter(certificate).expect("the certificate file");
            let chain = chain.collect::<Result<Vec<_>, _>>().expect("certificates");
            let key = PrivateKeyDer::from_pem_file(key).expect("the key file");
            builder.with_client_auth_cert(chain, key).expect("a usable client identity")
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = match protocol {
        Protocol::Http1 => vec![b"http/1.1".to_vec()],
        Protocol::H2 => vec![b"h2".to_vec()],
    };
    let name = ServerName::try_from("localhost").expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await
}

/// A request with the credential of `up`'s `client.env`.
pub fn request(up: &Up, method: &str, path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    anonymous(up, method, path)
        .header("authorization", format!("Bearer {}", up.token()))
        .header("content-type", "application/json")
        .body(Full::new(body.into()))
        .expect("a request")
}

/// A request without a credential, its body still to be given. The URI is absolute, as h2 wants it.
pub fn anonymous(up: &Up, method: &str, path: &str) -> http::request::Builder {
    Request::builder().method(method).uri(format!("https://{}{path}", up.address())).header("host", up.address())
}

/// One request on a connection of its own.
pub async fn ask(up: &Up, method: &str, path: &str, body: impl Into<Bytes>) -> Answer {
    let mut connection = Connection::open(up, Protocol::Http1, Security::Mtls).await.expect("a connection");
    connection.ask(request(up, method, path, body)).await
}

/// A plaintext GET of the admin port: status and body.
pub async fn admin(up: &dyn Sidecar, method: &str, path: &str) -> (StatusCode, String) {
    let tcp = TcpStream::connect(up.admin_address()).await.expect("the admin port");
    let mut connection = Connection::handshake(tcp, Protocol::Http1).await.expect("HTTP/1.1");
    let request = Request::builder().method(method).uri(path).header("host", up.admin_address());
    let answer = connection.ask(request.body(Full::new(Bytes::new())).expect("a request")).await;
    (answer.status, answer.text())
}

/// The sum of a metric's samples whose labels contain all of `labels` (each as `name="value"`).
pub async fn metric(up: &dyn Sidecar, name: &str, labels: &[&str]) -> f64 {
    let (_, text) = admin(up, "GET", "/metrics").await;
    let samples = text.lines().filter(|line| {
        let rest = line.strip_prefix(name).unwrap_or("");
        (rest.starts_with('{') || rest.starts_with(' ')) && labels.iter().all(|label| line.contains(label))
    });
    samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// How long a metric may take to become what a test waits for; nothing asserts that it is quick.
const METRIC_PATIENCE: Duration = Duration::from_secs(20);

/// Asks for [`metric`] again and again until it is as `wanted`.
pub async fn wait_for_metric(up: &dyn Sidecar, name: &str, labels: &[&str], wanted: impl Fn(f64) -> bool) {
    let asking = async {
        while !wanted(metric(up, name, labels).await) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let asked = tokio::time::timeout(METRIC_PATIENCE, asking).await;
    assert!(asked.is_ok(), "waited {METRIC_PATIENCE:?} for {name}{labels:?}\n{}", up.log());
}
