//! HTTP/1.1 connections to the server behind, kept by each serving thread for itself.
//!
//! A connection has one request at a time. Never hands out one that the server is known to have closed, or that has been
//! unused for longer than the configuration allows.

use super::Upstream;
use crate::net::source_for;
use crate::outbound::dial::{Stream, connect};
use crate::outbound::origin::Speech;
use bytes::BytesMut;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio::time::Instant;

/// Idle connections to one server: more than are ever used at once by a thread at its limit.
const IDLE_MAX: usize = 512;
/// What one read may bring: an answer's head and the beginning of its body.
const READ_BYTES: usize = 8 << 10;

pub struct Pool {
    idle: Mutex<State>,
    unused_max: Duration,
}

#[derive(Default)]
struct State {
    of: HashMap<Upstream, Vec<Idle>>,
    swept: bool,
}

struct Idle {
    socket: Socket,
    since: Instant,
}

/// A connection in use.
pub struct Link {
    socket: Socket,
    /// What was read and not used yet.
    pub input: BytesMut,
    /// Whether it has had requests before: then its end may have been on the way already.
    pub reused: bool,
}

pub enum Socket {
    /// Under mutual TLS, with a pod of an activator's.
    Secured(Box<Stream>),
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Pool {
    pub fn new(unused_max: Duration) -> Arc<Pool> {
        Arc::new(Pool { idle: Mutex::default(), unused_max })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.idle.lock().expect("nothing panics while it holds connections")
    }

    /// A connection that is there, or a new one, made within `patience`.
    pub async fn lease(&self, to: &Upstream, patience: Duration) -> io::Result<Link> {
        if let Some(socket) = self.kept(to) {
            return Ok(Link { socket, input: BytesMut::new(), reused: true });
        }
        let socket =
            tokio::time::timeout(patience, dial(to, Speech::H1)).await.map_err(|_| io::ErrorKind::TimedOut)??;
        Ok(Link { socket, input: BytesMut::new(), reused: false })
    }

    fn kept(&self, to: &Upstream) -> Option<Socket> {
        let mut state = self.lock();
        let idle = state.of.get_mut(to)?;
        // The youngest first: the others may idle out.
        while let Some(Idle { socket, since }) = idle.pop() {
            if since.elapsed() >= self.unused_max {
                idle.clear();
                return None;
            }
            if socket.is_quiet() {
                return Some(socket);
            }
        }
        None
    }

    /// Takes back a connection whose answer was read to its end, and nothing beyond it.
    pub fn give_back(self: &Arc<Self>, to: &Upstream, link: Link) {
        if !link.input.is_empty() {
            return;
        }
        let mut state = self.lock();
        let idle = Idle { socket: link.socket, since: Instant::now() };
        match state.of.get_mut(to) {
            Some(kept) if kept.len() < IDLE_MAX => kept.push(idle),
            Some(_) => {}
            None => drop(state.of.insert(to.clone(), vec![idle])),
        }
        if !std::mem::replace(&mut state.swept, true) {
            tokio::spawn(self.clone().sweep());
        }
    }

    /// Closes what has been unused for too long or was closed by the server, until nothing is left.
    async fn sweep(self: Arc<Self>) {
        loop {
            tokio::time::sleep(self.unused_max.max(Duration::from_millis(100))).await;
            let mut state = self.lock();
            state.of.retain(|_, idle| {
                idle.retain(|idle| idle.since.elapsed() < self.unused_max && idle.socket.is_quiet());
                !idle.is_empty()
            });
            if state.of.is_empty() {
                state.swept = false;
                return;
            }
        }
    }
}

/// A new connection; `speech`: what is offered to a server under TLS.
pub async fn dial(to: &Upstream, speech: Speech) -> io::Result<Socket> {
    let tcp = match to {
        Upstream::Unix(path) => return Ok(Socket::Unix(UnixStream::connect(path).await?)),
        Upstream::Secured(address, secure) => {
            let stream = connect(&secure.0, *address, speech).await.map_err(io::Error::other)?;
            return Ok(Socket::Secured(Box::new(stream)));
        }
        Upstream::Tcp(address) => TcpStream::connect(address).await?,
        Upstream::Intercepted(address) => {
            let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            socket.bind(SocketAddr::new(source_for(*address), 0))?;
            socket.connect(*address).await?
        }
    };
    // Without it, the second piece of a request would wait for the first to be acknowledged.
    tcp.set_nodelay(true)?;
    Ok(Socket::Tcp(tcp))
}

impl Socket {
    /// Whether nothing came, not even the end: asked of the kernel, for a server may have closed a moment ago.
    fn is_quiet(&self) -> bool {
        let fd = match self {
            // A ticket or a goodbye that came is no quiet either: then a new connection is made.
            Socket::Secured(stream) => stream.as_raw_fd(),
            Socket::Tcp(tcp) => tcp.as_raw_fd(),
            Socket::Unix(unix) => unix.as_raw_fd(),
        };
        let mut byte = 0_u8;
        // SAFETY: `fd` is open while `self` lives, and the kernel writes at most the one byte that `byte` has.
        let came = unsafe { libc::recv(fd, (&raw mut byte).cast(), 1, libc::MSG_PEEK | libc::MSG_DONTWAIT) };
        came < 0 && io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock
    }
}

impl Link {
    /// Reads once, behind what is there; zero at the end.
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.input.reserve(READ_BYTES);
        let before = self.input.len();
        let mut buffer = ReadBuf::uninit(self.input.spare_capacity_mut());
        let polled = Pin::new(&mut self.socket).poll_read(cx, &mut buffer);
        let count = buffer.filled().len();
        // SAFETY: the socket has filled, and so initialised, `count` bytes behind the `before` that were there.
        unsafe { self.input.set_len(before + count) };
        polled.map_ok(|()| count)
    }

    /// Writes once.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }
}

impl Link {
    /// What TLS still keeps goes out.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) {
        let _ = Pin::new(&mut self.socket).poll_flush(cx);
    }

    /// Tells the server that nothing more will come.
    pub async fn shut(&mut self) {
        let _ = self.socket.shutdown().await;
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Secured(stream) => Pin::new(stream.as_mut()).poll_read(cx, buffer),
            Socket::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            Socket::Unix(unix) => Pin::new(unix).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Socket::Secured(stream) => Pin::new(stream.as_mut()).poll_write(cx, bytes),
            Socket::Tcp(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Socket::Unix(unix) => Pin::new(unix).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Socket::Secured(stream) => Pin::new(stream.as_mut()).poll_write_vectored(cx, pieces),
            Socket::Tcp(tcp) => Pin::new(tcp).poll_write_vectored(cx, pieces),
            Socket::Unix(unix) => Pin::new(unix).poll_write_vectored(cx, pieces),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Secured(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
            Socket::Tcp(_) | Socket::Unix(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Secured(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
            Socket::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Socket::Unix(unix) => Pin::new(unix).poll_shutdown(cx),
        }
    }
}
