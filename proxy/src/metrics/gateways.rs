//! What is counted of gateways that ask us.

use super::Ledger;
use crate::ext_authz::server::Counted;

/// A verdict from a cache is microseconds, one from an issuer elsewhere a second.
const DECISION_BUCKETS: &[f64] = &[0.00005, 0.0001, 0.0005, 0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0];

pub(super) fn counted(l: &Ledger) -> Counted {
    Counted {
        // Authorino's name, for its dashboards.
        status: l.counters("auth_server_response_status", "Answers to gateways by code.", &["status"]),
        seconds: l.histograms(
            "outrider_authorization_duration_seconds",
            "Time from a gateway's question to the decision.",
            &["protocol"],
            DECISION_BUCKETS,
        ),
    }
}
