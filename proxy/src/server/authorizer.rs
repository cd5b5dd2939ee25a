//! Where gateways are answered: threads of their own, beside those that serve callers or instead of them.
//!
//! A gateway's questions must not wait for somebody's long answer, nor the other way round.

use super::{Error, authenticator, listeners, signals};
use crate::admin::authorizer::{Office, serve as serve_admin};
use crate::auth::Authenticator;
use crate::config::Config;
use crate::config::served::{Authorizer, Served, ServedTls};
use crate::ext_authz::server::{Counted, Decide, Desk, Methods, Protocol};
use crate::metrics::Metrics;
use crate::tls::sources;
use crate::tls::{Identity, Mode, server_config};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Builder;
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

/// Open, and not yet answering.
pub struct Counter {
    listeners: Vec<(TcpListener, Protocol)>,
    desk: Arc<Desk>,
    tls: Option<TlsAcceptor>,
    threads: usize,
    halt: watch::Sender<bool>,
}

/// What answers, to be ended.
pub struct Staffed {
    halt: watch::Sender<bool>,
    /// Closed when the last question is answered.
    all_gone: mpsc::Receiver<()>,
}

impl Counter {
    /// Takes the ports. `identity` is there where the configuration asks for TLS: it is refused otherwise.
    pub fn open(
        served: &Served,
        identity: Option<&Arc<Identity>>,
        decide: Arc<dyn Decide>,
        counted: Counted,
    ) -> Result<Counter, Error> {
        let mut listeners = Vec::with_capacity(2);
        for (path, address, protocol) in [
            ("ext_authz_server.grpc", served.grpc, Protocol::Grpc),
            ("ext_authz_server.http", served.http, Protocol::Http),
        ] {
            if let Some(address) = address {
                listeners.push((listeners::listen(path, address)?, protocol));
            }
        }
        let mode = match served.tls {
            ServedTls::Disable => None,
            ServedTls::Simple => Some(Mode::Permissive),
            ServedTls::Mutual => Some(Mode::Strict),
        };
        let tls = mode.zip(identity).map(|(mode, identity)| server_config(mode, identity.clone()).into());
        let desk = Desk::new(decide, served.clone(), counted);
        Ok(Counter { listeners, desk, tls, threads: served.threads, halt: watch::Sender::new(false) })
    }

    /// What a sidecar's configuration has, decided by what decides about its own callers.
    pub fn beside(
        config: &Config,
        identity: Option<&Arc<Identity>>,
        authenticator: &Arc<Authenticator>,
        counted: Counted,
    ) -> Result<Option<Counter>, Error> {
        let open = |served| Counter::open(served, identity, Arc::new(Methods(authenticator.clone())), counted);
        config.served.as_ref().map(open).transpose()
    }

    /// Where it listens: the real ports, also where the configuration said 0.
    pub fn addresses(&self) -> std::io::Result<Vec<(Protocol, SocketAddr)>> {
        self.listeners.iter().map(|(listener, protocol)| Ok((*protocol, listener.local_addr()?))).collect()
    }

    /// Starts the threads.
    pub fn staff(self) -> std::io::Result<Staffed> {
        let (alive, all_gone) = mpsc::channel(1);
        for number in 0..self.threads {
            let listeners = self.listeners.iter().map(|(listener, protocol)| Ok((listener.try_clone()?, *protocol)));
            let seat = Seat {
                listeners: listeners.collect::<std::io::Result<_>>()?,
                desk: self.desk.clone(),
                tls: self.tls.clone(),
                halted: self.halt.subscribe(),
                alive: alive.clone(),
            };
            std::thread::Builder::new().name(format!("outrider-authz-{number}")).spawn(move || {
                if let Err(error) = seat.serve() {
                    tracing::error!(number, %error, "a thread that answers gateways ended");
                }
            })?;
        }
        Ok(Staffed { halt: self.halt, all_gone })
    }
}

impl Staffed {
    /// Nobody new; returns when all is answered, or after `timeout`.
    pub async fn drain(mut self, timeout: Duration) {
        self.halt.send_replace(true);
        if tokio::time::timeout(timeout, self.all_gone.recv()).await.is_err() {
            tracing::warn!("the drain timed out; gateways that still wait are cut");
        }
    }
}

/// One thread's share.
struct Seat {
    listeners: Vec<(TcpListener, Protocol)>,
    desk: Arc<Desk>,
    tls: Option<TlsAcceptor>,
    halted: watch::Receiver<bool>,
    /// Dropped at the end.
    alive: mpsc::Sender<()>,
}

impl Seat {
    fn serve(self) -> std::io::Result<()> {
        let Seat { listeners, desk, tls, halted, alive } = self;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async move {
            let tracker = TaskTracker::new();
            let mut doors = Vec::with_capacity(listeners.len());
            for (listener, protocol) in listeners {
                let door = (tokio::net::TcpListener::from_std(listener)?, protocol);
                let (desk, tls, halted, tracker) = (desk.clone(), tls.clone(), halted.clone(), tracker.clone());
                doors.push(tokio::spawn(async move { desk.serve(door, tls, halted, &tracker).await }));
            }
            for door in doors {
                let _ = door.await;
            }
            tracker.close();
            tracker.wait().await;
            drop(alive);
            Ok(())
        })
    }
}

/// What listens where.
pub struct Answering {
    pub doors: Vec<(Protocol, SocketAddr)>,
    pub admin: SocketAddr,
}

/// A process that only answers gateways, until SIGTERM or SIGINT. Blocks; needs no runtime around it.
pub fn run(config: Authorizer, on_ready: impl FnOnce(&Answering)) -> Result<(), Error> {
    listeners::raise_fd_limit();
    let metrics = Arc::new(Metrics::new());
    let opened = config.tls.as_ref().map(sources::open).transpose()?.flatten();
    let (identity, source) = opened.unzip();
    let authenticator = Arc::new(authenticator(&config.auth)?);
    let decide = Arc::new(Methods(authenticator.clone()));
    let counter = Counter::open(&config.served, identity.as_ref(), decide, metrics.authorizations())?;
    let admin = listeners::listen("admin", config.admin)?;
    let answering = Answering { doors: counter.addresses()?, admin: admin.local_addr()? };
    let control = Builder::new_current_thread().enable_all().build()?;
    control.block_on(async move {
        let mut stop = signals();
        if let (Some(source), Some(identity)) = (source, &identity) {
            tokio::spawn(source.run(identity.clone()));
        }
        tokio::spawn(authenticator.clone().tend());
        let (drain, draining) = watch::channel(false);
        let office = Arc::new(Office { metrics, identity, authenticator, draining });
        tokio::spawn(serve_admin(tokio::net::TcpListener::from_std(admin)?, office));
        let staffed = counter.staff()?;
        on_ready(&answering);
        tracing::info!(threads = config.served.threads, "answering gateways");
        stop.recv().await;
        drain.send_replace(true);
        tokio::select! {
            () = staffed.drain(config.drain_timeout) => {}
            _ = stop.recv() => tracing::warn!("told twice; gateways that still wait are cut"),
        }
        tracing::info!("ended");
        Ok(())
    })
}
