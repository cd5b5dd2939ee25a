//! Bytes that are none of our business: copied both ways, to where they were meant to go or, inside mutual TLS, to the
//! cluster of a route that names their port.

use super::dial::dial;
use super::endpoint::{Endpoint, InFlight};
use super::origin::Speech;
use super::outlier::Outcome;
use super::record::Record;
use super::refusal::Refusal;
use super::route::{choose, find_opaque};
use super::seat::{Seat, Via};
use super::set::Wish;
use crate::config::outbound::Unknown;
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes};
use tokio::net::TcpStream;

/// For each direction. Large enough that bulk data costs few system calls, small enough for ten thousand of them.
const BUFFER_BYTES: usize = 16 << 10;

pub async fn carry(seat: &Arc<Seat>, via: Via, tcp: TcpStream) -> io::Result<()> {
    let mut record = Record::open(seat.outbound.journal.clone(), via.caller, "tcp");
    match connect(seat, via, &mut record).await {
        Ok((stream, _in_flight)) => {
            record.answered(200);
            splice(tcp, stream, record).await
        }
        Err(refusal) => {
            (record.status, record.label) = (refusal.verdict().status, refusal.verdict().label);
            record.reason = Some(refusal.to_string());
            // Nothing can be said in a protocol nobody knows: the connection is closed.
            Ok(())
        }
    }
}

async fn connect(
    seat: &Arc<Seat>,
    via: Via,
    record: &mut Record,
) -> Result<(super::dial::Stream, Option<InFlight>), Refusal> {
    let outbound = &seat.outbound;
    let meant = via.meant.ok_or(Refusal::NoHost)?;
    record.host = meant.to_string();
    let (cluster, endpoint) = match find_opaque(&outbound.config.routes, meant.port()) {
        Some(route) => {
            let cluster = &outbound.clusters[choose(route, seat.chance())];
            let wish = Wish { key: None, tried: &[], now: outbound.now(), chance: &mut || seat.chance() };
            let endpoint = cluster.set.load().pick(wish);
            (cluster, endpoint.ok_or_else(|| Refusal::NoEndpoint(cluster.config.name.clone()))?)
        }
        None if outbound.config.unknown == Unknown::Refuse => return Err(Refusal::NoRoute(meant.to_string())),
        None => (&outbound.passthrough, Arc::new(Endpoint::new(meant))),
    };
    record.cluster.clone_from(&cluster.config.name);
    record.endpoint = Some(endpoint.address);
    record.tls = cluster.origin.is_tls();
    record.tries = 1;
    if outbound.is_ourselves(endpoint.address) {
        return Err(Refusal::Loop);
    }
    let dialled = dial(cluster, endpoint.address, Speech::Opaque).await;
    let result = dialled.as_ref().map_or_else(|reason| *reason, |_| "ok");
    outbound.journal.metrics.outbound.connections.with_label_values(&[&cluster.config.name, result]).inc();
    seat.judge(cluster, &endpoint, if dialled.is_ok() { Outcome::Answered(200) } else { Outcome::Failed });
    let stream = dialled.map_err(|reason| Refusal::ConnectFailed { cluster: cluster.config.name.clone(), reason })?;
    Ok((stream, Some(InFlight::new(&endpoint.stats))))
}

/// Copies until both directions have ended, each in its own time.
pub async fn splice(
    mut application: impl AsyncRead + AsyncWrite + Unpin,
    mut server: impl AsyncRead + AsyncWrite + Unpin,
    mut record: Record,
) -> io::Result<()> {
    let copied = copy_bidirectional_with_sizes(&mut application, &mut server, BUFFER_BYTES, BUFFER_BYTES).await;
    if let Ok((there, back)) = &copied {
        (record.request_bytes, record.response_bytes, record.label) = (*there, *back, "ok");
    }
    copied.map(|_| ())
}
