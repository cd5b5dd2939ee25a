//! Any bytes as a request of this dialect, and any events as its answer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| outrider::dialects::kserve_v2::fuzz(data));
