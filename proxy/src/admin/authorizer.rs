//! The admin port of a process that only answers gateways: health, as Authorino's probes ask for it, and metrics.

use super::http::{self, Reply, Request};
use super::{CONNECTIONS_MAX, TIMEOUT};
use crate::admission::Snapshot;
use crate::metrics::Metrics;
use crate::record::unix_now;
use crate::tls::Identity;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub struct Office {
    pub metrics: Arc<Metrics>,
    pub identity: Option<Arc<Identity>>,
    pub draining: watch::Receiver<bool>,
}

/// Answers for ever. All of it is for everybody: it says nothing that gateways do not see.
pub async fn serve(listener: TcpListener, office: Arc<Office>) {
    let attend_one = |tcp, _| {
        let office = office.clone();
        async move { drop(tokio::time::timeout(TIMEOUT, attend(&office, tcp)).await) }
    };
    http::attend_each(listener, CONNECTIONS_MAX, attend_one).await
}

async fn attend(office: &Office, mut tcp: TcpStream) -> std::io::Result<()> {
    match http::read(&mut tcp).await? {
        None => Ok(()),
        Some(Ok(request)) => http::write(tcp, &office.answer(&request), request.method == "HEAD").await,
        Some(Err(reply)) => http::write(tcp, &reply, false).await,
    }
}

impl Office {
    fn answer(&self, request: &Request) -> Reply {
        if !matches!(request.method.as_str(), "GET" | "HEAD") {
            return Reply::text(405, "use GET\n").with("allow", "GET, HEAD");
        }
        match request.path.as_str() {
            "/healthz" | "/healthz/live" => Reply::text(200, "live\n"),
            "/readyz" | "/healthz/ready" => self.ready(),
            "/metrics" | "/server-metrics" => Reply::metrics(self.metrics.expose(&Snapshot::default())),
            _ => Reply::text(404, "try /healthz /readyz /metrics\n"),
        }
    }

    fn ready(&self) -> Reply {
        let now = unix_now().as_secs();
        match self.identity.as_ref().map(|identity| identity.status(now).ready(now)) {
            _ if *self.draining.borrow() => Reply::text(503, "draining\n"),
            Some(Err(why)) => Reply::text(503, &format!("{why}\n")),
            _ => Reply::text(200, "ready\n"),
        }
    }
}
