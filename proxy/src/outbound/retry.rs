//! Whether a try that went wrong deserves another one, and whether the cluster can bear it. Pure.
//!
//! Never says yes once the head of an answer is with the application, nor for a body that can no longer be repeated.

use crate::config::outbound::{Retries, RetryOn};

/// What a try met with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Met {
    /// No connection; nothing was sent.
    ConnectFailure,
    /// The peer said that it never looked at the request.
    RefusedStream,
    /// The connection ended before the request was written.
    Unsent,
    /// The connection ended before an answer's head.
    Reset,
    /// No answer's head within the time for one try.
    PerTryTimeout,
    /// An answer's head, with a gRPC status if it holds one.
    Head { status: u16, grpc: Option<u16> },
}

impl Met {
    /// For the metric.
    pub fn name(self) -> &'static str {
        match self {
            Met::ConnectFailure => "connect_failure",
            Met::RefusedStream => "refused_stream",
            Met::Unsent => "reset_before_request",
            Met::Reset => "reset",
            Met::PerTryTimeout => "per_try_timeout",
            Met::Head { grpc: Some(_), .. } => "grpc_status",
            Met::Head { .. } => "status",
        }
    }
}

/// Whether the policy wants this to be tried again; `idempotent`: doing it twice is doing it once (RFC 9110 §9.2.2).
pub fn wanted(retries: &Retries, met: Met, idempotent: bool) -> bool {
    retries.on.iter().any(|on| match (on, met) {
        (RetryOn::ConnectFailure, Met::ConnectFailure) => true,
        (RetryOn::RefusedStream, Met::RefusedStream) => true,
        (RetryOn::ResetBeforeRequest, Met::Unsent) => true,
        // The server may have begun: only what may be done twice.
        (RetryOn::Reset, Met::Reset) | (RetryOn::PerTryTimeout, Met::PerTryTimeout) => idempotent,
        (RetryOn::Reset, Met::Unsent | Met::RefusedStream) => true,
        (RetryOn::Status(want), Met::Head { status, .. }) => *want == status,
        (RetryOn::GatewayError, Met::Head { status, .. }) => (502..=504).contains(&status),
        (RetryOn::FiveHundreds, Met::Head { status, .. }) => status >= 500,
        (RetryOn::Grpc(want), Met::Head { grpc, .. }) => Some(*want) == grpc,
        _ => false,
    })
}

/// Whether a cluster with so many requests at once, so many of them retries, can bear one more retry.
///
/// Without a budget, retries multiply the load exactly when there is too much of it already.
pub fn within_budget(retries: &Retries, active: usize, retrying: usize) -> bool {
    let allowed = (active * retries.budget_percent as usize / 100).max(retries.budget_min as usize);
    retrying < allowed
}

/// RFC 9110 §9.2.2.
pub fn is_idempotent(method: &http::Method) -> bool {
    matches!(method.as_str(), "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
}

/// The pause before the `nth` retry (from 0): up to 25 ms, doubled each time, at most 250 ms; `chance` spreads it, so
/// that those who failed together do not come back together.
pub fn backoff_millis(nth: u32, chance: u64) -> u64 {
    let most = (25u64 << nth.min(4)).min(250);
    ((u128::from(chance) * u128::from(most + 1)) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn retries(on: &[RetryOn]) -> Retries {
        Retries { attempts: 2, on: on.to_vec(), budget_percent: 20, budget_min: 3 }
    }

    #[test]
    fn what_is_tried_again() {
        let ok = Met::Head { status: 200, grpc: None };
        let head = |status| Met::Head { status, grpc: None };
        let grpc = |grpc| Met::Head { status: 200, grpc: Some(grpc) };
        let cases = [
            (RetryOn::ConnectFailure, Met::ConnectFailure, false, true),
            (RetryOn::ConnectFailure, Met::Reset, true, false),
            (RetryOn::ResetBeforeRequest, Met::Unsent, false, true),
            (RetryOn::ResetBeforeRequest, Met::Reset, true, false),
            (RetryOn::Reset, Met::Reset, false, false),
            (RetryOn::Reset, Met::Reset, true, true),
            (RetryOn::PerTryTimeout, Met::PerTryTimeout, false, false),
            (RetryOn::Status(503), head(503), false, true),
            (RetryOn::Status(503), head(502), false, false),
            (RetryOn::GatewayError, head(502), false, true),
            (RetryOn::FiveHundreds, head(500), false, true),
            (RetryOn::FiveHundreds, ok, true, false),
            (RetryOn::Grpc(14), grpc(14), false, true),
            (RetryOn::Grpc(14), grpc(13), false, false),
            (RetryOn::Grpc(14), ok, false, false),
        ];
        for (on, met, idempotent, want) in cases {
            assert_eq!(wanted(&retries(&[on]), met, idempotent), want, "{on:?} {met:?} {idempotent}");
        }
        assert!(!wanted(&retries(&[]), Met::ConnectFailure, true));
    }

    proptest! {
        #[test]
        fn do_retries_stay_a_fraction_of_the_load(active in 0usize..10_000) {
            let retries = retries(&[]);
            let granted = (0..).take_while(|retrying| within_budget(&retries, active, *retrying)).count();
            prop_assert_eq!(granted, (active / 5).max(3));
        }

        #[test]
        fn does_a_pause_have_an_end(nth in any::<u32>(), chance in any::<u64>()) {
            prop_assert!(backoff_millis(nth, chance) <= 250);
        }
    }
}
