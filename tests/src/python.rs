//! Real clients from the Python registry, installed once beside the build and run as their users run them.

use crate::places::{binary, root};
use std::path::PathBuf;
use std::process::Command;

/// Runs `tests/clients/<script>` with these packages importable and `environment` set; its output is shown on failure.
pub fn run(script: &str, environment: impl IntoIterator<Item = (String, String)>) {
    let packages = packages();
    let script = root().join("tests/clients").join(script);
    let out = Command::new("python3")
        .arg(&script)
        .env("PYTHONPATH", &packages)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .envs(environment)
        .output()
        .expect("python3 can be run");
    let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{} failed\n--- stdout\n{stdout}\n--- stderr\n{stderr}", script.display());
    print!("{stdout}");
}

/// Where `make clients` put the packages.
pub fn packages() -> PathBuf {
    let target = binary("outrider").ancestors().nth(2).expect("binaries live in a profile folder").to_path_buf();
    let packages = target.join("clients");
    assert!(packages.exists(), "{} is absent: `make clients` first", packages.display());
    packages
}
