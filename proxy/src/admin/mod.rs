//! The operator's window: metrics, health, drain, the configuration in force, and a page for people.
//!
//! On its own listener, by default on the loopback: whoever is on the machine may read all of it and drain the server.
//! On a wider address, as in a pod, peers from elsewhere get what kubelets and Prometheus need, and nothing else. Serves
//! one small request per connection; never anything a caller of the models may need.

pub mod authorizer;
pub mod healthz;
mod http;
mod invalidate;
mod page;
mod probes;

use crate::config::Config;
use crate::exchange::Exchange;
use crate::record::unix_now;
use crate::server::Running;
use crate::tls::{Identity, Status};
use http::{Reply, Request};
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

/// What peers from outside the machine may ask: health and metrics, which say nothing that its callers do not see.
fn for_everybody(path: &str) -> bool {
    path == "/metrics" || path.starts_with("/healthz/") || path.starts_with("/app-health/")
}

impl Office {
    /// `identity`: ours, where one is configured.
    pub fn new(exchange: Arc<Exchange>, config: Config, running: Running, identity: Option<Arc<Identity>>) -> Self {
        Office { exchange, config, running, identity, since: Instant::now() }
    }

    /// `local` is the address the peer came to, which in a pod is the pod's.
    async fn admit(&self, request: &Request, peer: IpAddr, local: IpAddr) -> Reply {
        if !peer.is_loopback() && !for_everybody(&request.path) {
            return Reply::text(403, "this is answered only from inside: ask 127.0.0.1 on the machine or in the pod\n");
        }
        match request.path.strip_prefix("/app-health/") {
            Some(rest) if matches!(request.method.as_str(), "GET" | "HEAD") => {
                probes::answer(&self.config.probes, rest, request.agent.as_deref(), local).await
            }
            _ => self.answer(request),
        }
    }

    fn answer(&self, request: &Request) -> Reply {
        match (request.method.as_str(), request.path.as_str()) {
            ("POST" | "PUT", "/drain") => self.drain(),
            ("POST", "/auth/invalidate") => self.invalidate(&request.body),
            (_, "/auth/invalidate") => Reply::text(405, "use POST\n").with("allow", "POST"),
            (_, "/drain") => Reply::text(405, "use POST or PUT\n").with("allow", "POST, PUT"),
            ("GET" | "HEAD", path) => match path {
                "/" => Reply::html(self.page()),
                "/metrics" => self.metrics(),
                "/healthz/live" => Reply::text(200, "live\n"),
                "/healthz/ready" => self.ready(),
                "/config_dump" => Reply::json(200, &self.config.dump()),
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
        metrics.verdicts.tell(&self.exchange.authenticator.memories());
        if let Some((status, now)) = self.identity() {
            metrics.identity(&status, status.ready(now).is_ok());
        }
        if let Some(policies) = &self.exchange.policies {
            metrics.policy(policies);
        }
        if let Some(watched) = self.exchange.authenticator.watched() {
            metrics.auth.watched(watched);
        }
        metrics.dropped(self.exchange.journal.lines.dropped());
        Reply::metrics(metrics.expose(&self.exchange.admission.snapshot()))
    }

    /// Ready also while the worker sleeps, for it would be woken; not while starts fail, and not without an identity
    /// that anybody would believe.
    fn ready(&self) -> Reply {
        if let Some(Err(why)) = self.identity().map(|(status, now)| status.ready(now)) {
            return Reply::text(503, &format!("{why}\n"));
        }
        let snapshot = self.exchange.admission.snapshot();
        if self.exchange.ready() {
            return Reply::text(200, "ready\n");
        }
        let why = match snapshot.reason {
            Some(reason) => format!("the worker does not start: {reason}\n"),
            None => "draining\n".into(),
        };
        Reply::text(503, &why)
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
