//! A request whose server is one of several pods: it may meet one that takes no connection, or has no room, and goes to
//! the next, or back to its place in the queue.
//!
//! Sends a request again only where the pod promised to have done nothing with it, and only if every byte of it that was
//! sent was kept.

use super::{Handover, Upstream};
use crate::downstream::is_grpc;
use crate::error::Error;
use crate::message::Head;
use crate::outbound::origin::Origin;
use bytes::BytesMut;
use http::header::{CONTENT_LENGTH, HeaderMap, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderName, StatusCode};
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;

/// The wish not to be queued: whoever has no room at once says so, and does nothing. Says one who can go elsewhere.
pub const AT_ONCE: HeaderName = HeaderName::from_static("x-outrider-no-queue");
/// What is kept of a request so that it can be sent again: a long conversation fits; for larger ones waiting at the pod
/// costs less than the memory of all who wait.
const KEPT_BYTES_MAX: usize = 256 << 10;
const REFUSED_BY: &str = "x-outrider-refused-by";
/// Parts of a sidecar that refuse before anything was begun, and because of nothing that the request says.
const MAY_GO_ELSEWHERE: &[&str] = &["queue", "cold", "proxy"];

/// How TLS to a pod is made; the same for all pods of a service.
#[derive(Clone)]
pub struct Secure(pub Arc<Origin>);

impl PartialEq for Secure {
    fn eq(&self, other: &Secure) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Secure {}

impl Hash for Secure {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

impl std::fmt::Debug for Secure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secure")
    }
}

impl Upstream {
    pub fn secured(address: SocketAddr, origin: Arc<Origin>) -> Upstream {
        Upstream::Secured(address, Secure(origin))
    }
}

/// Whether all of a request can be kept while it is sent, so that it may ask to be refused at once. One of unknown length
/// cannot promise that, nor one that goes as HTTP/2 or is to be upgraded: those wait at the pod they came to.
pub fn can_be_kept(head: &Head) -> bool {
    if is_grpc(head) || head.headers.contains_key(UPGRADE) || head.headers.contains_key(TRANSFER_ENCODING) {
        return false;
    }
    match head.headers.get(CONTENT_LENGTH) {
        Some(length) => {
            length.to_str().ok().and_then(|text| text.parse().ok()).is_some_and(|it: usize| it <= KEPT_BYTES_MAX)
        }
        None => head.method.is_safe(),
    }
}

/// Whether a pod says that it did nothing, and another might.
pub(super) fn is_refusal(status: StatusCode, headers: &HeaderMap) -> bool {
    let by = headers.get(REFUSED_BY).and_then(|by| by.to_str().ok());
    status == StatusCode::SERVICE_UNAVAILABLE && by.is_some_and(|by| MAY_GO_ELSEWHERE.contains(&by))
}

/// What of a request was given away and may be needed again.
pub(super) struct Kept(Option<BytesMut>);

impl Kept {
    /// Beginning with its head; nothing where it is never sent again.
    pub fn begin(out: &BytesMut, again: bool) -> Kept {
        Kept(again.then(|| out.clone()))
    }

    /// More of it goes out.
    pub fn push(&mut self, bytes: &[u8]) {
        let Some(kept) = &mut self.0 else { return };
        if kept.len() + bytes.len() > 2 * KEPT_BYTES_MAX {
            self.0 = None;
        } else {
            kept.extend_from_slice(bytes);
        }
    }

    pub fn whole(&self) -> Option<&BytesMut> {
        self.0.as_ref()
    }
}

impl Handover {
    /// Whether it may be sent again after such an answer.
    pub(super) fn may_go_elsewhere(&self) -> bool {
        self.trip.is_some() && can_be_kept(&self.head)
    }

    /// A place in the service's queue, and then one at a pod; where pods come and go, as often as it takes.
    pub(super) async fn settle_at_a_pod(&mut self) -> Result<(), Error> {
        loop {
            self.queue().await?;
            let Some(trip) = &mut self.trip else { return Ok(()) };
            if let Some(upstream) = trip.seek().await? {
                self.upstream = upstream;
                return Ok(());
            }
            // No pod is left: it keeps its place in the queue, which wakes the next.
            self.place = self.permit.take().map(|permit| permit.place());
        }
    }

    /// The pod had no room, and did nothing.
    pub(super) fn turned_away(&mut self) {
        self.record.tries += 1;
        if let Some(trip) = &mut self.trip {
            trip.refused();
        }
    }

    /// The pod answers.
    pub(super) fn taken_in(&self) {
        if let Some(trip) = &self.trip {
            trip.took();
        }
    }
}
