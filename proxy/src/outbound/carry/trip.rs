//! The tries of one request: an endpoint for each, until there is an answer, or no reason or no right to go on.

use super::super::answer::Places;
use super::super::body::{Copy, Source};
use super::super::cluster::Cluster;
use super::super::endpoint::{Endpoint, InFlight};
use super::super::headers::join_cookies;
use super::super::origin::Speech;
use super::super::outlier::Outcome;
use super::super::pool::{Miss, Unanswered};
use super::super::record::Record;
use super::super::refusal::{Refusal, http_of_grpc};
use super::super::retry::{Met, backoff_millis, is_idempotent, wanted, within_budget};
use super::super::seat::Seat;
use super::super::set::Wish;
use crate::config::outbound::Route;
use http::header::{HOST, HeaderValue};
use http::{HeaderMap, Method, Request, Response, Uri, Version};
use hyper::body::Incoming;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Connections found dead before anything was written are replaced so many times without asking the policy: that is
/// the pool's business, not a retry.
const REPLACED_MAX: usize = 3;

/// The head as it goes out with every try.
pub struct Outgoing {
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
    pub speech: Speech,
}

impl Outgoing {
    pub fn new(parts: http::request::Parts, authority: String, h2: bool, tls: bool) -> Result<Outgoing, Refusal> {
        let mut headers = parts.headers;
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let uri = if h2 {
            headers.remove(HOST);
            let scheme = if tls { "https" } else { "http" };
            Uri::builder().scheme(scheme).authority(authority).path_and_query(path).build()
        } else {
            let host = HeaderValue::try_from(authority).map_err(|_| Refusal::NoHost)?;
            headers.insert(HOST, host);
            join_cookies(&mut headers);
            Uri::builder().path_and_query(path).build()
        };
        let speech = if h2 { Speech::H2 } else { Speech::H1 };
        Ok(Outgoing { method: parts.method, uri: uri.map_err(|_| Refusal::NoHost)?, headers, speech })
    }

    pub fn request(&self, body: Copy) -> Request<Copy> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        *request.version_mut() = if self.speech == Speech::H2 { Version::HTTP_2 } else { Version::HTTP_11 };
        request
    }
}

pub struct Trip<'a> {
    pub seat: &'a Arc<Seat>,
    pub cluster: &'a Arc<Cluster>,
    pub route: &'a Route,
    pub source: &'a Source,
    /// Where it goes if no balancer is asked.
    pub fixed: Option<Arc<Endpoint>>,
    pub key: Option<u64>,
    pub deadline: Option<Instant>,
}

/// The head of an answer.
pub struct Reply {
    pub response: Response<Incoming>,
    pub endpoint: Arc<Endpoint>,
    pub places: Places,
    /// Of a gRPC answer without a body.
    pub grpc_status: Option<u16>,
}

enum Tried {
    Reply(Box<Reply>),
    Failed { met: Met, refusal: Refusal, reused: bool },
}

impl Trip<'_> {
    pub async fn run(&self, out: &Outgoing, record: &mut Record) -> Result<Reply, Refusal> {
        let (mut tried, mut replaced, mut retries) = (Vec::new(), 0, 0);
        let mut _retrying = None;
        loop {
            let end = self.attempt(out, &mut tried, record).await?;
            let met = match &end {
                Tried::Reply(reply) => Met::Head { status: reply.response.status().as_u16(), grpc: reply.grpc_status },
                Tried::Failed { met, .. } => *met,
            };
            // An old connection's end may have been on the way when the request was; what may be done twice is then
            // sent again (RFC 9110 §9.2.2).
            let stale = match met {
                Met::Unsent => true,
                Met::Reset => is_idempotent(&out.method) && self.source.repeatable(),
                _ => false,
            };
            if stale && matches!(end, Tried::Failed { reused: true, .. }) && replaced < REPLACED_MAX {
                replaced += 1;
                // It was the connection, not the endpoint.
                tried.pop();
                continue;
            }
            let policy = &self.route.retries;
            let again = retries < policy.attempts
                && wanted(policy, met, is_idempotent(&out.method))
                && self.source.repeatable()
                && within_budget(policy, self.cluster.active.get(), self.cluster.retrying.get());
            if !again {
                return match end {
                    Tried::Reply(reply) => Ok(*reply),
                    Tried::Failed { refusal, .. } => Err(refusal),
                };
            }
            let name = &self.cluster.config.name;
            self.seat.outbound.journal.metrics.outbound.retries.with_label_values(&[name, met.name()]).inc();
            _retrying = Some(self.cluster.retrying.hold());
            drop(end);
            let pause = Duration::from_millis(backoff_millis(retries, self.seat.chance()));
            self.in_time(tokio::time::sleep(pause)).await?;
            retries += 1;
        }
    }

    /// Until the deadline of the whole exchange, if there is one.
    async fn in_time<T>(&self, work: impl Future<Output = T>) -> Result<T, Refusal> {
        let Some(deadline) = self.deadline else { return Ok(work.await) };
        let timed = tokio::time::timeout_at(deadline, work).await;
        timed.map_err(|_| Refusal::Timeout(self.cluster.config.name.clone()))
    }

    fn pick(&self, tried: &[SocketAddr]) -> Result<Arc<Endpoint>, Refusal> {
        let wish = Wish { key: self.key, tried, now: self.seat.outbound.now(), chance: &mut || self.seat.chance() };
        let picked = self.fixed.clone().or_else(|| self.cluster.set.load().pick(wish));
        let picked = picked.ok_or_else(|| Refusal::NoEndpoint(self.cluster.config.name.clone()))?;
        if self.seat.outbound.is_ourselves(picked.address) { Err(Refusal::Loop) } else { Ok(picked) }
    }

    /// One try. An error is the end of the exchange.
    async fn attempt(
        &self,
        out: &Outgoing,
        tried: &mut Vec<SocketAddr>,
        record: &mut Record,
    ) -> Result<Tried, Refusal> {
        let endpoint = self.pick(tried)?;
        tried.push(endpoint.address);
        record.tries += 1;
        record.endpoint = Some(endpoint.address);
        let in_flight = InFlight::new(&endpoint.stats);
        let one = async {
            match self.route.per_try_timeout {
                Some(limit) => tokio::time::timeout(limit, self.exchange(out, &endpoint)).await.ok(),
                None => Some(self.exchange(out, &endpoint).await),
            }
        };
        let name = || self.cluster.config.name.clone();
        let ended = match self.in_time(one).await {
            Ok(ended) => ended,
            Err(refusal) => {
                self.seat.judge(self.cluster, &endpoint, Outcome::Failed);
                return Err(refusal);
            }
        };
        let too_late = Err(Ended::Failed(Met::PerTryTimeout, Refusal::Timeout(name()), false));
        match ended.unwrap_or(too_late) {
            Ok((response, stream)) => {
                let places = Places { active: None, stream, in_flight: Some(in_flight) };
                Ok(Tried::Reply(Box::new(self.judged(response, endpoint, places))))
            }
            Err(Ended::Overflow(limit)) => Err(Refusal::Overflow { cluster: name(), limit }),
            Err(Ended::Failed(met, refusal, reused)) => {
                let innocent = (reused && met == Met::Unsent) || self.source.broken();
                if !innocent {
                    self.seat.judge(self.cluster, &endpoint, Outcome::Failed);
                }
                record.reason = Some(refusal.to_string());
                Ok(Tried::Failed { met, refusal, reused })
            }
        }
    }

    /// A connection, and a head on it.
    async fn exchange(&self, out: &Outgoing, endpoint: &Endpoint) -> Result<Headed, Ended> {
        let name = || self.cluster.config.name.clone();
        let leased = self.seat.pool.lease(self.cluster, endpoint.address, out.speech).await;
        let mut lease = leased.map_err(|miss| match miss {
            Miss::Overflow(limit) => Ended::Overflow(limit),
            Miss::Failed(reason) => {
                Ended::Failed(Met::ConnectFailure, Refusal::ConnectFailed { cluster: name(), reason }, false)
            }
        })?;
        let began = Instant::now();
        match lease.send(out.request(self.source.copy())).await {
            Ok(response) => {
                endpoint.stats.observe(began.elapsed(), self.seat.outbound.now());
                Ok((response, lease.give_back(self.cluster)))
            }
            Err(Unanswered { error, unsent }) => {
                tracing::debug!(%error, unsent, endpoint = %endpoint.address, "a try got no answer");
                let met = if unsent { Met::Unsent } else { refused(&error) };
                Err(Ended::Failed(met, Refusal::Reset(name()), lease.reused))
            }
        }
    }

    /// What the head alone says of the endpoint.
    fn judged(&self, response: Response<Incoming>, endpoint: Arc<Endpoint>, places: Places) -> Reply {
        let text = response.headers().get("grpc-status").and_then(|status| status.to_str().ok());
        let grpc_status: Option<u16> = text.and_then(|status| status.parse().ok());
        let status = response.status().as_u16();
        let grpc = super::is_grpc(response.headers().get(http::header::CONTENT_TYPE));
        match grpc_status {
            Some(grpc) => self.seat.judge(self.cluster, &endpoint, Outcome::Answered(http_of_grpc(grpc))),
            // The trailers will tell.
            None if grpc && status == 200 => {}
            None => self.seat.judge(self.cluster, &endpoint, Outcome::Answered(status)),
        }
        Reply { response, endpoint, places, grpc_status }
    }
}

type Headed = (Response<Incoming>, Option<super::super::cluster::Held>);

enum Ended {
    /// What it met, how to say it, and whether the connection had served before.
    Failed(Met, Refusal, bool),
    Overflow(&'static str),
}

/// Whether HTTP/2 promised that nothing was done (RFC 9113 §8.7): the stream was refused, or it is beyond the last one
/// that a GOAWAY names, which is when h2 fails a stream with the peer's GOAWAY.
fn refused(error: &hyper::Error) -> Met {
    use std::error::Error;
    let h2 = error.source().and_then(|source| source.downcast_ref::<h2::Error>());
    let promised = h2.is_some_and(|h2| {
        let untouched = h2.is_go_away() && h2.is_remote() && h2.reason() == Some(h2::Reason::NO_ERROR);
        (h2.is_reset() && h2.reason() == Some(h2::Reason::REFUSED_STREAM)) || untouched
    });
    if promised { Met::RefusedStream } else { Met::Reset }
}
