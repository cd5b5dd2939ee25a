//! Any bytes as a certificate, as a bundle of them, as a revocation list and as a SPIFFE id.
#![no_main]

use outrider::tls::identity::{SpiffeId, peer_of};
use outrider::tls::pem::{concatenated, crls_of};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = peer_of(data);
    let _ = concatenated(data);
    if let Ok(lists) = crls_of(data) {
        for list in lists {
            let _ = list.revokes(&data[..data.len().min(20)]);
        }
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = SpiffeId::parse(text);
    }
});
