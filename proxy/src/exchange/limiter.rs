//! The shell around the limits: it owns their clock, asks whoever counts elsewhere, and measures.
//!
//! Each exchange has a [`Meter`]. It is charged while the answer flows and settles when it is dropped, whatever ended the
//! exchange; a refused request costs nothing.

mod quotas;

pub use quotas::tell;

use crate::admission::rate::{Caller, Flow, Rates, Tab, Work};
use crate::config::rate_limits::RateLimits;
use crate::error::{Error, Quota};
use crate::metrics::{Metrics, RateMetrics};
use crate::rls::{Answer, Call, Question, Service};
use http::HeaderMap;
use prometheus::IntCounter;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The service's place among the names of limits; no limit can have it.
const SERVICE: &str = "(service)";

pub struct Limiter {
    rates: Rates,
    service: Option<Arc<Service>>,
    /// On answers that are no refusals too.
    headers: bool,
    /// Moments are counted from then.
    began: Instant,
    metrics: RateMetrics,
    /// Of each limit: requests that passed, and tokens.
    counters: Vec<(IntCounter, IntCounter)>,
}

impl Limiter {
    /// `seats`: runtimes that will ask the service.
    pub fn new(config: &RateLimits, seats: usize, metrics: &Metrics) -> Arc<Limiter> {
        let metrics = metrics.rate_limits.clone();
        let counters = config.limits.iter().map(|limit| {
            let allowed = metrics.decisions.with_label_values(&[&*limit.name, "allowed"]);
            (allowed, metrics.tokens.with_label_values(&[&*limit.name, limit.unit.name()]))
        });
        Arc::new(Limiter {
            rates: Rates::new(config),
            service: config.service.as_ref().map(|service| Arc::new(Service::new(service, seats))),
            headers: config.headers,
            began: Instant::now(),
            counters: counters.collect(),
            metrics,
        })
    }

    /// Whether nothing is limited at all.
    pub fn is_idle(&self) -> bool {
        self.rates.is_empty() && self.service.is_none()
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn count(&self, limit: &str, outcome: &str) {
        self.metrics.decisions.with_label_values(&[limit, outcome]).inc();
    }

    /// A request came, and its caller is known.
    ///
    /// # Errors
    /// [`Error::RateLimited`].
    pub fn begin(self: &Arc<Self>, caller: &Caller<'_>) -> Result<Meter, Error> {
        let tab = self.rates.begin(caller, self.now()).map_err(|quota| self.refused(quota))?;
        let question = self.service.as_ref().map(|service| service.question(caller));
        let calls = question.as_ref().map(Question::early).unwrap_or_default();
        Ok(Meter { limiter: Some(self.clone()), tab, question, calls, ..Meter::default() })
    }

    fn refused(&self, quota: Quota) -> Error {
        self.count(&quota.name, "limited");
        Error::RateLimited { quota: Box::new(quota) }
    }
}

/// What one exchange costs.
#[derive(Default)]
pub struct Meter {
    /// `None`: nothing is limited, or it was refused.
    limiter: Option<Arc<Limiter>>,
    tab: Tab,
    flow: Flow,
    question: Option<Question>,
    /// For the service, not asked yet.
    calls: Vec<Call>,
}

impl Meter {
    /// The request was read, or will not be.
    ///
    /// # Errors
    /// [`Error::RateLimited`].
    pub fn read(&mut self, work: Work<'_>) -> Result<(), Error> {
        let Some(limiter) = self.limiter.clone() else { return Ok(()) };
        if let Err(quota) = limiter.rates.read(&mut self.tab, work, limiter.now()) {
            self.limiter = None;
            return Err(limiter.refused(quota));
        }
        if let Some(question) = &mut self.question {
            self.calls = question.late(work.model, work.prompt_estimate.is_some());
        }
        Ok(())
    }

    /// Asks the service what is to be asked now. The future is nobody's: it may be dropped.
    pub fn asking(&mut self) -> Option<impl Future<Output = Answer> + Send + use<>> {
        let service = self.limiter.as_ref()?.service.clone()?;
        let calls = std::mem::take(&mut self.calls);
        (!calls.is_empty()).then_some(async move { service.ask(calls).await })
    }

    /// What it said.
    ///
    /// # Errors
    /// [`Error::RateLimited`], and [`Error::LimiterSilent`] where a silent service refuses.
    pub fn told(&mut self, answer: Answer) -> Result<(), Error> {
        let Some(limiter) = self.limiter.clone() else { return Ok(()) };
        let open = limiter.service.as_ref().is_some_and(|service| service.fail_open());
        let (outcome, error) = match answer {
            Answer::Allowed => ("allowed", None),
            Answer::Over(quota) => ("limited", Some(Error::RateLimited { quota })),
            Answer::Failed(reason) if open => {
                tracing::warn!(reason, "the rate limit service could not be asked; the request passes (fail: open)");
                ("failed_open", None)
            }
            Answer::Failed(reason) => ("failed", Some(Error::LimiterSilent { reason })),
        };
        limiter.count(SERVICE, outcome);
        let Some(error) = error else { return Ok(()) };
        limiter.rates.give_back(&mut self.tab, limiter.now());
        self.limiter = None;
        Err(error)
    }

    /// Whether tokens of the answer are counted against anybody.
    pub fn counts(&self) -> bool {
        self.limiter.is_some() && (self.tab.is_running() || self.question.as_ref().is_some_and(Question::reports))
    }

    /// The answer is so long by now.
    ///
    /// # Errors
    /// [`Error::RateLimited`] once a limit that cuts streams has nothing left.
    pub fn flow(&mut self, flow: Flow) -> Result<(), Error> {
        let Some(limiter) = &self.limiter else { return Ok(()) };
        if flow == self.flow {
            return Ok(());
        }
        self.flow = flow;
        match limiter.rates.flow(&mut self.tab, flow, limiter.now()) {
            Some(quota) => {
                limiter.count(&quota.name, "cut");
                Err(Error::RateLimited { quota: Box::new(quota) })
            }
            None => Ok(()),
        }
    }

    /// The answer never said how many tokens it has: they were counted for it.
    pub fn was_guessed(&self) {
        if let Some(limiter) = &self.limiter {
            limiter.metrics.guessed.inc();
            tracing::debug!("an answer without usage; its tokens are counted by its pieces");
        }
    }

    /// The headers that say where the caller stands, if that is wanted.
    pub fn explain(&self, headers: &mut HeaderMap) {
        if let Some(limiter) = self.limiter.as_ref().filter(|limiter| limiter.headers) {
            tell(headers, &limiter.rates.standing(&self.tab, limiter.now()));
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        let Some(limiter) = self.limiter.take() else { return };
        for (at, tokens) in limiter.rates.settle(&mut self.tab, self.flow, limiter.now()) {
            let (allowed, charged) = &limiter.counters[at];
            allowed.inc();
            charged.inc_by(tokens);
        }
        if let (Some(service), Some(question)) = (&limiter.service, &self.question) {
            service.clone().report(question, self.flow.ended());
        }
    }
}
