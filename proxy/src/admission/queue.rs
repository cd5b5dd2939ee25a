//! Who waits, in which order: first come, first served, bounded by count and by bytes. Pure: time is an argument.

use std::collections::BTreeMap;
use std::time::Duration;

/// How much may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimits {
    pub requests_max: usize,
    /// Over the bodies of all who wait.
    pub bytes_max: usize,
}

/// Why nobody more may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    Requests,
    Bytes,
}

/// A place in the queue. Smaller came earlier.
pub type Place = u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    pub bytes: usize,
    pub since: Duration,
}

/// A queue in order of place. A request that has to try again keeps its place.
#[derive(Debug)]
pub struct Queue {
    limits: QueueLimits,
    waiting: BTreeMap<Place, Waiting>,
    bytes: usize,
    next: Place,
}

impl Queue {
    pub fn new(limits: QueueLimits) -> Self {
        Queue { limits, waiting: BTreeMap::new(), bytes: 0, next: 0 }
    }

    /// A new place, behind everybody who has one.
    pub fn place(&mut self) -> Place {
        self.next += 1;
        self.next
    }

    /// Waits at `place`. Whoever comes back to a place it had is never refused: it was within the limits before.
    pub fn push(&mut self, place: Place, bytes: usize, now: Duration) -> Result<(), Full> {
        let newcomer = place == self.next;
        if newcomer && self.waiting.len() >= self.limits.requests_max {
            return Err(Full::Requests);
        }
        if newcomer && self.bytes.saturating_add(bytes) > self.limits.bytes_max {
            return Err(Full::Bytes);
        }
        self.bytes += bytes;
        let before = self.waiting.insert(place, Waiting { bytes, since: now });
        debug_assert!(before.is_none(), "a place belongs to one request");
        Ok(())
    }

    /// The earliest leaves the queue.
    pub fn pop(&mut self) -> Option<(Place, Waiting)> {
        let (place, waiting) = self.waiting.pop_first()?;
        self.bytes -= waiting.bytes;
        Some((place, waiting))
    }

    /// Somebody leaves from the middle. False if nobody was there.
    pub fn remove(&mut self, place: Place) -> bool {
        let Some(waiting) = self.waiting.remove(&place) else { return false };
        self.bytes -= waiting.bytes;
        true
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Duration = Duration::ZERO;

    fn queue(requests_max: usize, bytes_max: usize) -> Queue {
        Queue::new(QueueLimits { requests_max, bytes_max })
    }

    #[test]
    fn who_is_refused_when_it_is_full() {
        let mut queue = queue(2, 100);
        let (a, b) = (queue.place(), 60);
        assert_eq!(queue.push(a, b, NOW), Ok(()));
        let place = queue.place();
        assert_eq!(queue.push(place, 41, NOW), Err(Full::Bytes));
        let place = queue.place();
        assert_eq!(queue.push(place, 40, NOW), Ok(()));
        let place = queue.place();
        assert_eq!(queue.push(place, 0, NOW), Err(Full::Requests));
    }

    #[test]
    fn does_a_returning_request_go_before_those_who_came_later() {
        let mut queue = queue(2, 100);
        let first = queue.place();
        queue.push(first, 1, NOW).unwrap();
        queue.pop().unwrap();
        for _ in 0..2 {
            let place = queue.place();
            queue.push(place, 1, NOW).unwrap();
        }
        assert_eq!(queue.push(first, 1, NOW), Ok(()), "not refused although the queue is full");
        assert_eq!(queue.pop().unwrap().0, first);
    }

    proptest! {
        #[test]
        fn do_order_count_and_bytes_hold_whatever_happens(steps in prop::collection::vec((0u8..3, 0usize..50), 0..200)) {
            let mut queue = queue(8, 200);
            let mut model: Vec<(Place, usize)> = Vec::new();
            for (what, bytes) in steps {
                match what {
                    0 => {
                        let place = queue.place();
                        let fits = model.len() < 8 && model.iter().map(|w| w.1).sum::<usize>() + bytes <= 200;
                        prop_assert_eq!(queue.push(place, bytes, NOW).is_ok(), fits);
                        if fits { model.push((place, bytes)); }
                    }
                    1 => {
                        let expected = (!model.is_empty()).then(|| model.remove(0));
                        prop_assert_eq!(queue.pop().map(|(place, w)| (place, w.bytes)), expected);
                    }
                    _ => if let Some((place, _)) = (!model.is_empty()).then(|| model.remove(bytes % model.len())) {
                        prop_assert!(queue.remove(place));
                        prop_assert!(!queue.remove(place));
                    }
                }
                prop_assert_eq!(queue.len(), model.len());
                prop_assert_eq!(queue.bytes(), model.iter().map(|w| w.1).sum::<usize>());
            }
        }
    }
}
