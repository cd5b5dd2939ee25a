//! The containers and volumes that are put into a pod, and the names and places they agree on.

use super::knobs::PROXY_YAML;
use super::options::{Behind, Identity, Options, Redirect};
use serde_json::{Value as Json, json};
use serde_yaml_ng::Value;

pub const SIDECAR: &str = "outrider";
pub const REDIRECT: &str = "outrider-redirect";
pub const WORKER_VOLUME: &str = "outrider-worker";

/// For callers who are sent here by a Service.
pub const LISTEN_PORT: u16 = 8443;
/// For callers who are sent here by the pod's network rules; the port of Istio's.
pub const INBOUND_PORT: u16 = 15006;
pub const ADMIN_PORT: u16 = 15020;
/// User and group the network rules let pass, as in Istio.
pub const USER: u32 = 1337;

const CONFIG: &str = "/etc/outrider/pod";
pub const LABELS: &str = "/etc/outrider/pod/labels";
pub const TLS: &str = "/etc/outrider/tls";
pub const POLICIES: &str = "/etc/outrider/policies";
pub const WORKER_FOLDER: &str = "/run/outrider";
pub const WORKER_SOCKET: &str = "/run/outrider/worker.sock";
const SPIRE_FOLDER: &str = "/run/spire/agent";
pub const SPIRE_SOCKET: &str = "/run/spire/agent/spire-agent.sock";
/// Where Istio's own injector mounts them.
const TOKEN_FOLDER: &str = "/var/run/secrets/tokens";
pub const TOKEN: &str = "/var/run/secrets/tokens/istio-token";
const TOKEN_ROOT_FOLDER: &str = "/var/run/secrets/istio";
pub const TOKEN_ROOT: &str = "/var/run/secrets/istio/root-cert.pem";

/// A volume and where the sidecar sees it.
pub struct Volume {
    pub volume: Value,
    pub mount: Value,
}

/// The same in the language of manifests.
pub fn yaml(json: Json) -> Value {
    serde_yaml_ng::to_value(json).expect("JSON is YAML")
}

fn volume(name: &str, path: &str, read_only: bool, mut source: Json) -> Volume {
    source["name"] = name.into();
    // The name first, as people write it.
    let mut volume = serde_json::Map::from_iter([("name".to_owned(), Json::from(name))]);
    volume.extend(source.as_object().cloned().unwrap_or_default());
    let mut mount = json!({"name": name, "mountPath": path});
    if read_only {
        mount["readOnly"] = true.into();
    }
    Volume { volume: yaml(volume.into()), mount: yaml(mount) }
}

/// Everything the sidecar mounts.
pub fn volumes(options: &Options) -> Vec<Volume> {
    let field = |path: &str, field: &str| json!({"path": path, "fieldRef": {"fieldPath": field}});
    let config = field("proxy.yaml", &format!("metadata.annotations['{PROXY_YAML}']"));
    let items = json!({"downwardAPI": {"items": [config, field("labels", "metadata.labels")]}});
    let mut volumes = vec![volume("outrider-config", CONFIG, true, items)];
    if matches!(options.behind(), Some(Behind::Worker { .. })) {
        volumes.push(volume(WORKER_VOLUME, WORKER_FOLDER, false, json!({"emptyDir": {"medium": "Memory"}})));
    }
    match &options.identity {
        Identity::None | Identity::SelfSigned => {}
        Identity::Istio => {
            let token = json!({"audience": "istio-ca", "expirationSeconds": 43_200, "path": "istio-token"});
            let token = json!({"projected": {"sources": [{"serviceAccountToken": token}]}});
            volumes.push(volume("outrider-istio-token", TOKEN_FOLDER, true, token));
            let root = json!({"configMap": {"name": "istio-ca-root-cert"}});
            volumes.push(volume("outrider-istio-root", TOKEN_ROOT_FOLDER, true, root));
        }
        Identity::Spire => {
            let agent = json!({"csi": {"driver": "csi.spiffe.io", "readOnly": true}});
            volumes.push(volume("outrider-spire", SPIRE_FOLDER, true, agent));
        }
        Identity::Secret(name) => {
            volumes.push(volume("outrider-tls", TLS, true, json!({"secret": {"secretName": name}})));
        }
    }
    if let Some(name) = &options.policies {
        volumes.push(volume("outrider-policies", POLICIES, true, json!({"configMap": {"name": name}})));
    }
    volumes
}

/// Where callers are answered.
pub fn listen_port(options: &Options) -> u16 {
    if options.redirect.is_some() { INBOUND_PORT } else { LISTEN_PORT }
}

/// Of a pod's grace: for SIGTERM, `drain.timeout` and the worker's end.
const LAST_SECONDS: u64 = 10;

/// The sidecar's container, for either list.
///
/// `grace_seconds`: how long the pod has for its end.
pub fn sidecar(options: &Options, mounts: Vec<Value>, grace_seconds: u64) -> Value {
    let mut container = json!({"name": SIDECAR, "image": options.image});
    if let Some(policy) = &options.pull_policy {
        container["imagePullPolicy"] = policy.as_str().into();
    }
    if options.native() {
        container["restartPolicy"] = "Always".into();
    }
    container["command"] = json!(["outrider", "proxy", "--config", format!("{CONFIG}/proxy.yaml")]);
    if let Some(log) = &options.log {
        container["env"] = json!([{"name": "OUTRIDER_LOG", "value": log}]);
    }
    container["ports"] = json!([
        {"name": "outrider", "containerPort": listen_port(options)},
        {"name": "outrider-admin", "containerPort": ADMIN_PORT},
    ]);
    let ready = json!({"path": "/healthz/ready", "port": ADMIN_PORT});
    // A native sidecar that has not started holds back the app: two minutes are enough for any source of identity.
    container["startupProbe"] = json!({"httpGet": ready, "periodSeconds": 1, "failureThreshold": 120});
    container["readinessProbe"] = json!({"httpGet": ready, "periodSeconds": 5, "failureThreshold": 3});
    // Until endpoints everywhere have forgotten this pod, it still answers; then it takes nobody new, and waits for those
    // it has. Who then is still there must be told so, after SIGTERM and before the kubelet kills.
    let wait = format!("{}s", grace_seconds.saturating_sub(LAST_SECONDS).max(1));
    let drain = json!({"exec": {"command": ["outrider", "drain", "--wait", wait]}});
    container["lifecycle"] = json!({"preStop": drain});
    container["resources"] = resources(options);
    container["securityContext"] = json!({
        "runAsUser": USER,
        "runAsGroup": USER,
        "runAsNonRoot": true,
        "privileged": false,
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    });
    let mut container = yaml(container);
    container["volumeMounts"] = mounts.into();
    container
}

fn resources(options: &Options) -> Json {
    let given = &options.resources;
    let mut resources = json!({"requests": {"cpu": given.cpu, "memory": given.memory}});
    for (name, limit) in [("cpu", &given.cpu_limit), ("memory", &given.memory_limit)] {
        if let Some(limit) = limit {
            resources["limits"][name] = limit.as_str().into();
        }
    }
    resources
}

/// The init container that writes the pod's network rules and ends.
pub fn redirect(options: &Options, redirect: &Redirect) -> Value {
    let mut container = json!({"name": REDIRECT, "image": options.image});
    if let Some(policy) = &options.pull_policy {
        container["imagePullPolicy"] = policy.as_str().into();
    }
    container["command"] = Json::from([vec!["outrider".to_owned()], redirect_arguments(redirect)].concat());
    container["resources"] = json!({"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}});
    container["securityContext"] = json!({
        "runAsUser": 0,
        "runAsGroup": 0,
        "runAsNonRoot": false,
        "privileged": false,
        "allowPrivilegeEscalation": false,
        // iptables takes its lock in a file under /run.
        "readOnlyRootFilesystem": false,
        "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    });
    yaml(container)
}

/// As `outrider redirect install` takes them.
fn redirect_arguments(redirect: &Redirect) -> Vec<String> {
    let mut arguments: Vec<String> = vec!["redirect".into(), "install".into()];
    let given = |list: &Vec<String>| Some(list.clone()).filter(|list| !list.is_empty());
    let inbound = [
        ("--inbound-ports", redirect.include_inbound_ports.clone()),
        ("--exclude-inbound-ports", given(&redirect.exclude_inbound_ports)),
    ];
    let outbound = [
        ("--outbound-ports", given(&redirect.include_outbound_ports)),
        ("--exclude-outbound-ports", given(&redirect.exclude_outbound_ports)),
        ("--outbound-ranges", redirect.include_outbound_ranges.clone()),
        ("--exclude-outbound-ranges", given(&redirect.exclude_outbound_ranges)),
    ];
    let lists = inbound.into_iter().chain(outbound.into_iter().filter(|_| redirect.outbound));
    arguments.extend(lists.filter_map(|(flag, list)| Some(format!("{flag}={}", list?.join(",")))));
    if !redirect.outbound {
        arguments.push("--no-outbound".into());
    }
    arguments
}
