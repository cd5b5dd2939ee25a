//! THE PAGE: one request's nine stages in order, and nothing else.
//!
//! receive → route → identify → authorize → parse → admit → send → respond → record. Each stage consumes the noun that
//! the one before it made, so that leaving one out does not compile. Any error goes to one place, [`Floor::refuse`].
//! Where a foreign server answers, the last four are `hand over`: nothing of the body is read here.
//! Dropping the exchange drops the worker's stream, the permit and the record, in that order.

mod asking;
mod class;
mod cold;
mod floor;
mod limiter;
mod onward;
mod rights;
mod suspects;
mod timeouts;

pub use class::Classes;
pub use floor::{Deadlines, explain};
pub use limiter::{Limiter, Meter};
pub use rights::Rights;
pub use suspects::Suspects;

use crate::activator::Activator;
use crate::admission::{Admission, Permit, Ticket};
use crate::auth::callers::{Authenticator, Authorized, CREDENTIALS, Caller};
use crate::auth::request::{self, Authenticated};
use crate::auth::revocations::Revocations;
use crate::config::{Cold, Forward, Limits, Timeouts, Xfcc};
use crate::dialects::{Ask, Dialect, Event, Facts, Operation};
use crate::downstream::{Downstream, must_not_be_grpc_on_h1, timeout_of};
use crate::error::{Error, grpc};
use crate::ext_authz::client::Authorizers;
use crate::forward::{self, Handover, Passage};
use crate::leaving::Leaving;
use crate::message::Head;
use crate::policy::{InForce, Watched};
use crate::record::Journal;
use crate::worker::{Events, Known, Worker};
use floor::{Floor, Voice};
use futures_util::StreamExt;
use std::pin::pin;
use std::sync::Arc;
use tokio::sync::watch;

/// Times a connection to a foreign server is tried before a request is given up: twice it may meet one that dies.
pub const TRIES: u32 = 3;

/// The rooms an exchange leads through.
pub struct Exchange {
    pub dialects: &'static [&'static dyn Dialect],
    pub authenticator: Arc<Authenticator>,
    pub revocations: Arc<Revocations>,
    pub policies: Option<Arc<Watched>>,
    pub authorizers: Arc<Authorizers>,
    pub admission: Arc<Admission>,
    pub answers: Answers,
    pub xfcc: Xfcc,
    /// Those we listen on.
    pub ports: Vec<u16>,
    pub known: Arc<Known>,
    pub limits: Limits,
    pub cold: Cold,
    pub timeouts: Timeouts,
    pub classes: Classes,
    pub limiter: Arc<Limiter>,
    pub journal: Arc<Journal>,
    pub leaving: Arc<Leaving>,
    pub suspects: Suspects,
    /// True when the drain is over and whatever still runs must end.
    pub cut: watch::Receiver<bool>,
}

/// Who stands behind.
pub enum Answers {
    Worker(Arc<dyn Worker>),
    Foreign(Forward),
    Pods(Arc<Activator>),
}

/// How an exchange left its page.
pub enum Outcome {
    Answered { to_the_end: bool },
    HandedOver(Box<Handover>),
}

/// A request whose head makes sense.
struct Call(Head);

/// Whose dialect and question are known; both unknown only where a foreign server answers, who may know more.
struct Routed {
    head: Head,
    asked: Option<(&'static dyn Dialect, Operation)>,
}

impl Routed {
    /// Asked without a credential, or with any.
    fn is_open(&self) -> bool {
        self.asked.is_some_and(|(_, operation)| operation.open)
    }
}

/// Whose caller is known; `None` for open questions, asked without a credential.
struct Identified {
    routed: Routed,
    caller: Option<Caller>,
    /// What took its credentials out of the head.
    strips: Vec<request::Edit>,
    /// Of a token that a RequestAuthentication asks to look for, and the policies in force when it was.
    token: Option<Authenticated>,
    in_force: Option<Arc<InForce>>,
}

/// Whose caller may ask.
struct Permitted {
    routed: Routed,
    strips: Vec<request::Edit>,
    token: Option<Authenticated>,
    /// What policies and external authorizers changed in the head, where it is to outlast what we say of the caller.
    edits: Vec<forward::Edit>,
    ticket: Ticket,
    _authorized: Option<Authorized>,
}

/// Which was read and understood.
struct Understood {
    ask: Ask,
    ticket: Ticket,
}

/// Whose turn it is; without a permit where no worker is needed.
struct Admitted {
    ask: Ask,
    ticket: Ticket,
    permit: Option<Permit>,
}

/// Whose answer has begun. Fields are dropped in this order: the work ends before its place is given away.
struct Sent {
    first: Event,
    events: Events,
    _permit: Option<Permit>,
}

impl Exchange {
    /// From head to end, or to where somebody else goes on.
    pub async fn serve(&self, caller: Downstream<'_>) -> Outcome {
        self.leaving.arrived();
        let deadline = caller.header("grpc-timeout").and_then(timeout_of);
        let mut floor = Floor::open(caller, self.journal.clone(), self.cut.clone());
        floor.deadlines = Deadlines::start(self.timeouts);
        let told = {
            let stages = pin!(self.stages(&mut floor));
            match deadline {
                Some(limit) => match tokio::time::timeout(limit, stages).await {
                    Ok(told) => told,
                    Err(_) => Err(Error::DeadlineExceeded { limit }),
                },
                None => stages.await,
            }
        };
        match told {
            Ok(None) => {}
            Ok(Some((passage, to))) => return Outcome::HandedOver(Box::new(floor.hand_over(passage, to))),
            Err(error) => floor.refuse(error).await,
        }
        Outcome::Answered { to_the_end: floor.close() }
    }

    async fn stages(&self, floor: &mut Floor<'_>) -> Result<Option<(Passage, &Forward)>, Error> {
        // Route first, because even a refusal is spoken in the caller's dialect.
        let call = self.receive(floor)?;
        let routed = self.route(call, floor)?;
        let identified = self.identify(routed, floor).await?;
        // Authorize before the body is read. With this line below `parse`, 1,000 anonymous uploads would hold
        // 1,000 × `body_bytes_max`.
        let permitted = self.authorize(identified, floor).await?;
        let worker = match &self.answers {
            Answers::Worker(worker) => worker,
            Answers::Foreign(server) => return Ok(Some((self.hand_over(permitted, server, floor).await?, server))),
            Answers::Pods(activator) => return self.activate(permitted, activator, floor).await.map(Some),
        };
        // Parse before admit: only a well-formed question may wake a worker.
        let understood = self.parse(permitted, floor).await?;
        let admitted = self.admit(understood, floor).await?;
        let sent = self.send(admitted, worker, floor).await?;
        self.respond(sent, floor).await?;
        Ok(None)
    }

    fn receive(&self, floor: &mut Floor<'_>) -> Result<Call, Error> {
        let head = floor.head()?;
        floor.at_once = head.headers.contains_key(forward::AT_ONCE);
        must_not_be_grpc_on_h1(&head)?;
        Ok(Call(head))
    }

    fn route(&self, Call(head): Call, floor: &mut Floor<'_>) -> Result<Routed, Error> {
        let mut answers = self.dialects.iter().filter_map(|dialect| Some((*dialect, dialect.route(&head)?)));
        let asked = answers.next();
        match asked {
            Some((dialect, operation)) => {
                floor.speaks(Voice::Dialect(dialect));
                floor.record.dialect = dialect.name();
                floor.record.operation = operation.name;
            }
            None if self.forwards() => {}
            None => return Err(Error::UnknownPath { method: head.method.to_string(), path: head.path }),
        }
        Ok(Routed { head, asked })
    }

    async fn identify(&self, mut routed: Routed, floor: &mut Floor<'_>) -> Result<Identified, Error> {
        let now_unix = floor.record.unix_seconds();
        floor.listens(self.revocations.watch());
        let known = self.authenticator.identify(floor.request(&routed.head)).await;
        let mut caller = match known {
            Ok(caller) => Some(caller),
            Err(_) if routed.is_open() => None,
            Err(refusal) => return Err(floor.decided(Err(refusal)).expect_err("a refusal is no decision to let in")),
        };
        let in_force = self.policies.as_ref().map(|policies| policies.current());
        let token = in_force.as_ref().map(|them| them.requests.authenticate(&routed.head, now_unix)).transpose()?;
        // Here the credential ends its journey: no dialect, worker or log ever sees it. A foreign server sees one that
        // was not for us.
        let mut strips = caller.as_ref().map(Caller::strips).unwrap_or_default();
        if !self.forwards() {
            strips.extend(CREDENTIALS.map(request::Edit::Strip));
        }
        request::apply(&strips, &mut routed.head);
        if let Some(token) = &token {
            token.apply(&mut routed.head);
            floor.knows_token(token.principal());
        }
        if let Some(caller) = &mut caller {
            floor.knows(caller);
        }
        let principal = token.as_ref().and_then(Authenticated::principal);
        strips.extend(self.must_be_trusted(&mut routed.head, caller.as_ref(), principal, floor));
        Ok(Identified { routed, caller, strips, token, in_force })
    }

    async fn authorize(&self, identified: Identified, floor: &mut Floor<'_>) -> Result<Permitted, Error> {
        let Identified { mut routed, caller, strips, token, in_force } = identified;
        let mut edits = Vec::new();
        // A question open to all is no less so to whom we know.
        let authorized = match caller.filter(|_| !routed.is_open()).map(Caller::settle) {
            Some(Ok(authorized)) => Some(floor.decided(Ok(authorized))?),
            Some(Err(caller)) => {
                let now_unix = floor.record.unix_seconds();
                let mut deciding = Box::pin(async { Ok(self.authenticator.authorize(*caller, now_unix).await) });
                let decision = floor.unless_over(deciding.as_mut()).await?;
                Some(floor.decided(decision)?)
            }
            None => None,
        };
        if let Some(authorized) = &authorized {
            request::apply(authorized.edits(), &mut routed.head);
            edits.extend(forward::edits_of(authorized.edits()));
        }
        if let Some(in_force) = in_force {
            let principal = token.as_ref().and_then(Authenticated::principal);
            // CUSTOM comes before DENY and ALLOW, which see what an authorizer added to the head.
            if in_force.policies.name_authorizers() {
                let consulting = floor.consult(&in_force.policies, &self.authorizers, &mut routed.head, principal);
                edits.extend(Box::pin(consulting).await?);
            }
            floor.judge(&in_force.policies, &routed.head, principal)?;
        }
        let principal = token.as_ref().and_then(Authenticated::principal);
        floor.limit(&self.limiter, authorized.as_ref(), principal, &routed).await?;
        let ticket = self.ticket(authorized.as_ref(), principal, &routed, floor);
        Ok(Permitted { routed, strips, token, edits, ticket, _authorized: authorized })
    }

    /// The way out of this page: the place is taken, the rest is `forward`.
    async fn hand_over(&self, permitted: Permitted, server: &Forward, floor: &mut Floor<'_>) -> Result<Passage, Error> {
        let upstream = forward::upstream(&server.to, floor.busy().facts().target, &self.ports)?;
        let bytes = self.length(&permitted.routed.head)?;
        floor.charge_unread(&permitted.routed.head, bytes).await?;
        let permit = self.permit(permitted.ticket, floor).await?;
        floor.record.tries = 1;
        Ok(self.passage(permitted, (permit, self.admission.clone(), upstream), floor))
    }

    async fn parse(
        &self,
        Permitted { routed, ticket, .. }: Permitted,
        floor: &mut Floor<'_>,
    ) -> Result<Understood, Error> {
        cold::must_be_answered_now(&routed.head)?;
        let body = floor.body().await?;
        let bytes = body.len();
        let facts = self.facts();
        let (dialect, operation) =
            routed.asked.expect("without a foreign server `route` refuses what it does not know");
        let parsed = dialect.parse(operation, &routed.head, body, &facts)?;
        floor.speaks(Voice::Answer(parsed.answer));
        if let Some(model) = parsed.model {
            facts.model(&model)?;
            floor.record.model = Some(model);
        }
        floor.charge(&parsed.ask, bytes).await?;
        let ticket = Ticket { bytes, cost: self.classes.cost(&parsed.ask, bytes), ..ticket };
        Ok(Understood { ask: parsed.ask, ticket })
    }

    async fn admit(&self, Understood { ask, ticket }: Understood, floor: &mut Floor<'_>) -> Result<Admitted, Error> {
        let needs_worker = match ask {
            Ask::About { wake } => wake && !self.known.has_met(),
            _ => true,
        };
        let permit = if needs_worker { Some(self.permit(ticket, floor).await?) } else { None };
        Ok(Admitted { ask, ticket, permit })
    }

    async fn permit(&self, ticket: Ticket, floor: &mut Floor<'_>) -> Result<Permit, Error> {
        if ticket.place.is_none() {
            self.must_have_room(floor)?;
        }
        floor.deadlines.recalled();
        let permit = self.held(ticket, floor).await?;
        floor.deadlines.dispatched();
        floor.record.admitted(&permit);
        Ok(permit)
    }

    /// Until the first event: what comes before it may be tried again, for nothing has been said to the caller.
    async fn send(&self, admitted: Admitted, worker: &Arc<dyn Worker>, floor: &mut Floor<'_>) -> Result<Sent, Error> {
        let Admitted { ask, ticket, mut permit } = admitted;
        let mut trial = self.suspects.trial();
        loop {
            floor.record.tries += 1;
            let mut events = self.ask(&ask, worker, permit.as_ref());
            let first = floor.unless_over(pin!(async { events.next().await.unwrap_or(Ok(Event::Done)) })).await;
            let error = match first {
                Ok(first) => return Ok(Sent { first, events, _permit: permit }),
                Err(error) => error,
            };
            let Some(held) = permit.filter(|_| may_try_again(&error)) else { return Err(error) };
            let place = Some(held.place());
            if matches!(error, Error::WorkerGone | Error::WorkerAbsent) {
                // Before the place is given away: whoever got it would be sent to the same dead worker.
                self.admission.lost(held.generation());
            }
            drop((events, held));
            floor.unless_over(pin!(trial.again(&error))).await?;
            permit = Some(self.permit(Ticket { place, ..ticket }, floor).await?);
        }
    }

    async fn respond(&self, sent: Sent, floor: &mut Floor<'_>) -> Result<(), Error> {
        let Sent { first, mut events, _permit } = sent;
        let mut next = Some(first);
        while let Some(event) = next {
            floor.answer(event).await?;
            next = floor.unless_over(pin!(async { events.next().await.transpose() })).await?;
        }
        floor.must_have_ended()
    }

    fn forwards(&self) -> bool {
        !matches!(self.answers, Answers::Worker(_))
    }

    /// Whether a request would be taken now.
    pub fn ready(&self) -> bool {
        let snapshot = self.admission.snapshot();
        !self.leaving.has_begun() && !snapshot.draining && snapshot.worker != "backoff"
    }

    pub fn facts(&self) -> Facts {
        self.known.facts(self.ready())
    }
}

/// The worker went away before it began, or says that it is loading or draining: nothing was done.
fn may_try_again(error: &Error) -> bool {
    matches!(error, Error::WorkerGone | Error::WorkerAbsent | Error::Worker { code: grpc::UNAVAILABLE, .. })
}
