//! Any bytes as a foreign server's answer, whole and in pieces: its tokens are the same, and nothing is kept of it.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| outrider::forward::usage::fuzz(data));
