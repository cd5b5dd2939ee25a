//! The server side: a gateway asks, over gRPC (`envoy.service.auth.v3.Authorization/Check`) or HTTP (`/check`), and is
//! answered as Authorino answers.
//!
//! A [`Desk`] bounds what is open and in flight, turns the wire into a [`Check`] and a [`Decision`] into the wire. Whether
//! somebody may pass, a [`Decide`] says. Never sees the request itself: the gateway forwards that, or does not.

mod answer;
mod attributes;
mod check;
mod grpc;
mod http;
mod methods;

pub use answer::{Allowed, Code, Decision, Refused};
pub use check::Check;
pub use methods::Methods;

use crate::config::served::Served;
use crate::net;
use crate::record::{draw_id, unix_now};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use outrider_protos::ext_authz::v3::CheckRequest;
use prometheus::{HistogramVec, IntCounterVec};
use rustls::pki_types::CertificateDer;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

/// Decides. Whoever implements it has bounds of its own on what it asks of others; the desk's timeout is over all.
pub trait Decide: Send + Sync {
    fn decide<'a>(&'a self, check: &'a Check) -> BoxFuture<'a, Decision>;

    /// A JSON document for those who verify what is told to whoever stands behind a gateway.
    fn published(&self, _path: &str) -> Option<Bytes> {
        None
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Grpc,
    Http,
}

impl Protocol {
    fn label(self) -> &'static str {
        match self {
            Protocol::Grpc => "grpc",
            Protocol::Http => "http",
        }
    }
}

/// What is counted of checks.
#[derive(Clone)]
pub struct Counted {
    /// By the name the code has, as Authorino's dashboards know it.
    pub status: IntCounterVec,
    /// By protocol.
    pub seconds: HistogramVec,
}

/// Where gateways are answered, over both protocols.
pub struct Desk {
    decide: Arc<dyn Decide>,
    limits: Served,
    counted: Counted,
    connections: Arc<Semaphore>,
    checks: Semaphore,
}

/// Of a TLS handshake, and of the head of an HTTP/1 request.
const OPENING_TIMEOUT: Duration = Duration::from_secs(10);
/// A gateway that has gone without a word is noticed after this and half of it.
const PING_PERIOD: Duration = Duration::from_secs(60);

impl Desk {
    pub fn new(decide: Arc<dyn Decide>, limits: Served, counted: Counted) -> Arc<Desk> {
        let connections = Arc::new(Semaphore::new(limits.connections_max));
        let checks = Semaphore::new(limits.checks_max);
        Arc::new(Desk { decide, limits, counted, connections, checks })
    }

    /// Accepts until `halted`; then returns, with connections asked to go but not awaited: they are in `tracker`.
    pub async fn serve(
        self: &Arc<Self>,
        (listener, protocol): (TcpListener, Protocol),
        tls: Option<TlsAcceptor>,
        mut halted: watch::Receiver<bool>,
        tracker: &TaskTracker,
    ) {
        while let Some((tcp, _)) = net::next(&listener, &mut halted, "a gateway").await {
            let Ok(place) = self.connections.clone().try_acquire_owned() else {
                tracing::warn!("ext_authz_server.connections_max is reached; a connection is closed");
                continue;
            };
            let (desk, tls, halted) = (self.clone(), tls.clone(), halted.clone());
            tracker.spawn(async move {
                let _place = place;
                if let Err(error) = desk.attend(tcp, protocol, tls, halted).await {
                    tracing::debug!(%error, "a gateway's connection ended");
                }
            });
        }
    }

    async fn attend(
        self: Arc<Self>,
        tcp: TcpStream,
        protocol: Protocol,
        tls: Option<TlsAcceptor>,
        halted: watch::Receiver<bool>,
    ) -> io::Result<()> {
        tcp.set_nodelay(true)?;
        let Some(tls) = tls else { return self.converse(tcp, protocol, None, halted).await };
        let shaken = tokio::time::timeout(OPENING_TIMEOUT, tls.accept(tcp)).await;
        let stream = shaken.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        let leaf = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let leaf = leaf.map(|leaf| CertificateDer::from(leaf.to_vec()));
        self.converse(stream, protocol, leaf, halted).await
    }

    /// One connection, until it ends or, once halted, until what is in flight on it is answered.
    async fn converse(
        self: Arc<Self>,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        protocol: Protocol,
        leaf: Option<CertificateDer<'static>>,
        mut halted: watch::Receiver<bool>,
    ) -> io::Result<()> {
        let io = TokioIo::new(stream);
        match protocol {
            Protocol::Grpc => {
                let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                builder.timer(TokioTimer::new()).max_concurrent_streams(self.limits.streams_max);
                builder.keep_alive_interval(PING_PERIOD).keep_alive_timeout(PING_PERIOD / 2);
                let connection = builder.serve_connection(io, grpc::service(self));
                tokio::pin!(connection);
                tokio::select! {
                    ended = connection.as_mut() => return ended.map_err(io::Error::other),
                    _ = halted.wait_for(|halted| *halted) => connection.as_mut().graceful_shutdown(),
                }
                connection.await.map_err(io::Error::other)
            }
            Protocol::Http => {
                let mut builder = hyper::server::conn::http1::Builder::new();
                builder.timer(TokioTimer::new()).header_read_timeout(OPENING_TIMEOUT);
                let connection = builder.serve_connection(io, http::service(self, leaf));
                tokio::pin!(connection);
                tokio::select! {
                    ended = connection.as_mut() => return ended.map_err(io::Error::other),
                    _ = halted.wait_for(|halted| *halted) => connection.as_mut().graceful_shutdown(),
                }
                connection.await.map_err(io::Error::other)
            }
        }
    }

    /// From question to decision, whatever it came by. Always an answer, and within the timeout.
    async fn decide(&self, request: CheckRequest, protocol: Protocol) -> Decision {
        let start = Instant::now();
        let decision = self.decide_uncounted(request).await;
        self.counted.status.with_label_values(&[decision.code().name()]).inc();
        self.counted.seconds.with_label_values(&[protocol.label()]).observe(start.elapsed().as_secs_f64());
        decision
    }

    async fn decide_uncounted(&self, request: CheckRequest) -> Decision {
        let Ok(_turn) = self.checks.try_acquire() else {
            return Refused::unavailable("too many checks at once").into();
        };
        let check = match Check::of(request, unix_now().as_secs(), draw_id) {
            Ok(check) => check,
            Err(why) => {
                tracing::debug!(why, "a gateway's question makes no sense");
                return Refused::invalid().into();
            }
        };
        let decided = tokio::time::timeout(self.limits.timeout, self.decide.decide(&check)).await;
        decided.unwrap_or_else(|_| Refused::unavailable("no decision in time").into())
    }
}

#[cfg(test)]
mod tests;
