//! Open sets: every file of a plural folder has its line in the folder's table, and the table is sorted.

use outrider_tests::places::root;
use std::collections::BTreeSet;

/// Names in the table `static <table>: … = &[…];` of a `mod.rs`, as the last path segment of each entry, lower case.
fn table(folder: &str, table: &str) -> Vec<String> {
    let path = root().join(folder).join("mod.rs");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let start = text.find(&format!("{table}:")).unwrap_or_else(|| panic!("{folder}/mod.rs has no {table}"));
    let body = &text[start..];
    let open = body.find("&[\n").or_else(|| body.find("= &[")).expect("a table is a slice") + 2;
    let body = &body[open..open + body[open..].find("];").expect("a table ends")];
    let entries = body.split([',', '\n', '(', ')', '{', '}', '[']).map(str::trim).filter(|entry| !entry.is_empty());
    let words = entries.flat_map(|entry| entry.trim_matches('"').split(['&', ' ', '"']).next_back().map(str::to_owned));
    words.map(|word| word.to_lowercase()).collect()
}

/// Files and folders beside `mod.rs`, without extension.
fn members(folder: &str, except: &[&str]) -> BTreeSet<String> {
    let entries = std::fs::read_dir(root().join(folder)).unwrap_or_else(|error| panic!("{folder}: {error}")).flatten();
    let names = entries.filter_map(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        (entry.path().is_dir() || name.ends_with(".rs")).then(|| name.trim_end_matches(".rs").to_owned())
    });
    names.filter(|name| name != "mod" && !except.contains(&name.as_str())).collect()
}

#[track_caller]
fn agree(folder: &str, name: &str, except: &[&str]) {
    let words = table(folder, name);
    for member in members(folder, except) {
        assert!(
            words.iter().any(|word| word.split("::").any(|part| part.trim_matches('"') == member)),
            "{folder}/{member} has no line in {name}: {words:?}"
        );
    }
}

#[test]
fn is_every_dialect_in_its_table() {
    agree("proxy/src/dialects", "DIALECTS", &["common"]);
}

#[test]
fn is_every_auth_method_in_its_table() {
    agree("proxy/src/auth/methods", "METHODS", &[]);
}

#[test]
fn is_every_metadata_source_in_its_table() {
    agree("proxy/src/auth/metadata", "SOURCES", &["tests"]);
}

#[test]
fn is_every_response_in_its_table() {
    agree("proxy/src/auth/responses", "RESPONSES", &["tests"]);
}

#[test]
fn is_every_scale_target_in_its_table() {
    agree("proxy/src/scale/targets", "TARGETS", &[]);
}

#[test]
fn is_every_identity_source_in_its_table() {
    agree("proxy/src/tls/sources", "SOURCES", &["tests"]);
}

#[test]
fn is_every_balancer_in_its_table() {
    agree("proxy/src/outbound/balancers", "BALANCERS", &["tests"]);
}

#[test]
fn is_every_model_in_its_table() {
    agree("runtime/src/models", "MODELS", &["tests"]);
}

#[test]
fn is_every_kernel_in_its_table() {
    agree("runtime/src/kernels", "KERNELS", &["common"]);
}

#[test]
fn has_every_kernel_a_shader_and_a_reference() {
    let folder = root().join("runtime/src/kernels");
    for kernel in members("runtime/src/kernels", &["common"]) {
        let shader = folder.join(format!("{kernel}.wgsl"));
        assert!(shader.exists(), "{} is absent", shader.display());
        let text = std::fs::read_to_string(folder.join(format!("{kernel}.rs"))).expect("a readable file");
        assert!(text.contains("fn reference"), "{kernel}.rs has no reference");
    }
}
