//! Any bytes as a file of policies, and as a request judged by it.
#![no_main]

use outrider::policy::{Attributes, ConnectionAttributes, Policies, Workload};
use outrider::tls::identity::SpiffeId;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let workload = Workload {
        namespace: "default".into(),
        labels: [("app".to_owned(), "model".to_owned())].into(),
        root_namespace: "istio-system".into(),
        trust_domain: "cluster.local".into(),
        trust_domain_aliases: vec!["old".into()],
    };
    let Ok(policies) = Policies::parse(&[("fuzz.yaml".into(), text.into())], &workload) else { return };
    let peer = SpiffeId::parse("spiffe://cluster.local/ns/default/sa/caller").expect("a good id");
    // Parts of the input, so that patterns meet what they were made of.
    let words: Vec<&str> = text.split_whitespace().collect();
    let word = |from_end: usize| words.iter().rev().nth(from_end).copied().unwrap_or("/");
    let mut headers = http::HeaderMap::new();
    if let Ok(value) = http::HeaderValue::from_bytes(word(2).as_bytes()) {
        headers.append("x-word", value.clone());
        headers.append("x-word", value);
    }
    let connection = ConnectionAttributes {
        peer: Some(&peer),
        source_ip: [10, 1, 2, 3].into(),
        remote_ip: [192, 0, 2, 1].into(),
        destination_ip: [0u16, 0, 0, 0, 0, 0, 0, 1].into(),
        destination_port: 8080,
        sni: words.first().copied(),
    };
    let request =
        Attributes { connection, method: "POST", host: word(1), path: word(0), headers: &headers, token: None };
    let _ = policies.needs_custom(&request);
    let _ = policies.evaluate(&request);
    let _ = policies.evaluate_connection(&connection);
    let _ = policies.peer_mode(8080);
});
