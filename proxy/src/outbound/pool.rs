//! Connections to endpoints, kept by each thread for itself: nothing here is contended, and nothing wakes a neighbour.
//!
//! An http/1 connection has one request at a time and is given back when the answer's end has been read; an HTTP/2
//! connection has many. Never hands out a connection that is older than it may be, and never closes one under a request.

use super::body::Copy;
use super::cluster::{Cluster, Gauge, Held};
use super::dial::{Reason, dial};
use super::origin::Speech;
use crate::config::outbound::ClusterLimits;
use crate::metrics::Metrics;
use crate::record::Journal;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, OwnedSemaphorePermit};

/// Streams on one HTTP/2 connection before another is opened: more would only wait for the same window.
const STREAMS_MAX: usize = 100;
/// An HTTP/2 connection with requests on it that is silent for so long is asked whether it is still there.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// What a server may send ahead on one stream, and on all of a connection, before we have read it.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;

pub struct Pool {
    slots: Mutex<HashMap<Key, Arc<Slot>>>,
    journal: Arc<Journal>,
}

type Key = (usize, SocketAddr, Speech);

/// All connections of this thread to one endpoint of one cluster.
#[derive(Default)]
struct Slot {
    state: Mutex<State>,
    /// An http/1 connection has become idle.
    freed: Notify,
    /// Who opens an HTTP/2 connection has this; the others wait for it and share the outcome.
    opening: tokio::sync::Mutex<()>,
    failures: AtomicU64,
}

#[derive(Default)]
struct State {
    idle: Vec<Idle>,
    shared: Vec<Multi>,
    waiting: usize,
}

/// When a connection was made, and with which of our identities.
#[derive(Clone, Copy, Debug)]
struct Birth {
    at: Instant,
    generation: u64,
}

struct Idle {
    sender: http1::SendRequest<Copy>,
    birth: Birth,
    since: Instant,
}

struct Multi {
    sender: http2::SendRequest<Copy>,
    birth: Birth,
    streams: Gauge,
    used: Instant,
}

/// A connection for one request.
pub struct Lease {
    sender: Sender,
    /// Whether it has had requests before: then its end may have been on the way already.
    pub reused: bool,
    slot: Arc<Slot>,
    birth: Birth,
    _stream: Option<Held>,
}

enum Sender {
    H1(http1::SendRequest<Copy>),
    H2(http2::SendRequest<Copy>),
}

/// Why there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Miss {
    Failed(Reason),
    /// A limit's name.
    Overflow(&'static str),
}

/// A request that got no answer's head.
pub struct Unanswered {
    pub error: hyper::Error,
    /// Nothing of it was written.
    pub unsent: bool,
}

/// Whether a connection of this age may take a new request.
fn may_serve(limits: &ClusterLimits, age: Duration, same_identity: bool) -> bool {
    limits.connection_age_max.is_none_or(|most| age < most) && (same_identity || age < limits.stale_age_max)
}

impl Birth {
    fn may_serve(&self, cluster: &Cluster) -> bool {
        may_serve(&cluster.config.limits, self.at.elapsed(), self.generation == cluster.origin.generation())
    }
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds connections")
    }
}

impl Pool {
    pub fn new(journal: Arc<Journal>) -> Pool {
        Pool { slots: Mutex::default(), journal }
    }

    fn slot(&self, key: Key) -> Arc<Slot> {
        self.slots.lock().expect("nothing panics while it holds slots").entry(key).or_default().clone()
    }

    /// A connection that is there, or a new one.
    pub async fn lease(&self, cluster: &Arc<Cluster>, endpoint: SocketAddr, speech: Speech) -> Result<Lease, Miss> {
        let slot = self.slot((cluster.number, endpoint, speech));
        if let Some(lease) = slot.take(cluster, speech) {
            return Ok(lease);
        }
        let limits = &cluster.config.limits;
        let _pending = cluster.pending.hold_below(limits.pending_max).ok_or(Miss::Overflow("pending_max"))?;
        let _turn = match speech {
            Speech::H2 => {
                let failures = slot.failures.load(Relaxed);
                let turn = slot.opening.lock().await;
                if let Some(lease) = slot.take(cluster, speech) {
                    return Ok(lease);
                }
                if slot.failures.load(Relaxed) != failures {
                    return Err(Miss::Failed("shared_failure"));
                }
                Some(turn)
            }
            _ => None,
        };
        let permit = match cluster.connections.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => match slot.starve(cluster, speech).await {
                Ok(Found::Permit(permit)) => permit,
                Ok(Found::Lease(lease)) => return Ok(*lease),
                Err(miss) => {
                    // Those behind us have waited as long.
                    slot.failures.fetch_add(1, Relaxed);
                    return Err(miss);
                }
            },
        };
        let opened = self.open(cluster, (endpoint, speech), &slot, permit).await;
        let result = opened.as_ref().map_or_else(|reason| *reason, |_| "ok");
        self.metrics().outbound.connections.with_label_values(&[&cluster.config.name, result]).inc();
        opened.map_err(|reason| {
            slot.failures.fetch_add(1, Relaxed);
            Miss::Failed(reason)
        })
    }

    fn metrics(&self) -> &Metrics {
        &self.journal.metrics
    }

    async fn open(
        &self,
        cluster: &Arc<Cluster>,
        (endpoint, speech): (SocketAddr, Speech),
        slot: &Arc<Slot>,
        permit: OwnedSemaphorePermit,
    ) -> Result<Lease, Reason> {
        // Before the handshake: an identity that changes during it makes the connection an old one.
        let birth = Birth { at: Instant::now(), generation: cluster.origin.generation() };
        let io = TokioIo::new(dial(cluster, endpoint, speech).await?);
        let open = self.metrics().outbound.connections_open.with_label_values(&[&cluster.config.name]);
        let lease = |sender, stream| Lease { sender, reused: false, slot: slot.clone(), birth, _stream: stream };
        if speech == Speech::H2 {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder.timer(TokioTimer::new()).keep_alive_interval(PING_INTERVAL).keep_alive_timeout(PING_TIMEOUT);
            builder.initial_stream_window_size(STREAM_WINDOW).initial_connection_window_size(CONNECTION_WINDOW);
            let (sender, connection) = builder.handshake(io).await.map_err(|_| "protocol")?;
            live(connection, open, permit);
            let streams = Gauge::default();
            let stream = streams.hold();
            slot.lock().shared.push(Multi { sender: sender.clone(), birth, streams, used: birth.at });
            return Ok(lease(Sender::H2(sender), Some(stream)));
        }
        let (sender, connection) = http1::Builder::new().handshake(io).await.map_err(|_| "protocol")?;
        live(connection.with_upgrades(), open, permit);
        Ok(lease(Sender::H1(sender), None))
    }

    /// Lets go of what has been unused for too long or may not be used any more. Once a second.
    pub fn reap(&self, cluster_of: impl Fn(usize) -> Option<Arc<Cluster>>) {
        self.slots.lock().expect("nothing panics while it holds slots").retain(|(number, ..), slot| {
            let Some(cluster) = cluster_of(*number) else { return false };
            let mut state = slot.lock();
            let unused_max = cluster.config.limits.idle_timeout;
            // Somebody elsewhere waits for a connection to close so that his may open.
            let generous = cluster.starving.get() > state.waiting;
            state.idle.retain(|idle| {
                !generous
                    && !idle.sender.is_closed()
                    && idle.since.elapsed() < unused_max
                    && idle.birth.may_serve(&cluster)
            });
            state.shared.retain(|multi| {
                let used = multi.streams.get() > 0 || (!generous && multi.used.elapsed() < unused_max);
                used && !multi.sender.is_closed() && multi.birth.may_serve(&cluster)
            });
            let empty = state.idle.is_empty() && state.shared.is_empty();
            drop(state);
            // Leases and waiters hold the slot too; they find it empty, and it is theirs alone then.
            !(empty && Arc::strong_count(slot) == 1)
        });
    }
}

enum Found {
    Permit(OwnedSemaphorePermit),
    Lease(Box<Lease>),
}

impl Slot {
    /// A connection that can take a request now.
    fn take(self: &Arc<Self>, cluster: &Cluster, speech: Speech) -> Option<Lease> {
        let mut state = self.lock();
        let lease = |sender, birth, stream| Lease { sender, reused: true, slot: self.clone(), birth, _stream: stream };
        if speech != Speech::H2 {
            // The youngest first: the others may idle out.
            while let Some(idle) = state.idle.pop() {
                if idle.sender.is_ready() && idle.birth.may_serve(cluster) {
                    return Some(lease(Sender::H1(idle.sender), idle.birth, None));
                }
            }
            return None;
        }
        state.shared.retain(|multi| !multi.sender.is_closed() && multi.birth.may_serve(cluster));
        let at_limit = cluster.connections.available_permits() == 0;
        let multi = state.shared.iter_mut().min_by_key(|multi| multi.streams.get())?;
        if multi.streams.get() >= STREAMS_MAX && !at_limit {
            return None;
        }
        multi.used = Instant::now();
        Some(lease(Sender::H2(multi.sender.clone()), multi.birth, Some(multi.streams.hold())))
    }

    /// Waits for the right to open a connection, or for one that becomes idle, whichever comes first.
    async fn starve(self: &Arc<Self>, cluster: &Arc<Cluster>, speech: Speech) -> Result<Found, Miss> {
        let _starving = cluster.starving.hold();
        let _waiting = Waiting::new(self);
        let deadline = tokio::time::sleep(cluster.config.limits.connect_timeout);
        tokio::pin!(deadline);
        loop {
            let freed = self.freed.notified();
            tokio::select! {
                permit = cluster.connections.clone().acquire_owned() => {
                    return Ok(Found::Permit(permit.expect("the semaphore is never closed")));
                }
                () = freed => {
                    if let Some(lease) = self.take(cluster, speech) {
                        return Ok(Found::Lease(Box::new(lease)));
                    }
                }
                () = &mut deadline => return Err(Miss::Overflow("connections_max")),
            }
        }
    }
}

struct Waiting<'a>(&'a Slot);

impl<'a> Waiting<'a> {
    fn new(slot: &'a Slot) -> Self {
        slot.lock().waiting += 1;
        Waiting(slot)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.lock().waiting -= 1;
    }
}

impl Lease {
    /// Sends; the connection stays ours until [`Lease::give_back`].
    pub async fn send(&mut self, request: Request<Copy>) -> Result<Response<Incoming>, Unanswered> {
        let unanswered = |mut error: hyper::client::conn::TrySendError<Request<Copy>>| {
            let unsent = error.take_message().is_some();
            Unanswered { error: error.into_error(), unsent }
        };
        match &mut self.sender {
            Sender::H1(sender) => sender.try_send_request(request).await.map_err(unanswered),
            Sender::H2(sender) => sender.try_send_request(request).await.map_err(unanswered),
        }
    }

    /// Once the head of the answer is there: an http/1 connection is idle again when its answer has been read to the
    /// end, and closed if that never happens. For HTTP/2, what is returned holds the place on the connection.
    pub fn give_back(self, cluster: &Arc<Cluster>) -> Option<Held> {
        let Lease { sender: Sender::H1(mut sender), slot, birth, .. } = self else { return self._stream };
        let cluster = cluster.clone();
        tokio::spawn(async move {
            if sender.ready().await.is_err() || !birth.may_serve(&cluster) {
                return;
            }
            let mut state = slot.lock();
            // Somebody waits, and not here: closing lets them open theirs.
            if state.waiting == 0 && cluster.starving.get() > 0 {
                return;
            }
            state.idle.push(Idle { sender, birth, since: Instant::now() });
            drop(state);
            slot.freed.notify_one();
        });
        None
    }
}

/// Drives a connection until it ends, and counts it meanwhile.
fn live<C>(connection: C, open: prometheus::IntGauge, permit: OwnedSemaphorePermit)
where
    C: Future<Output = Result<(), hyper::Error>> + Send + 'static,
{
    open.inc();
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to an endpoint ended");
        }
        open.dec();
        drop(permit);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_connections_may_take_a_request() {
        let seconds = Duration::from_secs;
        let limits = |age_max: Option<u64>| ClusterLimits {
            connect_timeout: seconds(1),
            connections_max: 1,
            pending_max: 1,
            requests_max: 1,
            idle_timeout: seconds(1),
            connection_age_max: age_max.map(seconds),
            stale_age_max: seconds(60),
        };
        let cases = [
            (Some(3600), 59, false, true),
            (Some(3600), 60, false, false),
            (Some(3600), 3599, true, true),
            (Some(3600), 3600, true, false),
            (None, 1 << 30, true, true),
            (None, 1 << 30, false, false),
        ];
        for (age_max, age, same_identity, want) in cases {
            assert_eq!(may_serve(&limits(age_max), seconds(age), same_identity), want, "{age_max:?} {age}");
        }
    }
}
