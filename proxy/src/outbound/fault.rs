//! Faults on purpose: how long a request is held, and with what it is turned away. For tests of callers. Pure.

use super::balancers::within;
use crate::config::outbound::{Abort, Fault};
use std::time::Duration;

/// What befalls one request: two draws, for delay and abort are independent.
pub fn decide(fault: &Fault, chances: [u64; 2]) -> (Option<Duration>, Option<Abort>) {
    let delay = fault.delay.filter(|(_, percent)| within(*percent, chances[0])).map(|(delay, _)| delay);
    let abort = fault.abort.filter(|(_, percent)| within(*percent, chances[1])).map(|(abort, _)| abort);
    (delay, abort)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn does_chance_decide_by_percentage() {
        let fault =
            |percent| Fault { delay: Some((Duration::from_secs(1), percent)), abort: Some((Abort::Grpc(14), percent)) };
        let cases =
            [(0.0, 0, false), (100.0, u64::MAX, true), (50.0, u64::MAX / 4, true), (50.0, u64::MAX / 4 * 3, false)];
        for (percent, chance, want) in cases {
            let (delay, abort) = decide(&fault(percent), [chance, chance]);
            assert_eq!((delay.is_some(), abort.is_some()), (want, want), "{percent} {chance}");
        }
        assert_eq!(decide(&Fault::default(), [0, 0]), (None, None));
    }
}
