//! Handshakes in flight. Nobody waits for a turn here: a limit that made callers queue would let whoever is slow keep
//! everybody else out. Over the limit the slowest lose their place instead.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// A handshake younger than this is not slow, only one of many. Three round trips around the earth take less.
const SLOW: Duration = Duration::from_secs(1);
/// How many of the slow a newcomer may push out: more than one, so that after a burst the count comes down again.
const PUSHED_OUT_MAX: usize = 2;

/// All handshakes in flight, the oldest first.
pub struct Handshakes {
    max: usize,
    list: Mutex<VecDeque<(Instant, Arc<Notify>)>>,
}

/// One handshake's place in the list, until dropped.
pub struct Turn<'a> {
    handshakes: &'a Handshakes,
    pushed_out: Arc<Notify>,
}

impl Handshakes {
    pub fn new(max: usize) -> Self {
        Handshakes { max, list: Mutex::new(VecDeque::new()) }
    }

    /// Takes a place at once; if there are too many, of those that have been at it for long the oldest are told to go.
    pub fn enter(&self, now: Instant) -> Turn<'_> {
        let pushed_out = Arc::new(Notify::new());
        let mut list = self.lock();
        for _ in 0..PUSHED_OUT_MAX {
            let slow = list.front().is_some_and(|(since, _)| now.saturating_duration_since(*since) >= SLOW);
            if list.len() < self.max || !slow {
                break;
            }
            list.pop_front().expect("it has a front").1.notify_one();
        }
        list.push_back((now, pushed_out.clone()));
        Turn { handshakes: self, pushed_out }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(Instant, Arc<Notify>)>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn<'_> {
    /// Resolves when this one must make room.
    pub async fn pushed_out(&self) {
        self.pushed_out.notified().await;
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut list = self.handshakes.lock();
        // The young end first: a handshake that goes well is over soon.
        if let Some(at) = list.iter().rposition(|(_, other)| Arc::ptr_eq(other, &self.pushed_out)) {
            list.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn who_makes_room_when_there_are_too_many() {
        let handshakes = Handshakes::new(3);
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let gone = |turn: &Turn<'_>| turn.pushed_out().now_or_never().is_some();
        let old: Vec<Turn<'_>> = (0..4).map(|number| handshakes.enter(at(number))).collect();
        assert!(!old.iter().any(gone), "a burst is not slow");
        let young = handshakes.enter(at(900));
        assert!(!old.iter().any(gone));
        let newcomer = handshakes.enter(at(1002));
        assert_eq!(old.iter().map(gone).collect::<Vec<_>>(), [true, true, false, false], "two, the oldest");
        assert!(!gone(&young) && !gone(&newcomer));
        drop((old, young, newcomer));
        assert!(handshakes.lock().is_empty());
        let _alone = handshakes.enter(at(5000));
        let _second = handshakes.enter(at(9000));
        assert!(!gone(&_alone), "below the limit one may be as slow as the timeout allows");
    }
}
