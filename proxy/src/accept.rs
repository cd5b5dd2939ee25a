//! Our accept loop: peek (TLS, h2c or http/1), handshake, and one task for each connection that outlives neither its
//! limits nor its age.
//!
//! pingora's listeners know neither plaintext and TLS on one port nor a limit on handshakes, and its own h2c detection
//! waits for 24 bytes without a timeout. Never reads a byte of a request.

mod connection;

pub use connection::{Connection, Facts};

use crate::config::{Limits, TlsMode};
use crate::metrics::Metrics;
use crate::record::Journal;
use crate::tls::{Alpn, Peer, handshake_reason, peer_of};
use pingora_core::apps::ServerApp;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

/// What all accept loops share.
pub struct Acceptor {
    pub mode: TlsMode,
    /// `None` with [`TlsMode::Disable`].
    pub tls: Option<TlsAcceptor>,
    pub limits: Limits,
    pub journal: Arc<Journal>,
    handshakes: Semaphore,
    connections: Arc<Semaphore>,
}

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opening {
    Tls,
    H2c,
    H1,
}

/// Why a connection ended before its first request; a closed set, for the metric.
type Reason = &'static str;

impl Acceptor {
    pub fn new(
        mode: TlsMode,
        config: Option<Arc<rustls::ServerConfig>>,
        limits: Limits,
        journal: Arc<Journal>,
    ) -> Self {
        let handshakes = Semaphore::new(limits.handshakes_max);
        let connections = Arc::new(Semaphore::new(limits.connections_max));
        Acceptor { mode, tls: config.map(TlsAcceptor::from), limits, journal, handshakes, connections }
    }

    fn metrics(&self) -> &Metrics {
        &self.journal.metrics
    }

    fn failed(&self, address: SocketAddr, reason: Reason) {
        // A probe that connects and leaves is no news; a handshake refused is.
        match reason {
            "transport" => tracing::debug!(%address, reason, "a connection ended before a request"),
            _ => tracing::info!(%address, reason, "a connection was refused"),
        }
        self.metrics().handshake_failures.with_label_values(&[reason]).inc();
    }

    /// Accepts until `stop` is true; then the listener is closed, and connections in `tracker` are asked to end.
    pub async fn serve<A: ServerApp + Send + Sync + 'static>(
        self: Arc<Self>,
        listener: TcpListener,
        app: Arc<A>,
        mut stop: watch::Receiver<bool>,
        tracker: TaskTracker,
    ) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            let (tcp, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Mostly: out of file descriptors. Without the pause this loop would spin until one is free.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let Ok(place) = self.connections.clone().try_acquire_owned() else {
                self.failed(address, "too_many");
                continue;
            };
            let (acceptor, app, stop) = (self.clone(), app.clone(), stop.clone());
            tracker.spawn(async move {
                let _place = place;
                let limit = acceptor.limits.handshake_timeout;
                match tokio::time::timeout(limit, acceptor.open(tcp, address)).await {
                    Ok(Ok(connection)) => acceptor.tend(connection, app, stop).await,
                    Ok(Err(reason)) => acceptor.failed(address, reason),
                    Err(_) => acceptor.failed(address, "timeout"),
                }
            });
        }
    }

    /// Peeks, and shakes hands if that is TLS.
    async fn open(&self, tcp: TcpStream, address: SocketAddr) -> Result<Connection, Reason> {
        // Tokens are small packets: without this, Nagle and delayed ACKs make them arrive in pairs.
        tcp.set_nodelay(true).map_err(|_| "transport")?;
        match (peek(&tcp).await.map_err(|_| "transport")?, &self.tls) {
            (Opening::Tls, Some(tls)) => {
                let _turn = self.handshakes.acquire().await.expect("never closed");
                let stream = tls.accept(tcp).await.map_err(|error| handshake_reason(&error))?;
                let session = stream.get_ref().1;
                let spiffe = session.peer_certificates().and_then(|chain| peer_of(chain.first()?));
                let h2 = Alpn::of(session.alpn_protocol()) == Alpn::H2;
                Ok(Connection::tls(stream, Peer { spiffe, tls: true, address }, h2))
            }
            (Opening::Tls, None) => Err("tls_disabled"),
            (_, _) if self.mode == TlsMode::Strict => Err("plaintext"),
            (opening, _) => Ok(Connection::plain(tcp, Peer::plaintext(address), opening == Opening::H2c)),
        }
    }

    /// Serves a connection to its end.
    async fn tend<A: ServerApp + Send + Sync + 'static>(
        &self,
        connection: Connection,
        app: Arc<A>,
        mut stop: watch::Receiver<bool>,
    ) {
        let facts = connection.facts();
        let labels = [facts.protocol(), facts.tls_kind()];
        let _open = Open::new(self.metrics(), labels);
        // A watch of its own, so that age can end one connection: GOAWAY for HTTP/2, `connection: close` for http/1.
        let (bye, told) = watch::channel(false);
        let oldest = self.limits.connection_age_max.map(|age| Instant::now() + age);
        let serving = app.process_new(Box::new(connection), &told);
        tokio::pin!(serving);
        loop {
            let old = async {
                match oldest {
                    Some(oldest) => tokio::time::sleep_until(oldest).await,
                    None => std::future::pending().await,
                }
            };
            let told_already = *bye.borrow();
            tokio::select! {
                _ = &mut serving => return,
                () = facts.overdue(self.limits.header_timeout) => return self.failed(facts.peer.address, "head_timeout"),
                _ = stop.wait_for(|stop| *stop), if !told_already => drop(bye.send_replace(true)),
                () = old, if !told_already => drop(bye.send_replace(true)),
            }
        }
    }
}

/// Counts a connection while it is open.
struct Open<'a> {
    metrics: &'a Metrics,
    labels: [&'static str; 2],
}

impl<'a> Open<'a> {
    fn new(metrics: &'a Metrics, labels: [&'static str; 2]) -> Self {
        metrics.connections.with_label_values(&labels).inc();
        metrics.connections_open.with_label_values(&labels).inc();
        Open { metrics, labels }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.metrics.connections_open.with_label_values(&self.labels).dec();
    }
}

/// Looks at the first bytes and consumes none.
///
/// 0x16 is a TLS handshake record (RFC 8446 §5.1); `PRI ` begins the HTTP/2 preface (RFC 9113 §3.4), and no method of
/// http/1 does.
async fn peek(tcp: &TcpStream) -> io::Result<Opening> {
    let mut bytes = [0; 4];
    loop {
        let count = tcp.peek(&mut bytes).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if bytes[0] == 0x16 {
            return Ok(Opening::Tls);
        }
        if bytes[..count] != b"PRI "[..count] {
            return Ok(Opening::H1);
        }
        if count == bytes.len() {
            return Ok(Opening::H2c);
        }
        // A preface in pieces. Readiness cannot be awaited: the bytes already there are readable for ever.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn what_are_the_first_bytes_of_a_connection() {
        let cases: [(&[&[u8]], Opening); 6] = [
            (&[b"\x16\x03\x01"], Opening::Tls),
            (&[b"PRI * HTTP/2.0\r\n"], Opening::H2c),
            (&[b"PR", b"I "], Opening::H2c),
            (&[b"GET / HTTP/1.0\r\n\r\n"], Opening::H1),
            (&[b"P", b"OST "], Opening::H1),
            (&[b"\0"], Opening::H1),
        ];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        for (pieces, want) in cases {
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (server, _) = listener.accept().await.unwrap();
            let write = async {
                for piece in pieces {
                    client.write_all(piece).await.unwrap();
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            let (opening, ()) = tokio::join!(peek(&server), write);
            assert_eq!(opening.unwrap(), want, "{pieces:?}");
        }
    }
}
