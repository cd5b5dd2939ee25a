//! The operator's window: metrics, health, drain, the configuration in force, and a page for people.
//!
//! On its own listener, by default on the loopback: whoever is on the machine may read all of it and drain the server.
//! On a wider address, as in a pod, peers from elsewhere get what kubelets and Prometheus need, and nothing else. Serves
//! one small request per connection; never anything a caller of the models may need.

pub mod authorizer;
pub mod healthz;
mod http;
mod invalidate;
mod leave;
mod page;
mod probes;
mod sleeper;
pub mod stats;

pub use probes::Prober;

use crate::auth::Authenticator;
use crate::config::Config;
use crate::exchange::Exchange;
use crate::metrics::Metrics;
use crate::record::unix_now;
use crate::server::Running;
use crate::tls::{Identity, Status};
use http::{Reply, Request};
use leave::Waiting;
use serde_json::json;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};

/// For reading a request, and again for writing its answer.
const TIMEOUT: Duration = Duration::from_secs(5);
const CONNECTIONS_MAX: usize = 64;

/// What the window shows.
pub struct Office {
    exchange: Arc<Exchange>,
    config: Config,
    running: Running,
    identity: Option<Arc<Identity>>,
    /// Whether the app is ready, where that is asked of it.
    prober: Option<Arc<Prober>>,
    waiting: Waiting,
    since: Instant,
}

/// Serves for ever.
pub async fn serve(listener: TcpListener, office: Arc<Office>) {
    let attend_one = |tcp, peer: SocketAddr| {
        let office = office.clone();
        async move { attend(&office, tcp, peer.ip()).await }
    };
    http::attend_each(listener, CONNECTIONS_MAX, attend_one).await
}

/// One connection. Each step has its own bound: a probe may take as long as it is allowed to.
async fn attend(office: &Office, mut tcp: TcpStream, peer: IpAddr) {
    let Ok(Ok(Some(request))) = tokio::time::timeout(TIMEOUT, http::read(&mut tcp)).await else { return };
    let (reply, head_only) = match request {
        Ok(request) => {
            let local = tcp.local_addr().map_or(peer, |local| local.ip());
            (office.admit(&request, peer.to_canonical(), local.to_canonical()).await, request.method == "HEAD")
        }
        Err(reply) => (reply, false),
    };
    let _ = tokio::time::timeout(TIMEOUT, http::write(tcp, &reply, head_only)).await;
}

/// What peers from outside the machine may ask: health, metrics and public keys, which say nothing that its callers do
/// not see. And a kubelet's hook, which comes from the node, may wait for the end.
fn for_everybody(path: &str) -> bool {
    matches!(path, "/metrics" | "/wait-for-drain" | "/drain-complete")
        || path.starts_with("/healthz/")
        || path.starts_with("/app-health/")
        || path.contains("/.well-known/")
}

/// What verifiers of wristbands ask for.
fn published(authenticator: &Authenticator, path: &str) -> Reply {
    let none = || Reply::text(404, "no wristband's issuer is here: /NAMESPACE/POLICY/RESPONSE/.well-known/…\n");
    authenticator.published(path).map_or_else(none, |document| Reply::document(document.into()))
}

/// What metrics say of whoever knows callers.
fn tell_auth(metrics: &Metrics, authenticator: &Authenticator) {
    metrics.verdicts.tell(&authenticator.memories());
    if let Some(watched) = authenticator.watched() {
        metrics.auth.watched(watched);
    }
    metrics.auth.tally(authenticator.tally());
    if let Some(trail) = authenticator.trail() {
        metrics.auth.trail(trail);
    }
}

impl Office {
    /// `identity`: ours, where one is configured.
    pub fn new(exchange: Arc<Exchange>, config: Config, running: Running, identity: Option<Arc<Identity>>) -> Self {
        Office { exchange, config, running, identity, prober: None, waiting: Waiting::default(), since: Instant::now() }
    }

    /// Ready only while the app is.
    pub fn asking(self, prober: Option<Arc<Prober>>) -> Self {
        Office { prober, ..self }
    }

    /// `local` is the address the peer came to, which in a pod is the pod's.
    async fn admit(&self, request: &Request, peer: IpAddr, local: IpAddr) -> Reply {
        if !peer.is_loopback() && !for_everybody(&request.path) {
            return Reply::text(403, "this is answered only from inside: ask 127.0.0.1 on the machine or in the pod\n");
        }
        let leaving = &self.exchange.leaving;
        match (request.method.as_str(), request.path.as_str()) {
            ("GET" | "HEAD", "/healthz/ready") => self.ready().await,
            ("GET" | "HEAD", "/wait-for-drain") => self.waiting.drained(leaving).await,
            ("POST" | "PUT", "/drain/wait") => self.waiting.leave(leaving).await,
            ("GET" | "HEAD", path) => match path.strip_prefix("/app-health/") {
                Some(rest) => probes::answer(&self.config.probes, rest, request.agent.as_deref(), local).await,
                None => self.answer(request),
            },
            _ => self.answer(request),
        }
    }

    fn answer(&self, request: &Request) -> Reply {
        match (request.method.as_str(), request.path.as_str()) {
            ("POST" | "PUT", "/drain") => self.drain(),
            ("POST", "/wake") => self.wake(),
            ("POST", "/sleep") => self.sleep(),
            (_, "/wake" | "/sleep") => Reply::text(405, "use POST\n").with("allow", "POST"),
            ("POST", "/auth/invalidate") => self.invalidate(&request.body),
            (_, "/auth/invalidate") => Reply::text(405, "use POST\n").with("allow", "POST"),
            (_, "/drain" | "/drain/wait") => Reply::text(405, "use POST or PUT\n").with("allow", "POST, PUT"),
            ("GET" | "HEAD", path) => match path {
                "/" => Reply::html(self.page()),
                "/metrics" => self.metrics(),
                "/healthz/live" => Reply::text(200, "live\n"),
                "/drain-complete" => self.drain_complete(),
                "/config_dump" => Reply::json(200, &self.config.dump()),
                path if path.contains("/.well-known/") => published(&self.exchange.authenticator, path),
                _ => Reply::text(404, "try / /metrics /healthz/ready /healthz/live /app-health /drain /config_dump\n"),
            },
            _ => Reply::text(405, "use GET\n").with("allow", "GET, HEAD"),
        }
    }

    /// The identity at this moment, and the moment.
    fn identity(&self) -> Option<(Status, u64)> {
        let now = unix_now().as_secs();
        self.identity.as_ref().map(|identity| (identity.status(now), now))
    }

    /// What was believed of some callers is believed no more, and their streams end.
    fn invalidate(&self, body: &[u8]) -> Reply {
        let cut = |revoked| self.exchange.revocations.revoke(revoked);
        invalidate::invalidate(body, &self.exchange.authenticator, unix_now().as_secs(), cut)
    }

    fn metrics(&self) -> Reply {
        let metrics = &self.exchange.journal.metrics;
        tell_auth(metrics, &self.exchange.authenticator);
        if let Some((status, now)) = self.identity() {
            metrics.identity(&status, status.ready(now).is_ok());
        }
        if let Some(policies) = &self.exchange.policies {
            metrics.policy(policies);
        }
        metrics.wake.tell(&self.exchange.admission.wake_stages());
        metrics.dropped(self.exchange.journal.lines.dropped());
        Reply::metrics(metrics.expose(&self.exchange.admission.snapshot()))
    }

    /// Ready also while the worker sleeps, for it would be woken; not while starts fail, not without an identity that
    /// anybody would believe, and not while the app says that it is not.
    async fn ready(&self) -> Reply {
        if let Some(Err(why)) = self.identity().map(|(status, now)| status.ready(now)) {
            return Reply::text(503, &format!("{why}\n"));
        }
        if let Err(why) = self.exchange.authenticator.ready() {
            return Reply::text(503, &format!("{why}\n"));
        }
        if !self.exchange.ready() {
            let why = match self.exchange.admission.snapshot().reason {
                Some(reason) => format!("the worker does not start: {reason}\n"),
                None => "draining\n".into(),
            };
            return Reply::text(503, &why);
        }
        match &self.prober {
            Some(prober) if !prober.is_ready().await => Reply::text(503, "the app is not ready\n"),
            _ => Reply::text(200, "ready\n"),
        }
    }

    /// As queue-proxy says it.
    fn drain_complete(&self) -> Reply {
        match self.exchange.journal.metrics.in_flight.get() {
            ..=0 => Reply::text(200, "drained"),
            left => Reply::text(503, &format!("pending requests: {left}")),
        }
    }

    /// Takes nobody new from now on; the process goes on until it is told to end. Made for `preStop` hooks.
    fn drain(&self) -> Reply {
        self.exchange.admission.drain();
        let snapshot = self.exchange.admission.snapshot();
        Reply::json(200, &json!({"draining": true, "running": snapshot.running, "waiting": snapshot.waiting}))
    }

    fn page(&self) -> String {
        page::render(&page::Page {
            listen: self.running.listen,
            tls: self.config.tls.mode,
            facts: self.exchange.facts(),
            snapshot: self.exchange.admission.snapshot(),
            up: self.since.elapsed(),
        })
    }
}
