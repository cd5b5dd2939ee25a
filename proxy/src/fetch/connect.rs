//! From an address to a connection: TCP, and TLS for https.

use super::{FetchError, Live, Trust};
use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower::Service;

/// A server that does not take a connection in so long is as good as away; the question's own timeout may end it sooner.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Clone)]
pub(super) struct Connector {
    live: Arc<Live>,
}

impl Connector {
    pub fn new(trust: Trust) -> Connector {
        Connector { live: Arc::new(Live::new(trust)) }
    }
}

/// The reason inside an error of hyper's client, if it is one of ours.
pub(super) fn reason(error: &(dyn std::error::Error + 'static)) -> Option<FetchError> {
    let mut at = Some(error);
    while let Some(error) = at {
        if let Some(ours) = error.downcast_ref::<FetchError>() {
            return Some(ours.clone());
        }
        at = error.source();
    }
    None
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = FetchError;
    type Future = Pin<Box<dyn Future<Output = Result<TokioIo<Stream>, FetchError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), FetchError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let live = self.live.clone();
        Box::pin(async move {
            let opened = tokio::time::timeout(CONNECT_TIMEOUT, open(&live, &uri)).await;
            Ok(TokioIo::new(opened.unwrap_or(Err(FetchError::Timeout(CONNECT_TIMEOUT)))?))
        })
    }
}

async fn open(live: &Live, uri: &Uri) -> Result<Stream, FetchError> {
    let host = uri.host().ok_or_else(|| FetchError::Address(uri.path().into()))?;
    let secure = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let name = host.trim_start_matches('[').trim_end_matches(']');
    let failed = |error: io::Error| FetchError::Connect(format!("{host}:{port}: {error}"));
    let tcp = TcpStream::connect((name, port)).await.map_err(failed)?;
    let _ = tcp.set_nodelay(true);
    if !secure {
        return Ok(Stream::Plain(tcp));
    }
    let server = ServerName::try_from(name.to_owned()).map_err(|_| FetchError::Address(host.into()))?;
    let tls = TlsConnector::from(live.current()?).connect(server, tcp).await;
    tls.map(|stream| Stream::Tls(Box::new(stream))).map_err(|error| FetchError::Tls(error.to_string()))
}

pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, into),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
