//! Who waits, and who is next. Pure: time is an argument, and nobody is told here.
//!
//! Bands are strict: whoever is in a higher one goes first, but a band that was passed over [`PASSED_OVER_MAX`] times is
//! next, so that even the lowest always advances. Within a band flows share by weight and cost (see [`band`]); within a
//! flow it is first come, first served. Whoever was given its turn once and comes back (its worker died) goes before all.
//!
//! Count and bytes of all who wait are bounded. When there is no room, whoever comes takes it from a lower band, or from
//! the flow of its own band that holds most beyond what the newcomer's would: the newest of that flow has to go. So
//! nobody who asks little is refused because somebody else asked much, and nobody gains by asking more.

mod band;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

use band::Band;
use std::collections::BTreeMap;
use std::time::Duration;

/// A band that waits is next after so many turns of others: the lowest of two gets one turn in seventeen.
pub const PASSED_OVER_MAX: u32 = 16;
/// Higher bands leave a lower one so much of the room: one part in this many.
pub const RESERVED_PARTS: usize = 16;
/// So many have to go for one newcomer at most: its bytes may need the room of many who hold little.
pub const DISPLACED_MAX: usize = 32;
/// Bands there can be.
pub const BANDS_MAX: usize = 8;

/// How much may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimits {
    pub requests_max: usize,
    /// Over the bodies of all who wait.
    pub bytes_max: usize,
    /// At least one.
    pub bands: usize,
}

/// Why nobody more may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    Requests,
    Bytes,
}

/// Whose request it is, as far as turns go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    /// 0 goes first.
    pub band: u8,
    /// Whoever shares one, shares one turn.
    pub flow: u64,
    /// Turns of the flow, for one of another of weight 1; at least 1.
    pub weight: u32,
}

impl Default for Class {
    fn default() -> Self {
        Class { band: 0, flow: 0, weight: 1 }
    }
}

/// A place in the queue, kept by whoever has to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Smaller came earlier.
    pub number: u64,
    pub class: Class,
    pub cost: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    pub bytes: usize,
    /// What it takes of the worker: 1, or LLM tokens; at least 1.
    pub cost: u64,
    pub since: Duration,
}

/// Somebody who came, and those who had to go for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    pub place: Place,
    /// Numbers of their places.
    pub displaced: Vec<u64>,
}

#[derive(Debug)]
pub struct Queue {
    limits: QueueLimits,
    bands: Vec<Band>,
    /// Those who had their turn once, in order of place.
    returned: BTreeMap<u64, (Place, Waiting)>,
    len: usize,
    bytes: usize,
    next: u64,
}

impl Queue {
    pub fn new(limits: QueueLimits) -> Self {
        let bands = (0..limits.bands.clamp(1, BANDS_MAX)).map(|_| Band::default()).collect();
        Queue { limits, bands, returned: BTreeMap::new(), len: 0, bytes: 0, next: 0 }
    }

    /// A place for somebody who need not wait.
    pub fn place(&mut self, class: Class, cost: u64) -> Place {
        self.next += 1;
        Place { number: self.next, class: self.within(class), cost: cost.max(1) }
    }

    /// No stranger's class can name a band or a weight that is not there.
    fn within(&self, class: Class) -> Class {
        Class { band: class.band.min(self.bands.len() as u8 - 1), weight: class.weight.max(1), ..class }
    }

    /// Joins behind everybody of its flow.
    ///
    /// # Errors
    /// There is no room, and nobody has to make any. Nothing has changed then.
    pub fn push(&mut self, class: Class, bytes: usize, cost: u64, now: Duration) -> Result<Joined, Full> {
        let place = self.place(class, cost);
        let mut gone = Vec::new();
        while let Some(full) = self.full(bytes) {
            let victim = if gone.len() < DISPLACED_MAX { self.victim(place.class, bytes, full) } else { None };
            let Some((at, flow)) = victim else {
                for (at, seat) in gone.drain(..).rev() {
                    self.seat_again(at, seat);
                }
                return Err(full);
            };
            let seat = self.bands[at].unseat_newest(flow).expect("a flow that is listed has somebody waiting");
            self.forget(&seat.waiting);
            gone.push((at, seat));
        }
        let waiting = Waiting { bytes, cost: place.cost, since: now };
        self.bands[usize::from(place.class.band)].push(place.class, place.number, waiting);
        self.count(&waiting);
        Ok(Joined { place, displaced: gone.into_iter().map(|(_, seat)| seat.number).collect() })
    }

    /// Waits again at a place it had. Never refused: it was within the limits before, and so many come back at most as
    /// had their turn.
    pub fn push_again(&mut self, place: Place, bytes: usize, now: Duration) {
        let waiting = Waiting { bytes, cost: place.cost, since: now };
        let before = self.returned.insert(place.number, (place, waiting));
        debug_assert!(before.is_none(), "a place belongs to one request");
        self.count(&waiting);
    }

    /// Who is next.
    pub fn peek(&self) -> Option<(Place, Waiting)> {
        if let Some((place, waiting)) = self.returned.values().next() {
            return Some((*place, *waiting));
        }
        let at = self.next_band()?;
        let (class, number, waiting) = self.bands[at].first(at as u8)?;
        Some((Place { number, class, cost: waiting.cost }, waiting))
    }

    /// Whoever is next leaves the queue.
    pub fn pop(&mut self) -> Option<(Place, Waiting)> {
        let (place, waiting) = self.peek()?;
        if self.returned.remove(&place.number).is_none() {
            self.bands[usize::from(place.class.band)].pop();
            for (at, band) in self.bands.iter_mut().enumerate() {
                let passed = !band.is_empty() && at != usize::from(place.class.band);
                band.passed_over = if passed { band.passed_over.saturating_add(1) } else { 0 };
            }
        }
        self.forget(&waiting);
        Some((place, waiting))
    }

    /// Somebody leaves from the middle. False if nobody was there.
    pub fn remove(&mut self, place: Place) -> bool {
        let returned = self.returned.remove(&place.number).map(|(_, waiting)| waiting);
        let band = &mut self.bands[usize::from(place.class.band)];
        let Some(waiting) = returned.or_else(|| band.remove(place.class.flow, place.number)) else { return false };
        self.forget(&waiting);
        true
    }

    /// All who wait, in a queue of their own; nobody waits here any more. Costs the same however many they are.
    pub fn take(&mut self) -> Queue {
        let next = self.next;
        let empty = Queue { next, ..Queue::new(self.limits) };
        std::mem::replace(self, empty)
    }

    /// The starved band that was passed over most, else the highest where somebody waits.
    fn next_band(&self) -> Option<usize> {
        let waits = || self.bands.iter().enumerate().filter(|(_, band)| !band.is_empty());
        let starved = waits().filter(|(_, band)| band.passed_over >= PASSED_OVER_MAX);
        // `rev`: of equals the last is taken, which is then the highest.
        let starved = starved.rev().max_by_key(|(_, band)| band.passed_over);
        starved.or_else(|| waits().next()).map(|(at, _)| at)
    }

    fn full(&self, bytes: usize) -> Option<Full> {
        if self.len >= self.limits.requests_max {
            return Some(Full::Requests);
        }
        (self.bytes.saturating_add(bytes) > self.limits.bytes_max).then_some(Full::Bytes)
    }

    /// Whose newest has to go for a newcomer of this class: band and flow.
    fn victim(&self, class: Class, bytes: usize, full: Full) -> Option<(usize, u64)> {
        // One that alone could never wait drives nobody out.
        if bytes > self.limits.bytes_max {
            return None;
        }
        let own = usize::from(class.band);
        let reserved = self.limits.requests_max / RESERVED_PARTS;
        let lower = (own + 1..self.bands.len()).rev().filter(|at| self.bands[*at].len() > reserved);
        let displaced = lower.filter_map(|at| Some((at, self.bands[at].fullest(full)?.1))).next();
        displaced.or_else(|| {
            let (share, flow) = self.bands[own].fullest(full)?;
            (share > self.bands[own].share_with(class, bytes, full)).then_some((own, flow))
        })
    }

    fn seat_again(&mut self, at: usize, seat: band::Seat) {
        self.count(&seat.waiting);
        self.bands[at].seat_again(seat);
    }

    fn count(&mut self, waiting: &Waiting) {
        self.len += 1;
        self.bytes += waiting.bytes;
    }

    fn forget(&mut self, waiting: &Waiting) {
        self.len -= 1;
        self.bytes -= waiting.bytes;
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Flows with somebody waiting.
    pub fn flows(&self) -> usize {
        self.bands.iter().map(Band::flows).sum()
    }

    /// How many bands there are.
    pub fn bands(&self) -> usize {
        self.bands.len()
    }

    /// How many wait in each band, from the highest; those who came back are in theirs.
    pub fn depths(&self) -> [usize; BANDS_MAX] {
        let mut depths = [0; BANDS_MAX];
        for (depth, band) in depths.iter_mut().zip(&self.bands) {
            *depth = band.len();
        }
        for (place, _) in self.returned.values() {
            depths[usize::from(place.class.band)] += 1;
        }
        depths
    }
}
