//! Admission in front of what grows and shrinks: how many may run changes, and may become nobody.

use super::{Admission, State};
use std::sync::Arc;

impl Admission {
    /// From now on so many may run at once; those beyond it may finish.
    pub fn resize(self: &Arc<Self>, limit: usize) {
        self.lock().breaker.resize(limit);
        self.settle(None);
    }

    /// Nobody is there any more, as may happen: whoever comes waits, and wakes.
    pub fn emptied(&self) {
        let mut gate = self.lock();
        let Some(generation) = gate.wake.awake() else { return };
        gate.wake.lost(generation);
        drop(gate);
        self.changed.notify_one();
    }

    /// Whether one more would be let through, now or as soon as whoever sleeps is awake.
    pub fn has_room(&self) -> bool {
        let gate = self.lock();
        let refused = matches!(gate.wake.state(), State::Backoff { .. });
        !refused && gate.breaker.running() + gate.queue.len() < gate.breaker.limit()
    }
}
