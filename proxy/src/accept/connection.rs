//! A connection as pingora wants it: bytes, the protocol spoken on them, and our own facts about who is there.
//!
//! Unbuffered: ten thousand connections that wait cost no buffers.

use super::facts::Facts;
use super::opening::{Opening, guess};
use async_trait::async_trait;
use bytes::{Buf, BytesMut};
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
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

#[derive(Debug)]
enum Bytes {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

#[derive(Debug)]
pub struct Connection {
    bytes: Bytes,
    /// Bytes that were read to know the protocol, and still belong to it.
    looked_at: Vec<u8>,
    /// Bytes of an http/1 answer that are written but not flushed: its head waits for its body, because each write costs
    /// a TLS record and a packet. Empty, and without memory, between answers.
    unflushed: BytesMut,
    facts: Arc<Facts>,
    /// The one digest that carries a value of our choice for plaintext and TLS alike: the facts.
    digest: Arc<ProxyDigest>,
}

impl Connection {
    pub fn plain(tcp: TcpStream, facts: Facts) -> Self {
        Connection::new(Bytes::Plain(tcp), Vec::new(), facts)
    }

    pub fn tls(stream: TlsStream<TcpStream>, looked_at: Vec<u8>, facts: Facts) -> Self {
        Connection::new(Bytes::Tls(Box::new(stream)), looked_at, facts)
    }

    fn new(bytes: Bytes, looked_at: Vec<u8>, mut facts: Facts) -> Self {
        facts.socket = Some(bytes.fd());
        let facts = Arc::new(facts);
        let header = ResponseHeader::build_no_case(200, Some(0)).expect("200 is a status");
        let digest = Arc::new(ProxyDigest::new(Box::new(header), Some(Box::new(facts.clone()))));
        Connection { bytes, looked_at, unflushed: BytesMut::new(), facts, digest }
    }

    /// Waits for the next bytes, or for the end, which is `false`; nothing is lost.
    pub async fn arrival(&mut self) -> io::Result<bool> {
        match &mut self.bytes {
            _ if !self.looked_at.is_empty() => Ok(true),
            Bytes::Plain(tcp) => tcp.readable().await.map(|()| true),
            // What is in the socket may be half a record, or no data at all.
            Bytes::Tls(tls) => {
                let looked_at = &mut self.looked_at;
                let read = std::future::poll_fn(|cx| {
                    let mut space = [std::mem::MaybeUninit::uninit(); 4096];
                    let mut buffer = ReadBuf::uninit(&mut space);
                    std::task::ready!(Pin::new(tls.as_mut()).poll_read(cx, &mut buffer))?;
                    looked_at.extend_from_slice(buffer.filled());
                    Poll::Ready(Ok::<_, io::Error>(!looked_at.is_empty()))
                });
                let arrived = read.await;
                if !matches!(arrived, Ok(true)) {
                    self.facts.heard(0);
                }
                arrived
            }
        }
    }

    pub fn facts(&self) -> Arc<Facts> {
        self.facts.clone()
    }

    fn fd(&self) -> i32 {
        self.bytes.fd()
    }
}

impl Bytes {
    fn fd(&self) -> i32 {
        match self {
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

/// What a TLS stream without a telling ALPN carries, and the bytes that were read to know it: TLS cannot be peeked into.
pub async fn look_within(stream: &mut TlsStream<TcpStream>, patience: Duration) -> io::Result<(Opening, Vec<u8>)> {
    let mut looked_at = Vec::with_capacity(32);
    let reading = async {
        loop {
            match guess(&looked_at) {
                // Within TLS another handshake is just bytes.
                Some(Opening::Tls) => return Ok(Opening::Opaque),
                Some(opening) => return Ok::<_, io::Error>(opening),
                None if stream.read_buf(&mut looked_at).await? == 0 => {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                None => {}
            }
        }
    };
    let opening = tokio::time::timeout(patience, reading).await.unwrap_or(Ok(Opening::Opaque))?;
    Ok((opening, looked_at))
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = if self.looked_at.is_empty() {
            either!(self.as_mut(), stream => stream.poll_read(cx, buffer))
        } else {
            let count = self.looked_at.len().min(buffer.remaining());
            buffer.put_slice(&self.looked_at[..count]);
            self.looked_at.drain(..count);
            if self.looked_at.is_empty() {
                self.looked_at = Vec::new();
            }
            Poll::Ready(Ok(()))
        };
        match &polled {
            Poll::Ready(Ok(())) if buffer.remaining() > 0 => self.facts.heard(buffer.filled().len() - before),
            Poll::Ready(Ok(())) => self.facts.heard((buffer.filled().len() - before).max(1)),
            Poll::Ready(Err(_)) => self.facts.heard(0),
            // Whoever waits has nothing to add: what was written so far goes out. A failure shows at the next write.
            Poll::Pending => drop(self.poll_unflushed(cx)),
        }
        if self.facts.head_is_too_large() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "the head is too large")));
        }
        polled
    }
}

/// What one TLS record holds (RFC 8446 §5.1): more is not worth waiting for.
const UNFLUSHED_MAX: usize = 16 << 10;

impl Connection {
    /// Writes what waits.
    fn poll_unflushed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unflushed.is_empty() {
            let Connection { bytes, unflushed, .. } = self;
            let written = match bytes {
                Bytes::Plain(tcp) => Pin::new(tcp).poll_write(cx, unflushed),
                Bytes::Tls(tls) => Pin::new(tls.as_mut()).poll_write(cx, unflushed),
            };
            match std::task::ready!(written)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => unflushed.advance(count),
            }
        }
        self.unflushed = BytesMut::new();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        // HTTP/2 gathers its frames itself.
        if !self.facts.h2 && self.unflushed.len() + bytes.len() <= UNFLUSHED_MAX {
            self.unflushed.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        std::task::ready!(self.poll_unflushed(cx))?;
        either!(self, stream => stream.poll_write(cx, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.poll_unflushed(cx))?;
        either!(self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.poll_unflushed(cx))?;
        either!(self, stream => stream.poll_shutdown(cx))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if !self.facts.h2 {
            let first = slices.iter().find(|slice| !slice.is_empty()).map_or(&[][..], |slice| slice);
            return self.poll_write(cx, first);
        }
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
