//! The way out: requests of the application in this pod, routed, balanced, retried within reason, and carried over
//! mutual TLS to servers that prove who they are.
//!
//! ```text
//! seat (accept, detect) ─ carry: route → fault → cluster.set → pool ─ dial (origin: TLS) → server
//!                       └ opaque: bytes                                answer → record
//! ```
//!
//! Everything but `seat`, `carry`, `opaque`, `pool`, `dial`, `answer`, `discovery` and `record` is pure. No pingora: it
//! cannot verify a SPIFFE id on this side, and forwards no upgrade of ours. Never reads a body for its own sake.

pub mod answer;
pub mod balancers;
pub mod body;
pub mod carry;
pub mod cluster;
pub mod detect;
pub mod dial;
pub mod discovery;
pub mod endpoint;
pub mod fault;
pub mod headers;
pub mod mirror;
pub mod opaque;
pub mod origin;
pub mod outlier;
pub mod pool;
pub mod prompt;
pub mod record;
pub mod refusal;
pub mod retry;
pub mod route;
pub mod seat;
pub mod set;
pub mod slice;

use crate::config::outbound as config;
use crate::record::Journal;
use cluster::{Cluster, Gauge};
use origin::{Origin, Ourselves, Problem};
use set::Place;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

pub use seat::Seat;

/// Where a redirected connection was going; `None` if nobody redirected it.
pub type Original = Arc<dyn Fn(&TcpStream) -> io::Result<Option<SocketAddr>> + Send + Sync>;

/// What all seats share.
pub struct Outbound {
    pub config: config::Outbound,
    pub clusters: Vec<Arc<Cluster>>,
    /// For what no route knows, with a route that asks for nothing.
    pub passthrough: Arc<Cluster>,
    pub plain_route: config::Route,
    pub journal: Arc<Journal>,
    /// Connections of the application.
    pub connections: Gauge,
    original: Original,
    /// Where the listener really is, also where the configuration said port 0.
    listen: SocketAddr,
    began: Instant,
}

/// A cluster that cannot be, with its name.
#[derive(Clone, Debug, thiserror::Error)]
#[error("outbound.clusters `{cluster}`: {problem}")]
pub struct BadCluster {
    pub cluster: String,
    pub problem: Problem,
}

/// What [`Outbound::open`] takes from outside.
pub struct Surroundings {
    pub ourselves: Ourselves,
    pub journal: Arc<Journal>,
    pub original: Original,
    pub listen: SocketAddr,
    /// A random number: where rotations begin.
    pub offset: usize,
}

impl Outbound {
    pub fn open(config: config::Outbound, around: Surroundings) -> Result<Arc<Outbound>, BadCluster> {
        let place = Place { zone: config.zone.clone(), failover: config.failover.clone() };
        let mut clusters = Vec::new();
        for (number, cluster) in config.clusters.iter().enumerate() {
            let origin = Origin::open(&cluster.tls, &around.ourselves)
                .map_err(|problem| BadCluster { cluster: cluster.name.clone(), problem })?;
            let cluster = Cluster::new(number, cluster.clone(), origin, place.clone(), around.offset);
            discovery::begin(&cluster);
            clusters.push(Arc::new(cluster));
        }
        let passthrough = Cluster::new(clusters.len(), config::Cluster::passthrough(), Origin::Plain, place, 0);
        Ok(Arc::new(Outbound {
            passthrough: Arc::new(passthrough),
            plain_route: config::Route::plain(),
            config,
            clusters,
            journal: around.journal,
            connections: Gauge::default(),
            original: around.original,
            listen: around.listen,
            began: Instant::now(),
        }))
    }

    /// Discovery and the return of ejected endpoints, for ever; one for all seats.
    pub async fn tend(self: Arc<Self>) {
        let mut tasks = tokio::task::JoinSet::new();
        for cluster in &self.clusters {
            self.measure(cluster);
            tasks.spawn(discovery::follow(cluster.clone()));
            let (outbound, cluster) = (self.clone(), cluster.clone());
            tasks.spawn(async move {
                loop {
                    tokio::time::sleep(cluster.config.outlier.interval).await;
                    cluster.sweep(outbound.now());
                    outbound.measure(&cluster);
                }
            });
        }
        while tasks.join_next().await.is_some() {}
    }

    fn measure(&self, cluster: &Cluster) {
        let set = cluster.set.load();
        let endpoints = &self.journal.metrics.outbound.endpoints;
        endpoints.with_label_values(&[&cluster.config.name, "usable"]).set(set.usable as i64);
        endpoints.with_label_values(&[&cluster.config.name, "known"]).set(set.total as i64);
    }

    /// Time as pure rooms take it.
    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    pub fn cluster(&self, number: usize) -> Option<&Arc<Cluster>> {
        self.clusters.get(number).or(Some(&self.passthrough))
    }

    /// Where a connection was going, if it was redirected.
    pub fn meant(&self, tcp: &TcpStream) -> io::Result<Option<SocketAddr>> {
        if !self.config.interception {
            return Ok(None);
        }
        let local = tcp.local_addr()?;
        // Without a redirect the kernel may name the address that was dialled: ours.
        Ok((self.original)(tcp)?.filter(|meant| *meant != local))
    }

    /// Whether a connection to this address would come back to us, and so for ever.
    pub fn is_ourselves(&self, address: SocketAddr) -> bool {
        let (theirs, ours) = (address.ip(), self.listen.ip());
        let same = theirs == ours || (theirs.is_loopback() && (ours.is_loopback() || ours.is_unspecified()));
        address.port() == self.listen.port() && (same || theirs.is_unspecified())
    }
}

#[cfg(test)]
mod tests;
