//! The phases after the first: what else is known, whether the caller may, and what is said of it further on.

use super::document::tell;
use super::evaluator::{Evaluator, Gate, gate};
use super::{Allowed, Fault, Identified, Output, Pipeline, Place, Refusal, Refused, text};
use crate::auth::Identity;
use crate::auth::audit::Audit;
use crate::auth::rules::{Denied, Rule};
use crate::error::Error;
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use http::{HeaderName, HeaderValue};
use serde_json::{Map, Value};
use std::sync::Arc;

/// All headers that a policy sets in one request, names and values.
const HEADER_BYTES_MAX: usize = 16 * 1024;

/// Who had the last word: its name and its type.
type Last = (Arc<str>, &'static str);

impl Pipeline {
    /// Who is allowed so far.
    pub(super) fn allowed(&self, identity: Identity, mut audit: Audit) -> Allowed {
        (audit.policy, audit.outcome) = (self.name.clone(), "allowed");
        (audit.phase, audit.kind, audit.measured) = ("authorization", identity.method, self.explains);
        (audit.subject, audit.issuer) = (identity.subject.clone(), identity.issuer.clone());
        Allowed { identity, headers: Vec::new(), dynamic_metadata: Map::new(), audit }
    }

    pub(super) async fn decide(&self, identified: Identified, now_unix: u64) -> Result<Allowed, Box<Refusal>> {
        let allowed = self.weigh(identified, now_unix).await?;
        self.count(None);
        Ok(allowed)
    }

    async fn weigh(&self, identified: Identified, now_unix: u64) -> Result<Allowed, Box<Refusal>> {
        let Identified { identity, root, skipped, audit, .. } = identified;
        let mut allowed = self.allowed(identity, audit);
        let Some(mut root) = root.filter(|_| !skipped) else { return Ok(allowed) };
        self.learn(&mut root, now_unix, &mut allowed.audit).await;
        if let Err(((name, kind), denied)) = self.judge(&mut root, now_unix, &mut allowed.audit).await {
            let error = Error::Forbidden { reason: format!("{}, by {name} of {}", denied.words, self.name) };
            let mut refused = Refused::new(Fault::Unauthorized, &self.name, error);
            refused.evaluator = Some(name);
            allowed.audit.kind = kind;
            refused.reason = denied.words.clone();
            // What could not be decided is nothing that callers are told of.
            refused.message = if denied.fault { "Unauthorized".into() } else { denied.words };
            return Err(self.refuse(refused, allowed.audit, Some(&root)));
        }
        self.answer(&mut root, now_unix, &mut allowed).await;
        self.call_back(&root);
        Ok(allowed)
    }

    /// Metadata: what cannot be had is absent.
    async fn learn(&self, root: &mut Value, now_unix: u64, audit: &mut Audit) {
        for group in self.metadata.groups() {
            let seen = &*root;
            let asked = group.iter().map(|one| async move {
                match open(one, seen)? {
                    Ok(()) => Some((one, kept(one, seen, now_unix, one.inner.fetch(seen)).await)),
                    Err(words) => Some((one, Err(words))),
                }
            });
            for (one, found) in join_all(asked).await.into_iter().flatten() {
                match found {
                    Ok((value, cached)) => {
                        audit.cached.extend(cached.then(|| one.name.clone()));
                        tell(root, "metadata", &one.name, value);
                    }
                    Err(words) => audit.note(format!("metadata {}: {words}", one.name)),
                }
            }
        }
    }

    /// Authorization: all must agree, and the first that does not is the last to be heard.
    async fn judge(&self, root: &mut Value, now_unix: u64, audit: &mut Audit) -> Result<(), (Last, Denied)> {
        for group in self.authorization.groups() {
            let mut found = Vec::with_capacity(group.len());
            {
                let root = &*root;
                let mut asked = FuturesUnordered::new();
                for one in group {
                    match gate(one.when.as_ref(), || root) {
                        Gate::Open => asked.push(async move { (one, self.word(one, root, now_unix).await) }),
                        Gate::Shut => one.ignored(),
                        Gate::Fault(words) if self.leniency.when_errors_skip => {
                            one.ignored();
                            audit.note(format!("{} passed over: {words}", one.name));
                        }
                        Gate::Fault(words) => {
                            let words = format!("its condition cannot be decided: {words}");
                            return Err(((one.name.clone(), one.kind), Denied { words, fault: true }));
                        }
                    }
                }
                while let Some((one, word)) = asked.next().await {
                    let (value, cached) = word.map_err(|denied| ((one.name.clone(), one.kind), denied))?;
                    audit.cached.extend(cached.then(|| one.name.clone()));
                    found.push((&one.name, value));
                }
            }
            for (name, value) in found {
                tell(root, "authorization", name, value);
            }
        }
        Ok(())
    }

    /// What one rule says, and whether it was known from before.
    async fn word(&self, one: &Evaluator<Box<dyn Rule>>, root: &Value, now: u64) -> Result<(Value, bool), Denied> {
        let key = one.cache.as_ref().and_then(|kept| Some((kept, kept.key(root)?)));
        if let Some((kept, key)) = &key
            && let Some(value) = kept.get(key, now)
        {
            return Ok((value, true));
        }
        let running = one.begun();
        let word = one.inner.judge(root).await;
        running.ended(word.is_err());
        let value = word?;
        if let Some((kept, key)) = &key {
            kept.put(key, &value, now, None);
        }
        Ok((value, false))
    }

    /// Responses: what cannot be made is left out.
    async fn answer(&self, root: &mut Value, now_unix: u64, allowed: &mut Allowed) {
        let mut bytes = 0;
        for group in self.response.groups() {
            let seen = &*root;
            let made = group.iter().map(|one| async move {
                match open(one, seen)? {
                    Ok(()) => Some((one, kept(one, seen, now_unix, one.inner.response.make(seen, now_unix)).await)),
                    Err(words) => Some((one, Err(words))),
                }
            });
            for (one, value) in join_all(made).await.into_iter().flatten() {
                let place = value.and_then(|(value, cached)| {
                    allowed.audit.cached.extend(cached.then(|| one.name.clone()));
                    let placed = value.clone();
                    tell(root, "response", &one.name, value);
                    put(one, placed, &mut bytes, allowed)
                });
                if let Err(words) = place {
                    allowed.audit.note(format!("response {}: {words}", one.name));
                }
            }
        }
    }
}

/// Whether an evaluator is to run; the words, if its condition is at fault.
fn open<T>(one: &Evaluator<T>, root: &Value) -> Option<Result<(), String>> {
    match gate(one.when.as_ref(), || root) {
        Gate::Open => Some(Ok(())),
        Gate::Shut => {
            one.ignored();
            None
        }
        Gate::Fault(words) => {
            one.ignored();
            Some(Err(words))
        }
    }
}

async fn kept<T>(
    one: &Evaluator<T>,
    root: &Value,
    now_unix: u64,
    work: impl Future<Output = Result<Value, String>>,
) -> Result<(Value, bool), String> {
    let key = one.cache.as_ref().and_then(|kept| Some((kept, kept.key(root)?)));
    if let Some((kept, key)) = &key
        && let Some(value) = kept.get(key, now_unix)
    {
        return Ok((value, true));
    }
    let running = one.begun();
    let word = work.await;
    running.ended(word.is_err());
    let value = word?;
    if let Some((kept, key)) = &key {
        kept.put(key, &value, now_unix, None);
    }
    Ok((value, false))
}

/// A header's value is never cut to fit: it is whole or absent.
fn put(one: &Evaluator<Output>, value: Value, bytes: &mut usize, allowed: &mut Allowed) -> Result<(), String> {
    let name: &HeaderName = match &one.inner.place {
        Place::Metadata(key) => {
            allowed.dynamic_metadata.insert(key.clone(), value);
            return Ok(());
        }
        Place::Header(name) => name,
    };
    let text = text(value);
    *bytes += name.as_str().len() + text.len();
    if *bytes > HEADER_BYTES_MAX {
        return Err(format!("the headers of this policy have more than {HEADER_BYTES_MAX} bytes"));
    }
    let value = HeaderValue::from_bytes(text.as_bytes()).map_err(|_| "makes no header's value".to_owned())?;
    allowed.headers.push((name.clone(), value));
    Ok(())
}
