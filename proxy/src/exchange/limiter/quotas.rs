//! Where a caller stands, in headers: three as the IETF's draft of 2020 has them (draft-polli-ratelimit-headers-03, which is
//! what Envoy's DRAFT_VERSION_03 writes), and those that clients of OpenAI's API read.

use crate::error::Quota;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::time::Duration;

/// Sets the headers for these limits; of several the one with the least left speaks, and all are named.
pub fn tell(headers: &mut HeaderMap, quotas: &[Quota]) {
    // A limit counted elsewhere may not say how large it is.
    let known = || quotas.iter().filter(|quota| !quota.window.is_zero());
    let Some(least) = known().min_by_key(|quota| quota.remaining) else { return };
    let policies =
        known().map(|quota| format!(", {};w={};name=\"{}\"", quota.limit, seconds(quota.window), quota.name));
    let mut set = |name: &'static str, text: String| {
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    set("x-ratelimit-limit", least.limit.to_string() + &policies.collect::<String>());
    set("x-ratelimit-remaining", least.remaining.to_string());
    set("x-ratelimit-reset", seconds(least.reset).to_string());
    for (tokens, names) in [
        (false, ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"]),
        (true, ["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"]),
    ] {
        let Some(least) = known().filter(|quota| quota.tokens == tokens).min_by_key(|quota| quota.remaining) else {
            continue;
        };
        set(names[0], least.limit.to_string());
        set(names[1], least.remaining.to_string());
        set(names[2], in_words(least.reset));
    }
}

/// Whole seconds, rounded up: who comes a moment late is served, who comes early is not.
fn seconds(duration: Duration) -> u64 {
    duration.as_millis().div_ceil(1000) as u64
}

/// As OpenAI writes durations, which is as Go does: `20ms`, `1s`, `6m0s`, `24h0m0s`.
fn in_words(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        return format!("{}ms", duration.as_millis());
    }
    let seconds = seconds(duration);
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m{seconds}s"),
        (hours, minutes, seconds) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(name: &str, tokens: bool, remaining: u64) -> Quota {
        let (window, reset, retry_after) = (Duration::from_secs(60), Duration::from_millis(90_500), Duration::ZERO);
        Quota { name: name.into(), tokens, limit: 100, window, remaining, reset, retry_after }
    }

    #[test]
    fn what_do_the_headers_say() {
        let mut headers = HeaderMap::new();
        tell(&mut headers, &[quota("calls", false, 7), quota("words", true, 3)]);
        for (name, value) in [
            ("x-ratelimit-limit", "100, 100;w=60;name=\"calls\", 100;w=60;name=\"words\""),
            ("x-ratelimit-remaining", "3"),
            ("x-ratelimit-reset", "91"),
            ("x-ratelimit-remaining-requests", "7"),
            ("x-ratelimit-limit-tokens", "100"),
            ("x-ratelimit-reset-tokens", "1m31s"),
        ] {
            assert_eq!(headers[name], value, "{name}");
        }
        let mut headers = HeaderMap::new();
        tell(&mut headers, &[Quota { window: Duration::ZERO, ..quota("elsewhere", false, 0) }]);
        assert!(headers.is_empty());
    }

    #[test]
    fn how_are_durations_written() {
        for (millis, text) in [(0, "0ms"), (20, "20ms"), (1000, "1s"), (360_000, "6m0s"), (86_400_000, "24h0m0s")] {
            assert_eq!(in_words(Duration::from_millis(millis)), text);
        }
    }
}
