//! What all evaluators have in common, whatever they evaluate: name, priority, condition, cache.

use super::counts::Counts;
use crate::auth::cache::Cache;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Whether something holds of the authorization JSON; an error is a condition that could not be decided.
pub type Test = Box<dyn Fn(&Value) -> Result<bool, String> + Send + Sync>;

/// A value made from the authorization JSON.
pub type Make = Box<dyn Fn(&Value) -> Result<Value, String> + Send + Sync>;

/// One entry of a phase. `V` is what it finds out, and what is cached.
pub struct Evaluator<T, V = Value> {
    pub name: Arc<str>,
    /// For metrics and the audit record: `jwt`, `opa`, …
    pub kind: &'static str,
    /// Smaller comes first; equals run together.
    pub priority: i64,
    /// Whether it has series of its own.
    pub metrics: bool,
    /// Those, once it is known whose they are.
    pub counts: Option<Arc<Counts>>,
    pub when: Option<Test>,
    pub cache: Option<Kept<V>>,
    pub inner: T,
}

impl<T, V> Evaluator<T, V> {
    pub fn new(name: &str, kind: &'static str, inner: T) -> Self {
        Evaluator { name: name.into(), kind, priority: 0, metrics: false, counts: None, when: None, cache: None, inner }
    }
}

/// What an evaluator found out before, by a key made from the request. Holds successes only, for so many seconds.
pub struct Kept<V> {
    key: Make,
    ttl_seconds: u64,
    entries: Cache<Entry<V>>,
    /// Of entries that still count. What was asked before it went up is not believed after.
    generation: AtomicU64,
}

struct Entry<V> {
    value: V,
    until_unix: u64,
    generation: u64,
}

/// Under which something is kept, made before it is asked.
pub struct Key {
    text: String,
    generation: u64,
}

impl<V: Clone> Kept<V> {
    pub fn new(key: Make, ttl_seconds: u64) -> Self {
        Kept { key, ttl_seconds, entries: Cache::new(), generation: AtomicU64::new(0) }
    }

    /// Under which it is kept; none if the key comes to nothing, which keeps nothing.
    pub fn key(&self, root: &Value) -> Option<Key> {
        match (self.key)(root) {
            Ok(Value::Null) | Err(_) => None,
            Ok(key) => Some(Key { text: key.to_string(), generation: self.generation.load(Ordering::Acquire) }),
        }
    }

    pub fn get(&self, key: &Key, now_unix: u64) -> Option<V> {
        let kept = self.entries.get(&key.text)?;
        (now_unix < kept.until_unix && kept.generation == key.generation).then(|| kept.value.clone())
    }

    pub fn forget(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// `until_unix`: it must not be believed longer than that, whatever the setting.
    pub fn put(&self, key: &Key, value: &V, now_unix: u64, until_unix: Option<u64>) {
        let end = now_unix.saturating_add(self.ttl_seconds).min(until_unix.unwrap_or(u64::MAX));
        if end > now_unix {
            let entry = Entry { value: value.clone(), until_unix: end, generation: key.generation };
            self.entries.put(&key.text, Arc::new(entry));
        }
    }
}

/// Evaluators of one kind, in groups of one priority.
pub struct Phase<T, V = Value> {
    groups: Vec<Vec<Evaluator<T, V>>>,
}

impl<T, V> Default for Phase<T, V> {
    fn default() -> Self {
        Phase { groups: Vec::new() }
    }
}

impl<T, V> Phase<T, V> {
    /// Those of one priority keep their order.
    pub fn new(mut evaluators: Vec<Evaluator<T, V>>) -> Self {
        evaluators.sort_by_key(|evaluator| evaluator.priority);
        let mut groups: Vec<Vec<Evaluator<T, V>>> = Vec::new();
        for evaluator in evaluators {
            match groups.last_mut().filter(|group| group[0].priority == evaluator.priority) {
                Some(group) => group.push(evaluator),
                None => groups.push(vec![evaluator]),
            }
        }
        Phase { groups }
    }

    pub fn groups(&self) -> &[Vec<Evaluator<T, V>>] {
        &self.groups
    }

    pub fn all(&self) -> impl Iterator<Item = &Evaluator<T, V>> {
        self.groups.iter().flatten()
    }

    pub fn all_mut(&mut self) -> impl Iterator<Item = &mut Evaluator<T, V>> {
        self.groups.iter_mut().flatten()
    }

    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    pub fn forget(&self)
    where
        V: Clone,
    {
        self.all().filter_map(|one| one.cache.as_ref()).for_each(Kept::forget);
    }
}

/// Whether an evaluator is to be run at all.
pub enum Gate {
    Open,
    Shut,
    /// Its condition could not be decided.
    Fault(String),
}

/// No condition is an open gate; the document is built only where there is one.
pub fn gate<'a>(when: Option<&Test>, root: impl FnOnce() -> &'a Value) -> Gate {
    let Some(when) = when else { return Gate::Open };
    match when(root()) {
        Ok(true) => Gate::Open,
        Ok(false) => Gate::Shut,
        Err(words) => Gate::Fault(words),
    }
}
