//! One service's autoscaler at work: asks its pods every second, decides every two, and asks for the scale it wants.
//!
//! The shell around `autoscale`, which it owns the clock of. It never holds a request and never dials a pod for one; where
//! requests go is its surroundings' business, which are told what was decided. A service that is at zero and has somebody
//! waiting is decided about at once.

mod scrape;

pub use scrape::Scraper;

use super::autoscale::decide::TICK;
use super::autoscale::{Autoscale, Outcome, Path, Settings, Surroundings};
use super::scaler::Scaler;
use super::stats::{PERIOD, Report};
use crate::metrics::AutoscaleMetrics;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};
use tokio::time::MissedTickBehavior;

/// Whoever keeps the scale has to answer within this.
const SCALER_TIMEOUT: Duration = Duration::from_secs(10);
/// What was asked for is looked at again after so long: somebody else may have changed it.
const REVIEW: Duration = Duration::from_secs(30);

/// A pod that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Where it tells its statistics.
    pub stats: SocketAddr,
    /// It takes requests.
    pub ready: bool,
    /// How long it has been known.
    pub age: Duration,
}

/// What an autoscaler has to know of where it works.
pub trait Around: Send + Sync {
    /// All pods there are, also those that take no requests yet; `None`: nobody could say.
    fn pods(&self) -> Option<Vec<Pod>>;

    /// What this process itself holds or passes on of the service, since it was last asked; `None`: nothing at all.
    fn buffered(&self) -> Option<Report>;

    /// Whether requests come through here.
    fn path(&self) -> Path;

    /// What was decided: whether the buffer may leave the path, for one.
    fn decided(&self, outcome: &Outcome);
}

/// What was seen and decided last, for whoever scales by it elsewhere.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    pub metric: &'static str,
    /// Of one pod.
    pub target: f64,
    /// Of all pods; in a panic what the short window says, where that is more.
    pub load: f64,
    /// `None`: nobody knows yet.
    pub want: Option<u32>,
    /// There is work, or was until a moment ago.
    pub active: bool,
}

pub struct Autoscaler {
    /// Its name in metrics and logs, from the configuration.
    name: String,
    settings: Settings,
    scraper: Scraper,
    scaler: Arc<dyn Scaler>,
    around: Arc<dyn Around>,
    metrics: AutoscaleMetrics,
    began: Instant,
    /// `None` until the scale that was found is known.
    inner: Mutex<Option<Autoscale>>,
    poked: Notify,
    seen: watch::Sender<Seen>,
    asked: Mutex<Option<(u32, Instant)>>,
}

/// With whom an autoscaler works.
pub struct Company {
    pub scaler: Arc<dyn Scaler>,
    pub around: Arc<dyn Around>,
    pub metrics: AutoscaleMetrics,
}

impl Autoscaler {
    pub fn new(name: &str, settings: Settings, company: Company) -> Arc<Autoscaler> {
        let target = super::autoscale::target::resolve(&settings).target;
        let seen = Seen { metric: settings.metric.name(), target, load: 0.0, want: None, active: false };
        Arc::new(Autoscaler {
            name: name.into(),
            settings,
            scraper: Scraper::new(),
            scaler: company.scaler,
            around: company.around,
            metrics: company.metrics,
            began: Instant::now(),
            inner: Mutex::new(None),
            poked: Notify::new(),
            seen: watch::Sender::new(seen),
            asked: Mutex::new(None),
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// What was seen and decided last, and every change of it.
    pub fn seen(&self) -> watch::Receiver<Seen> {
        self.seen.subscribe()
    }

    /// A buffer tells, out of turn: its first request after a silence.
    pub fn tell(&self, report: &Report) {
        let now = self.began.elapsed();
        let hurry = self.with(|autoscale| autoscale.observe(now, report));
        if hurry == Some(true) {
            self.poked.notify_one();
        }
    }

    fn with<T>(&self, what: impl FnOnce(&mut Autoscale) -> T) -> Option<T> {
        self.inner.lock().expect("nothing panics while it decides").as_mut().map(what)
    }

    /// Works until `stop` resolves. What was asked for stays.
    pub async fn run(self: Arc<Self>, stop: impl Future<Output = ()>) {
        let work = async {
            self.begin().await;
            tokio::join!(self.listen(), self.decide());
        };
        tokio::select! {
            () = work => {}
            () = stop => {}
        }
    }

    /// Nothing is decided before it is known what there is.
    async fn begin(&self) {
        loop {
            match tokio::time::timeout(SCALER_TIMEOUT, self.scaler.scale()).await {
                Ok(Ok(scale)) => {
                    let ready = ready(self.around.pods().as_deref()).unwrap_or(0);
                    let autoscale = Autoscale::new(self.settings.clone(), scale, ready, self.began.elapsed());
                    *self.inner.lock().expect("nothing panics while it decides") = Some(autoscale);
                    tracing::info!(service = self.name, scale, ready, "the autoscaler begins");
                    return;
                }
                Ok(Err(reason)) => tracing::warn!(service = self.name, reason, "the scale is not known"),
                Err(_) => tracing::warn!(service = self.name, "the scale is not known: no answer in time"),
            }
            tokio::time::sleep(PERIOD).await;
        }
    }

    /// Asks pods and the buffer, again and again.
    async fn listen(&self) {
        let mut seconds = tokio::time::interval(PERIOD);
        // In step with the seconds of the windows, however long a round took.
        seconds.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            seconds.tick().await;
            if let Some(report) = self.around.buffered() {
                self.tell(&report);
            }
            let mut pods = self.around.pods().unwrap_or_default();
            pods.retain(|pod| pod.ready);
            if pods.is_empty() {
                continue;
            }
            let result = match self.scraper.scrape(&pods, self.settings.window).await {
                Some(report) => {
                    self.tell(&report);
                    "ok"
                }
                None => {
                    tracing::debug!(service = self.name, pods = pods.len(), "too few pods told their statistics");
                    "failed"
                }
            };
            self.metrics.scrapes.with_label_values(&[&self.name, result]).inc();
        }
    }

    async fn decide(&self) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.poked.notified() => {}
            }
            let ready = ready(self.around.pods().as_deref());
            let around = Surroundings { ready, path: self.around.path() };
            let now = self.began.elapsed();
            let outcome = self.with(|autoscale| autoscale.tick(now, around)).expect("it has begun");
            self.publish(&outcome, ready);
            self.around.decided(&outcome);
            if let (true, Some(want)) = (outcome.step.apply, outcome.step.want) {
                self.apply(want).await;
            }
        }
    }

    fn publish(&self, outcome: &Outcome, ready: Option<u32>) {
        self.metrics.decided(&self.name, outcome, ready);
        let Some(decision) = outcome.decision else { return };
        let load = decision.load;
        self.seen.send_modify(|seen| {
            seen.load = if decision.panicking { load.stable.max(load.panic) } else { load.stable };
            seen.want = outcome.step.want.or(seen.want);
            seen.active = load.stable.max(load.panic) > 0.0;
        });
    }

    async fn apply(&self, want: u32) {
        let fresh = |(asked, since): &(u32, Instant)| *asked == want && since.elapsed() < REVIEW;
        if self.asked.lock().expect("nothing panics under it").as_ref().is_some_and(fresh) {
            return;
        }
        let asking = async {
            let before = self.scaler.scale().await?;
            if before != want {
                self.scaler.set(want).await?;
                tracing::info!(service = self.name, before, want, "scaled");
                self.metrics.scalings.with_label_values(&[&self.name, "ok"]).inc();
            }
            Ok::<(), String>(())
        };
        let asked = tokio::time::timeout(SCALER_TIMEOUT, asking).await;
        let outcome = asked.unwrap_or_else(|_| Err("no answer in time".into()));
        if let Err(reason) = &outcome {
            self.metrics.scalings.with_label_values(&[&self.name, "failed"]).inc();
            tracing::warn!(service = self.name, want, reason, "not scaled");
        }
        *self.asked.lock().expect("nothing panics under it") = outcome.ok().map(|()| (want, Instant::now()));
    }
}

fn ready(pods: Option<&[Pod]>) -> Option<u32> {
    pods.map(|pods| pods.iter().filter(|pod| pod.ready).count().try_into().unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests;
