//! One request's way to a pod: which it has a place at, and where it goes when that one will not have it.
//!
//! Never sends anything itself, and never decides whether a request may be sent again: whoever carries it does.

use super::service::{Late, Seat, Service};
use crate::error::Error;
use crate::forward::Upstream;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Places at pods come free whenever an answer ends.
const SOON: Duration = Duration::from_secs(1);

pub struct Trip {
    service: Arc<Service>,
    seat: Option<Seat>,
    began: Instant,
}

impl Trip {
    pub fn new(service: Arc<Service>) -> Trip {
        service.enters();
        Trip { service, seat: None, began: Instant::now() }
    }

    /// The pod it has a place at, taken now if there is none yet; `Ok(None)` if there is no pod, so that it must wait
    /// in the queue.
    pub async fn seek(&mut self) -> Result<Option<Upstream>, Error> {
        if self.seat.is_none() {
            let deadline = self.began + self.service.config.queue.wait_max;
            let late = |_: Late| Error::QueueTimeout { waited: self.began.elapsed(), retry_after: SOON };
            self.seat = self.service.seat(deadline).await.map_err(late)?;
        }
        let Some(seat) = &self.seat else { return Ok(None) };
        let origin = self.service.origin();
        let address = seat.address;
        Ok(Some(if origin.is_tls() { Upstream::secured(address, origin) } else { Upstream::Tcp(address) }))
    }

    /// The pod took no connection: it is in nobody's way until it answers a probe.
    pub fn failed(&mut self) {
        if let Some(seat) = self.seat.take() {
            self.service.failed(seat.address);
        }
    }

    /// The pod said that it has no room, and did nothing.
    pub fn refused(&mut self) {
        if let Some(seat) = self.seat.take() {
            // Before its place here is free again, or the next would try it at once.
            self.service.refused(seat.address);
        }
    }

    /// The pod answers.
    pub fn took(&self) {
        if let Some(seat) = &self.seat {
            self.service.took(seat.address);
        }
    }
}

impl Drop for Trip {
    fn drop(&mut self) {
        self.service.leaves();
    }
}
