//! What an exchange has with it all the way: its caller, its record, whoever speaks for it, and how long it may last.

mod consult;
mod deadlines;
mod limit;
mod waiting;

pub use deadlines::Deadlines;
pub(in crate::exchange) use limit::caller;

use super::{Meter, Rights, limiter};
use crate::accept::Busy;
use crate::auth::methods::anonymous;
use crate::auth::pipeline::Refusal;
use crate::auth::revocations::{Watch, Whose};
use crate::auth::{self, Authorized, Caller};
use crate::config::Forward;
use crate::dialects::{Answer, Dialect, Event};
use crate::downstream::{Downstream, is_grpc, neutral_refusal};
use crate::error::{Error, Verdict};
use crate::forward::{Handover, Passage};
use crate::message::{Head, Part};
use crate::policy::{Attributes, Policies, RequestPrincipal};
use crate::record::{Journal, Record, draw_id};
use bytes::Bytes;
use futures_util::FutureExt;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue};
use outrider_protos::worker::v1::generate_event::Event as Generated;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::watch;

/// Who puts a refusal into words: the more is known of the request, the better.
pub enum Voice {
    Neutral,
    Dialect(&'static dyn Dialect),
    Answer(Box<dyn Answer>),
}

pub struct Floor<'a> {
    // Before the record: the record is written when all else is over.
    caller: Downstream<'a>,
    head: Head,
    sane: Option<Error>,
    voice: Voice,
    rights: Rights,
    cut: watch::Receiver<bool>,
    /// Whoever sends it can go elsewhere: it is not to be queued.
    pub at_once: bool,
    /// How long it may take.
    pub deadlines: Deadlines,
    /// What it costs its caller.
    pub meter: Meter,
    pub record: Record,
}

impl<'a> Floor<'a> {
    pub fn open(caller: Downstream<'a>, journal: Arc<Journal>, cut: watch::Receiver<bool>) -> Self {
        let mut record = Record::open(journal);
        let drawn = draw_id();
        record.request_id = caller.sane_request_id().unwrap_or(&drawn).to_owned();
        record.traceparent = caller.header("traceparent").map(str::to_owned);
        record.peer = Some(caller.facts().peer.clone());
        record.protocol = caller.facts().protocol();
        let (head, sane) = caller.head(drawn, record.unix_seconds());
        record.method = beginning(head.method.as_str(), 32).to_owned();
        record.path = beginning(&head.path, 256).to_owned();
        Floor {
            caller,
            head,
            sane: sane.err(),
            voice: Voice::Neutral,
            rights: Rights::default(),
            cut,
            at_once: false,
            deadlines: Deadlines::default(),
            meter: Meter::default(),
            record,
        }
    }

    /// The head, for the stages; as much of it as refusals look at stays here.
    pub fn head(&mut self) -> Result<Head, Error> {
        let rest = self.head.for_refusals();
        let head = std::mem::replace(&mut self.head, rest);
        self.sane.take().map_or(Ok(head), Err)
    }

    /// As methods and rules see it.
    pub fn request<'h>(&'h self, head: &'h Head) -> auth::Request<'h> {
        let facts = self.caller.facts();
        auth::Request {
            head,
            peer: &facts.peer,
            host: self.caller.authority(),
            destination: facts.target.address,
            now_unix: self.record.unix_seconds(),
            extra: None,
        }
    }

    pub fn busy(&self) -> &Busy {
        self.caller.busy()
    }

    /// Istio's policies on this request. What they note goes to the record; the caller is told only that it may not.
    pub fn judge(&mut self, policies: &Policies, head: &Head, token: Option<&RequestPrincipal>) -> Result<(), Error> {
        let decision = policies.evaluate(&self.attributes(head, token));
        self.record.audited = decision.audited;
        self.record.shadow = decision.shadow.iter().map(ToString::to_string).collect();
        decision.verdict.denied().map_or(Ok(()), |reason| Err(Error::Forbidden { reason }))
    }

    /// As policy sees the request.
    fn attributes<'h>(&'h self, head: &'h Head, token: Option<&'h RequestPrincipal>) -> Attributes<'h> {
        Attributes {
            connection: self.caller.facts().attributes(),
            method: head.method.as_str(),
            host: self.caller.authority(),
            path: &head.path,
            headers: &head.headers,
            token,
        }
    }

    /// Leaves the rest to a foreign server.
    pub fn hand_over(self, passage: Passage, config: &Forward) -> Handover {
        Handover::new(passage, config, self.record, self.rights, self.caller.into_busy())
    }

    pub fn speaks(&mut self, voice: Voice) {
        self.voice = voice;
    }

    /// From now on the exchange hears of revocations.
    pub fn listens(&mut self, watch: Watch) {
        self.rights.listen(watch);
    }

    /// Who calls, by one of the methods.
    pub fn knows(&mut self, caller: &mut Caller) {
        let identity = caller.identity();
        if self.record.subject.is_none() || identity.method != anonymous::NAME {
            self.record.subject = Some(identity.subject.clone());
        }
        self.rights.end_at(identity.expires_at_unix);
        self.rights.of(caller.whose());
    }

    /// What was decided is on the record; what was refused becomes an error.
    pub fn decided(&mut self, decision: Result<Authorized, Box<Refusal>>) -> Result<Authorized, Error> {
        let audit = decision.as_ref().map_or_else(|refusal| &refusal.audit, Authorized::audit);
        self.record.decided(audit.clone());
        decision.map_err(|refusal| refusal.into_error())
    }

    /// Who calls, by a token that a policy asks for.
    pub fn knows_token(&mut self, principal: Option<&RequestPrincipal>) {
        if let Some(principal) = principal {
            self.record.subject = Some(principal.subject.clone());
            self.rights.end_at(Some(principal.expires_at_unix));
            let (subject, issuer) = (principal.subject.clone(), principal.issuer.clone());
            self.rights.of(Whose { subject, issuer, claims: principal.claims.clone(), credential: None });
        }
    }

    pub async fn body(&mut self) -> Result<Bytes, Error> {
        let body = self.caller.body().await?;
        self.record.request_bytes = body.len();
        Ok(body)
    }

    /// Does `work`, unless the caller leaves first, its rights end, or the server does.
    ///
    /// `work` is lent: given, it would be in this future twice, as an argument and as what is waited for.
    pub async fn unless_over<T>(
        &mut self,
        mut work: Pin<&mut (impl Future<Output = Result<T, Error>> + ?Sized)>,
    ) -> Result<T, Error> {
        // Most work is done at once; then nobody need listen for what may end it.
        self.must_go_on()?;
        if let Some(done) = work.as_mut().now_or_never() {
            return done;
        }
        let busy = self.caller.busy().facts().clone();
        let cut = async {
            if self.cut.wait_for(|cut| *cut).await.is_err() {
                std::future::pending().await
            }
        };
        tokio::select! {
            biased;
            () = cut => Err(Error::Draining),
            () = busy.overstayed() => Err(Error::Draining),
            ended = self.rights.ended() => Err(ended),
            overdue = self.deadlines.overdue() => Err(overdue),
            done = work => done,
            () = self.caller.gone() => Err(Error::CallerLeft),
        }
    }

    fn must_go_on(&mut self) -> Result<(), Error> {
        if *self.cut.borrow() || self.caller.facts().is_over() {
            return Err(Error::Draining);
        }
        self.deadlines.must_last()?;
        self.rights.must_last()
    }

    /// Turns an event into a piece of the answer, and sends it.
    pub async fn answer(&mut self, event: Event) -> Result<(), Error> {
        if let Event::Generate { event, .. } = &event
            && matches!(event.event, Some(Generated::Chunk(_)))
        {
            self.record.token();
        }
        let Voice::Answer(answer) = &mut self.voice else { unreachable!("parse gave the answer its voice") };
        let parts = answer.on(event)?;
        self.record.usage = answer.usage();
        self.send(parts).await?;
        self.metered()
    }

    async fn send(&mut self, mut parts: Vec<Part>) -> Result<(), Error> {
        let mut bytes = 0;
        let mut status = None;
        for part in &mut parts {
            match part {
                Part::Head { status: code, headers } => {
                    status = Some(code.as_u16());
                    self.meter.explain(headers);
                }
                Part::Body(body) => bytes += body.len(),
                Part::End(_) => {}
            }
        }
        self.caller.send(parts, &self.record.request_id).await?;
        self.deadlines.wrote();
        self.record.sent(bytes);
        if let Some(status) = status {
            self.record.status = status;
        }
        if self.caller.ended() && self.record.label == "cut" {
            self.record.label = "ok";
        }
        Ok(())
    }

    /// THE one place where errors become words.
    pub async fn refuse(&mut self, error: Error) {
        let verdict = error.verdict();
        let silent = matches!(error, Error::CallerLeft) || self.caller.ended();
        if !silent {
            let mut parts = match &mut self.voice {
                _ if matches!(error, Error::Denied { .. }) => denied(&self.head, &error, &verdict),
                Voice::Neutral => neutral_refusal(&self.head, &verdict),
                Voice::Dialect(dialect) => dialect.refusal(&self.head, &verdict),
                Voice::Answer(answer) => answer.fail(&verdict),
            };
            for part in &mut parts {
                if let Part::Head { headers, .. } = part {
                    explain(headers, &verdict);
                    error.explain(headers);
                }
            }
            if self.send(parts).await.is_ok() {
                self.caller.linger().await;
            }
        }
        if let Voice::Answer(answer) = &self.voice {
            self.record.usage = answer.usage();
        }
        self.record.refused(&verdict, error.to_string());
    }

    /// A worker that says all is well before the answer is complete has said nonsense.
    pub fn must_have_ended(&self) -> Result<(), Error> {
        if self.caller.ended() {
            return Ok(());
        }
        Err(Error::WorkerNonsense { reason: "it ended before the answer was complete".into() })
    }

    /// Ends the exchange; returns whether the answer reached its end.
    pub fn close(self) -> bool {
        self.caller.ended()
    }
}

/// As much of a text as a log should have to keep.
fn beginning(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

/// An external authorizer's own words; to a gRPC caller as a status, with whatever headers came with them.
fn denied(head: &Head, error: &Error, verdict: &Verdict) -> Vec<Part> {
    let Error::Denied { refusal, .. } = error else { return neutral_refusal(head, verdict) };
    if !is_grpc(head) {
        return refusal.parts();
    }
    let mut parts = neutral_refusal(head, verdict);
    if let Some(Part::Head { headers, .. }) = parts.first_mut() {
        for (name, value) in refusal.headers.iter().filter(|(name, _)| !name.as_str().starts_with("grpc-")) {
            if *name != CONTENT_TYPE {
                headers.append(name, value.clone());
            }
        }
    }
    parts
}

/// The headers every dialect's refusals share.
pub fn explain(headers: &mut HeaderMap, verdict: &Verdict) {
    headers.insert("x-outrider-refused-by", HeaderValue::from_static(verdict.part));
    if let Some(after) = verdict.retry_after {
        // Whole seconds, rounded up (RFC 9110 §10.2.3): a client told 0 would come back at once.
        headers.insert("retry-after", HeaderValue::from(after.as_millis().div_ceil(1000).max(1) as u64));
    }
    limiter::tell(headers, verdict.quota.as_slice());
    match verdict.label {
        "credential_missing" => {
            headers.insert("www-authenticate", HeaderValue::from_static("Bearer realm=\"outrider\""));
        }
        // RFC 6750 §3.1.
        "credential_refused" => {
            let value = HeaderValue::from_static("Bearer realm=\"outrider\", error=\"invalid_token\"");
            headers.insert("www-authenticate", value);
        }
        _ => {}
    }
}
