//! Where an exchange asks who calls and whether they may: our own list of methods, or policies that others wrote, by host.

use super::audit::Audit;
use super::audit::trail::{Entry, Trail};
use super::authconfig::{self, Api, Index, Setting};
use super::barred::Barred;
use super::callbacks::{Bounds, Callbacks};
use super::credential::Location;
use super::methods::{self, Memory, Method, Tools};
use super::pipeline::counts::Tally;
use super::pipeline::{Allowed, Authentication, Evaluator, Identified, Phase, Pipeline, Refusal};
use super::request::Edit;
use super::revocations::Whose;
use super::verdicts::Which;
use super::{ConfigProblem, Identity, Request, credential};
use crate::config;
use crate::message::Head;
use crate::policy::Problem;
use crate::tls::identity::Peer;
use crate::watched::{WATCH_PERIOD, Watched};
use bytes::Bytes;
use http::header::{AUTHORIZATION, COOKIE, HeaderName, PROXY_AUTHORIZATION};
use std::sync::Arc;
use std::time::Duration;

/// Where a bearer may carry its credential.
pub const CREDENTIALS: [HeaderName; 4] =
    [AUTHORIZATION, PROXY_AUTHORIZATION, HeaderName::from_static("x-api-key"), COOKIE];

/// Whom to ask.
pub struct Authenticator {
    policies: Policies,
    tools: Tools,
    /// Those whom policies want told of requests.
    callbacks: Option<Arc<Callbacks>>,
    /// Where policies or Secrets are followed.
    api: Option<Arc<Api>>,
    /// Where each decision is written down.
    trail: Option<Arc<Trail>>,
    /// What became of the questions that policies were asked.
    tally: Arc<Tally>,
}

enum Policies {
    /// Our own list of methods, whatever the host.
    Ours(Arc<Pipeline>),
    /// Others', by host.
    Theirs(Arc<Watched<Index>>),
}

/// A caller whose name is known, and the policy that knows it.
pub struct Caller {
    pipeline: Arc<Pipeline>,
    identified: Identified,
    credential: Option<Box<str>>,
    /// For the audit trail, if there is one.
    entry: Option<Box<Entry>>,
}

/// A caller who may go on. Only [`Authenticator::authorize`] and [`Caller::settle`] make one, so no stage after it can be
/// reached without.
#[derive(Debug)]
pub struct Authorized {
    allowed: Allowed,
    edits: Vec<Edit>,
}

impl Authorized {
    fn new(pipeline: &Pipeline, allowed: Allowed) -> Authorized {
        let set = allowed.headers.iter().map(|(name, value)| Edit::Set(name.clone(), value.clone()));
        let edits = pipeline.outputs().cloned().map(Edit::Strip).chain(set).collect();
        Authorized { allowed, edits }
    }

    pub fn identity(&self) -> &Identity {
        &self.allowed.identity
    }

    pub fn audit(&self) -> &Audit {
        &self.allowed.audit
    }

    /// What the policy says to a gateway that asked; an object.
    pub fn dynamic_metadata(&self) -> &serde_json::Map<String, serde_json::Value> {
        &self.allowed.dynamic_metadata
    }

    /// What the policy changes in the request before it is sent on. Headers that only it may set are stripped first.
    pub fn edits(&self) -> &[Edit] {
        &self.edits
    }
}

impl Caller {
    pub fn identity(&self) -> &Identity {
        &self.identified.identity
    }

    /// It showed a credential, which is not for whoever stands behind us.
    pub fn consumes(&self) -> bool {
        self.identified.consumes
    }

    /// Whether it may ask, where to be known is all that is asked of it: then nobody has to wait for an answer. Else it is
    /// given back, for [`Authenticator::authorize`].
    pub fn settle(self) -> Result<Authorized, Box<Caller>> {
        let Caller { pipeline, identified, credential, entry } = self;
        match pipeline.settle(identified) {
            Ok(allowed) => {
                tell(entry.as_deref(), &allowed.audit);
                Ok(Authorized::new(&pipeline, allowed))
            }
            Err(identified) => Err(Box::new(Caller { pipeline, identified: *identified, credential, entry })),
        }
    }

    /// To end what runs, should its rights be revoked.
    pub fn whose(&mut self) -> Whose {
        let identity = &self.identified.identity;
        let (subject, issuer) = (identity.subject.clone(), identity.issuer.clone());
        Whose { subject, issuer, claims: identity.claims.clone(), credential: self.credential.take() }
    }

    /// What takes its credentials out of the request.
    pub fn strips(&self) -> Vec<Edit> {
        if !self.consumes() {
            return Vec::new();
        }
        let mut strips: Vec<Edit> = self.pipeline.credentials().map(Edit::strip_of).collect();
        // Our own list of methods says of no place that it is for anybody else.
        if !self.pipeline.explains {
            strips.extend(CREDENTIALS.map(Edit::Strip));
        }
        strips
    }
}

impl Authenticator {
    /// Opens every method: reads key sets, so that a missing one stops the start and not the first caller.
    pub fn from_config(configs: &[config::Method]) -> Result<Authenticator, ConfigProblem> {
        if configs.is_empty() {
            return Err(ConfigProblem {
                path: "auth.methods".into(),
                message: "no method is listed, so nobody could enter; list `anonymous: {}` to let everybody in".into(),
            });
        }
        let tools = Tools::new();
        let mut evaluators = Vec::with_capacity(configs.len());
        for (index, config) in configs.iter().enumerate() {
            let kind = methods::kind(config);
            let method = (kind.open)(config, &tools).map_err(|problem| ConfigProblem {
                path: format!("auth.methods[{index}].{}{}", kind.name, problem.path),
                message: problem.message,
            })?;
            evaluators.push(evaluator(index, kind.name, method, config.credentials()));
        }
        let authentication = Phase::new(evaluators);
        let pipeline = Pipeline { name: "auth.methods".into(), authentication, ..Pipeline::default() };
        Ok(Authenticator {
            policies: Policies::Ours(Arc::new(pipeline)),
            tools,
            callbacks: None,
            api: None,
            trail: None,
            tally: Arc::default(),
        })
    }

    /// By one policy that was made in code.
    pub fn of(pipeline: Pipeline) -> Authenticator {
        Authenticator::of_with(pipeline, Tools::new())
    }

    /// The same, of methods that were opened with these tools.
    pub fn of_with(pipeline: Pipeline, tools: Tools) -> Authenticator {
        Authenticator {
            policies: Policies::Ours(Arc::new(pipeline)),
            tools,
            callbacks: None,
            api: None,
            trail: None,
            tally: Arc::default(),
        }
    }

    /// By policies that others wrote.
    pub fn of_policies(config: &config::authconfig::AuthConfig) -> Result<Authenticator, Vec<Problem>> {
        let tools = Tools::new();
        let callbacks = Callbacks::new(Bounds::default());
        let setting = Setting::new(config, tools.clone(), callbacks.clone());
        let tally = setting.tally.clone();
        let (watched, api) = authconfig::open(config, setting)?;
        Ok(Authenticator {
            policies: Policies::Theirs(Arc::new(watched)),
            tools,
            callbacks: Some(callbacks),
            api,
            trail: None,
            tally,
        })
    }

    /// Each decision is written down there too.
    pub fn with_trail(self, trail: Option<Arc<Trail>>) -> Authenticator {
        Authenticator { trail, ..self }
    }

    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    pub fn trail(&self) -> Option<&Trail> {
        self.trail.as_deref()
    }

    /// Policies that others wrote, if we go by such.
    pub fn watched(&self) -> Option<&Watched<Index>> {
        match &self.policies {
            Policies::Ours(_) => None,
            Policies::Theirs(watched) => Some(watched),
        }
    }

    fn pipeline(&self, host: &str) -> Option<Arc<Pipeline>> {
        match &self.policies {
            Policies::Ours(pipeline) => Some(pipeline.clone()),
            Policies::Theirs(watched) => watched.current().find(host).cloned(),
        }
    }

    /// Fetches the keys of issuers, watches the policies and calls back, for ever. Start it on one runtime only.
    pub async fn tend(self: Arc<Self>) {
        let keys = self.tools.keys.clone().run();
        let watched = async {
            if let Policies::Theirs(watched) = &self.policies {
                watched.clone().watch(WATCH_PERIOD).await;
            }
        };
        let callbacks = async {
            if let Some(callbacks) = &self.callbacks {
                callbacks.clone().run().await;
            }
        };
        let api = async {
            if let Some(api) = &self.api {
                api.follow().await;
            }
        };
        tokio::join!(keys, watched, callbacks, api);
    }

    /// Whether it is known who may enter; if not, why.
    pub fn ready(&self) -> Result<(), &'static str> {
        match &self.policies {
            Policies::Theirs(watched) if !watched.current().is_known() => {
                Err("the Kubernetes API has not told yet which policies and Secrets there are")
            }
            _ => Ok(()),
        }
    }

    /// Those who are still to be told of requests are told, within `limit`.
    pub async fn drain(&self, limit: Duration) {
        if let Some(callbacks) = &self.callbacks {
            callbacks.drain(limit).await;
        }
        if let Some(trail) = &self.trail {
            trail.flush();
        }
    }

    /// Who calls. The first way to know callers that knows this one decides.
    ///
    /// A credential that was shown and refused is never forgiven by `anonymous`: who mistypes a token must hear of it.
    pub async fn identify(&self, request: Request<'_>) -> Result<Caller, Box<Refusal>> {
        let entry = self.trail.as_ref().map(|trail| Box::new(trail.begin(&request)));
        match self.known(request).await {
            Ok(caller) => Ok(Caller { entry, ..caller }),
            Err(refusal) => {
                tell(entry.as_deref(), &refusal.audit);
                Err(refusal)
            }
        }
    }

    async fn known(&self, request: Request<'_>) -> Result<Caller, Box<Refusal>> {
        let Some(pipeline) = self.pipeline(request.host) else {
            let known = self.ready().map(|()| Refusal::unknown_host(request.host));
            return Err(known.unwrap_or_else(Refusal::not_yet));
        };
        let identified = pipeline.identify(request).await?;
        let credential = if identified.consumes { shown(&pipeline, request.head) } else { None };
        Ok(Caller { pipeline, identified, credential, entry: None })
    }

    /// Whether this caller may ask.
    pub async fn authorize(&self, caller: Caller, now_unix: u64) -> Result<Authorized, Box<Refusal>> {
        let Caller { pipeline, identified, entry, .. } = caller;
        let decided = pipeline.authorize(identified, now_unix).await;
        tell(entry.as_deref(), decided.as_ref().map_or_else(|refusal| &refusal.audit, |allowed| &allowed.audit));
        Ok(Authorized::new(&pipeline, decided?))
    }

    /// What a wristband's verifiers ask for, as Authorino serves it:
    /// `/namespace/policy/response/.well-known/openid-configuration`, and the keys it names.
    pub fn published(&self, path: &str) -> Option<Bytes> {
        let Policies::Theirs(watched) = &self.policies else { return None };
        let mut parts = path.strip_prefix('/')?.splitn(4, '/');
        let (namespace, policy, response) = (parts.next()?, parts.next()?, parts.next()?);
        let path = format!("/{}", parts.next()?);
        let index = watched.current();
        let named = |pipeline: &&Arc<Pipeline>| pipeline.name.split_once('/') == Some((namespace, policy));
        index.pipelines().find(named)?.published(response, &path)
    }

    /// What is remembered of others' answers, and by what.
    pub fn memories(&self) -> Vec<Memory> {
        let of = |pipeline: &Pipeline| -> Vec<Memory> {
            let methods = pipeline.authentication.all().filter_map(|one| one.inner.method.remembers());
            methods.chain(pipeline.authorization.all().filter_map(|one| one.inner.remembers())).collect()
        };
        match &self.policies {
            Policies::Ours(pipeline) => of(pipeline),
            Policies::Theirs(watched) => watched.current().pipelines().flat_map(|pipeline| of(pipeline)).collect(),
        }
    }

    /// Tokens that ended before their time, for whoever else verifies tokens.
    pub fn barred(&self) -> Arc<Barred> {
        self.tools.barred.clone()
    }

    /// Forgets what others answered; returns how many answers. What policies cache by keys of their own is forgotten
    /// whole: nobody can tell of whom it speaks.
    pub fn forget(&self, which: &Which) -> usize {
        match &self.policies {
            Policies::Ours(pipeline) => pipeline.forget(),
            Policies::Theirs(watched) => watched.current().pipelines().for_each(|pipeline| pipeline.forget()),
        }
        self.memories().iter().map(|(_, memory)| memory.forget(which)).sum()
    }

    /// Whether the connection alone says enough of who calls: bytes of an unknown protocol carry no other credential.
    pub fn knows_by_connection(&self, peer: &Peer) -> bool {
        match &self.policies {
            Policies::Ours(pipeline) => pipeline.knows_by_connection(peer),
            // Bytes have no host that would say which policy is theirs.
            Policies::Theirs(_) => false,
        }
    }
}

/// In our own list the order is the priority.
fn evaluator(
    index: usize,
    name: &'static str,
    method: Box<dyn Method>,
    location: &Location,
) -> Evaluator<Authentication, Identity> {
    // What is known of a connection, or of nobody, is no credential of a request; nor is what somebody before us said.
    let said = matches!(name, methods::plain::NAME | methods::x509::NAME);
    let consumes = !said && !matches!(name, methods::anonymous::NAME | methods::mtls::NAME);
    let inner = Authentication { consumes, ..Authentication::new(method, location.clone()) };
    let priority = i64::try_from(index).unwrap_or(i64::MAX);
    Evaluator { priority, ..Evaluator::new(name, name, inner) }
}

fn tell(entry: Option<&Entry>, audit: &Audit) {
    if let Some(entry) = entry {
        entry.write(audit);
    }
}

/// The first credential at one of the policy's places.
fn shown(pipeline: &Pipeline, head: &Head) -> Option<Box<str>> {
    pipeline.credentials().find_map(|location| credential::take(head, location).ok().flatten()).map(Box::from)
}
