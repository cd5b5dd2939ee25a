//! The ways to begin: by a configuration alone, or by a policy made in code in front of another server.

use super::{Error, Parts, Running, Server, signals};
use crate::auth::Authenticator;
use crate::config::{Behind, Config, Destination};
use crate::dialects::{DIALECTS, Dialect};
use crate::exchange::Answers;
use crate::metrics::Metrics;
use crate::record::{Journal, Lines};
use crate::scale::targets::{Address, External, Process, Target};
use crate::worker::Uds;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Serves until SIGTERM or SIGINT, drains, returns. Blocks; needs no runtime around it.
///
/// `on_ready` is called once, when callers can connect. It is the caller's to print `ready`: nothing here writes to
/// stdout.
pub fn run(config: Config, on_ready: impl FnOnce(&Running)) -> Result<(), Error> {
    begin(config, None, on_ready)
}

/// As [`run`], by a policy that was made in code, in the place of `auth.methods`. Without dialects: some have questions
/// that are open to all.
pub fn guard(config: Config, by: Authenticator, on_ready: impl FnOnce(&Running)) -> Result<(), Error> {
    begin(config, Some(by), on_ready)
}

fn begin(config: Config, by: Option<Authenticator>, on_ready: impl FnOnce(&Running)) -> Result<(), Error> {
    let dialects: &'static [&'static dyn Dialect] = if by.is_some() { &[] } else { DIALECTS };
    let lines = if config.access_log { Lines::stderr() } else { Lines::None };
    let journal = Journal { metrics: Metrics::new(), lines };
    let parts = match &config.behind {
        Behind::Worker(worker) => {
            let (socket, command) = match (&worker.command, &config.upgrade) {
                (Some(command), Some(_)) => own_worker(&worker.socket, command),
                (command, _) => (worker.socket.clone(), command.clone()),
            };
            let target: Arc<dyn Target> = match command {
                Some(command) => Arc::new(Process::new(command, worker.start_timeout)),
                None => Arc::new(External::new(Address::Unix(socket.clone()), worker.start_timeout)),
            };
            let answers = Answers::Worker(Arc::new(Uds::new(socket, config.threads + 1)));
            Parts { answers, target, dialects, journal, by }
        }
        Behind::Forward(forward) => {
            let target: Arc<dyn Target> = match &forward.to {
                Destination::Tcp(address) => Arc::new(External::new(Address::Tcp(*address), forward.start_timeout)),
                Destination::Unix(path) => Arc::new(External::new(Address::Unix(path.clone()), forward.start_timeout)),
                Destination::Original(_) => Arc::new(External::new(Address::Any, forward.start_timeout)),
            };
            Parts { answers: Answers::Foreign(forward.clone()), target, dialects, journal, by }
        }
    };
    let server = Server::open(config, parts)?;
    server.run(signals, on_ready)
}

/// Where sidecars succeed each other, the older one's worker goes on until its last stream has ended: the newer one starts
/// a worker of its own, at the first request, on a socket that is nobody else's.
fn own_worker(socket: &Path, command: &[String]) -> (PathBuf, Option<Vec<String>>) {
    let mut own = socket.as_os_str().to_owned();
    own.push(format!(".{}", std::process::id()));
    let told = ["--socket".to_owned(), own.to_string_lossy().into_owned()];
    (own.into(), Some(command.iter().cloned().chain(told).collect()))
}
