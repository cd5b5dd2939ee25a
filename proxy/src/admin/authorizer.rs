//! The admin port of a process that only answers gateways: health, as Authorino's probes ask for it, and metrics.

use super::http::{self, Reply, Request};
use super::{CONNECTIONS_MAX, TIMEOUT};
use crate::admission::Snapshot;
use crate::metrics::Metrics;
use crate::record::unix_now;
use crate::tls::Identity;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

pub struct Office {
    pub metrics: Arc<Metrics>,
    pub identity: Option<Arc<Identity>>,
    pub draining: watch::Receiver<bool>,
}

/// Answers for ever. All of it is for everybody: it says nothing that gateways do not see.
pub async fn serve(listener: TcpListener, office: Arc<Office>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok((tcp, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        let office = office.clone();
        tokio::spawn(async move {
            let _place = place;
            let _ = tokio::time::timeout(TIMEOUT, attend(&office, tcp)).await;
        });
    }
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
