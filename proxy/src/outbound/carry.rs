//! One request of the application, carried out and its answer carried back: the page of the way out.
//!
//! route → fault → mirror → try (pick, lease, send) → again, perhaps → answer. Never tries again once the head of an
//! answer is with the application.

mod trip;

use super::answer::{Answer, Clocks, Judge, Open, Places};
use super::balancers::hash;
use super::body::{KEPT_BYTES_MAX, Source};
use super::cluster::Cluster;
use super::endpoint::Endpoint;
use super::fault;
use super::headers;
use super::mirror::mirror;
use super::opaque::splice;
use super::prompt::{Found, prefix};
use super::record::Record;
use super::refusal::{Refusal, is_grpc};
use super::route::{Destination, choose, find};
use super::seat::{Seat, Via};
use crate::config::outbound::{Abort, HashKey, Protocol, Route, Unknown};
use http::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::time::Instant;
pub use trip::Outgoing;
use trip::{Reply, Trip};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

pub async fn carry(seat: Arc<Seat>, via: Via, request: Request<Incoming>) -> Result<Response<Answer>, Infallible> {
    let protocol = if via.h2 { "h2" } else { "h1" };
    let mut record = Record::open(seat.outbound.journal.clone(), via.caller, protocol);
    let content_type = request.headers().get(CONTENT_TYPE).cloned();
    record.method = request.method().to_string();
    record.path = request.uri().path().to_owned();
    Ok(match serve(&seat, via, request, &mut record).await {
        Ok(served) => served.answer(seat, record),
        Err(refusal) => {
            let verdict = refusal.verdict();
            record.reason = Some(refusal.to_string());
            let grpc = is_grpc(content_type.as_ref());
            record.answered(verdict.status);
            record.grpc_status = grpc.then_some(verdict.grpc);
            record.label = verdict.label;
            refusal.answer(content_type.as_ref()).map(|bytes| Answer::own(bytes, Some(record)))
        }
    })
}

/// A head from a server, and what belongs to it.
struct Served {
    reply: Reply,
    cluster: Arc<Cluster>,
    source: Source,
    clocks: Clocks,
    /// The application's end of an upgrade, if it asked for one.
    upgrade: Option<OnUpgrade>,
}

async fn serve(
    seat: &Arc<Seat>,
    via: Via,
    mut request: Request<Incoming>,
    record: &mut Record,
) -> Result<Served, Refusal> {
    let outbound = seat.outbound.clone();
    if request.method() == Method::CONNECT {
        return Err(Refusal::Connect);
    }
    let (authority, to) = destination(&request, via)?;
    record.host.clone_from(&authority);
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let (route, cluster, fixed) = match find(&outbound.config.routes, &to, path, request.headers()) {
        Some(route) => (route, &outbound.clusters[choose(route, seat.chance())], None),
        None => match via.meant.filter(|_| outbound.config.unknown == Unknown::Passthrough) {
            Some(meant) => (&outbound.plain_route, &outbound.passthrough, Some(Arc::new(Endpoint::new(meant)))),
            None => return Err(Refusal::NoRoute(format!("{}:{}", to.host, to.port))),
        },
    };
    record.cluster.clone_from(&cluster.config.name);
    record.tls = cluster.origin.is_tls();
    let active = cluster.active.hold_below(cluster.config.limits.requests_max);
    let active = active.ok_or(Refusal::Overflow { cluster: cluster.config.name.clone(), limit: "requests_max" })?;
    let deadline = route.timeout.map(|timeout| Instant::now() + timeout);
    misfortune(seat, cluster, route, deadline).await?;

    let going_over = headers::upgrade(request.headers()).filter(|_| !via.h2);
    let upgrade = going_over.as_ref().map(|_| hyper::upgrade::on(&mut request));
    let (mut parts, body) = request.into_parts();
    let keep = route.retries.attempts > 0 || route.mirror.is_some() || cluster.config.balancer.key.is_some();
    let source = Source::new(body, if keep { KEPT_BYTES_MAX } else { 0 });
    let key = match &cluster.config.balancer.key {
        Some(key) => key_of(key, &parts.headers, &source).await,
        None => None,
    };
    let h2 = match cluster.config.protocol {
        // An upgrade is a matter of http/1 (RFC 9113 §8.6 knows none).
        _ if going_over.is_some() => false,
        Protocol::Auto => via.h2,
        Protocol::H1 => false,
        Protocol::H2 => true,
    };
    headers::clean_request(&mut parts.headers, going_over);
    request_id(&mut parts.headers, record);
    let trip = Trip { seat, cluster, route, source: &source, fixed, key, deadline };
    let outgoing = Outgoing::new(parts, authority, h2, cluster.origin.is_tls())?;
    if let Some(rule) = &route.mirror {
        mirror(seat, rule, &outgoing, &source).await;
    }
    let mut reply = trip.run(&outgoing, record).await?;
    reply.places.active = Some(active);
    let clocks = Clocks::new(deadline, route.idle_timeout);
    Ok(Served { reply, cluster: cluster.clone(), source, clocks, upgrade })
}

/// The authority to pass on, and where that is.
fn destination(request: &Request<Incoming>, via: Via) -> Result<(String, Destination), Refusal> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = hosts.next().map(|host| host.to_str().map_err(|_| Refusal::NoHost)).transpose()?;
    // Two would let two readers see two destinations (RFC 9112 §3.2).
    if hosts.next().is_some() {
        return Err(Refusal::NoHost);
    }
    // An authority in the request line, or HTTP/2's own, counts more than the header (RFC 9112 §3.2.2).
    let authority = request.uri().authority().map(|authority| authority.as_str()).or(host);
    let authority = match (authority, via.meant) {
        (Some(authority), _) => authority.to_owned(),
        // HTTP/1.0 need not name a host; where the connection was going says enough.
        (None, Some(meant)) => meant.to_string(),
        (None, None) => return Err(Refusal::NoHost),
    };
    let to = Destination::parse(&authority, via.meant.map(|meant| meant.port())).ok_or(Refusal::NoHost)?;
    Ok((authority, to))
}

/// Faults on purpose.
async fn misfortune(seat: &Seat, cluster: &Cluster, route: &Route, deadline: Option<Instant>) -> Result<(), Refusal> {
    if route.fault.delay.is_none() && route.fault.abort.is_none() {
        return Ok(());
    }
    let (delay, abort) = fault::decide(&route.fault, [seat.chance(), seat.chance()]);
    if let Some(delay) = delay {
        let until = Instant::now() + delay;
        tokio::time::sleep_until(deadline.map_or(until, |deadline| deadline.min(until))).await;
        if deadline.is_some_and(|deadline| deadline <= until) {
            return Err(Refusal::Timeout(cluster.config.name.clone()));
        }
    }
    match abort {
        Some(Abort::Http(status)) => Err(Refusal::Fault { status, grpc: 14 }),
        Some(Abort::Grpc(grpc)) => Err(Refusal::Fault { status: 200, grpc }),
        None => Ok(()),
    }
}

/// What the request is told apart by; `None` if there is nothing.
async fn key_of(key: &HashKey, headers: &HeaderMap, source: &Source) -> Option<u64> {
    match key {
        HashKey::Header(name) => headers.get(name).map(|value| hash(value.as_bytes())),
        HashKey::Prompt { bytes } => {
            // Only JSON is waited for: what streams both ways must not be.
            let json = headers.get(CONTENT_TYPE)?.as_bytes().starts_with(b"application/json");
            if !json {
                return None;
            }
            let found = source.read_ahead(|body, finished| match prefix(body, *bytes, finished) {
                Found::Prefix(prompt) => Some(Some(hash(prompt))),
                Found::Absent => Some(None),
                Found::Unknown => None,
            });
            found.await.flatten()
        }
    }
}

/// The application's own, or a new one, so that the logs of both sides can be joined.
fn request_id(headers: &mut HeaderMap, record: &mut Record) {
    let given = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).filter(|id| id.len() <= 128);
    let id = given.map_or_else(crate::record::draw_id, String::from);
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, value);
    }
    record.request_id = Some(id);
}

impl Served {
    fn answer(self, seat: Arc<Seat>, mut record: Record) -> Response<Answer> {
        let Served { reply, cluster, source, clocks, upgrade } = self;
        let Reply { mut response, endpoint, places, grpc_status } = reply;
        record.answered(response.status().as_u16());
        record.grpc_status = grpc_status;
        // What comes from the server may be HTTP/1.0; what goes to the application is what it spoke.
        *response.version_mut() = Version::HTTP_11;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return switch(&seat, response, upgrade, (record, places));
        }
        headers::clean_response(response.headers_mut(), None);
        let grpc = is_grpc(response.headers().get(CONTENT_TYPE));
        // A status in the head was judged there.
        let judge = Some(Judge { seat, cluster, endpoint }).filter(|_| grpc_status.is_none());
        let open =
            Open { record, source: Some(source), held: places, clocks, grpc: grpc && grpc_status.is_none(), judge };
        response.map(|body| Answer::of_server(body, open))
    }
}

/// Both sides go over to another protocol, of which we carry the bytes.
fn switch(
    seat: &Seat,
    mut response: Response<Incoming>,
    application: Option<OnUpgrade>,
    (record, places): (Record, Places),
) -> Response<Answer> {
    let going_over = headers::upgrade(response.headers());
    headers::clean_response(response.headers_mut(), going_over);
    let server = hyper::upgrade::on(&mut response);
    if let Some(application) = application {
        seat.tracker.spawn(async move {
            let _places = places;
            let (Ok(application), Ok(server)) = tokio::join!(application, server) else { return };
            if let Err(error) = splice(TokioIo::new(application), TokioIo::new(server), record).await {
                tracing::debug!(%error, "an upgraded connection ended");
            }
        });
    }
    response.map(|_| Answer::own(bytes::Bytes::new(), None))
}
