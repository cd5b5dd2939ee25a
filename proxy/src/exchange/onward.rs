//! What every request is sent on with; and `hand over` where who answers is one of several pods that may not be there:
//! the request waits in its service's own queue, and then for a place at a pod.

use super::{Exchange, Permitted};
use crate::activator::{Activator, Service, Trip};
use crate::admission::{Admission, Permit, Ticket};
use crate::config::Forward;
use crate::error::Error;
use crate::exchange::floor::Floor;
use crate::forward::{self, AT_ONCE, Edit, Passage, Upstream, can_be_kept};
use crate::message::Head;
use http::HeaderValue;
use std::pin::pin;
use std::sync::Arc;

impl Exchange {
    /// A request whose sender can go elsewhere is refused rather than queued.
    pub(super) fn must_have_room(&self, floor: &Floor<'_>) -> Result<(), Error> {
        if floor.at_once && !self.admission.has_room() { Err(Error::NoRoom) } else { Ok(()) }
    }

    pub(super) async fn activate<'a>(
        &'a self,
        permitted: Permitted,
        activator: &'a Activator,
        floor: &mut Floor<'_>,
    ) -> Result<(Passage, &'a Forward), Error> {
        let host = floor.request(&permitted.routed.head).host.to_owned();
        let service = activator.find(&permitted.routed.head, &host);
        let service = service.ok_or_else(|| Error::UnknownHost { host: host.chars().take(256).collect() })?;
        if !self.ready() {
            return Err(Error::Draining);
        }
        let bytes = self.length(&permitted.routed.head)?;
        floor.charge_unread(&permitted.routed.head, bytes).await?;
        let (permit, trip, upstream) = self.seek(service, permitted.ticket, floor).await?;
        floor.record.tries = 1;
        let mut passage = self.passage(permitted, (permit, service.admission.clone(), upstream), floor);
        passage.edits.extend(activator.edits(service));
        if can_be_kept(&passage.head) {
            passage.edits.push(Edit::Set(AT_ONCE, HeaderValue::from_static("1")));
        }
        passage.trip = Some(trip);
        Ok((passage, &service.config.forward))
    }

    /// As it is declared.
    pub(super) fn length(&self, head: &Head) -> Result<usize, Error> {
        let bytes = head.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
        let limit_bytes = self.limits.body_bytes_max;
        if bytes > limit_bytes { Err(Error::BodyTooLarge { limit_bytes }) } else { Ok(bytes) }
    }

    /// What a request is sent on with.
    pub(super) fn passage(
        &self,
        permitted: Permitted,
        (permit, admission, upstream): (Permit, Arc<Admission>, Upstream),
        floor: &mut Floor<'_>,
    ) -> Passage {
        let Permitted { routed, strips, token, edits: changes, .. } = permitted;
        let deadlines = std::mem::take(&mut floor.deadlines);
        let mut edits = forward::edits(floor.busy(), &routed.head, self.xfcc, &floor.record.request_id);
        edits.extend(forward::edits_of(&strips));
        edits.extend(token.iter().flat_map(|token| forward::edits_of(&token.edits()).collect::<Vec<_>>()));
        edits.extend(changes);
        edits.push(Edit::Remove(AT_ONCE));
        let dialect = routed.asked.map(|(dialect, _)| dialect);
        let (head, meter) = (routed.head, std::mem::take(&mut floor.meter));
        Passage { permit, admission, head, dialect, upstream, edits, meter, trip: None, deadlines }
    }

    /// A place in the service's queue, and then one at a pod.
    async fn seek(
        &self,
        service: &Arc<Service>,
        mut ticket: Ticket,
        floor: &mut Floor<'_>,
    ) -> Result<(Permit, Trip, Upstream), Error> {
        floor.deadlines.recalled();
        let mut trip = Trip::new(service.clone());
        loop {
            let permit = floor.unless_over(pin!(service.admission.admit(ticket))).await?;
            floor.record.admitted(&permit);
            let sought = floor.unless_over(pin!(trip.seek())).await?;
            if let Some(upstream) = sought {
                floor.deadlines.dispatched();
                return Ok((permit, trip, upstream));
            }
            // The pods have gone meanwhile.
            ticket.place = Some(permit.place());
        }
    }
}
