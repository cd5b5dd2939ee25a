//! Limits of requests and of LLM tokens in a window, for each key: who may go on, and what each answer is charged.
//!
//! Requests are taken before anything is read of their bodies. Tokens are known only as they flow: a request is let in
//! while anything is left, its prompt is reserved by an estimate until the prompt is counted, each chunk of the answer is
//! charged as it passes, and whoever is in debt afterwards waits until it is paid. Pure: time is an argument, and a
//! request is what its caller says of it here.

pub mod bucket;
pub mod caller;
pub mod tab;
pub mod table;

pub use caller::Caller;
pub use tab::{Flow, Tab};

use crate::config::rate_limits::{RateLimit, RateLimits, Unit};
use crate::error::Quota;
use bucket::Rate;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;
use tab::{Entry, State};
use table::Table;

/// What a request turns out to be once it was read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Work<'a> {
    pub model: Option<&'a str>,
    /// Tokens of its prompt, estimated; `None` for questions that cost none.
    pub prompt_estimate: Option<u64>,
}

/// All limits that are configured.
pub struct Rates {
    limits: Vec<Limit>,
    /// Keys are hashed with a secret: nobody can choose keys that meet.
    hasher: RandomState,
}

struct Limit {
    config: RateLimit,
    table: Mutex<Table>,
}

impl Limit {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("nothing panics with a table in hand")
    }

    fn rate(&self, value: &str) -> Rate {
        let config = &self.config;
        let limit = config.overrides.get(value).copied().unwrap_or(config.limit);
        // A configured burst belongs to the configured limit; others have their own limit at once.
        let burst = if limit == config.limit { config.burst.unwrap_or(limit) } else { limit };
        Rate::new(limit, burst, config.window)
    }
}

impl Rates {
    pub fn new(config: &RateLimits) -> Rates {
        let open = |config: &RateLimit, keys_max| {
            let rate = Rate::new(config.limit, config.burst.unwrap_or(config.limit), config.window);
            Limit { config: config.clone(), table: Mutex::new(Table::new(keys_max, rate)) }
        };
        let limits = config.limits.iter().map(|limit| open(limit, config.keys_max)).collect();
        Rates { limits, hasher: RandomState::new() }
    }

    pub fn is_empty(&self) -> bool {
        self.limits.is_empty()
    }

    /// A request came: the limits its head falls under, those of requests already taken. All of them, or none.
    ///
    /// # Errors
    /// The limit that has nothing left; nothing was taken from any.
    pub fn begin(&self, caller: &Caller<'_>, now: Duration) -> Result<Tab, Quota> {
        let mut tab = Tab::default();
        let path = caller.decoded_path();
        for (at, limit) in self.limits.iter().enumerate() {
            let config = &limit.config;
            if !caller::matches(&config.when, caller.method, &path) {
                continue;
            }
            let key = match &config.key {
                // An issuer's name says whose subjects these are.
                crate::config::rate_limits::Source::Identity => self.hasher.hash_one((caller.issuer, caller.subject)),
                source => self.hasher.hash_one(caller.value(source)),
            };
            let rate = limit.rate(&caller.value(&config.overrides_by));
            tab.entries.push(Entry { limit: at, key, rate, state: State::Waiting });
        }
        let ready = |limit: &RateLimit| limit.unit == Unit::Requests && limit.when.model.is_none();
        self.enter(&mut tab, ready, 0, now)?;
        Ok(tab)
    }

    /// The request was read: what is limited by its model, and by tokens.
    ///
    /// # Errors
    /// The limit that has nothing left; what the tab had taken is given back.
    pub fn read(&self, tab: &mut Tab, work: Work<'_>, now: Duration) -> Result<(), Quota> {
        let ready = |limit: &RateLimit| {
            let model = limit.when.model.as_deref().is_none_or(|model| work.model == Some(model));
            model && (limit.unit == Unit::Requests || work.prompt_estimate.is_some())
        };
        self.enter(tab, ready, work.prompt_estimate.unwrap_or(0), now)
    }

    fn enter(
        &self,
        tab: &mut Tab,
        ready: impl Fn(&RateLimit) -> bool,
        estimate: u64,
        now: Duration,
    ) -> Result<(), Quota> {
        let waiting = |entry: &&mut Entry| matches!(entry.state, State::Waiting);
        let mut refused = None;
        for entry in tab.entries.iter_mut().filter(waiting) {
            let limit = &self.limits[entry.limit];
            if !ready(&limit.config) {
                continue;
            }
            let mut table = limit.table();
            let bucket = table.bucket(entry.key, entry.rate, now);
            entry.state = match limit.config.unit {
                Unit::Requests if bucket.take(1, now) => State::Taken,
                unit @ (Unit::PromptTokens | Unit::TotalTokens | Unit::CompletionTokens) if bucket.left(now) > 0 => {
                    let estimate = if unit == Unit::CompletionTokens { 0 } else { estimate };
                    bucket.charge(estimate, now);
                    State::Running { estimate, charged: estimate }
                }
                _ => {
                    refused = Some(self.quota(entry, bucket, now));
                    break;
                }
            };
        }
        let Some(quota) = refused else { return Ok(()) };
        self.give_back(tab, now);
        Err(quota)
    }

    /// Undoes all: a refused request costs nothing.
    pub fn give_back(&self, tab: &mut Tab, now: Duration) {
        for entry in tab.entries.drain(..) {
            let count = match entry.state {
                State::Waiting => continue,
                State::Taken => 1,
                State::Running { charged, .. } => charged,
            };
            self.limits[entry.limit].table().bucket(entry.key, entry.rate, now).give_back(count, now);
        }
    }

    /// The answer is so long by now. Gives the first limit that has nothing left and wants streams cut.
    pub fn flow(&self, tab: &mut Tab, flow: Flow, now: Duration) -> Option<Quota> {
        let mut cut = None;
        for entry in &mut tab.entries {
            let limit = &self.limits[entry.limit];
            let State::Running { estimate, charged } = &mut entry.state else { continue };
            let due = flow.due(limit.config.unit, *estimate);
            if due == *charged {
                continue;
            }
            let mut table = limit.table();
            let bucket = table.bucket(entry.key, entry.rate, now);
            if due > *charged {
                bucket.charge(due - *charged, now);
            } else {
                bucket.give_back(*charged - due, now);
            }
            *charged = due;
            if limit.config.cut && cut.is_none() && bucket.left(now) == 0 {
                cut = Some(self.quota(entry, bucket, now));
            }
        }
        cut
    }

    /// The answer is over: an estimate that nobody ever confirmed is given back, unless something was generated for it.
    /// Gives the places of the limits it fell under, and the tokens that each was charged; the tab is empty afterwards.
    pub fn settle(&self, tab: &mut Tab, flow: Flow, now: Duration) -> Vec<(usize, u64)> {
        self.flow(tab, flow.ended(), now);
        let entries = tab.entries.drain(..);
        let charged = entries.filter_map(|entry| match entry.state {
            State::Running { charged, .. } => Some((entry.limit, charged)),
            State::Taken => Some((entry.limit, 0)),
            State::Waiting => None,
        });
        charged.collect()
    }

    /// Where the caller stands with each limit it falls under.
    pub fn standing(&self, tab: &Tab, now: Duration) -> Vec<Quota> {
        let entries = tab.entries.iter().filter(|entry| !matches!(entry.state, State::Waiting));
        let quota = |entry: &Entry| {
            let mut table = self.limits[entry.limit].table();
            self.quota(entry, table.bucket(entry.key, entry.rate, now), now)
        };
        entries.map(quota).collect()
    }

    fn quota(&self, entry: &Entry, bucket: &mut bucket::Bucket, now: Duration) -> Quota {
        let config = &self.limits[entry.limit].config;
        Quota {
            name: config.name.clone(),
            tokens: config.unit != Unit::Requests,
            limit: entry.rate.limit,
            window: entry.rate.window(),
            remaining: bucket.left(now),
            reset: bucket.rest(now),
            retry_after: bucket.wait(1, now),
        }
    }
}

#[cfg(test)]
mod tests;
