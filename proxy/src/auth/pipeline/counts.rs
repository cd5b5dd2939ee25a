//! What became of the questions that policies and their evaluators were asked, as Authorino counts them.
//!
//! Policies come and go while numbers only grow: a policy that is read again counts on where it was. Bounded: names are
//! made by whoever writes policies, and beyond so many series nothing is counted. Owns no clock, and so no durations.

use super::{Evaluator, Fault, Phase, Pipeline};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Of policies, and of evaluators that ask for it (`metrics: true`), each.
const SERIES_MAX: usize = 2000;

/// Of one evaluator.
#[derive(Debug, Default)]
pub struct Counts {
    /// However it went.
    pub total: AtomicU64,
    /// Its condition did not hold.
    pub ignored: AtomicU64,
    /// It failed, or said no.
    pub denied: AtomicU64,
    /// Another one decided before it had answered.
    pub cancelled: AtomicU64,
}

/// Of one policy, by what callers were told.
#[derive(Debug, Default)]
pub struct Answers([AtomicU64; STATUSES.len()]);

/// As Authorino names them, which is as gRPC does.
pub const STATUSES: [&str; 6] =
    ["OK", "UNAUTHENTICATED", "PERMISSION_DENIED", "UNAVAILABLE", "NOT_FOUND", "INVALID_ARGUMENT"];

/// Policy, type of evaluator, name.
type Series = (Arc<str>, &'static str, Arc<str>);

/// All of a process.
#[derive(Default)]
pub struct Tally {
    evaluators: Mutex<BTreeMap<Series, Arc<Counts>>>,
    policies: Mutex<BTreeMap<Arc<str>, Arc<Answers>>>,
}

fn up(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tally {
    /// From now on this policy is counted.
    pub fn attach(&self, pipeline: &mut Pipeline) {
        let policy = pipeline.name.clone();
        pipeline.answers = series(&self.policies, policy.clone());
        self.phase(&policy, &mut pipeline.authentication, identity);
        self.phase(&policy, &mut pipeline.metadata, metadata);
        self.phase(&policy, &mut pipeline.authorization, authorization);
        self.phase(&policy, &mut pipeline.response, response);
        self.phase(&policy, &mut pipeline.callbacks, |_| "CALLBACK_HTTP");
    }

    fn phase<T, V>(&self, policy: &Arc<str>, phase: &mut Phase<T, V>, label: fn(&str) -> &'static str) {
        for one in phase.all_mut().filter(|one| one.metrics) {
            one.counts = series(&self.evaluators, (policy.clone(), label(one.kind), one.name.clone()));
        }
    }

    /// Namespace, policy, type, name, and the numbers.
    pub fn evaluators(&self, mut each: impl FnMut([&str; 4], &Counts)) {
        for ((policy, kind, name), counts) in lock(&self.evaluators).iter() {
            let (namespace, policy) = policy.split_once('/').unwrap_or(("", policy));
            each([namespace, policy, kind, name], counts);
        }
    }

    /// Namespace, policy, status, and how often.
    pub fn policies(&self, mut each: impl FnMut([&str; 3], u64)) {
        for (policy, answers) in lock(&self.policies).iter() {
            let (namespace, policy) = policy.split_once('/').unwrap_or(("", policy));
            for (status, count) in STATUSES.iter().zip(&answers.0) {
                each([namespace, policy, status], count.load(Ordering::Relaxed));
            }
        }
    }
}

fn series<K: Ord, V: Default>(all: &Mutex<BTreeMap<K, Arc<V>>>, key: K) -> Option<Arc<V>> {
    let mut all = lock(all);
    if all.len() >= SERIES_MAX && !all.contains_key(&key) {
        return None;
    }
    Some(all.entry(key).or_default().clone())
}

fn identity(kind: &str) -> &'static str {
    match kind {
        "api_key" => "IDENTITY_APIKEY",
        "jwt" => "IDENTITY_JWT",
        "introspection" => "IDENTITY_OAUTH2",
        "token_review" => "IDENTITY_KUBERNETES",
        "x509" | "mtls" => "IDENTITY_MTLS",
        "plain" => "IDENTITY_PLAIN",
        _ => "IDENTITY_NOOP",
    }
}

fn metadata(kind: &str) -> &'static str {
    crate::auth::metadata::SOURCES.iter().find(|source| source.name == kind).map_or("METADATA", |source| source.label)
}

fn authorization(kind: &str) -> &'static str {
    match kind {
        "opa" => "AUTHORIZATION_OPA",
        "access_review" => "AUTHORIZATION_KUBERNETES",
        _ => "AUTHORIZATION_JSON",
    }
}

fn response(kind: &str) -> &'static str {
    crate::auth::responses::RESPONSES.iter().find(|it| it.name == kind).map_or("RESPONSE", |it| it.label)
}

impl Answers {
    /// `None`: the caller may go on.
    pub fn count(&self, fault: Option<Fault>) {
        let at = match fault {
            None => 0,
            Some(Fault::Unauthenticated) => 1,
            Some(Fault::Unauthorized) => 2,
            Some(Fault::Unavailable) => 3,
            Some(Fault::UnknownHost) => 4,
            Some(Fault::Invalid) => 5,
        };
        up(&self.0[at]);
    }
}

/// An evaluator that was asked. Dropped before it answered, it was cancelled.
pub struct Running<'a> {
    counts: Option<&'a Counts>,
}

impl Running<'_> {
    pub fn ended(mut self, denied: bool) {
        if let Some(counts) = self.counts.take().filter(|_| denied) {
            up(&counts.denied);
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Some(counts) = self.counts {
            up(&counts.cancelled);
        }
    }
}

impl<T, V> Evaluator<T, V> {
    /// It is asked now.
    pub fn begun(&self) -> Running<'_> {
        let counts = self.counts.as_deref();
        if let Some(counts) = counts {
            up(&counts.total);
        }
        Running { counts }
    }

    /// It is not asked, because of its condition.
    pub fn ignored(&self) {
        if let Some(counts) = &self.counts {
            up(&counts.total);
            up(&counts.ignored);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_of_an_evaluator() {
        let tally = Tally::default();
        let pipeline = |metrics: bool| {
            let one: Evaluator<()> = Evaluator { metrics, ..Evaluator::new("one", "opa", ()) };
            Phase::new(vec![one])
        };
        let policy: Arc<str> = "talks/keys".into();
        for metrics in [true, false, true] {
            let mut phase = pipeline(metrics);
            tally.phase(&policy, &mut phase, authorization);
            let one = phase.all().next().unwrap();
            one.begun().ended(false);
            one.begun().ended(true);
            drop(one.begun());
            one.ignored();
        }
        let mut seen = Vec::new();
        tally.evaluators(|labels, counts| {
            let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            let counts = [&counts.total, &counts.ignored, &counts.denied, &counts.cancelled].map(of);
            seen.push((labels.map(str::to_owned), counts));
        });
        let labels = ["talks", "keys", "AUTHORIZATION_OPA", "one"].map(str::to_owned);
        assert_eq!(seen, [(labels, [8, 2, 2, 2])], "only who asks for it, and on over a new reading");
    }

    #[test]
    fn are_series_bounded() {
        let all: Mutex<BTreeMap<usize, Arc<Counts>>> = Mutex::default();
        let made = (0..SERIES_MAX + 5).filter(|number| series(&all, *number).is_some()).count();
        assert_eq!(made, SERIES_MAX);
        assert!(series(&all, 7).is_some(), "who is known counts on");
    }
}
