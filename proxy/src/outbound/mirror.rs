//! A second copy of a request to another cluster, whose answer nobody sees. For tests of a new version under real load.
//!
//! Only of requests that are whole within a bound: never holds up the first copy for a stream. Never retries.

use super::balancers::within;
use super::body::{KEPT_BYTES_MAX, Source};
use super::carry::Outgoing;
use super::origin::Speech;
use super::seat::Seat;
use super::set::Wish;
use crate::config::outbound::{Mirror, Protocol};
use http::header::HOST;
use http::{HeaderValue, Uri};
use hyper::body::Body;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// However slow the other cluster is.
const PATIENCE: Duration = Duration::from_secs(30);

/// Sends the copy, perhaps, and does not wait for it.
pub async fn mirror(seat: &Arc<Seat>, rule: &Mirror, first: &Outgoing, source: &Source) {
    if !within(rule.percent, seat.chance()) || source.declared().is_none_or(|bytes| bytes > KEPT_BYTES_MAX as u64) {
        return;
    }
    source.read_ahead(|_, ended| ended.then_some(())).await;
    let Some(body) = source.whole() else { return };
    let cluster = seat.outbound.clusters[rule.cluster].clone();
    let Some(active) = cluster.active.hold_below(cluster.config.limits.requests_max) else { return };
    let speech = match cluster.config.protocol {
        Protocol::Auto => first.speech,
        Protocol::H1 => Speech::H1,
        Protocol::H2 => Speech::H2,
    };
    let Some(out) = shadow(first, speech) else { return };
    let seat = seat.clone();
    seat.clone().tracker.spawn(async move {
        let _active = active;
        let work = async {
            let wish = Wish { key: None, tried: &[], now: seat.outbound.now(), chance: &mut || seat.chance() };
            let endpoint = cluster.set.load().pick(wish)?;
            let mut lease = seat.pool.lease(&cluster, endpoint.address, speech).await.ok()?;
            let response = lease.send(out.request(Source::of(body).copy())).await.ok()?;
            let _stream = lease.give_back(&cluster);
            let mut answer = response.into_body();
            while let Some(Ok(_)) = std::future::poll_fn(|cx| Pin::new(&mut answer).poll_frame(cx)).await {}
            Some(())
        };
        let _ = tokio::time::timeout(PATIENCE, work).await;
    });
}

/// The head for the other cluster. As Envoy does it, the host says that this is a shadow.
fn shadow(first: &Outgoing, speech: Speech) -> Option<Outgoing> {
    let mut headers = first.headers.clone();
    let authority = match first.uri.authority() {
        Some(authority) => authority.to_string(),
        None => headers.get(HOST)?.to_str().ok()?.to_owned(),
    };
    let authority = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => format!("{host}-shadow:{port}"),
        _ => format!("{authority}-shadow"),
    };
    let path = first.uri.path_and_query()?.as_str();
    let uri = if speech == Speech::H2 {
        headers.remove(HOST);
        Uri::builder().scheme("http").authority(authority).path_and_query(path).build().ok()?
    } else {
        headers.insert(HOST, HeaderValue::try_from(authority).ok()?);
        Uri::builder().path_and_query(path).build().ok()?
    };
    Some(Outgoing { method: first.method.clone(), uri, headers, speech })
}
