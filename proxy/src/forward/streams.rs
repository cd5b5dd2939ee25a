//! HTTP/2 connections to the servers behind, kept by each serving thread for itself: many requests at once on each.
//!
//! Never gives a connection more streams than its server allows, or than are ours to give; never one that has ended.

use super::pool::dial;
use super::{CONNECTION_WINDOW, STREAM_WINDOW, STREAMS_MAX, Upstream};
use crate::outbound::origin::Speech;
use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

pub struct Streams {
    servers: Mutex<State>,
    unused_max: Duration,
}

#[derive(Default)]
struct State {
    of: HashMap<Upstream, Arc<Server>>,
    swept: bool,
}

/// One server's connections.
#[derive(Default)]
struct Server {
    open: Mutex<Vec<Connection>>,
    /// Whoever finds no room waits here for whoever is dialing: a herd needs one new connection and not a hundred.
    dialing: tokio::sync::Mutex<()>,
}

struct Connection {
    send: SendRequest<Bytes>,
    life: Arc<Life>,
}

/// What is known of a connection.
struct Life {
    streams: AtomicUsize,
    ended: AtomicBool,
    /// When its last stream ended.
    unused_since: Mutex<Instant>,
}

/// The right to one stream, until dropped.
pub struct Lease {
    pub send: SendRequest<Bytes>,
    life: Arc<Life>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.life.streams.fetch_sub(1, Relaxed) == 1 {
            *self.life.unused_since.lock().expect("nothing panics while it holds a time") = Instant::now();
        }
    }
}

impl Connection {
    fn has_room(&self) -> bool {
        let streams = self.life.streams.load(Relaxed);
        streams < STREAMS_MAX && streams < self.send.current_max_send_streams() && !self.life.ended.load(Relaxed)
    }

    fn lease(&self) -> Lease {
        self.life.streams.fetch_add(1, Relaxed);
        Lease { send: self.send.clone(), life: self.life.clone() }
    }

    /// Whether it is worth keeping.
    fn is_of_use(&self, unused_max: Duration) -> bool {
        let unused = || self.life.unused_since.lock().expect("nothing panics while it holds a time").elapsed();
        let idles = || self.life.streams.load(Relaxed) == 0 && unused() >= unused_max;
        !self.life.ended.load(Relaxed) && !idles()
    }
}

impl Server {
    fn open(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.open.lock().expect("nothing panics while it holds connections")
    }

    fn with_room(&self) -> Option<Lease> {
        let mut open = self.open();
        open.retain(|connection| !connection.life.ended.load(Relaxed));
        // The fullest first: the others may idle out.
        open.iter().find(|connection| connection.has_room()).map(Connection::lease)
    }
}

impl Streams {
    pub fn new(unused_max: Duration) -> Arc<Streams> {
        Arc::new(Streams { servers: Mutex::default(), unused_max })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.servers.lock().expect("nothing panics while it holds connections")
    }

    fn server(self: &Arc<Self>, to: &Upstream) -> Arc<Server> {
        let mut state = self.lock();
        if !std::mem::replace(&mut state.swept, true) {
            tokio::spawn(self.clone().sweep());
        }
        match state.of.get(to) {
            Some(server) => server.clone(),
            None => state.of.entry(to.clone()).or_default().clone(),
        }
    }

    /// A stream on a connection that is there, or on a new one, made within `patience`.
    ///
    /// # Errors
    /// There is no connection to be had: nothing was sent.
    pub async fn lease(self: &Arc<Self>, to: &Upstream, patience: Duration) -> io::Result<Lease> {
        let server = self.server(to);
        loop {
            let mut lease = match server.with_room() {
                Some(lease) => lease,
                None => {
                    let _turn = server.dialing.lock().await;
                    match server.with_room() {
                        Some(lease) => lease,
                        None => dialed(&server, to, patience).await?,
                    }
                }
            };
            if poll_fn(|cx| lease.send.poll_ready(cx)).await.is_ok() {
                return Ok(lease);
            }
            // It ended while it was idle, or was asked to take no more.
            lease.life.ended.store(true, Relaxed);
        }
    }

    /// Closes what has been unused for too long, until nothing is left.
    async fn sweep(self: Arc<Self>) {
        loop {
            tokio::time::sleep(self.unused_max.max(Duration::from_millis(100))).await;
            let mut state = self.lock();
            state.of.retain(|_, server| {
                let mut open = server.open();
                open.retain(|connection| connection.is_of_use(self.unused_max));
                // Somebody may be dialing just now.
                !open.is_empty() || Arc::strong_count(server) > 1
            });
            if state.of.is_empty() {
                state.swept = false;
                return;
            }
        }
    }
}

async fn dialed(server: &Server, to: &Upstream, patience: Duration) -> io::Result<Lease> {
    let opening = async {
        let socket = dial(to, Speech::H2).await?;
        let mut builder = Builder::new();
        builder.initial_window_size(STREAM_WINDOW).initial_connection_window_size(CONNECTION_WINDOW).enable_push(false);
        builder.handshake::<_, Bytes>(socket).await.map_err(io::Error::other)
    };
    let (send, connection) = tokio::time::timeout(patience, opening).await.map_err(|_| io::ErrorKind::TimedOut)??;
    let life =
        Life { streams: AtomicUsize::new(0), ended: AtomicBool::new(false), unused_since: Instant::now().into() };
    let life = Arc::new(life);
    let ends = life.clone();
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to the server behind broke");
        }
        ends.ended.store(true, Relaxed);
    });
    let connection = Connection { send, life };
    let lease = connection.lease();
    server.open().push(connection);
    Ok(lease)
}
