//! Any bytes as a gateway's question.
#![no_main]

use outrider::ext_authz::server::Check;
use outrider_protos::ext_authz::v3::CheckRequest;
use prost::Message;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(request) = CheckRequest::decode(data) else { return };
    let Ok(check) = Check::of(request, 1_700_000_000, || "drawn".into()) else { return };
    assert!(check.head.path.starts_with('/') || check.head.path == "*");
    assert!(!check.head.headers.keys().any(|name| name.as_str().starts_with(':')));
    let _ = check.request();
});
