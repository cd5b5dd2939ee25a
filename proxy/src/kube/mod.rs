//! The injector: a manifest in, the same manifest with the sidecar in its pods out; and the way back.
//!
//! Pure: no file, no clock, no API server. The command line calls [`inject`] on text, a webhook calls [`inject_pod`] on
//! one pod. The sidecar's configuration travels in an annotation of the pod and reaches its file system through the
//! downward API, so that a webhook, which can make no second object, does the same as the command line; that a changed
//! configuration is a changed pod template, which rolls out; and that nothing is left behind by [`uninject`].

pub mod client;
mod config;
mod documents;
mod knobs;
mod options;
mod parts;
mod place;
mod pod;
mod probes;
mod undo;
mod yaml;

pub use knobs::{port_list, quantity, range_list};
pub use options::{Behind, Identity, Options, Redirect, Resources, Tls};
pub use pod::{inject_pod, uninject_pod};

use serde_yaml_ng::Value;

/// Why a manifest was not injected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {words}")]
pub struct Problem {
    /// Which object, or which document where it is none.
    pub place: String,
    pub words: String,
}

/// Puts the sidecar into every pod of a stream of YAML documents. What has no pod comes out byte for byte as it was.
/// Injected again, with other options or the same, a manifest is as if injected once.
pub fn inject(documents: &str, options: &Options) -> Result<String, Vec<Problem>> {
    let problems = options.problems();
    if !problems.is_empty() {
        return Err(problems);
    }
    documents::edit(documents, &mut |manifest, place| {
        let namespace = manifest_namespace(manifest).unwrap_or(&options.namespace).to_owned();
        let mut options = options.clone();
        options.namespace = namespace;
        place::edit(manifest, place, &mut |pod, kind| inject_pod_of(pod, &options, kind))
    })
}

/// Takes out what [`inject`] put in, and leaves alone what was put in otherwise.
pub fn uninject(documents: &str) -> Result<String, Vec<Problem>> {
    documents::edit(documents, &mut |manifest, place| place::edit(manifest, place, &mut |pod, _| uninject_pod(pod)))
}

/// As [`inject_pod`], in a kind that may not take every sidecar.
fn inject_pod_of(pod: &mut Value, options: &Options, kind: place::Kind) -> Result<bool, Vec<String>> {
    if kind.ends && !options.native() {
        return Err(vec![
            "a job beside a sidecar that is no native one never ends; leave --sidecar classic out".into(),
        ]);
    }
    if kind.init_containers {
        return inject_pod(pod, options);
    }
    if options.redirect.is_some() {
        return Err(vec![
            "this kind takes no init containers, so nothing can be redirected; leave --redirect out".into(),
        ]);
    }
    inject_pod(pod, &Options { native: Some(false), ..options.clone() })
}

fn manifest_namespace(manifest: &Value) -> Option<&str> {
    manifest.get("metadata")?.get("namespace")?.as_str()
}

#[cfg(test)]
mod tests;
