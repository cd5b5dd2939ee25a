//! Who starts and ends what is behind, as the configuration says; and what wakes it.

use super::{Error, Server};
use crate::admission::Admission;
use crate::config::{Behind, Config, Destination, Forward, Sleeper, Waking, Worker};
use crate::kube::client::Client;
use crate::record::unix_now;
use crate::scale::device::{self, Group, Shared};
use crate::scale::targets::{Address, External, Kubernetes, Level, Process, Standby, Target, VllmSleep};
use std::sync::Arc;
use std::time::Duration;

/// The one that the configuration names.
///
/// # Errors
/// The device it shares with others cannot be shared.
pub fn target(config: &Config) -> Result<Arc<dyn Target>, Error> {
    let alone = match &config.behind {
        Behind::Worker(worker) => of_worker(worker),
        Behind::Forward(forward) => of_forward(forward, config),
        // Each service has a target of its own.
        Behind::Pods(_) => Arc::new(External::new(Address::Any, Duration::ZERO)),
    };
    let Some(device) = &config.device else { return Ok(alone) };
    let group = Group::join(device).map_err(|source| Error::Device { group: device.group.clone(), source })?;
    Ok(Arc::new(Shared::new(alone, group, unix_now)))
}

fn of_worker(worker: &Worker) -> Arc<dyn Target> {
    match (&worker.command, &worker.standby) {
        (Some(command), _) => Arc::new(Process::new(command.clone(), worker.start_timeout)),
        (None, Some(control)) => Arc::new(Standby::new(control.clone(), worker.start_timeout)),
        (None, None) => Arc::new(External::new(Address::Unix(worker.socket.clone()), worker.start_timeout)),
    }
}

fn of_forward(forward: &Forward, config: &Config) -> Arc<dyn Target> {
    let timeout = forward.start_timeout;
    let address = match &forward.to {
        Destination::Tcp(address) => Address::Tcp(*address),
        Destination::Unix(path) => Address::Unix(path.clone()),
        Destination::Original(_) => Address::Any,
    };
    match (forward.sleep.as_ref().map(|sleep| &sleep.how), &forward.to) {
        (Some(Sleeper::Vllm { level }), Destination::Tcp(to)) => {
            let level = if *level == 2 { Level::Nothing } else { Level::Weights };
            Arc::new(VllmSleep::new(*to, level, timeout))
        }
        (Some(Sleeper::Kubernetes { scaled, replicas }), _) => {
            let client = Client::new(config.kubernetes.clone());
            Arc::new(Kubernetes::new(client, scaled.clone(), *replicas, address, timeout))
        }
        _ => Arc::new(External::new(address, timeout)),
    }
}

/// What every connection wakes, if it is to.
pub fn wakes(config: &Config, admission: &Arc<Admission>) -> Option<Arc<Admission>> {
    waking(config).filter(|waking| waking.on_connection).map(|_| admission.clone())
}

/// What wakes it before a request does.
fn waking(config: &Config) -> Option<&Waking> {
    match &config.behind {
        Behind::Worker(worker) => Some(&worker.waking),
        Behind::Forward(forward) => forward.sleep.as_ref().map(|sleep| &sleep.waking),
        Behind::Pods(_) => None,
    }
}

impl Server {
    /// Starts the clock that wakes it, and whoever speaks with those who share its device, where they are.
    pub(super) fn attend_sleeper(&self) {
        if let Some((group, clock)) = self.target.group() {
            tokio::spawn(device::attend(self.exchange.admission.clone(), group, clock));
        }
        let times = waking(&self.config).map(|waking| waking.prewarm.clone()).unwrap_or_default();
        if !times.is_empty() {
            tokio::spawn(self.exchange.admission.clone().prewarm(times, unix_now));
        }
    }
}
