//! The ways to begin: by a configuration alone, or by a policy made in code in front of another server.

use super::{Error, Parts, Running, Server, signals, sleepers};
use crate::auth::Authenticator;
use crate::config::{Behind, Config};
use crate::dialects::{DIALECTS, Dialect};
use crate::exchange::Answers;
use crate::metrics::Metrics;
use crate::record::{Journal, Lines};
use crate::worker::Uds;
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
    let target = sleepers::target(&config)?;
    let answers = match &config.behind {
        Behind::Worker(worker) => Answers::Worker(Arc::new(Uds::new(worker.socket.clone(), config.threads + 1))),
        Behind::Forward(forward) => Answers::Foreign(forward.clone()),
    };
    let parts = Parts { answers, target, dialects, journal, by };
    let server = Server::open(config, parts)?;
    server.run(signals, on_ready)
}
