//! One pod: what is put in, in which order, and what stands in the way.

use super::knobs::{self, PROXY_YAML};
use super::options::{Behind, Identity, Options, Tls};
use super::parts::{self, ADMIN_PORT, REDIRECT, SIDECAR, USER, WORKER_FOLDER, WORKER_VOLUME};
use super::undo::{At, Editor, undo};
use super::{config, probes};
use serde_json::json;
use serde_yaml_ng::Value;

/// Of a pod that does not say.
const GRACE_SECONDS: u64 = 30;

/// Puts the sidecar into a pod, or a pod template: a mapping with `metadata` and `spec`. Whether anything changed. A pod
/// that was injected before is first taken back, so that the outcome follows from the options alone.
pub fn inject_pod(pod: &mut Value, options: &Options) -> Result<bool, Vec<String>> {
    let Some(options) = knobs::read(pod, options)? else { return Ok(false) };
    let before = pod.clone();
    let outcome = undo(pod).map_err(|words| vec![words]).and_then(|_| put_in(pod, &options));
    match outcome {
        Ok(()) => Ok(*pod != before),
        Err(problems) => {
            *pod = before;
            Err(problems)
        }
    }
}

/// Takes the sidecar out again. Whether it was there.
pub fn uninject_pod(pod: &mut Value) -> Result<bool, Vec<String>> {
    undo(pod).map_err(|words| vec![words])
}

fn put_in(pod: &mut Value, options: &Options) -> Result<(), Vec<String>> {
    let problems = obstacles(pod, options);
    if !problems.is_empty() {
        return Err(problems);
    }
    let mut editor = Editor::new(pod);
    let asked = if options.rewrite_probes { probes::rewrite(&mut editor)? } else { Vec::new() };
    let config = config::render(options, editor.pod(), asked).map_err(|words| vec![words])?;
    containers(&mut editor, options)
        .and_then(|()| worker(&mut editor, options))
        .and_then(|()| hold(&mut editor, options))
        .and_then(|()| annotate(&mut editor, options, config))
        .and_then(|()| editor.finish())
        .map_err(|words| vec![words])
}

fn items<'a>(pod: &'a Value, list: &str) -> &'a [Value] {
    pod.get("spec").and_then(|spec| spec.get(list)).and_then(Value::as_sequence).map_or(&[], Vec::as_slice)
}

fn name(item: &Value) -> &str {
    item.get("name").and_then(Value::as_str).unwrap_or_default()
}

/// Why this pod cannot have the sidecar.
fn obstacles(pod: &Value, options: &Options) -> Vec<String> {
    let mut found = Vec::new();
    if items(pod, "containers").is_empty() {
        found.push("the pod has no containers".to_owned());
    }
    let truth = |key: &str| pod.get("spec").and_then(|spec| spec.get(key)).and_then(Value::as_bool) == Some(true);
    if options.redirect.is_some() && truth("hostNetwork") {
        found.push("the pod is in its host's network, whose rules must not be touched; leave --redirect out".into());
    }
    let ours = [parts::listen_port(options), ADMIN_PORT];
    for container in items(pod, "initContainers").iter().chain(items(pod, "containers")) {
        let ports = container.get("ports").and_then(Value::as_sequence).map_or(&[][..], Vec::as_slice);
        for port in ports.iter().filter_map(|port| port.get("containerPort")?.as_u64()) {
            if ours.iter().any(|ours| u64::from(*ours) == port) {
                found.push(format!(
                    "port {port} of `{}` is one the sidecar needs; move the container's",
                    name(container)
                ));
            }
        }
        match name(container) {
            "" => found.push("a container has no name".into()),
            "istio-proxy" => found.push("the pod already has Istio's sidecar; inject the manifest without it".into()),
            SIDECAR | REDIRECT => {
                found.push(format!(
                    "there is a container `{}` that was not put there by us; rename it",
                    name(container)
                ));
            }
            _ => {}
        }
    }
    found
}

fn containers(editor: &mut Editor<'_>, options: &Options) -> Result<(), String> {
    let mut mounts = Vec::new();
    for volume in parts::volumes(options) {
        editor.add(&["spec", "volumes"], At::Last, volume.volume)?;
        mounts.push(volume.mount);
    }
    let grace = editor.pod().get("spec").and_then(|spec| spec.get("terminationGracePeriodSeconds")?.as_u64());
    let sidecar = parts::sidecar(options, mounts, grace.unwrap_or(GRACE_SECONDS));
    if options.native() {
        editor.add(&["spec", "initContainers"], At::First, sidecar)?;
    } else {
        // First, so that it is started first; nobody waits for it, though.
        editor.add(&["spec", "containers"], At::First, sidecar)?;
    }
    match &options.redirect {
        // Before everything that may speak, for the sidecar is there to answer.
        Some(redirect) if options.native() => {
            editor.add(&["spec", "initContainers"], At::First, parts::redirect(options, redirect))
        }
        // After the pod's own init containers: until the sidecar runs, what is redirected goes nowhere.
        Some(redirect) => editor.add(&["spec", "initContainers"], At::Last, parts::redirect(options, redirect)),
        None => Ok(()),
    }
}

/// The worker's container sees the socket's folder, and runs as the only user the socket lets in.
fn worker(editor: &mut Editor<'_>, options: &Options) -> Result<(), String> {
    let Some(Behind::Worker { container, .. }) = options.behind() else { return Ok(()) };
    let own = |item: &&Value| name(item) != SIDECAR;
    let chosen = items(editor.pod(), "containers").iter().filter(own).find(|item| match &container {
        Some(wanted) => name(item) == wanted,
        None => true,
    });
    let Some(chosen) = chosen.cloned() else {
        return Err(format!("there is no container `{}` for the worker", container.unwrap_or_default()));
    };
    let mount = parts::yaml(json!({"name": WORKER_VOLUME, "mountPath": WORKER_FOLDER}));
    let at = ["spec", "containers", name(&chosen)];
    editor.add(&[&at[..], &["volumeMounts"]].concat(), At::Last, mount)?;
    let pods = editor.pod().get("spec").and_then(|spec| spec.get("securityContext")).cloned();
    for key in ["runAsUser", "runAsGroup"] {
        let own = chosen.get("securityContext").and_then(|context| context.get(key));
        let given = own.or_else(|| pods.as_ref()?.get(key)).and_then(Value::as_u64);
        match given {
            Some(given) if given == u64::from(USER) => {}
            Some(given) if key == "runAsUser" => {
                let words = "the worker's socket lets in only its own user, and the sidecar is";
                return Err(format!("`{}` runs as user {given}: {words} {USER}; leave runAsUser out", name(&chosen)));
            }
            Some(_) => {}
            None => editor.set(&[&at[..], &["securityContext", key]].concat(), USER)?,
        }
    }
    Ok(())
}

/// Containers of the app end only when the sidecar's callers are gone: the kubelet's own hook waits for that. One that has
/// a hook already knows better.
fn hold(editor: &mut Editor<'_>, options: &Options) -> Result<(), String> {
    if !options.hold_app {
        return Ok(());
    }
    let hook = parts::yaml(json!({"httpGet": {"path": "/wait-for-drain", "port": ADMIN_PORT}}));
    let free = |item: &&Value| item.get("lifecycle").and_then(|lifecycle| lifecycle.get("preStop")).is_none();
    let apps = items(editor.pod(), "containers").iter().filter(|item| name(item) != SIDECAR).filter(free);
    for app in apps.map(|item| name(item).to_owned()).collect::<Vec<_>>() {
        editor.set(&["spec", "containers", &app, "lifecycle", "preStop"], hook.clone())?;
    }
    Ok(())
}

fn annotate(editor: &mut Editor<'_>, options: &Options, config: String) -> Result<(), String> {
    let has = |editor: &Editor<'_>, map: &str, key: &str| {
        editor.pod().get("metadata").and_then(|metadata| metadata.get(map)?.get(key)).is_some()
    };
    // Istio's clients begin mutual TLS with pods that bear this label, and plaintext with all others.
    let label = "security.istio.io/tlsMode";
    if options.identity == Identity::Istio && options.tls() != Tls::Disable && !has(editor, "labels", label) {
        editor.set(&["metadata", "labels", label], "istio")?;
    }
    // Whoever lets Prometheus read the app's own metrics goes on to do so.
    if !has(editor, "annotations", "prometheus.io/scrape") && !has(editor, "annotations", "prometheus.io/port") {
        for (key, value) in [("scrape", "true"), ("port", "15020"), ("path", "/metrics")] {
            editor.set(&["metadata", "annotations", &format!("prometheus.io/{key}")], value)?;
        }
    }
    editor.set(&["metadata", "annotations", PROXY_YAML], config)
}
