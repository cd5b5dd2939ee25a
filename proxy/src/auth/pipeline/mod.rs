//! The one engine of authorization: authentication → metadata → authorization → response → callbacks.
//!
//! In a phase, evaluators of one priority run together and groups of them one after another. The first success of
//! authentication decides; every rule of authorization must agree; metadata and responses may fail, callbacks are told
//! whatever came of it. What cannot be decided denies. Owns no clock; never reads a body.

mod authenticate;
mod authorize;
pub mod counts;
mod document;
pub mod evaluator;
mod refused;
#[cfg(test)]
mod tests;

pub use authenticate::Authentication;
pub use document::Document;
pub use evaluator::{Evaluator, Kept, Make, Phase, Test};
pub use refused::{DenyWith, Fault, REASON, Refused, text};

use crate::auth::audit::Audit;
use crate::auth::credential::Location;
use crate::auth::metadata::Source;
use crate::auth::responses::Response;
use crate::auth::rules::Rule;
use crate::auth::{Identity, Request};
use crate::error::Error;
use crate::message;
use bytes::Bytes;
use counts::Answers;
use evaluator::{Gate, gate};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value};
use std::sync::Arc;
use std::time::Duration;

/// Told of a request when all is decided. Must not wait: whoever calls others does so later.
pub trait Callback: Send + Sync {
    fn call(&self, root: &Value);
}

/// Where a response goes.
#[derive(Clone, Debug, PartialEq)]
pub enum Place {
    Header(HeaderName),
    /// A key of the dynamic metadata.
    Metadata(String),
}

pub struct Output {
    pub place: Place,
    pub response: Box<dyn Response>,
}

/// What is decided when it cannot be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leniency {
    /// A rule whose condition cannot be decided is passed over.
    pub when_errors_skip: bool,
    /// A request for which the policy's own condition cannot be decided is allowed.
    pub toplevel_when_errors_allow: bool,
    /// A refused credential is forgiven where strangers are let in.
    pub anonymous_forgives: bool,
    /// A caller whose credential nobody could be asked about is a stranger (401), not one to come again (503).
    pub provider_down_401: bool,
}

/// The whole of what a refused caller is told.
pub type Speaks = fn(&Refused) -> crate::message::Refusal;

/// A policy, ready to judge.
#[derive(Default)]
pub struct Pipeline {
    /// `namespace/name`.
    pub name: Arc<str>,
    pub when: Option<Test>,
    pub authentication: Phase<Authentication, Identity>,
    pub metadata: Phase<Box<dyn Source>>,
    pub authorization: Phase<Box<dyn Rule>>,
    pub response: Phase<Output>,
    pub callbacks: Phase<Box<dyn Callback>>,
    pub unauthenticated: DenyWith,
    pub unauthorized: DenyWith,
    pub leniency: Leniency,
    /// For all phases together.
    pub timeout: Option<Duration>,
    /// Whether something reads `context`.
    pub context: bool,
    /// Words of its own for every refusal.
    pub speaks: Option<Speaks>,
    /// What callers were told, counted.
    pub answers: Option<Arc<Answers>>,
    /// Refusals are told as the policy's, with challenges and a reason; not so for our own list of methods.
    pub explains: bool,
}

/// A caller whom the first phase knows.
pub struct Identified {
    pub identity: Identity,
    /// The authorization JSON, if a later phase needs it; made before any credential was taken out of the request.
    root: Option<Value>,
    /// The policy does not speak of this request.
    skipped: bool,
    /// It showed a credential, which is not for whoever stands behind us.
    pub consumes: bool,
    pub audit: Audit,
}

/// A caller who may go on.
#[derive(Debug)]
pub struct Allowed {
    pub identity: Identity,
    /// To set in the request that is sent on.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// An object.
    pub dynamic_metadata: Map<String, Value>,
    pub audit: Audit,
}

/// A refusal, and who decided.
#[derive(Debug)]
pub struct Refusal {
    pub refused: Refused,
    pub audit: Audit,
    /// In the policy's words, not in those of our own table.
    explains: bool,
    speaks: Option<Speaks>,
}

impl Pipeline {
    /// All phases.
    pub async fn run(&self, request: Request<'_>) -> Result<Allowed, Box<Refusal>> {
        let identified = self.identify(request).await?;
        self.authorize(identified, request.now_unix).await
    }

    /// The first phase.
    pub async fn identify(&self, request: Request<'_>) -> Result<Identified, Box<Refusal>> {
        let document = Document::new(request, self.context);
        match gate(self.when.as_ref(), || document.root()) {
            Gate::Open => {}
            Gate::Shut => return Ok(self.passed_over(&request, "none")),
            Gate::Fault(_) if self.leniency.toplevel_when_errors_allow => return Ok(self.passed_over(&request, "none")),
            Gate::Fault(words) => {
                let error =
                    Error::Forbidden { reason: format!("the condition of {} cannot be decided: {words}", self.name) };
                return Err(self.refuse(Refused::new(Fault::Unauthorized, &self.name, error), Audit::nobody(), None));
            }
        }
        let work = self.authenticate(document);
        match self.timeout {
            Some(limit) => tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(self.too_late(limit))),
            None => work.await,
        }
    }

    /// The other phases, where there is nothing for them to do; else the caller is given back, for
    /// [`Pipeline::authorize`].
    pub fn settle(&self, identified: Identified) -> Result<Allowed, Box<Identified>> {
        match identified.root.is_none() || identified.skipped {
            true => {
                self.count(None);
                Ok(self.allowed(identified.identity, identified.audit))
            }
            false => Err(Box::new(identified)),
        }
    }

    /// The other phases.
    pub async fn authorize(&self, identified: Identified, now_unix: u64) -> Result<Allowed, Box<Refusal>> {
        let work = self.decide(identified, now_unix);
        match self.timeout {
            Some(limit) => tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(self.too_late(limit))),
            None => work.await,
        }
    }

    /// What evaluators found out before is found out anew.
    pub fn forget(&self) {
        self.authentication.forget();
        self.metadata.forget();
        self.authorization.forget();
        self.response.forget();
    }

    /// Whether the connection alone says enough of who calls.
    pub fn knows_by_connection(&self, peer: &crate::tls::identity::Peer) -> bool {
        let judges = !self.authorization.is_empty() || self.when.is_some();
        !judges && self.authentication.all().any(|it| it.when.is_none() && it.inner.method.knows_by_connection(peer))
    }

    /// Whether a phase after the first reads the document.
    fn reads_on(&self) -> bool {
        !(self.metadata.is_empty()
            && self.authorization.is_empty()
            && self.response.is_empty()
            && self.callbacks.is_empty()
            && self.unauthorized.is_empty())
    }

    /// Headers that only this policy may set in what is sent on.
    pub fn outputs(&self) -> impl Iterator<Item = &HeaderName> {
        self.response.all().filter_map(|one| match &one.inner.place {
            Place::Header(name) => Some(name),
            Place::Metadata(_) => None,
        })
    }

    /// What a signed response tells those who verify it, at a path below its issuer.
    pub fn published(&self, response: &str, path: &str) -> Option<Bytes> {
        let mut named = self.response.all().filter(|one| &*one.name == response);
        named.find_map(|one| one.inner.response.published()?.document(path).cloned())
    }

    /// Where credentials are that are not for whoever stands behind us.
    pub fn credentials(&self) -> impl Iterator<Item = &Location> {
        self.authentication.all().filter(|one| one.inner.consumes).map(|one| &one.inner.location)
    }

    fn passed_over(&self, request: &Request<'_>, method: &'static str) -> Identified {
        let identity = Identity {
            subject: "anonymous".into(),
            issuer: String::new(),
            method,
            claims: Arc::new(Value::Object(Map::new())),
            spiffe: request.peer.spiffe.clone(),
            expires_at_unix: None,
        };
        Identified { identity, root: None, skipped: true, consumes: false, audit: Audit::default() }
    }

    /// The one way out for those who do not pass: what `denyWith` says, what callbacks are told.
    fn refuse(&self, mut refused: Refused, mut audit: Audit, root: Option<&Value>) -> Box<Refusal> {
        let deny = match refused.fault {
            Fault::Unauthenticated => Some(&self.unauthenticated),
            Fault::Unauthorized => Some(&self.unauthorized),
            _ => None,
        };
        if let (Some(deny), Some(root)) = (deny.filter(|deny| !deny.is_empty()), root) {
            deny.apply(&mut refused, root);
        }
        if let Some(root) = root {
            self.call_back(root);
        }
        self.count(Some(refused.fault));
        audit.policy = self.name.clone();
        audit.outcome = refused.fault.label();
        audit.measured = self.explains;
        audit.decided_by = refused.evaluator.clone();
        audit.reason = Some(refused.reason.clone());
        Box::new(Refusal { refused, audit, explains: self.explains, speaks: self.speaks })
    }

    /// What its caller is told; `None`: it may go on.
    fn count(&self, fault: Option<Fault>) {
        if let Some(answers) = &self.answers {
            answers.count(fault);
        }
    }

    fn too_late(&self, limit: Duration) -> Box<Refusal> {
        let mut refused = Refused::new(Fault::Unavailable, &self.name, Error::AuthUnavailable);
        refused.reason = format!("not decided within {} ms", limit.as_millis());
        self.refuse(refused, Audit::nobody(), None)
    }

    fn call_back(&self, root: &Value) {
        for evaluator in self.callbacks.all() {
            match gate(evaluator.when.as_ref(), || root) {
                Gate::Open => {
                    let running = evaluator.begun();
                    evaluator.inner.call(root);
                    running.ended(false);
                }
                Gate::Shut | Gate::Fault(_) => evaluator.ignored(),
            }
        }
    }
}

impl Refusal {
    /// No policy speaks of a host.
    pub fn unknown_host(host: &str) -> Box<Refusal> {
        let body = Bytes::from_static(b"Service not found");
        let refusal = message::Refusal { status: Fault::UnknownHost.status(), headers: HeaderMap::new(), body };
        let policy: Arc<str> = "auth.authconfig".into();
        let error = Error::Denied { provider: policy.clone(), refusal: Box::new(refusal) };
        let mut refused = Refused::new(Fault::UnknownHost, &policy, error);
        refused.reason = format!("no policy has the host {host:?}");
        refused.message = "Service not found".into();
        let reason = Some(refused.reason.clone());
        let outcome = Fault::UnknownHost.label();
        let audit = Audit { policy, outcome, phase: "authentication", kind: "none", reason, ..Audit::default() };
        Box::new(Refusal { refused, audit, explains: false, speaks: None })
    }

    /// It is not known yet which policies there are.
    pub fn not_yet(why: &str) -> Box<Refusal> {
        let policy: Arc<str> = "auth.authconfig".into();
        let mut refused = Refused::new(Fault::Unavailable, &policy, Error::AuthUnavailable);
        refused.reason = why.into();
        let audit = Audit { policy, outcome: refused.fault.label(), reason: Some(why.into()), ..Audit::nobody() };
        Box::new(Refusal { refused, audit, explains: false, speaks: None })
    }

    /// Told as the policy says, even where it says nothing.
    pub fn explains(&self) -> bool {
        self.explains
    }

    /// In the words of our own table, or of the policy.
    pub fn into_error(self) -> Error {
        if let Some(speaks) = self.speaks {
            let refusal = Box::new(speaks(&self.refused));
            return Error::Denied { provider: self.refused.policy.clone(), refusal };
        }
        if self.explains { self.refused.into_error() } else { self.refused.into_plain_error() }
    }
}
