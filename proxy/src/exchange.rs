//! THE PAGE: one request's nine stages in order, and nothing else.
//!
//! receive → route → identify → authorize → parse → admit → send → respond → record. Each stage consumes the noun that
//! the one before it made, so that leaving one out does not compile. Any error goes to one place, [`Floor::refuse`].
//! Where a foreign server answers, the last four are `hand over`: nothing of the body is read here.
//! Dropping the exchange drops the worker's stream, the permit and the record, in that order.

mod floor;
mod limiter;
mod rights;

pub use floor::explain;
pub use limiter::{Limiter, Meter};
pub use rights::Rights;

use crate::admission::{Admission, Permit, Ticket};
use crate::auth::callers::{Authenticator, Authorized, CREDENTIALS, Caller};
use crate::auth::request::{self, Authenticated};
use crate::auth::revocations::Revocations;
use crate::config::{Forward, Limits, Xfcc};
use crate::dialects::{Ask, Dialect, Event, Facts, Operation};
use crate::downstream::{Downstream, must_not_be_grpc_on_h1, timeout_of};
use crate::error::{Error, grpc};
use crate::ext_authz::client::Authorizers;
use crate::forward::{self, Handover, Passage};
use crate::message::Head;
use crate::policy::{InForce, Watched};
use crate::record::Journal;
use crate::worker::{Events, Known, Worker};
use floor::{Floor, Voice};
use futures_util::{FutureExt, StreamExt};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Times a request is given to a worker, or a connection to a foreign server is tried, before it is given up: twice it may
/// meet one that dies.
pub const TRIES: u32 = 3;
/// Before asking a worker again that says it is loading or draining.
const PAUSE: Duration = Duration::from_millis(50);

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
    pub limiter: Arc<Limiter>,
    pub journal: Arc<Journal>,
    /// True when the drain is over and whatever still runs must end.
    pub cut: watch::Receiver<bool>,
}

/// Who stands behind.
pub enum Answers {
    Worker(Arc<dyn Worker>),
    Foreign(Forward),
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
    _authorized: Option<Authorized>,
}

/// Which was read and understood.
struct Understood {
    ask: Ask,
    bytes: usize,
}

/// Whose turn it is; without a permit where no worker is needed.
struct Admitted {
    ask: Ask,
    bytes: usize,
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
        let deadline = caller.header("grpc-timeout").and_then(timeout_of);
        let mut floor = Floor::open(caller, self.journal.clone(), self.cut.clone());
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
        Ok(Permitted { routed, strips, token, edits, _authorized: authorized })
    }

    /// The way out of this page: the place is taken, the rest is `forward`.
    async fn hand_over(&self, permitted: Permitted, server: &Forward, floor: &mut Floor<'_>) -> Result<Passage, Error> {
        let Permitted { routed, strips, token, edits: changes, .. } = permitted;
        let upstream = forward::upstream(&server.to, floor.busy().facts().target, &self.ports)?;
        let bytes = routed.head.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
        if bytes > self.limits.body_bytes_max {
            return Err(Error::BodyTooLarge { limit_bytes: self.limits.body_bytes_max });
        }
        floor.charge_unread(&routed.head, bytes).await?;
        let permit = self.permit(Ticket { bytes: 0, place: None }, floor).await?;
        floor.record.tries = 1;
        let mut edits = forward::edits(floor.busy(), &routed.head, self.xfcc, &floor.record.request_id);
        edits.extend(forward::edits_of(&strips));
        edits.extend(token.iter().flat_map(|token| forward::edits_of(&token.edits()).collect::<Vec<_>>()));
        edits.extend(changes);
        let dialect = routed.asked.map(|(dialect, _)| dialect);
        let (head, meter) = (routed.head, std::mem::take(&mut floor.meter));
        Ok(Passage { permit, admission: self.admission.clone(), head, dialect, upstream, edits, meter })
    }

    async fn parse(&self, Permitted { routed, .. }: Permitted, floor: &mut Floor<'_>) -> Result<Understood, Error> {
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
        Ok(Understood { ask: parsed.ask, bytes })
    }

    async fn admit(&self, Understood { ask, bytes }: Understood, floor: &mut Floor<'_>) -> Result<Admitted, Error> {
        let needs_worker = match ask {
            Ask::About { wake } => wake && !self.known.has_met(),
            _ => true,
        };
        let permit = if needs_worker { Some(self.permit(Ticket { bytes, place: None }, floor).await?) } else { None };
        Ok(Admitted { ask, bytes, permit })
    }

    async fn permit(&self, ticket: Ticket, floor: &mut Floor<'_>) -> Result<Permit, Error> {
        let permit = floor.unless_over(pin!(self.admission.admit(ticket))).await?;
        floor.record.waited(permit.waited);
        floor.record.generation = permit.generation();
        Ok(permit)
    }

    /// Until the first event: what comes before it may be tried again, for nothing has been said to the caller.
    async fn send(&self, admitted: Admitted, worker: &Arc<dyn Worker>, floor: &mut Floor<'_>) -> Result<Sent, Error> {
        let Admitted { ask, bytes, mut permit } = admitted;
        loop {
            floor.record.tries += 1;
            let mut events = self.ask(&ask, worker, permit.as_ref());
            let first = floor.unless_over(pin!(async { events.next().await.unwrap_or(Ok(Event::Done)) })).await;
            let error = match first {
                Ok(first) => return Ok(Sent { first, events, _permit: permit }),
                Err(error) => error,
            };
            let Some(held) = permit.filter(|_| may_try_again(&error)) else { return Err(error) };
            if floor.record.tries >= TRIES {
                return Err(Error::WorkerGone);
            }
            let place = Some(held.place());
            let generation = held.generation();
            drop((events, held));
            match error {
                Error::WorkerGone => self.admission.lost(generation),
                _ => floor.unless_over(pin!(tokio::time::sleep(PAUSE).map(Ok))).await?,
            }
            permit = Some(self.permit(Ticket { bytes, place }, floor).await?);
        }
    }

    fn ask(&self, ask: &Ask, worker: &Arc<dyn Worker>, permit: Option<&Permit>) -> Events {
        let generation = permit.map(Permit::generation);
        match ask {
            Ask::About { .. } => self.about(worker, generation),
            ask => {
                self.meet(worker, generation);
                worker.ask(ask.clone())
            }
        }
    }

    /// What the sidecar knows itself, the worker asked first if there is a permit for it.
    fn about(&self, worker: &Arc<dyn Worker>, generation: Option<u64>) -> Events {
        let (known, worker, ready) = (self.known.clone(), worker.clone(), self.ready());
        let facts = async move {
            if let Some(generation) = generation {
                known.learn(worker.as_ref(), generation).await?;
            }
            Ok(Event::Facts(known.facts(ready)))
        };
        let done = futures_util::future::ready(Ok(Event::Done));
        Box::pin(futures_util::stream::once(facts).chain(futures_util::stream::once(done)))
    }

    /// The first request of each new worker has it asked, beside the request, what its models are.
    fn meet(&self, worker: &Arc<dyn Worker>, generation: Option<u64>) {
        if generation.is_some_and(|generation| self.known.is_news(generation)) {
            let (known, worker, generation) = (self.known.clone(), worker.clone(), generation.unwrap_or_default());
            tokio::spawn(async move {
                if let Err(error) = known.learn(worker.as_ref(), generation).await {
                    tracing::warn!(%error, "the worker did not say what its models are");
                }
            });
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
        matches!(self.answers, Answers::Foreign(_))
    }

    /// Whether a request would be taken now.
    pub fn ready(&self) -> bool {
        let snapshot = self.admission.snapshot();
        !snapshot.draining && snapshot.worker != "backoff"
    }

    pub fn facts(&self) -> Facts {
        self.known.facts(self.ready())
    }
}

/// The worker went away before it began, or says that it is loading or draining: nothing was done.
fn may_try_again(error: &Error) -> bool {
    matches!(error, Error::WorkerGone | Error::Worker { code: grpc::UNAVAILABLE, .. })
}
