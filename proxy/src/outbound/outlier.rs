//! Endpoints that fail in a row are left alone for a while, as Envoy does it. Pure: time comes as an argument.
//!
//! Never ejects the last endpoint that is left, however small the cluster.

use crate::config::outbound::Outlier;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

/// How a try ended, as an endpoint is judged by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It answered with this HTTP status (or what its gRPC status means in HTTP).
    Answered(u16),
    /// It did not answer: no connection, a reset, too late.
    Failed,
}

/// Failures in a row.
#[derive(Debug, Default)]
pub struct Counters {
    five_hundreds: AtomicU32,
    gateway: AtomicU32,
    local_origin: AtomicU32,
}

impl Counters {
    /// Takes note; a detector's name (for the metric) if it has seen enough.
    pub fn note(&self, outcome: Outcome, config: &Outlier) -> Option<&'static str> {
        let bump = |counter: &AtomicU32, limit: u32| {
            let count = counter.fetch_add(1, Relaxed) + 1;
            // Enough: and from 0 again, so that the next series counts anew.
            (limit > 0 && count >= limit).then(|| counter.store(0, Relaxed)).is_some()
        };
        match outcome {
            Outcome::Failed => bump(&self.local_origin, config.consecutive_local_origin).then_some("local_origin"),
            Outcome::Answered(status) => {
                clear(&self.local_origin);
                if !(502..=504).contains(&status) {
                    clear(&self.gateway);
                }
                if status < 500 {
                    clear(&self.five_hundreds);
                    return None;
                }
                let gateway = (502..=504).contains(&status) && bump(&self.gateway, config.consecutive_gateway);
                let five = bump(&self.five_hundreds, config.consecutive_5xx);
                if gateway { Some("gateway") } else { five.then_some("5xx") }
            }
        }
    }
}

/// Most answers are good, and most counters 0: a look is cheaper than a write that all cores hear of.
fn clear(counter: &AtomicU32) {
    if counter.load(Relaxed) != 0 {
        counter.store(0, Relaxed);
    }
}

#[derive(Debug, Default)]
struct Entry {
    /// Until when, while it is ejected.
    until: Option<Duration>,
    /// Each ejection is longer than the one before; good conduct shortens it again.
    times: u32,
}

/// Who is ejected.
#[derive(Debug, Default)]
pub struct Ledger {
    entries: HashMap<SocketAddr, Entry>,
}

impl Ledger {
    /// Ejects, if that many may be; `count` is the number of endpoints in the cluster.
    pub fn eject(&mut self, address: SocketAddr, count: usize, now: Duration, config: &Outlier) -> bool {
        let ejected = self.entries.values().filter(|entry| entry.until.is_some()).count();
        let allowed = (count * config.ejection_percent_max as usize / 100).max(1).min(count.saturating_sub(1));
        let entry = self.entries.entry(address).or_default();
        if entry.until.is_some() || ejected >= allowed {
            return false;
        }
        entry.times += 1;
        entry.until = Some(now + (config.base_ejection * entry.times).min(config.max_ejection));
        true
    }

    pub fn is_ejected(&self, address: SocketAddr) -> bool {
        self.entries.get(&address).is_some_and(|entry| entry.until.is_some())
    }

    /// Once each interval: lets those back whose time is over, and forgets what is past. Whether anybody came back.
    pub fn sweep(&mut self, now: Duration, still_there: impl Fn(SocketAddr) -> bool) -> bool {
        let mut changed = false;
        self.entries.retain(|address, entry| {
            match entry.until {
                Some(until) if until <= now => (entry.until, changed) = (None, true),
                Some(_) => {}
                None => entry.times = entry.times.saturating_sub(1),
            }
            still_there(*address) && (entry.until.is_some() || entry.times > 0)
        });
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn config() -> Outlier {
        Outlier {
            consecutive_5xx: 3,
            consecutive_gateway: 2,
            consecutive_local_origin: 2,
            interval: SECOND,
            base_ejection: SECOND * 10,
            max_ejection: SECOND * 25,
            ejection_percent_max: 50,
        }
    }

    fn address(at: usize) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, at as u8], 80))
    }

    #[test]
    fn which_series_are_enough() {
        use Outcome::{Answered, Failed};
        let cases: [(&[Outcome], Option<&str>); 8] = [
            (&[Answered(500), Answered(500), Answered(500)], Some("5xx")),
            (&[Answered(500), Answered(200), Answered(500), Answered(500)], None),
            (&[Answered(503), Answered(503)], Some("gateway")),
            (&[Answered(503), Answered(500), Answered(503)], Some("5xx")),
            (&[Failed, Failed], Some("local_origin")),
            (&[Failed, Answered(500), Failed], None),
            (&[Answered(404), Answered(404), Answered(404)], None),
            (&[Failed], None),
        ];
        for (series, want) in cases {
            let counters = Counters::default();
            let last = series.iter().map(|outcome| counters.note(*outcome, &config())).last().unwrap();
            assert_eq!(last, want, "{series:?}");
        }
    }

    #[test]
    fn do_ejections_grow_and_fade() {
        let (mut ledger, config) = (Ledger::default(), config());
        let mut lengths = Vec::new();
        let mut now = Duration::ZERO;
        for _ in 0..3 {
            assert!(ledger.eject(address(1), 4, now, &config));
            assert!(!ledger.eject(address(1), 4, now, &config), "twice at once");
            let began = now;
            while !ledger.sweep(now, |_| true) {
                now += SECOND;
            }
            lengths.push((now - began).as_secs());
        }
        assert_eq!(lengths, [10, 20, 25]);
        assert!((0..4).all(|_| !ledger.sweep(now, |_| true)));
        assert!(ledger.entries.is_empty(), "good conduct");
    }

    proptest! {
        #[test]
        fn is_somebody_always_left(count in 0usize..12, tries in proptest::collection::vec(0usize..12, 0..40)) {
            let mut ledger = Ledger::default();
            for at in tries.into_iter().filter(|at| *at < count) {
                ledger.eject(address(at), count, Duration::ZERO, &config());
            }
            let ejected = (0..count).filter(|at| ledger.is_ejected(address(*at))).count();
            prop_assert!(ejected < count.max(1));
            prop_assert!(ejected <= (count / 2).max(1));
        }
    }
}
