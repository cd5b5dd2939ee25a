//! Any bytes as a certificate and as a SPIFFE id.
#![no_main]

use outrider::tls::identity::{SpiffeId, peer_of};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = peer_of(data);
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = SpiffeId::parse(text);
    }
});
