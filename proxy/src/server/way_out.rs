//! The way out in the life of the server: one listener that all seats accept from, opened with the rest and closed last.
//!
//! While callers are drained the application still needs its own calls, to end the work it has and to say goodbye.

use super::Error;
use super::handover::Ports;
use crate::config::{Config, outbound as config};
use crate::net::original_destination;
use crate::outbound::origin::Ourselves;
use crate::outbound::{Outbound, Seat, Surroundings};
use crate::record::Journal;
use crate::tls::Identity;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

/// How often an end is looked for.
const LOOK_PERIOD: Duration = Duration::from_millis(50);

pub struct WayOut {
    outbound: Arc<Outbound>,
    /// At least one; the first is where the configuration says.
    listeners: Vec<TcpListener>,
    close: watch::Sender<bool>,
}

impl WayOut {
    /// `None` if the configuration has none.
    pub fn open(
        config: &Config,
        identity: &Option<Arc<Identity>>,
        journal: &Arc<Journal>,
        doors: &mut Ports,
    ) -> Result<Option<WayOut>, Error> {
        let Some(outbound) = &config.outbound else { return Ok(None) };
        let listener = doors.listen("outbound.listen", outbound.listen)?;
        let around = Surroundings {
            ourselves: Ourselves { identity: identity.clone(), trust_domain: config.tls.trust_domain.clone() },
            journal: journal.clone(),
            original: Arc::new(original_destination),
            listen: listener.local_addr()?,
            // Sidecars that start together need not begin with the same endpoint.
            offset: std::process::id() as usize,
        };
        let listeners = [Some(listener), twin(outbound, doors)?].into_iter().flatten().collect();
        let outbound = Outbound::open(outbound.clone(), around)?;
        Ok(Some(WayOut { outbound, listeners, close: watch::Sender::new(false) }))
    }

    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listeners[0].local_addr()
    }

    /// What one seat gets.
    pub fn door(&self) -> std::io::Result<Door> {
        let listeners = self.listeners.iter().map(TcpListener::try_clone).collect::<Result<_, _>>()?;
        Ok(Door { outbound: self.outbound.clone(), listeners, closed: self.close.subscribe() })
    }

    /// Discovery; needs a runtime around it.
    pub fn staff(&self) {
        tokio::spawn(self.outbound.clone().tend());
    }

    /// All callers are gone: open for a while yet, and as long as the application has connections, but not beyond
    /// `deadline` nor a further word of `stop`. Returns when all seats have ended.
    pub async fn drain(
        self,
        deadline: Instant,
        stop: &mut mpsc::UnboundedReceiver<()>,
        seats: &mut mpsc::Receiver<()>,
    ) {
        let at_least = (Instant::now() + self.outbound.config.drain_min).min(deadline);
        let unused = async {
            tokio::time::sleep_until(at_least).await;
            while self.outbound.connections.get() > 0 {
                tokio::time::sleep(LOOK_PERIOD).await;
            }
        };
        tokio::select! {
            () = unused => {}
            () = tokio::time::sleep_until(deadline) => {}
            _ = stop.recv() => {}
        }
        self.close.send_replace(true);
        let _ = tokio::time::timeout(Duration::from_secs(1), seats.recv()).await;
    }
}

/// A redirect brings what goes out by IPv6 to `::1` of the same port, for it has no other loopback address: with a
/// listener at 127.0.0.1 alone, the application could reach nothing by IPv6. `None` where it is not needed, or not there.
fn twin(outbound: &config::Outbound, doors: &mut Ports) -> Result<Option<TcpListener>, Error> {
    let port = outbound.listen.port();
    if !outbound.interception || outbound.listen.ip() != Ipv4Addr::LOCALHOST || port == 0 {
        return Ok(None);
    }
    match doors.listen("outbound.listen", (Ipv6Addr::LOCALHOST, port).into()) {
        Err(Error::Listen { source, .. }) if lacks_ipv6(&source) => Ok(None),
        listener => listener.map(Some),
    }
}

fn lacks_ipv6(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT))
}

/// One seat's share of the way out.
pub struct Door {
    outbound: Arc<Outbound>,
    listeners: Vec<TcpListener>,
    closed: watch::Receiver<bool>,
}

impl Door {
    pub async fn serve(self) -> std::io::Result<()> {
        let listeners = self.listeners.into_iter().map(tokio::net::TcpListener::from_std).collect::<Result<_, _>>()?;
        Seat::new(self.outbound, TaskTracker::new()).serve(listeners, self.closed).await;
        Ok(())
    }
}
