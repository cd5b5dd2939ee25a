//! What a service tells its autoscaler, and which way its callers come: beside what each request needs.

use super::service::{Service, Way};
use crate::scale::autoscale::Path;
use crate::scale::autoscale::burst::Mode;
use crate::scale::autoscaler::{Autoscaler, Pod};
use crate::scale::stats::{Announcer, Report};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

/// What a service has for its autoscaler.
#[derive(Default)]
pub struct Account {
    autoscaler: OnceLock<Arc<Autoscaler>>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    announcer: Announcer,
    /// What the autoscaler decided last; `None` before it has, or without one.
    mode: Option<Mode>,
    /// What Kubernetes was told, and since when.
    said: Option<(Way, Duration)>,
}

impl Account {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("nothing panics while it counts")
    }
}

impl Service {
    pub fn autoscaled(&self, by: Arc<Autoscaler>) {
        let _ = self.account.autoscaler.set(by);
    }

    /// A request is held or passed on, until [`Service::leaves`].
    pub fn enters(&self) {
        let Some(autoscaler) = self.account.autoscaler.get() else { return };
        let first = self.account.lock().announcer.enter(self.now());
        if let Some(report) = first {
            autoscaler.tell(&report);
        }
    }

    pub fn leaves(&self) {
        if self.account.autoscaler.get().is_some() {
            self.account.lock().announcer.leave(self.now());
        }
    }

    /// What the last second was like.
    pub fn report(&self) -> Option<Report> {
        self.account.lock().announcer.report(self.now())
    }

    pub fn decided(&self, mode: Mode) {
        let before = self.account.lock().mode.replace(mode);
        if before != Some(mode) {
            self.has_changed();
        }
    }

    /// Which way callers should come now.
    pub fn way(&self) -> Way {
        let decided = self.account.lock().mode;
        match (self.capacity(), decided) {
            (0, _) | (_, Some(Mode::Proxy)) => Way::Through,
            (_, Some(Mode::Serve) | None) => Way::Direct,
        }
    }

    /// Kubernetes has been told.
    pub fn said(&self, way: Way) {
        let now = self.now();
        let mut account = self.account.lock();
        if account.said.is_none_or(|(before, _)| before != way) {
            account.said = Some((way, now));
        }
    }

    /// As the autoscaler wants to know it: where nothing is published, callers never come another way.
    pub fn path(&self) -> Path {
        let now = self.now();
        match (&self.config.publish, self.account.lock().said) {
            (None, _) => Path { proved: true, buffered_for: Some(now) },
            (Some(_), Some((Way::Through, since))) => {
                Path { proved: true, buffered_for: Some(now.saturating_sub(since)) }
            }
            (Some(_), _) => Path::default(),
        }
    }

    /// For the autoscaler: where pods tell their statistics.
    pub fn listed_pods(&self) -> Option<Vec<Pod>> {
        let (now, port) = (self.now(), self.config.autoscale.as_ref()?.stats_port);
        let pod = |(address, ready, since): (SocketAddr, bool, Duration)| Pod {
            stats: SocketAddr::new(address.ip(), port),
            ready,
            age: now.saturating_sub(since),
        };
        Some(self.known()?.into_iter().map(pod).collect())
    }
}
