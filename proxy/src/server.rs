//! Composition root: builds the rooms, opens the listeners, and closes everything in the right order.
//!
//! One single-threaded runtime for each core serves callers: a third less CPU per request than one runtime over all
//! cores, for nothing is stolen and nothing wakes a neighbour. The thread that called [`run`] conducts: signals, the
//! admin listener, starting and stopping the worker.

pub mod authorizer;
mod begin;
mod door;
mod drain;
mod listeners;
pub mod memory;
mod policed;
mod way_out;

use crate::accept::{Acceptor, Entrance, Modes};
use crate::admin;
use crate::admission::{self, Admission, QueueLimits};
use crate::auth::{Authenticator, ConfigProblem};
use crate::config::{self, Behind, Config};
use crate::dialects::Dialect;
use crate::exchange::{Answers, Exchange, Limiter};
use crate::ext_authz::client::Authorizers;
use crate::outbound::BadCluster;
use crate::policy::Problem;
use crate::record::{Journal, unix_now};
use crate::scale::targets::Target;
use crate::tls::Identity;
use crate::tls::pem::SourceError;
use crate::tls::sources::{self, Source};
use crate::watched::WATCH_PERIOD;
use crate::worker::{Known, take_seat};
use authorizer::Counter;
pub use begin::{guard, run};
use door::{App, app};
use drain::Drain;
use policed::{Policed, policies};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use way_out::{Door, WayOut};

/// How long the worker's end is waited for at the very end; beyond it, it is killed with us.
const WORKER_END: Duration = Duration::from_secs(4);
/// How long a stream that is cut may take to carry its error event.
const CUT_LINGER: Duration = Duration::from_millis(300);

/// What listens where; ports are the real ones, also where the configuration said 0.
#[derive(Clone, Copy, Debug)]
pub struct Running {
    pub listen: SocketAddr,
    pub admin: SocketAddr,
    /// The way out, if there is one.
    pub outbound: Option<SocketAddr>,
}

/// Why the server could not start, in words that say what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot listen on {address} ({path}): {source}; {advice}")]
    Listen { path: &'static str, address: SocketAddr, source: std::io::Error, advice: &'static str },
    #[error("tls: {0}")]
    Tls(#[from] SourceError),
    #[error("policy.folder: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n  "))]
    Policy(Vec<Problem>),
    #[error("auth.authconfig: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n  "))]
    AuthConfig(Vec<Problem>),
    #[error("{0}")]
    Auth(#[from] ConfigProblem),
    #[error("{0}")]
    Outbound(#[from] BadCluster),
    #[error("the operating system gave no threads or timers: {0}")]
    System(#[from] std::io::Error),
}

/// What differs between the real server and one under test.
pub struct Parts {
    pub answers: Answers,
    pub target: Arc<dyn Target>,
    pub dialects: &'static [&'static dyn Dialect],
    pub journal: Journal,
    /// In the place of what the configuration says of callers.
    pub by: Option<Authenticator>,
}

/// Everything open, nothing running.
pub struct Server {
    config: Config,
    exchange: Arc<Exchange>,
    target: Arc<dyn Target>,
    acceptor: Arc<Acceptor>,
    /// With the source that keeps it fresh, until that runs.
    identity: Option<Arc<Identity>>,
    source: Option<Box<dyn Source>>,
    policed: Option<Policed>,
    listener: TcpListener,
    admin: TcpListener,
    healthz: Option<TcpListener>,
    way_out: Option<WayOut>,
    counter: Option<Counter>,
    cut: watch::Sender<bool>,
}

impl Server {
    /// Reads what must be readable, and takes the ports.
    pub fn open(config: Config, parts: Parts) -> Result<Server, Error> {
        listeners::raise_fd_limit();
        let journal = Arc::new(parts.journal);
        let (identity, source) = sources::open(&config.tls)?.unzip();
        let authenticator = parts.by.map_or_else(|| authenticator(&config.auth), Ok).map(Arc::new)?;
        let listener = listeners::listen("listen", config.listen)?;
        let admin = listeners::listen("admin", config.admin)?;
        let healthz = config.healthz.map(|address| listeners::listen("healthz", address)).transpose()?;
        let way_out = WayOut::open(&config, &identity, &journal)?;
        let counter = Counter::beside(&config, identity.as_ref(), &authenticator, journal.metrics.authorizations())?;
        let ports = ports(&listener, &admin, way_out.as_ref(), counter.as_ref())?;
        let policed = policies(&config, authenticator.barred())?;
        let policies = policed.as_ref().map(|(policies, _)| policies.clone());
        let providers = config.policy.as_ref().map(|policy| policy.providers.clone()).unwrap_or_default();
        let asked = journal.metrics.ext_authz();
        let authorizers = Arc::new(Authorizers::new(providers, config.threads + 1, config.xfcc, asked));
        let acceptor = Arc::new(Acceptor::new(Entrance {
            modes: Modes { tls: config.tls.clone(), policies: policies.clone(), authorizers: authorizers.clone() },
            identity: identity.clone().filter(|_| config.tls.any()),
            interception: config.interception.clone(),
            xfcc: config.xfcc,
            ports: ports.clone(),
            authenticator: authenticator.clone(),
            limits: config.limits.clone(),
            journal: journal.clone(),
        }));
        let (cut, to_cut) = watch::channel(false);
        let models = config.worker().map(|worker| worker.models.clone()).unwrap_or_default();
        let exchange = Arc::new(Exchange {
            dialects: parts.dialects,
            authenticator,
            revocations: Arc::default(),
            policies,
            authorizers,
            admission: Admission::new(admission_limits(&config)),
            answers: parts.answers,
            xfcc: config.xfcc,
            ports,
            known: Arc::new(Known::new(models, unix_now().as_secs())),
            limits: config.limits.clone(),
            limiter: Limiter::new(&config.rate_limits, config.threads + 1, &journal.metrics),
            journal,
            cut: to_cut,
        });
        Ok(Server {
            config,
            exchange,
            target: parts.target,
            acceptor,
            identity,
            source,
            policed,
            listener,
            admin,
            healthz,
            way_out,
            counter,
            cut,
        })
    }

    /// Serves until `stop` gives a value, drains, returns. Each further value of `stop` makes the end more urgent: the
    /// second one is at once.
    pub fn run(
        mut self,
        stop: impl FnOnce() -> mpsc::UnboundedReceiver<()>,
        on_ready: impl FnOnce(&Running),
    ) -> Result<(), Error> {
        let outbound = self.way_out.as_ref().map(WayOut::address).transpose()?;
        let running = Running { listen: self.listener.local_addr()?, admin: self.admin.local_addr()?, outbound };
        let threads = self.config.threads;
        take_seat(threads);
        let control = Builder::new_current_thread().enable_all().build()?;
        control.block_on(async move {
            let mut stop = stop();
            let mut apps = Vec::with_capacity(threads);
            let (halt, halted) = watch::channel(false);
            let (alive, all_gone) = mpsc::channel::<()>(1);
            let (seated, mut seats) = mpsc::channel::<()>(1);
            for number in 0..threads {
                let app = app(self.exchange.clone(), &self.config);
                apps.push(app.clone());
                let seat = Seat {
                    number,
                    listener: self.listener.try_clone()?,
                    acceptor: self.acceptor.clone(),
                    app,
                    halted: halted.clone(),
                    to_cut: self.cut.subscribe(),
                    door: self.way_out.as_ref().map(WayOut::door).transpose()?,
                    alive: alive.clone(),
                };
                let seated = seated.clone();
                std::thread::Builder::new().name(format!("outrider-{number}")).spawn(move || {
                    let _seated = seated;
                    if let Err(error) = seat.serve() {
                        tracing::error!(number, %error, "a serving thread ended");
                    }
                })?;
            }
            drop((alive, seated));
            let (end_worker, worker_ended) = self.staff(running)?;
            // Each thread has its own copy: when the last one closes, nobody can connect any more.
            drop(self.listener);
            let counter = self.counter.map(Counter::staff).transpose()?;
            on_ready(&running);
            tracing::info!(listen = %running.listen, admin = %running.admin, threads, "serving");
            let timeout = self.config.drain.timeout;
            let drain = Drain { exchange: &self.exchange, apps, halt, cut: &self.cut, timeout, all_gone };
            let deadline = drain.when_told(&mut stop).await;
            if let Some(counter) = counter {
                counter.drain(deadline.saturating_duration_since(Instant::now())).await;
            }
            if let Some(way_out) = self.way_out {
                way_out.drain(deadline, &mut stop, &mut seats).await;
            }
            let _ = end_worker.send(());
            let _ = tokio::time::timeout(WORKER_END, worker_ended).await;
            tracing::info!("ended");
            self.exchange.journal.lines.flush();
            Ok(())
        })
    }

    /// Starts what runs beside the callers: the admin listener, certificate rotation, and the worker's keeper, which is
    /// told to end by the first half of what is returned and has ended when the second half resolves.
    fn staff(&mut self, running: Running) -> Result<(oneshot::Sender<()>, tokio::task::JoinHandle<()>), Error> {
        let admin = tokio::net::TcpListener::from_std(self.admin.try_clone()?)?;
        let office = admin::Office::new(self.exchange.clone(), self.config.clone(), running, self.identity.clone());
        tokio::spawn(admin::serve(admin, Arc::new(office)));
        if let Some(healthz) = self.healthz.take() {
            let identity = self.identity.clone().filter(|_| self.config.tls.any());
            tokio::spawn(admin::healthz::serve(tokio::net::TcpListener::from_std(healthz)?, identity));
        }
        if let (Some(source), Some(identity)) = (self.source.take(), &self.identity) {
            tokio::spawn(source.run(identity.clone()));
        }
        tokio::spawn(self.exchange.authenticator.clone().tend());
        if let Some((policies, keys)) = &self.policed {
            tokio::spawn(policies.clone().watch(WATCH_PERIOD));
            tokio::spawn(keys.clone().run());
        }
        if let Some(way_out) = &self.way_out {
            way_out.staff();
        }
        let (end, ended) = oneshot::channel();
        let keeper = self.exchange.admission.clone().run(self.target.clone(), async move { drop(ended.await) });
        Ok((end, tokio::spawn(keeper)))
    }
}

/// One serving thread.
struct Seat {
    number: usize,
    listener: TcpListener,
    acceptor: Arc<Acceptor>,
    app: Arc<App>,
    halted: watch::Receiver<bool>,
    to_cut: watch::Receiver<bool>,
    door: Option<Door>,
    /// Dropped when the last caller is gone.
    alive: mpsc::Sender<()>,
}

impl Seat {
    /// The thread's life: accept until halted, then wait for its connections, until cut.
    fn serve(self) -> std::io::Result<()> {
        let Seat { number, listener, acceptor, app, halted, mut to_cut, door, alive } = self;
        take_seat(number);
        let runtime = Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let way_out = door.map(|door| tokio::spawn(door.serve()));
            let tracker = TaskTracker::new();
            acceptor.serve(listener, app, halted, tracker.clone()).await;
            tracker.close();
            tokio::select! {
                () = tracker.wait() => {}
                // Exchanges hear of it too: streams get their error event, and a moment to carry it.
                _ = to_cut.wait_for(|cut| *cut) => drop(tokio::time::timeout(CUT_LINGER, tracker.wait()).await),
            }
            drop(alive);
            match way_out {
                Some(way_out) => way_out.await.unwrap_or(Ok(())),
                None => Ok(()),
            }
        })
        // Dropping the runtime drops what still runs; each exchange writes its record as it goes.
    }
}

/// A value for each SIGTERM or SIGINT. Called within a runtime.
fn signals() -> mpsc::UnboundedReceiver<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (tell, told) = mpsc::unbounded_channel();
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        match signal(kind) {
            Ok(mut signal) => {
                let tell = tell.clone();
                tokio::spawn(async move {
                    while signal.recv().await.is_some() {
                        let _ = tell.send(());
                    }
                });
            }
            Err(error) => tracing::error!(%error, "a signal cannot be watched"),
        }
    }
    // Without any signal handler the server still serves until it is killed.
    std::mem::forget(tell);
    told
}

/// More requests than any machine holds.
const UNLIMITED: usize = usize::MAX >> 1;

fn admission_limits(config: &Config) -> admission::Limits {
    let (concurrency, idle_timeout) = match &config.behind {
        Behind::Worker(worker) => (worker.concurrency, worker.idle_timeout),
        Behind::Forward(forward) => (forward.concurrency.unwrap_or(UNLIMITED), None),
    };
    admission::Limits {
        concurrency,
        queue: QueueLimits { requests_max: config.queue.requests_max, bytes_max: config.queue.bytes_max },
        wait_max: config.queue.wait_max,
        idle_timeout,
    }
}

/// Those we listen on ourselves.
fn ports(
    listener: &TcpListener,
    admin: &TcpListener,
    way_out: Option<&WayOut>,
    counter: Option<&Counter>,
) -> std::io::Result<Vec<u16>> {
    let mut ports = vec![listener.local_addr()?.port(), admin.local_addr()?.port()];
    ports.extend(way_out.map(WayOut::address).transpose()?.map(|address| address.port()));
    ports.extend(counter.map(Counter::addresses).transpose()?.into_iter().flatten().map(|(_, address)| address.port()));
    Ok(ports)
}

/// Whoever is to enter is said in one place, here or in policies that others wrote.
fn authenticator(auth: &config::Auth) -> Result<Authenticator, Error> {
    match &auth.authconfig {
        Some(policies) => Authenticator::of_policies(policies).map_err(Error::AuthConfig),
        None => Ok(Authenticator::from_config(&auth.methods)?),
    }
}

#[cfg(test)]
mod tests;
