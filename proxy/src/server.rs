//! Composition root: builds the rooms, opens the listeners, and closes everything in the right order.
//!
//! One single-threaded runtime for each core serves callers: a third less CPU per request than one runtime over all
//! cores, for nothing is stolen and nothing wakes a neighbour. The thread that called [`run`] conducts: signals, the
//! admin listener, starting and stopping the worker.

pub mod authorizer;
mod begin;
mod callers;
mod door;
mod drain;
mod handover;
mod listeners;
pub mod memory;
mod policed;
mod rooms;
mod seat;
mod sleepers;
mod way_out;

use crate::accept::Acceptor;
use crate::activator::BadService;
use crate::admin;
use crate::admission::{self, Admission, QueueLimits};
use crate::auth::{Authenticator, ConfigProblem};
use crate::config::{Behind, Config};
use crate::dialects::Dialect;
use crate::exchange::{Answers, Exchange};
use crate::knative::Knative;
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
use door::App;
use drain::Drain;
use handover::Ports;
use policed::{Policed, policies};
use rooms::Rooms;
use seat::Seat;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use way_out::WayOut;

/// How long the worker's end is waited for at the very end; beyond it, it is killed with us.
const WORKER_END: Duration = Duration::from_secs(4);
/// How long those whom policies want told of requests may take to hear of the last ones.
const CALLBACKS_END: Duration = Duration::from_secs(2);

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
    #[error(
        "the older server at {path} (upgrade.socket) did not hand over its sockets: {source}; end it, and start again"
    )]
    Upgrade { path: std::path::PathBuf, source: std::io::Error },
    #[error("tls: {0}")]
    Tls(#[from] SourceError),
    #[error("policy.folder: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n  "))]
    Policy(Vec<Problem>),
    #[error("auth.authconfig: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n  "))]
    AuthConfig(Vec<Problem>),
    #[error("audit.path: {0}; name a file in a folder that this process may write")]
    Audit(std::io::Error),
    #[error("device.group: {} cannot be shared: {source}; all who share it must be able to write there", group.display())]
    Device { group: PathBuf, source: std::io::Error },
    #[error("{0}")]
    Auth(#[from] ConfigProblem),
    #[error("{0}")]
    Outbound(#[from] BadCluster),
    #[error("{0}")]
    Activator(#[from] BadService),
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

/// Listeners that answer operators; dropped, they are closed.
type Windows = JoinSet<()>;

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
    ports: Ports,
    prober: Option<Arc<admin::Prober>>,
    /// Where this is a Knative pod; and where its autoscaler asks.
    knative: Option<Arc<Knative>>,
    stats: Option<TcpListener>,
    cut: watch::Sender<bool>,
}

impl Server {
    /// Reads what must be readable, and takes the ports.
    pub fn open(config: Config, parts: Parts) -> Result<Server, Error> {
        listeners::raise_fd_limit();
        let journal = Arc::new(parts.journal);
        let (identity, source) = sources::open(&config.tls)?.unzip();
        let authenticator = callers::open(&config.auth, config.audit.as_ref(), parts.by)?;
        let mut doors = Ports::open(config.upgrade.as_ref())?;
        let listener = doors.listen("listen", config.listen)?;
        let admin = doors.listen("admin", config.admin)?;
        let healthz = config.healthz.map(|address| doors.listen("healthz", address)).transpose()?;
        let way_out = WayOut::open(&config, &identity, &journal, &mut doors)?;
        let asked = journal.metrics.authorizations();
        let counter = Counter::beside(&config, identity.as_ref(), &authenticator, asked, &mut doors)?;
        let ports = ports(&listener, &admin, way_out.as_ref(), counter.as_ref())?;
        let policed = policies(&config, authenticator.barred())?;
        begin::ready_for_pods(&parts.answers, &config, identity.as_ref())?;
        let rooms = Rooms {
            policies: policed.as_ref().map(|(policies, _)| policies.clone()),
            authorizers: begin::authorizers(&config, &journal),
            admission: Admission::new(admission_limits(&config)),
            authenticator,
            ports,
            journal,
        };
        let acceptor = Arc::new(rooms.acceptor(&config, identity.as_ref()));
        let (cut, to_cut) = watch::channel(false);
        let exchange = Arc::new(rooms.exchange(&config, (parts.answers, parts.dialects), to_cut));
        let prober = config.readiness.clone().map(admin::Prober::new);
        let face = |knative| Arc::new(Knative::new(knative, exchange.leaving.clone(), prober.clone()));
        let knative = config.knative.as_ref().map(face);
        let stats = config.knative.as_ref().and_then(|knative| knative.stats);
        let stats = stats.map(|address| doors.listen("knative.stats", address)).transpose()?;
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
            ports: doors,
            prober,
            knative,
            stats,
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
                let app = App::new(self.exchange.clone(), &self.config, self.knative.clone());
                apps.push(app.clone());
                self.seat(number, app, halted.clone(), alive.clone())?.begin(seated.clone())?;
            }
            drop((alive, seated));
            let (end_worker, worker_ended, mut windows) = self.staff(running)?;
            // Each thread has its own copy: when the last one closes, nobody can connect any more.
            drop((self.listener, self.admin));
            let counter = self.counter.map(Counter::staff).transpose()?;
            on_ready(&running);
            tracing::info!(listen = %running.listen, admin = %running.admin, threads, "serving");
            let config = &self.config.drain;
            let drain = Drain { exchange: &self.exchange, apps, halt, cut: &self.cut, config, all_gone };
            let succeeded = async {
                let timeout = self.ports.succeeded().await;
                // What is asked there must be answered by whoever answers from now on.
                windows.abort_all();
                timeout
            };
            let deadline = drain.when_told(&mut stop, succeeded).await;
            if let Some(counter) = counter {
                counter.drain(deadline.saturating_duration_since(Instant::now())).await;
            }
            if let Some(way_out) = self.way_out {
                way_out.drain(deadline, &mut stop, &mut seats).await;
            }
            let _ = end_worker.send(());
            callers::end(worker_ended, &self.exchange.authenticator).await;
            tracing::info!("ended");
            self.exchange.journal.lines.flush();
            Ok(())
        })
    }

    /// One of the serving threads, with all it needs.
    fn seat(
        &self,
        number: usize,
        app: Arc<App>,
        halted: watch::Receiver<bool>,
        alive: mpsc::Sender<()>,
    ) -> Result<Seat, Error> {
        Ok(Seat {
            number,
            listener: self.listener.try_clone()?,
            acceptor: self.acceptor.clone(),
            app,
            halted,
            to_cut: self.cut.subscribe(),
            door: self.way_out.as_ref().map(WayOut::door).transpose()?,
            callers: self.exchange.journal.metrics.in_flight.clone(),
            alive,
        })
    }

    /// Starts what runs beside the callers: the windows for operators, certificate rotation, and the worker's keeper, which
    /// is told to end by the first thing that is returned and has ended when the second resolves.
    fn staff(&mut self, running: Running) -> Result<(oneshot::Sender<()>, JoinHandle<()>, Windows), Error> {
        let mut windows = Windows::new();
        let admin = tokio::net::TcpListener::from_std(self.admin.try_clone()?)?;
        let office = admin::Office::new(self.exchange.clone(), self.config.clone(), running, self.identity.clone());
        windows.spawn(admin::serve(admin, Arc::new(office.asking(self.prober.clone()))));
        if let Some(healthz) = self.healthz.take() {
            let identity = self.identity.clone().filter(|_| self.config.tls.any());
            windows.spawn(admin::healthz::serve(tokio::net::TcpListener::from_std(healthz)?, identity));
        }
        let stats = self.knative.as_ref().and_then(|knative| knative.stats.clone());
        if let (Some(listener), Some(stats)) = (self.stats.take(), stats) {
            windows.spawn(admin::stats::serve(tokio::net::TcpListener::from_std(listener)?, stats));
        }
        if let (Some(source), Some(identity)) = (self.source.take(), &self.identity) {
            tokio::spawn(source.run(identity.clone()));
        }
        tokio::spawn(self.exchange.authenticator.clone().tend());
        if let Answers::Pods(activator) = &self.exchange.answers {
            activator.staff(&self.exchange.journal.metrics);
        }
        if let Some((policies, keys)) = &self.policed {
            tokio::spawn(policies.clone().watch(WATCH_PERIOD));
            tokio::spawn(keys.clone().run());
        }
        if let Some(way_out) = &self.way_out {
            way_out.staff();
        }
        self.attend_sleeper();
        let (end, ended) = oneshot::channel();
        let keeper = self.exchange.admission.clone().run(self.target.clone(), async move { drop(ended.await) });
        Ok((end, tokio::spawn(keeper), windows))
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
        Behind::Forward(forward) => {
            let idle_timeout = forward.sleep.as_ref().and_then(|sleep| sleep.after);
            (forward.concurrency.unwrap_or(UNLIMITED), idle_timeout)
        }
        // Each service has an admission of its own; nobody waits in this one.
        Behind::Pods(_) => (UNLIMITED, None),
    };
    admission::Limits {
        concurrency,
        queue: QueueLimits {
            requests_max: config.queue.requests_max,
            bytes_max: config.queue.bytes_max,
            bands: config.queue.fairness.bands().len(),
        },
        wait_max: config.queue.wait_max,
        idle_timeout,
    }
}

/// Models by their names, of which nothing else is known yet.
fn known(config: &Config) -> Known {
    let models = config.worker().map(|worker| worker.models.clone()).unwrap_or_default();
    Known::new(models, unix_now().as_secs())
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

#[cfg(test)]
mod tests;
