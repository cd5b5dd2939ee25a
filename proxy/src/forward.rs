//! The other way to answer: the request is handed, untouched but for what identity adds and takes, to a foreign server
//! on TCP or a Unix socket, in HTTP/1.1 or h2c, upgrades included.
//!
//! Never reads a body, never changes a dialect, and never sends a request twice that may have been begun.

mod asking;
mod carry;
mod edits;
mod failure;
mod gauge;
mod pods;
mod pool;
mod stream;
mod streams;
mod telling;
pub mod usage;
mod wire;

pub use edits::{Edit, edits, edits_of};
pub use pods::{AT_ONCE, Secure, can_be_kept};
pub use pool::Pool;
pub use streams::Streams;
pub use usage::BYTES_PER_TOKEN;

use crate::accept::{Busy, Target};
use crate::activator::Trip;
use crate::admission::{Admission, Permit, Place, Ticket};
use crate::config::{Destination, Forward, Protocol};
use crate::dialects::Dialect;
use crate::downstream::{is_grpc, neutral_refusal};
use crate::error::Error;
use crate::exchange::{Deadlines, Meter, Rights, TRIES, explain};
use crate::message::{Head, Part};
use crate::record::Record;
use bytes::{Bytes, BytesMut};
use gauge::Gauge;
use http::header::HeaderValue;
use pingora_core::protocols::http::ServerSession;
use pingora_http::ResponseHeader;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// What the server behind may keep for us before it has to read on: a slow caller must not fill our memory.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// A server that reads nothing for so long will not: without an end, it and a caller who reads nothing either would wait
/// for each other for ever.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// Streams of one connection: what servers of every make allow.
const STREAMS_MAX: usize = 100;

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Upstream {
    /// With the source address that the redirect's rules let through.
    Intercepted(SocketAddr),
    Tcp(SocketAddr),
    Unix(PathBuf),
    /// A pod of an activator's that must prove who it is.
    Secured(SocketAddr, Secure),
}

/// As configured.
#[derive(Clone, Copy)]
struct Timeouts {
    connect: Duration,
    response: Option<Duration>,
}

/// A request on its way to the foreign server; dropped when its answer has ended.
///
/// Fields are dropped in this order: the place is given away before the record is written, and while the connection is
/// still busy.
pub struct Handover {
    /// Where one of several pods answers.
    trip: Option<Trip>,
    /// Absent only while it is changed for a new one.
    permit: Option<Permit>,
    admission: Arc<Admission>,
    head: Head,
    dialect: Option<&'static dyn Dialect>,
    upstream: Upstream,
    h2c: bool,
    timeouts: Timeouts,
    /// The operator's clocks of the whole request.
    pub deadlines: Deadlines,
    edits: Vec<Edit>,
    gauge: Gauge,
    /// A stream's last event was said by us.
    said: bool,
    pub record: Record,
    /// Bytes are no body any more, and have no end.
    upgraded: bool,
    /// In the queue, for waiting again.
    place: Option<Place>,
    /// The caller's.
    rights: Rights,
    busy: Busy,
}

/// What a handover begins with.
pub struct Passage {
    pub permit: Permit,
    pub admission: Arc<Admission>,
    pub head: Head,
    pub dialect: Option<&'static dyn Dialect>,
    pub upstream: Upstream,
    pub edits: Vec<Edit>,
    pub meter: Meter,
    /// Where one of several pods answers.
    pub trip: Option<Trip>,
    pub deadlines: Deadlines,
}

impl Handover {
    pub(crate) fn new(passage: Passage, config: &Forward, record: Record, rights: Rights, busy: Busy) -> Handover {
        let Passage { permit, admission, head, dialect, upstream, edits, meter, trip, deadlines } = passage;
        let h2c = match config.protocol {
            Protocol::Http1 => false,
            Protocol::H2c => true,
            Protocol::Auto => is_grpc(&head),
        };
        let timeouts = Timeouts { connect: config.connect_timeout, response: config.response_timeout };
        Handover {
            trip,
            permit: Some(permit),
            admission,
            head,
            dialect,
            upstream,
            h2c,
            timeouts,
            deadlines,
            edits,
            gauge: Gauge::new(meter),
            said: false,
            record,
            upgraded: false,
            place: None,
            rights,
            busy,
        }
    }

    /// It took no connection: nothing was sent, so the request may wait for the next one, in its old place. False if it
    /// has waited often enough.
    pub fn may_wait(&mut self) -> bool {
        if let Some(trip) = &mut self.trip {
            // Another pod, or the queue, for as long as the queue has patience.
            trip.failed();
            return true;
        }
        let again = self.record.tries < TRIES;
        if again && let Some(permit) = self.permit.take() {
            self.place = Some(permit.place());
            self.deadlines.recalled();
            let generation = permit.generation();
            drop(permit);
            self.admission.lost(generation);
        }
        again
    }

    /// Takes a place again, if [`Handover::may_wait`] gave the last one away.
    pub async fn settle(&mut self) -> Result<(), Error> {
        if self.trip.is_some() {
            return self.settle_at_a_pod().await;
        }
        self.queue().await
    }

    /// The same, unless the caller leaves.
    async fn settle_while_there(&mut self, caller: &mut ServerSession) -> Result<(), Error> {
        let facts = self.busy.facts().clone();
        let gone = async {
            match caller.watch_h2_stream_close() {
                Some(closed) => drop(closed.await),
                None => facts.hung_up().await,
            }
        };
        tokio::select! {
            biased;
            settled = self.settle() => settled,
            () = gone => Err(Error::CallerLeft),
        }
    }

    async fn queue(&mut self) -> Result<(), Error> {
        if self.permit.is_some() {
            return Ok(());
        }
        match self.admission.admit(Ticket { place: self.place, ..Ticket::default() }).await {
            Ok(permit) => {
                self.deadlines.dispatched();
                self.record.tries += 1;
                self.record.admitted(&permit);
                self.permit = Some(permit);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// The head of the answer passes.
    pub fn answered(&mut self, response: &mut ResponseHeader) {
        // An interim answer (100, 103) is not the answer.
        if response.status.as_u16() >= 200 || response.status.as_u16() == 101 {
            self.record.status = response.status.as_u16();
            self.record.label = "ok";
            self.taken_in();
            self.deadlines.wrote();
            if self.record.status == 101 {
                self.deadlines.upgraded();
            }
            self.gauge.begins(self.record.status, &response.headers);
            for (name, value) in &self.gauge.headers() {
                let _ = response.insert_header(name, value);
            }
        }
        if !response.headers.contains_key("x-request-id")
            && let Ok(id) = HeaderValue::from_str(&self.record.request_id)
        {
            let _ = response.insert_header("x-request-id", id);
        }
    }

    /// A piece of the answer passes, unless the caller's rights have ended or its connection must.
    pub fn passes(&mut self, piece: &mut Option<Bytes>) -> Result<(), Error> {
        self.rights.must_last()?;
        self.deadlines.must_last()?;
        if self.busy.facts().is_over() {
            return Err(Error::Draining);
        }
        let Some(bytes) = piece else { return Ok(()) };
        self.deadlines.wrote();
        self.record.sent(bytes.len());
        let told = self.gauge.piece(bytes);
        self.record.usage = self.gauge.usage().unwrap_or(self.record.usage);
        if let Err(error) = told {
            self.say(piece, error);
        }
        Ok(())
    }

    /// Ends a stream of events with one more, which says why.
    fn say(&mut self, piece: &mut Option<Bytes>, error: Error) {
        let parts = self.refusal(&error);
        let body = parts.iter().find_map(|part| if let Part::Body(body) = part { Some(body) } else { None });
        let mut last = BytesMut::from(&*piece.take().unwrap_or_default());
        last.extend_from_slice(&gauge::event(body.map_or(&[], |body| body)));
        *piece = Some(last.freeze());
        // It may have been the last piece anyway.
        self.record.refused(&error.verdict(), error.to_string());
        self.said = true;
    }

    fn refusal(&self, error: &Error) -> Vec<Part> {
        match self.dialect {
            Some(dialect) => dialect.refusal(&self.head, &error.verdict()),
            None => neutral_refusal(&self.head, &error.verdict()),
        }
    }

    /// A piece of the request passes, unless it is too much.
    pub fn taken(&mut self, bytes: usize, bytes_max: usize) -> Result<(), Error> {
        self.record.request_bytes += bytes;
        if self.upgraded {
            self.deadlines.wrote();
        }
        if self.record.request_bytes > bytes_max && !self.upgraded {
            return Err(Error::BodyTooLarge { limit_bytes: bytes_max });
        }
        Ok(())
    }

    /// The passage failed; gives the refusal for a caller who has not seen an answer yet.
    pub fn refused(&mut self, error: Error, head_sent: bool) -> Option<Vec<Part>> {
        if let (Error::WorkerGone, Some(permit), None) = (&error, &self.permit, &self.trip) {
            // Whoever comes next waits until it takes connections again.
            self.admission.lost(permit.generation());
        }
        let verdict = error.verdict();
        let silent = head_sent || matches!(error, Error::CallerLeft);
        self.record.refused(&verdict, error.to_string());
        if self.said {
            // Clients that wait for the end before they believe an event see the one that says why.
            return Some(vec![Part::End(None)]);
        }
        if silent {
            return None;
        }
        let mut parts = self.refusal(&error);
        for part in &mut parts {
            if let Part::Head { headers, .. } = part {
                explain(headers, &verdict);
            }
        }
        Some(parts)
    }
}

/// Where a request goes that was meant for `target`.
///
/// `ours` are the ports we listen on ourselves: a request for one of them, or one that nobody redirected, would come
/// back to us without end, or reach from within what is only for those within.
pub fn upstream(to: &Destination, target: Target, ours: &[u16]) -> Result<Upstream, Error> {
    let port = target.address.port();
    if matches!(to, Destination::Original(_)) && (!target.redirected || ours.contains(&port)) {
        return Err(Error::Forbidden { reason: format!("nobody redirected it from another port than {port}") });
    }
    Ok(match to {
        Destination::Tcp(address) => Upstream::Tcp(*address),
        Destination::Unix(path) => Upstream::Unix(path.clone()),
        Destination::Original(None) => Upstream::Intercepted(target.address),
        Destination::Original(Some(host)) => Upstream::Intercepted(SocketAddr::new(*host, port)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_does_a_request_go() {
        let meant: SocketAddr = "10.0.0.5:8080".parse().unwrap();
        let target = Target { address: meant, redirected: true };
        let tcp: SocketAddr = "127.0.0.1:9".parse().unwrap();
        let go = |to: &Destination, target| upstream(to, target, &[15020]).ok();
        assert_eq!(go(&Destination::Tcp(tcp), target), Some(Upstream::Tcp(tcp)));
        assert_eq!(go(&Destination::Original(None), target), Some(Upstream::Intercepted(meant)));
        let here = go(&Destination::Original(Some([127, 0, 0, 1].into())), target);
        assert_eq!(here, Some(Upstream::Intercepted("127.0.0.1:8080".parse().unwrap())));
        let direct = Target { redirected: false, ..target };
        let admin = Target { address: "10.0.0.5:15020".parse().unwrap(), ..target };
        for target in [direct, admin] {
            assert_eq!(go(&Destination::Original(None), target), None, "{target:?}");
            assert_eq!(go(&Destination::Tcp(tcp), target), Some(Upstream::Tcp(tcp)));
        }
    }
}
