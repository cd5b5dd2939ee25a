//! Any bytes as a token, as its three parts, and as a key set: nothing panics, and nothing of it is ever accepted.
#![no_main]

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use outrider::auth::issuer::Issuer;
use outrider::auth::jwks::KeySet;
use outrider::auth::jwt::{Expected, unverified_issuer, verify};
use std::sync::LazyLock;

static KEYS: LazyLock<KeySet> =
    LazyLock::new(|| KeySet::parse(Issuer::generate().jwks().as_bytes()).expect("the issuer's own keys").0);

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = KeySet::parse(data);
    let parts = data.split(|byte| *byte == b'.').map(|part| URL_SAFE_NO_PAD.encode(part));
    let encoded = parts.collect::<Vec<_>>().join(".");
    let anybody = Expected { subject_required: false, ..Expected::default() };
    for token in [Some(encoded.as_str()), std::str::from_utf8(data).ok()].into_iter().flatten() {
        let _ = unverified_issuer(token);
        assert!(verify(token, &KEYS, &anybody, 1_800_000_000).is_err());
    }
});
