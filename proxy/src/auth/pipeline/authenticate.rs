//! The first phase: who calls.

use super::evaluator::{Evaluator, Gate, Make, gate};
use super::{Document, Fault, Identified, Pipeline, Refusal, Refused};
use crate::auth::audit::Audit;
use crate::auth::credential::{self, Location};
use crate::auth::methods::{Method, Presented};
use crate::auth::{Identity, Reason};
use crate::error::Error;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::HeaderValue;
use http::header::WWW_AUTHENTICATE;
use serde_json::Value;
use std::sync::Arc;

/// A way to know callers, and where it looks for what they show.
pub struct Authentication {
    pub method: Box<dyn Method>,
    pub location: Location,
    /// What a caller without a good credential is challenged for: `Bearer`, `APIKEY`, a header's name.
    pub challenge: String,
    /// It reads a credential, which is not for whoever stands behind us.
    pub consumes: bool,
    /// Properties of the identity, made from the request: only where it lacks them.
    pub defaults: Vec<(String, Make)>,
    /// Whatever it has.
    pub overrides: Vec<(String, Make)>,
}

impl Authentication {
    pub fn new(method: Box<dyn Method>, location: Location) -> Authentication {
        let challenge = "Bearer".into();
        Authentication { method, location, challenge, consumes: true, defaults: Vec::new(), overrides: Vec::new() }
    }
}

type One = Evaluator<Authentication, Identity>;

/// What one evaluator says.
enum Word {
    /// And whether it was known from before.
    Known(Identity, bool),
    Stranger,
    Refused(Reason),
}

impl Pipeline {
    pub(super) async fn authenticate(&self, document: Document<'_>) -> Result<Identified, Box<Refusal>> {
        let mut audit = Audit::nobody();
        let mut refused: Option<Reason> = None;
        for group in self.authentication.groups() {
            match self.ask_group(group, &document, &mut refused, &mut audit).await {
                Some((one, identity, cached)) => {
                    audit.cached.extend(cached.then(|| one.name.clone()));
                    return self.known(one, identity, document, audit);
                }
                None => continue,
            }
        }
        Err(self.nobody(refused, audit, &document))
    }

    /// Who answers at once is asked first: a token that we can check ourselves is nobody else's business. Who lets
    /// strangers in is asked last, when it is known whether the caller is one.
    async fn ask_group<'s>(
        &self,
        group: &'s [One],
        document: &Document<'_>,
        refused: &mut Option<Reason>,
        audit: &mut Audit,
    ) -> Option<(&'s One, Identity, bool)> {
        let mut hear = |one: &'s One, word| match word {
            Word::Known(identity, cached) => Some((one, identity, cached)),
            Word::Stranger => None,
            Word::Refused(reason) => {
                *refused = Some(reason.or(*refused));
                None
            }
        };
        let mut remote = FuturesUnordered::new();
        for one in group.iter().filter(|one| !one.inner.method.takes_strangers()) {
            if is_shut(one, document, audit) {
                continue;
            }
            if one.inner.method.is_remote() {
                remote.push(async move { (one, ask(one, document).await) });
            } else if let Some(known) = hear(one, ask(one, document).await) {
                return Some(known);
            }
        }
        while let Some((one, word)) = remote.next().await {
            if let Some(known) = hear(one, word) {
                return Some(known);
            }
        }
        for one in group.iter().filter(|one| one.inner.method.takes_strangers()) {
            let forgiven = refused.is_none() || self.leniency.anonymous_forgives;
            if !forgiven || is_shut(one, document, audit) {
                continue;
            }
            match ask(one, document).await {
                Word::Known(identity, cached) => return Some((one, identity, cached)),
                Word::Stranger => {}
                Word::Refused(reason) => *refused = Some(reason.or(*refused)),
            }
        }
        None
    }

    fn known(
        &self,
        one: &One,
        mut identity: Identity,
        document: Document<'_>,
        mut audit: Audit,
    ) -> Result<Identified, Box<Refusal>> {
        audit.known_by = Some(one.name.clone());
        audit.method = identity.method;
        let consumes = one.inner.consumes;
        let extends = !one.inner.defaults.is_empty() || !one.inner.overrides.is_empty();
        if !extends && !self.reads_on() {
            return Ok(Identified { identity, root: None, skipped: false, consumes, audit });
        }
        let mut root = document.into_root();
        super::document::tell_identity(&mut root, &identity);
        if extends {
            if let Err(words) = extend(&mut identity, &one.inner, &root) {
                let error = Error::CredentialRefused { reason: "extension" };
                let mut refused = Refused::new(Fault::Unauthenticated, &self.name, error);
                (refused.reason, refused.evaluator) = (words, Some(one.name.clone()));
                self.challenge(&mut refused);
                return Err(self.refuse(refused, audit, Some(&root)));
            }
            super::document::tell_identity(&mut root, &identity);
        }
        Ok(Identified { identity, root: Some(root), skipped: false, consumes, audit })
    }

    fn nobody(&self, refused: Option<Reason>, audit: Audit, document: &Document<'_>) -> Box<Refusal> {
        let mut told = match refused {
            Some(reason) if reason.is_unavailable() && !self.leniency.provider_down_401 => {
                let mut refused = Refused::new(Fault::Unavailable, &self.name, Error::AuthUnavailable);
                refused.reason = reason.label().into();
                refused
            }
            refused => Refused::unauthenticated(&self.name, refused),
        };
        told.message = match refused {
            None => "credential not found".into(),
            Some(_) => told.error.verdict().words,
        };
        if !self.explains {
            return self.refuse(told, audit, None);
        }
        if told.fault == Fault::Unauthenticated {
            self.challenge(&mut told);
        }
        let reads = !self.unauthenticated.is_empty() || !self.callbacks.is_empty();
        self.refuse(told, audit, reads.then(|| document.root()))
    }

    /// RFC 9110, section 11.6.1: one challenge for each way in.
    fn challenge(&self, refused: &mut Refused) {
        for one in self.authentication.all() {
            let text = format!("{} realm=\"{}\"", one.inner.challenge, one.name);
            refused
                .headers
                .append(WWW_AUTHENTICATE, HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("Bearer")));
        }
    }
}

/// A way in that may not be open is shut, under every setting.
fn is_shut(one: &One, document: &Document<'_>, audit: &mut Audit) -> bool {
    match gate(one.when.as_ref(), || document.root()) {
        Gate::Open => false,
        Gate::Shut => {
            one.ignored();
            true
        }
        Gate::Fault(words) => {
            one.ignored();
            audit.note(format!("{}: {words}", one.name));
            true
        }
    }
}

async fn ask(one: &One, document: &Document<'_>) -> Word {
    let running = one.begun();
    let word = answered(one, document).await;
    running.ended(!matches!(word, Word::Known(..)));
    word
}

async fn answered(one: &One, document: &Document<'_>) -> Word {
    let request = document.request();
    let (credential, refused) = match credential::take(request.head, &one.inner.location) {
        Ok(credential) => (credential, None),
        Err(reason) => (None, Some(reason)),
    };
    let key = one.cache.as_ref().and_then(|kept| Some((kept, kept.key(document.root())?)));
    if let Some((kept, key)) = &key
        && let Some(identity) = kept.get(key, request.now_unix)
    {
        return Word::Known(identity, true);
    }
    let presented = Presented { request, credential, document };
    match one.inner.method.identify(&presented).await {
        // What is ambiguous was not looked at; strangers may be let in, but not those who show two credentials.
        Ok(Some(_)) if refused.is_some() && one.inner.method.takes_strangers() => {
            refused.map_or(Word::Stranger, Word::Refused)
        }
        Ok(Some(identity)) => {
            if let Some((kept, key)) = &key {
                kept.put(key, &identity, request.now_unix, identity.expires_at_unix);
            }
            Word::Known(identity, false)
        }
        Ok(None) => refused.map_or(Word::Stranger, Word::Refused),
        Err(reason) => Word::Refused(reason.or(refused)),
    }
}

/// Adds properties to an identity that is an object.
fn extend(identity: &mut Identity, one: &Authentication, root: &Value) -> Result<(), String> {
    let claims = Arc::make_mut(&mut identity.claims);
    let Value::Object(claims) = claims else {
        return Err("the identity is no object that could have properties".into());
    };
    for (name, make) in &one.defaults {
        if !claims.contains_key(name) {
            claims.insert(name.clone(), make(root).map_err(|words| format!("{name}: {words}"))?);
        }
    }
    for (name, make) in &one.overrides {
        claims.insert(name.clone(), make(root).map_err(|words| format!("{name}: {words}"))?);
    }
    Ok(())
}
