//! Arrows that must never be.

use crate::source::{Source, under};

/// Fails with every line in `folder` that has one of `words`, except in files that start with one of `allowed`.
#[track_caller]
fn never(folder: &str, words: &[&str], allowed: &[&str], why: &str) {
    let stray = |file: &Source| -> Vec<String> {
        let lines = file.code().filter(|(_, line)| words.iter().any(|word| has_word(line, word)));
        lines.map(|(number, line)| format!("{}:{number}: {}", file.path, line.trim())).collect()
    };
    let found: Vec<String> = under(folder)
        .iter()
        .filter(|file| !allowed.iter().any(|allowed| file.path.starts_with(allowed)))
        .flat_map(stray)
        .collect();
    assert!(found.is_empty(), "{why}:\n{}", found.join("\n"));
}

/// Whether `word` stands in `line` with no letter, digit or underscore before it.
fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
}

#[test]
fn do_proxy_and_runtime_know_only_protos() {
    never("proxy/", &["outrider_worker::"], &[], "the proxy never knows the runtime");
    never("runtime/", &["outrider::"], &[], "the runtime never knows the proxy");
}

#[test]
fn are_the_frameworks_behind_their_adapters() {
    let pingora = ["accept", "server", "downstream", "forward", "admin"].map(|room| format!("proxy/src/{room}"));
    let pingora: Vec<&str> = pingora.iter().map(String::as_str).collect();
    never(
        "proxy/src",
        &["use pingora", "pingora_core::", "pingora_proxy::", "pingora_http::"],
        &pingora,
        "pingora stays behind its adapters",
    );
    let tonic = ["worker/uds", "tls/sources/", "ext_authz/", "rls/", "scale/external_scaler/"];
    let tonic = tonic.map(|room| format!("proxy/src/{room}"));
    let tonic: Vec<&str> = tonic.iter().map(String::as_str).collect();
    never(
        "proxy/src",
        &["tonic::"],
        &tonic,
        "tonic stays in worker/uds, ext_authz, rls, external_scaler and tls/sources",
    );
    never("runtime/src", &["tonic::"], &["runtime/src/server"], "tonic stays in the server");
    never("runtime/src", &["wgpu::"], &["runtime/src/device/"], "wgpu stays in its device");
    never("runtime/src/device/cpu", &["wgpu::"], &[], "wgpu stays in its device");
}

#[test]
fn are_dialects_pure_and_strangers_to_each_other() {
    let forbidden =
        ["crate::auth", "crate::admission", "crate::metrics", "crate::config", "tokio::", "std::time::Instant"];
    never("proxy/src/dialects", &forbidden, &[], "a dialect knows neither auth, admission, metrics, config nor tokio");
    let names = ["openai", "kserve_v2"];
    for dialect in names {
        for other in names.iter().filter(|other| **other != dialect) {
            let folder = format!("proxy/src/dialects/{dialect}");
            never(&folder, &[&format!("dialects::{other}")], &[], "one dialect never knows another");
        }
    }
}

#[test]
fn do_auth_and_admission_stay_out_of_what_requests_say() {
    never("proxy/src/auth", &["crate::dialects"], &[], "auth knows no dialect");
    never(
        "proxy/src/admission",
        &["crate::dialects", "crate::message"],
        &[],
        "admission knows not what a request says",
    );
}

#[test]
fn do_engine_models_and_kernels_mind_their_own_business() {
    never("runtime/src/engine", &["crate::device", "crate::models", "tokio::"], &[], "the engine names no tensor");
    never(
        "runtime/src/models",
        &["CpuDevice", "WgpuDevice", "device::cpu", "device::wgpu"],
        &[],
        "a model names no device",
    );
    never("runtime/src/kernels", &["crate::models", "crate::engine"], &[], "a kernel names no model");
}

/// Shells that own the clock, randomness or the environment; everything else takes them as arguments.
const SHELLS: &[&str] = &[
    "proxy/src/accept",
    "proxy/src/activator/service.rs",
    "proxy/src/activator/trip.rs",
    "proxy/src/admission/mod.rs",
    "proxy/src/admin/",
    "proxy/src/auth/endpoint/kept.rs",
    "proxy/src/cli/",
    "proxy/src/downstream",
    "proxy/src/exchange",
    "proxy/src/ext_authz/server/mod.rs",
    "proxy/src/forward.rs",
    "proxy/src/forward/carry.rs",
    "proxy/src/forward/pool.rs",
    "proxy/src/forward/stream.rs",
    "proxy/src/forward/streams.rs",
    "proxy/src/main.rs",
    "proxy/src/metrics.rs",
    "proxy/src/outbound/answer.rs",
    "proxy/src/outbound/carry",
    "proxy/src/outbound/mod.rs",
    "proxy/src/outbound/pool.rs",
    "proxy/src/outbound/record.rs",
    "proxy/src/record.rs",
    "proxy/src/scale/autoscaler/",
    "proxy/src/scale/device/",
    "proxy/src/scale/targets/",
    "proxy/src/server",
    "proxy/src/tls/",
    "proxy/src/worker/",
    "runtime/src/device/cpu/",
    "runtime/src/device/select.rs",
    "runtime/src/main.rs",
    "runtime/src/server",
    "runtime/src/standby.rs",
];

#[test]
fn do_pure_rooms_take_time_and_chance_as_arguments() {
    let sources = ["Instant::now", "SystemTime::now", "env::var", "thread_rng", "from_os_rng", "OsRng"];
    for folder in ["proxy/src", "runtime/src"] {
        never(folder, &sources, SHELLS, "time, chance and the environment belong to the shells");
    }
}

#[test]
fn is_what_decides_about_trust_pure() {
    let clocks = ["Instant::now", "SystemTime::now", "unix_now", "tokio::time"];
    for file in ["identity", "live", "material", "refusal", "revocation", "rotate", "trust"] {
        never(&format!("proxy/src/tls/{file}.rs"), &clocks, &[], "trust takes time as an argument");
    }
}
