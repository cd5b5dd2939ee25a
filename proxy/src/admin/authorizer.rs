//! The admin port of a process that only answers gateways: health, as Authorino's probes ask for it, metrics, and what
//! an operator wants forgotten.

use super::http::{self, Reply, Request};
use super::{CONNECTIONS_MAX, TIMEOUT, invalidate};
use crate::admission::Snapshot;
use crate::auth::Authenticator;
use crate::metrics::Metrics;
use crate::record::unix_now;
use crate::tls::Identity;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub struct Office {
    pub metrics: Arc<Metrics>,
    pub identity: Option<Arc<Identity>>,
    pub authenticator: Arc<Authenticator>,
    pub draining: watch::Receiver<bool>,
}

/// Answers for ever. What is read is for everybody: it says nothing that gateways do not see.
pub async fn serve(listener: TcpListener, office: Arc<Office>) {
    let attend_one = |tcp, _| {
        let office = office.clone();
        async move { drop(tokio::time::timeout(TIMEOUT, attend(&office, tcp)).await) }
    };
    http::attend_each(listener, CONNECTIONS_MAX, attend_one).await
}

async fn attend(office: &Office, mut tcp: TcpStream) -> std::io::Result<()> {
    let from_inside = tcp.peer_addr()?.ip().to_canonical().is_loopback();
    match http::read(&mut tcp).await? {
        None => Ok(()),
        Some(Ok(request)) => http::write(tcp, &office.answer(&request, from_inside), request.method == "HEAD").await,
        Some(Err(reply)) => http::write(tcp, &reply, false).await,
    }
}

impl Office {
    fn answer(&self, request: &Request, from_inside: bool) -> Reply {
        if request.path == "/auth/invalidate" {
            return match request.method.as_str() {
                _ if !from_inside => Reply::text(403, "this is answered only from inside: ask 127.0.0.1 in the pod\n"),
                // Decisions are answered at once; nothing runs on.
                "POST" => invalidate::invalidate(&request.body, &self.authenticator, unix_now().as_secs(), |_| ()),
                _ => Reply::text(405, "use POST\n").with("allow", "POST"),
            };
        }
        if !matches!(request.method.as_str(), "GET" | "HEAD") {
            return Reply::text(405, "use GET\n").with("allow", "GET, HEAD");
        }
        match request.path.as_str() {
            "/healthz" | "/healthz/live" => Reply::text(200, "live\n"),
            "/readyz" | "/healthz/ready" => self.ready(),
            "/metrics" | "/server-metrics" => self.metrics(),
            path if path.contains("/.well-known/") => super::published(&self.authenticator, path),
            _ => Reply::text(404, "try /healthz /readyz /metrics\n"),
        }
    }

    fn metrics(&self) -> Reply {
        super::tell_auth(&self.metrics, &self.authenticator);
        Reply::metrics(self.metrics.expose(&Snapshot::default()))
    }

    fn ready(&self) -> Reply {
        let now = unix_now().as_secs();
        let identity = self.identity.as_ref().map_or(Ok(()), |identity| identity.status(now).ready(now));
        let why = match (*self.draining.borrow(), identity, self.authenticator.ready().map_err(str::to_owned)) {
            (true, ..) => "draining".into(),
            (_, Err(why), _) | (_, _, Err(why)) => why,
            _ => return Reply::text(200, "ready\n"),
        };
        Reply::text(503, &format!("{why}\n"))
    }
}
