//! Any text as a Rego policy of either version: refused with words, or it decides.
#![no_main]

use outrider::auth::rules::{Rego, RegoVersion};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let input = serde_json::json!({"a": 1, "b": [1, "y"], "c": "d", "l": [{"n": 3}]});
    for version in [RegoVersion::V0, RegoVersion::V1] {
        if let Ok(rego) = Rego::compile(text, version, true) {
            let _ = rego.evaluate(&input);
        }
    }
});
