//! A connection as pingora wants it: bytes, the protocol spoken on them, and our own facts about who is there.
//!
//! Unbuffered: ten thousand connections that wait cost no buffers.

use crate::tls::Peer;
use async_trait::async_trait;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
    UniqueIDType,
};
use pingora_http::ResponseHeader;
use std::io;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// What is known of a connection; every exchange on it finds it.
#[derive(Debug)]
pub struct Facts {
    pub peer: Peer,
    pub h2: bool,
    opened: Instant,
    /// Milliseconds after `opened` since when a head is awaited; [`BUSY`] while none is.
    awaits_head_since: AtomicU64,
}

const BUSY: u64 = u64::MAX;

impl Facts {
    fn new(peer: Peer, h2: bool) -> Arc<Self> {
        Arc::new(Facts { peer, h2, opened: Instant::now(), awaits_head_since: AtomicU64::new(0) })
    }

    /// For metrics and logs.
    pub fn protocol(&self) -> &'static str {
        if self.h2 { "h2" } else { "h1" }
    }

    /// For metrics.
    pub fn tls_kind(&self) -> &'static str {
        match (self.peer.tls, self.peer.spiffe.is_some()) {
            (false, _) => "none",
            (true, false) => "tls",
            (true, true) => "mtls",
        }
    }

    /// A head has arrived.
    pub fn begin(&self) {
        self.awaits_head_since.store(BUSY, Ordering::Relaxed);
    }

    /// The answer is out; on http/1 the next head is awaited from now on. An HTTP/2 connection is watched by pingora's
    /// idle timeout instead, for its streams come and go side by side.
    pub fn end(&self) {
        if !self.h2 {
            self.awaits_head_since.store(self.opened.elapsed().as_millis() as u64, Ordering::Relaxed);
        }
    }

    /// Resolves when a head has been awaited for longer than `limit`: a head that trickles in byte by byte resets
    /// pingora's own timeout with each byte, but not this one.
    pub async fn overdue(&self, limit: Duration) {
        loop {
            let left = match self.awaits_head_since.load(Ordering::Relaxed) {
                BUSY => limit,
                since => (Duration::from_millis(since) + limit).saturating_sub(self.opened.elapsed()),
            };
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
    }
}

#[derive(Debug)]
enum Bytes {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

#[derive(Debug)]
pub struct Connection {
    bytes: Bytes,
    facts: Arc<Facts>,
    /// The one digest that carries a value of our choice for plaintext and TLS alike: the facts.
    digest: Arc<ProxyDigest>,
}

impl Connection {
    pub fn plain(tcp: TcpStream, peer: Peer, h2: bool) -> Self {
        Connection::new(Bytes::Plain(tcp), Facts::new(peer, h2))
    }

    pub fn tls(stream: TlsStream<TcpStream>, peer: Peer, h2: bool) -> Self {
        Connection::new(Bytes::Tls(Box::new(stream)), Facts::new(peer, h2))
    }

    fn new(bytes: Bytes, facts: Arc<Facts>) -> Self {
        let header = ResponseHeader::build_no_case(200, Some(0)).expect("200 is a status");
        let digest = Arc::new(ProxyDigest::new(Box::new(header), Some(Box::new(facts.clone()))));
        Connection { bytes, facts, digest }
    }

    pub fn facts(&self) -> Arc<Facts> {
        self.facts.clone()
    }

    fn fd(&self) -> i32 {
        match &self.bytes {
            Bytes::Plain(tcp) => tcp.as_raw_fd(),
            Bytes::Tls(tls) => tls.get_ref().0.as_raw_fd(),
        }
    }
}

/// The same call on whichever stream it is.
macro_rules! either {
    ($this:expr, $stream:ident => $call:expr) => {
        match &mut $this.get_mut().bytes {
            Bytes::Plain(stream) => {
                let $stream = Pin::new(stream);
                $call
            }
            Bytes::Tls(stream) => {
                let $stream = Pin::new(stream.as_mut());
                $call
            }
        }
    };
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_read(cx, buffer))
    }
}

impl AsyncWrite for Connection {
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
        match &self.bytes {
            Bytes::Plain(tcp) => tcp.is_write_vectored(),
            Bytes::Tls(tls) => tls.is_write_vectored(),
        }
    }
}

#[async_trait]
impl Shutdown for Connection {
    async fn shutdown(&mut self) {
        let _ = AsyncWriteExt::shutdown(self).await;
    }
}

impl UniqueID for Connection {
    fn id(&self) -> UniqueIDType {
        self.fd()
    }
}

impl Ssl for Connection {
    /// Also for plaintext: it is how pingora is told that we have seen the HTTP/2 preface.
    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.facts.h2.then_some(ALPN::H2)
    }
}

impl GetTimingDigest for Connection {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Connection {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        Some(self.digest.clone())
    }
}

impl GetSocketDigest for Connection {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        let digest = SocketDigest::from_raw_fd(self.fd());
        let _ = digest.peer_addr.set(Some(self.facts.peer.address.into()));
        Some(Arc::new(digest))
    }
}

impl Peek for Connection {}
