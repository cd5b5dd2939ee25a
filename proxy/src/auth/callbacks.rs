//! Who is told of a request after it was decided: an HTTP endpoint, asked later, when nobody waits for it.
//!
//! One queue for the process, bounded by count and bytes, with few questions at a time; what finds no place is counted
//! and dropped, for a server that is told of requests must not be able to hold them up. Never decides anything, and
//! keeps no answer.

use super::ConfigProblem;
use super::endpoint::{Endpoint, Question, RawHttpEndpoint};
use super::pipeline::Callback;
use super::site::{Site, parse};
use futures_util::stream::{FuturesUnordered, StreamExt};
use serde_json::Value;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// The key of its settings in a policy.
pub const NAME: &str = "http";

const COUNT_MAX: usize = 1024;
const BYTES_MAX: usize = 8 << 20;
const AT_ONCE: usize = 16;
/// What a place costs besides its question.
const PLACE_BYTES: usize = 512;

/// How much may wait, and how many are asked at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    pub count: usize,
    pub bytes: usize,
    pub at_once: usize,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds { count: COUNT_MAX, bytes: BYTES_MAX, at_once: AT_ONCE }
    }
}

/// What became of callbacks so far, and how many are not done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub answered: u64,
    pub failed: u64,
    /// For want of a place, or of time at the end.
    pub dropped: u64,
    pub waiting: usize,
    pub asking: usize,
}

/// The queue, for all policies of the process.
pub struct Callbacks {
    bounds: Bounds,
    queue: Mutex<Queue>,
    /// There is something to do, or no more will come.
    wanted: Notify,
    /// All is done that ever will be.
    done: Notify,
    answered: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Told>,
    bytes: usize,
    asking: usize,
    closed: bool,
}

struct Told {
    name: Arc<str>,
    endpoint: Arc<Endpoint>,
    question: Question,
    bytes: usize,
}

impl Callbacks {
    pub fn new(bounds: Bounds) -> Arc<Callbacks> {
        Arc::new(Callbacks {
            bounds,
            queue: Mutex::default(),
            wanted: Notify::new(),
            done: Notify::new(),
            answered: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        })
    }

    /// The callback of a policy, whose settings are at `path`.
    pub fn open(
        self: &Arc<Self>,
        given: Value,
        path: &str,
        site: &Site<'_>,
        problems: &mut Vec<ConfigProblem>,
    ) -> Option<Box<dyn Callback>> {
        let raw: RawHttpEndpoint = parse(given, path, problems)?;
        let endpoint = Arc::new(raw.compile(path, site, problems)?);
        Some(Box::new(Http { name: path.into(), endpoint, callbacks: self.clone() }))
    }

    /// Asks for ever, or until [`Callbacks::drain`] closed the queue and all is done. Start it on one runtime only.
    pub async fn run(self: Arc<Self>) {
        let mut asked = FuturesUnordered::new();
        loop {
            while asked.len() < self.bounds.at_once
                && let Some(told) = self.next()
            {
                asked.push(self.ask(told));
            }
            if asked.is_empty() && lock(&self.queue).closed {
                self.done.notify_one();
                return;
            }
            tokio::select! {
                () = self.wanted.notified() => {}
                Some(()) = asked.next() => {}
            }
        }
    }

    /// Takes no more, and waits until those that wait were told, but not longer than `limit`. Without a
    /// [`run`](Callbacks::run) there is nobody to wait for.
    pub async fn drain(&self, limit: Duration) {
        let nothing_left = {
            let mut queue = lock(&self.queue);
            queue.closed = true;
            queue.waiting.is_empty() && queue.asking == 0
        };
        self.wanted.notify_one();
        if !nothing_left && tokio::time::timeout(limit, self.done.notified()).await.is_err() {
            let mut queue = lock(&self.queue);
            let left = queue.waiting.len() + queue.asking;
            queue.waiting.clear();
            queue.bytes = 0;
            self.dropped.fetch_add(left as u64, Ordering::Relaxed);
            tracing::warn!(left, "callbacks not made before the end");
        }
    }

    pub fn counts(&self) -> Counts {
        let queue = lock(&self.queue);
        Counts {
            answered: self.answered.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
            waiting: queue.waiting.len(),
            asking: queue.asking,
        }
    }

    fn push(&self, told: Told) -> bool {
        let mut queue = lock(&self.queue);
        let full = queue.waiting.len() >= self.bounds.count || queue.bytes + told.bytes > self.bounds.bytes;
        if full || queue.closed {
            drop(queue);
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        queue.bytes += told.bytes;
        queue.waiting.push_back(told);
        drop(queue);
        self.wanted.notify_one();
        true
    }

    fn next(&self) -> Option<Told> {
        let mut queue = lock(&self.queue);
        let told = queue.waiting.pop_front()?;
        queue.bytes -= told.bytes;
        queue.asking += 1;
        Some(told)
    }

    async fn ask(&self, told: Told) {
        match told.endpoint.ask(told.question).await {
            Ok(_) => self.answered.fetch_add(1, Ordering::Relaxed),
            Err(error) => {
                tracing::debug!(callback = %told.name, %error, "a callback failed");
                self.failed.fetch_add(1, Ordering::Relaxed)
            }
        };
        lock(&self.queue).asking -= 1;
    }
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Http {
    name: Arc<str>,
    endpoint: Arc<Endpoint>,
    callbacks: Arc<Callbacks>,
}

impl Callback for Http {
    /// Makes the question of what is known now, and leaves the asking to the queue.
    fn call(&self, root: &Value) {
        match self.endpoint.question(root) {
            Ok(question) => {
                let bytes = question.bytes() + PLACE_BYTES;
                let (name, endpoint) = (self.name.clone(), self.endpoint.clone());
                self.callbacks.push(Told { name, endpoint, question, bytes });
            }
            Err(error) => {
                tracing::debug!(callback = %self.name, %error, "a callback cannot be made");
                self.callbacks.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::endpoint::testing::{Ground, Server, json, status};
    use super::*;
    use serde_json::json as value;

    const SOON: Duration = Duration::from_secs(20);

    fn callback(callbacks: &Arc<Callbacks>, url: &str) -> Box<dyn Callback> {
        let settings = value!({"url": url, "method": "POST", "bodyParameters": {"n": {"selector": "n"}}});
        callbacks.open(settings, "callbacks.log.http", &Ground::new(&[]).site(), &mut Vec::new()).unwrap()
    }

    #[tokio::test]
    async fn are_all_told_in_the_end() {
        let server =
            Server::start(|request| if request.body() == "n=7" { status(500) } else { json(value!({})) }).await;
        let callbacks = Callbacks::new(Bounds::default());
        let callback = callback(&callbacks, &format!("{}/log", server.origin));
        let running = tokio::spawn(callbacks.clone().run());
        for n in 0..100 {
            callback.call(&value!({"n": n}));
        }
        callbacks.drain(SOON).await;
        running.await.unwrap();
        let mut told: Vec<_> = server.seen().into_iter().map(|seen| seen.into_body()).collect();
        told.sort();
        told.dedup();
        assert_eq!(told.len(), 100);
        assert_eq!(callbacks.counts(), Counts { answered: 99, failed: 1, ..Counts::default() });
        callback.call(&value!({"n": 1}));
        assert_eq!(callbacks.counts().dropped, 1, "nothing is taken after the end");
    }

    #[tokio::test]
    async fn what_does_not_fit_is_counted_and_dropped() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", silent.local_addr().unwrap());
        let callbacks = Callbacks::new(Bounds { count: 5, bytes: 1 << 20, at_once: 2 });
        let callback = callback(&callbacks, &url);
        let running = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(callbacks.clone().run()));
        callback.call(&value!({"n": 0}));
        callback.call(&value!({"n": 0}));
        while callbacks.counts().asking < 2 {
            tokio::task::yield_now().await;
        }
        for _ in 0..10 {
            callback.call(&value!({"n": 0}));
        }
        assert_eq!(callbacks.counts(), Counts { dropped: 5, waiting: 5, asking: 2, ..Counts::default() });
        callbacks.drain(Duration::from_millis(20)).await;
        assert_eq!(callbacks.counts().dropped, 12);
        drop(running);

        let callbacks = Callbacks::new(Bounds { count: 100, bytes: 3000, at_once: 1 });
        let large = self::callback(&callbacks, &url);
        for _ in 0..10 {
            large.call(&value!({"n": "x".repeat(1000)}));
        }
        assert_eq!((callbacks.counts().waiting, callbacks.counts().dropped), (1, 9));
        callbacks.drain(Duration::ZERO).await;
        assert_eq!(callbacks.counts().waiting, 0);
    }
}
