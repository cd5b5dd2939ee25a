//! The ways to begin: by a configuration alone, or by a policy made in code in front of another server.

use super::{Error, Parts, Running, Server, listeners, signals, sleepers};
use crate::activator::Activator;
use crate::auth::Authenticator;
use crate::config::{Behind, Config, Worker};
use crate::dialects::{DIALECTS, Dialect};
use crate::exchange::Answers;
use crate::ext_authz::client::Authorizers;
use crate::metrics::Metrics;
use crate::outbound::origin::Ourselves;
use crate::record::{Journal, Lines};
use crate::tls::Identity;
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

fn begin(mut config: Config, by: Option<Authenticator>, on_ready: impl FnOnce(&Running)) -> Result<(), Error> {
    let dialects: &'static [&'static dyn Dialect] = if by.is_some() { &[] } else { DIALECTS };
    let lines = if config.access_log { Lines::stderr() } else { Lines::None };
    let journal = Journal { metrics: Metrics::new(), lines };
    if let (Some(_), Behind::Worker(worker)) = (&config.upgrade, &mut config.behind) {
        own_socket(worker);
    }
    let target = sleepers::target(&config)?;
    let answers = match &config.behind {
        Behind::Worker(worker) => Answers::Worker(Arc::new(Uds::new(worker.socket.clone(), config.threads + 1))),
        Behind::Forward(forward) => Answers::Foreign(forward.clone()),
        Behind::Pods(activator) => Answers::Pods(Activator::new(activator)),
    };
    let parts = Parts { answers, target, dialects, journal, by };
    let server = Server::open(config, parts)?;
    server.run(signals, on_ready)
}

/// External authorizers that CUSTOM policies name.
pub(super) fn authorizers(config: &Config, journal: &Journal) -> Arc<Authorizers> {
    let providers = config.policy.as_ref().map(|policy| policy.providers.clone()).unwrap_or_default();
    Arc::new(Authorizers::new(providers, config.threads + 1, config.xfcc, journal.metrics.ext_authz()))
}

/// Where pods answer: with whose certificate they are met, and where KEDA asks.
pub(super) fn ready_for_pods(
    answers: &Answers,
    config: &Config,
    identity: Option<&Arc<Identity>>,
) -> Result<(), Error> {
    let Answers::Pods(activator) = answers else { return Ok(()) };
    let trust_domain = config.tls.trust_domain.clone();
    activator.secure(&Ourselves { identity: identity.cloned(), trust_domain })?;
    if let Some(address) = activator.keda {
        activator.answers_keda(listeners::listen("activator.keda", address)?);
    }
    Ok(())
}

/// Where sidecars succeed each other, the older one's worker goes on until its last stream has ended: the newer one starts
/// a worker of its own, at the first request, on a socket that is nobody else's. A worker that somebody else starts is
/// shared.
fn own_socket(worker: &mut Worker) {
    if let Some(command) = &mut worker.command {
        let mut own = worker.socket.as_os_str().to_owned();
        own.push(format!(".{}", std::process::id()));
        command.extend(["--socket".to_owned(), own.to_string_lossy().into_owned()]);
        worker.socket = own.into();
    }
}
