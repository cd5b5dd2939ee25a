//! One new connection to an endpoint: TCP, and TLS where the cluster wants it. Never tries twice.

use super::cluster::Cluster;
use super::origin::{Origin, Speech};
use crate::tls::handshake_reason;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Why there is no connection; a closed set, for metric and log.
pub type Reason = &'static str;

pub enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Within the cluster's `connect_timeout`, handshake included.
pub async fn dial(cluster: &Cluster, endpoint: SocketAddr, speech: Speech) -> Result<Stream, Reason> {
    let connected = connect(&cluster.origin, endpoint, speech);
    match tokio::time::timeout(cluster.config.limits.connect_timeout, connected).await {
        Ok(opened) => opened,
        Err(_) => Err("timeout"),
    }
}

/// The same without a limit of its own.
pub async fn connect(origin: &Origin, endpoint: SocketAddr, speech: Speech) -> Result<Stream, Reason> {
    let tcp = TcpStream::connect(endpoint).await.map_err(|error| reason_of(&error))?;
    // Requests and tokens are small packets: Nagle would hold them back.
    tcp.set_nodelay(true).map_err(|_| "transport")?;
    let Origin::Tls(tls) = origin else { return Ok(Stream::Plain(tcp)) };
    let connector = TlsConnector::from(tls.config(speech));
    let stream = connector.connect(tls.name(endpoint), tcp).await.map_err(|error| handshake_reason(&error))?;
    let chosen = stream.get_ref().1.alpn_protocol();
    // A server that chose nothing is taken at our word.
    let agreed = match (speech, chosen) {
        (Speech::H2, Some(name)) => matches!(name, b"h2" | b"istio-h2"),
        (Speech::H1, Some(name)) => matches!(name, b"http/1.1" | b"istio-http/1.1"),
        _ => true,
    };
    if agreed { Ok(Stream::Tls(Box::new(stream))) } else { Err("alpn") }
}

fn reason_of(error: &io::Error) -> Reason {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "refused",
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => "unreachable",
        io::ErrorKind::TimedOut => "timeout",
        _ => "transport",
    }
}

/// The same call on whichever stream it is.
macro_rules! either {
    ($this:expr, $stream:ident => $call:expr) => {
        match $this.get_mut() {
            Stream::Plain(stream) => {
                let $stream = Pin::new(stream);
                $call
            }
            Stream::Tls(stream) => {
                let $stream = Pin::new(stream.as_mut());
                $call
            }
        }
    };
}

impl AsRawFd for Stream {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Stream::Plain(tcp) => tcp.as_raw_fd(),
            Stream::Tls(tls) => tls.get_ref().0.as_raw_fd(),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_read(cx, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, stream => stream.poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_shutdown(cx))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => stream.poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Stream::Plain(tcp) => tcp.is_write_vectored(),
            Stream::Tls(tls) => tls.is_write_vectored(),
        }
    }
}
