//! One thread's part of the way out: accepts connections of the application, sees what they speak, and serves them.
//!
//! Each seat has its own pool. Never tells the application to close: that we drain is no business of its requests.

use super::Outbound;
use super::carry::carry;
use super::cluster::Cluster;
use super::detect::{BYTES, Opening, classify};
use super::endpoint::Endpoint;
use super::opaque;
use super::outlier::Outcome;
use super::pool::Pool;
use super::route::may_match;
use crate::chance::Chance;
use crate::config::outbound::Unknown;
use crate::net;
use futures_util::future::join_all;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

/// Streams on one connection of the application; how many go on is for the clusters' limits to say.
const STREAMS_MAX: u32 = 1024;
const REAP_PERIOD: Duration = Duration::from_secs(1);

pub struct Seat {
    pub outbound: Arc<Outbound>,
    pub pool: Pool,
    pub tracker: TaskTracker,
    chance: Chance,
}

/// How a request came here.
#[derive(Clone, Copy, Debug)]
pub struct Via {
    pub caller: SocketAddr,
    /// Where the connection was going before it was redirected here.
    pub meant: Option<SocketAddr>,
    pub h2: bool,
}

impl Seat {
    pub fn new(outbound: Arc<Outbound>, tracker: TaskTracker) -> Arc<Seat> {
        let pool = Pool::new(outbound.journal.clone());
        Arc::new(Seat { outbound, pool, tracker, chance: Chance::default() })
    }

    /// A random number, good enough to spread load.
    pub fn chance(&self) -> u64 {
        self.chance.next()
    }

    pub fn judge(&self, cluster: &Cluster, endpoint: &Endpoint, outcome: Outcome) {
        if let Some(detector) = cluster.judge(endpoint, outcome, self.outbound.now()) {
            let name = &cluster.config.name;
            tracing::warn!(cluster = name, endpoint = %endpoint.address, detector, "an endpoint is ejected for a while");
            self.outbound.journal.metrics.outbound.ejections.with_label_values(&[name, detector]).inc();
        }
    }

    /// Accepts until `stop` is true. Connections that are open then go on.
    pub async fn serve(self: Arc<Self>, listeners: Vec<TcpListener>, stop: watch::Receiver<bool>) {
        let reaper = tokio::spawn(self.clone().reap());
        join_all(listeners.into_iter().map(|listener| self.accept(listener, stop.clone()))).await;
        reaper.abort();
    }

    async fn accept(self: &Arc<Self>, listener: TcpListener, mut stop: watch::Receiver<bool>) {
        while let Some((tcp, caller)) = net::next(&listener, &mut stop, "the application").await {
            let Some(place) = self.outbound.connections.hold_below(self.outbound.config.connections_max) else {
                tracing::warn!("outbound.connections_max is reached; a connection of the application is closed");
                continue;
            };
            let seat = self.clone();
            self.tracker.spawn(async move {
                let _place = place;
                if let Err(error) = seat.tend(tcp, caller).await {
                    tracing::debug!(%error, "a connection of the application ended");
                }
            });
        }
    }

    async fn reap(self: Arc<Self>) {
        loop {
            tokio::time::sleep(REAP_PERIOD).await;
            self.pool.reap(|number| self.outbound.cluster(number).cloned());
        }
    }

    async fn tend(self: &Arc<Self>, tcp: TcpStream, caller: SocketAddr) -> io::Result<()> {
        tcp.set_nodelay(true)?;
        let meant = self.outbound.meant(&tcp)?;
        let via = |h2| Via { caller, meant, h2 };
        match self.opening(&tcp, meant).await? {
            Opening::Opaque => opaque::carry(self, via(false), tcp).await,
            Opening::H1 => {
                let (seat, via) = (self.clone(), via(false));
                let service = service_fn(move |request| carry(seat.clone(), via, request));
                // The answer's own date, or none, is what the application shall see.
                let server = http1::Builder::new().auto_date_header(false).serve_connection(TokioIo::new(tcp), service);
                server.with_upgrades().await.map_err(io::Error::other)
            }
            Opening::H2 => {
                let (seat, via) = (self.clone(), via(true));
                let service = service_fn(move |request| carry(seat.clone(), via, request));
                let mut builder = http2::Builder::new(TokioExecutor::new());
                builder.auto_date_header(false).max_concurrent_streams(STREAMS_MAX);
                builder.serve_connection(TokioIo::new(tcp), service).await.map_err(io::Error::other)
            }
        }
    }

    /// Looks at the first bytes and consumes none.
    async fn opening(&self, tcp: &TcpStream, meant: Option<SocketAddr>) -> io::Result<Opening> {
        let config = &self.outbound.config;
        if let Some(meant) = meant {
            let unknown = config.unknown == Unknown::Passthrough && !may_match(&config.routes, meant.port());
            if unknown || config.opaque_ports.contains(&meant.port()) {
                return Ok(Opening::Opaque);
            }
        }
        // Silence: whoever connected waits for the server to speak first.
        let detected = tokio::time::timeout(config.detect_timeout, peek(tcp)).await;
        detected.unwrap_or(Ok(Opening::Opaque))
    }
}

async fn peek(tcp: &TcpStream) -> io::Result<Opening> {
    let mut bytes = [0; BYTES];
    let mut before = 0;
    loop {
        let count = tcp.peek(&mut bytes).await?;
        match classify(&bytes[..count]) {
            Some(opening) => return Ok(opening),
            // The application has said all it will say.
            None if count == 0 => return Ok(Opening::Opaque),
            // Readiness cannot be awaited: the bytes already there are readable for ever.
            None if count == before => tokio::time::sleep(Duration::from_millis(2)).await,
            None => before = count,
        }
    }
}
