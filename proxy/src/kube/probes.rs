//! Probes of the pod's own containers, turned into probes of the sidecar's admin port.
//!
//! A kubelet has no certificate, and a server that listens only for its sidecar has no port it could reach. `exec`
//! probes need neither and stay as they are.

use super::parts::ADMIN_PORT;
use super::undo::Editor;
use serde_yaml_ng::{Mapping, Value};

/// The API's names of probes, and those of their paths.
const KINDS: [(&str, &str); 3] =
    [("livenessProbe", "livez"), ("readinessProbe", "readyz"), ("startupProbe", "startupz")];
const ACTIONS: [&str; 3] = ["httpGet", "tcpSocket", "grpc"];

/// What the sidecar is to ask in the kubelet's stead: entries of `probes.apps` in its configuration.
pub fn rewrite(editor: &mut Editor<'_>) -> Result<Vec<Value>, Vec<String>> {
    let (mut asked, mut problems) = (Vec::new(), Vec::new());
    for list in ["initContainers", "containers"] {
        let containers = editor.pod().get("spec").and_then(|spec| spec.get(list)).and_then(Value::as_sequence);
        for container in containers.cloned().unwrap_or_default() {
            let name = container.get("name").and_then(Value::as_str).unwrap_or_default();
            for (kind, path) in KINDS {
                let Some(probe) = container.get(kind) else { continue };
                match one(&container, name, path, probe) {
                    Ok(Some((entry, rewritten))) => {
                        asked.push(entry);
                        problems.extend(editor.set(&["spec", list, name, kind], rewritten).err());
                    }
                    Ok(None) => {}
                    Err(words) => problems.push(format!("{kind} of `{name}`: {words}")),
                }
            }
        }
    }
    if problems.is_empty() { Ok(asked) } else { Err(problems) }
}

/// The sidecar's entry, and what the kubelet is told instead.
fn one(container: &Value, name: &str, path: &str, probe: &Value) -> Result<Option<(Value, Mapping)>, String> {
    let Value::Mapping(probe) = probe else { return Ok(None) };
    let Some(action) = ACTIONS.into_iter().find(|action| probe.contains_key(*action)) else { return Ok(None) };
    let details = probe.get(action).cloned().unwrap_or_default();
    let mut entry = Mapping::new();
    entry.insert("container".into(), name.into());
    entry.insert("probe".into(), path.into());
    let port: Value = port(container, details.get("port"))?.into();
    let keep = |keys: &[(&str, &str)]| -> Mapping {
        let port = [(Value::from("port"), port.clone())];
        let kept = keys.iter().filter_map(|(theirs, ours)| {
            let value = details.get(*theirs).filter(|value| !value.is_null() && value.as_str() != Some(""))?;
            Some((Value::from(*ours), value.clone()))
        });
        port.into_iter().chain(kept).collect()
    };
    let (key, asked) = match action {
        "httpGet" => {
            ("http", keep(&[("path", "path"), ("host", "host"), ("scheme", "scheme"), ("httpHeaders", "headers")]))
        }
        "tcpSocket" => ("tcp", keep(&[("host", "host")])),
        _ => ("grpc", keep(&[("service", "service")])),
    };
    entry.insert(key.into(), asked.into());
    let seconds = probe.get("timeoutSeconds").and_then(Value::as_u64).unwrap_or(1).max(1);
    entry.insert("timeout".into(), format!("{seconds}s").into());
    let get = [("path", Value::from(format!("/app-health/{name}/{path}"))), ("port", ADMIN_PORT.into())];
    let get: Mapping = get.into_iter().map(|(key, value)| (Value::from(key), value)).collect();
    // In the place of the old action, so that all else keeps its order.
    let rewritten = probe.iter().map(|(key, value)| match key.as_str() == Some(action) {
        true => (Value::from("httpGet"), Value::from(get.clone())),
        false => (key.clone(), value.clone()),
    });
    Ok(Some((entry.into(), rewritten.collect())))
}

/// A number, or the name of one of the container's ports, or a number in quotes: as the kubelet understands it.
fn port(container: &Value, port: Option<&Value>) -> Result<u16, String> {
    let sane = |number: u64| u16::try_from(number).ok().filter(|port| *port != 0);
    let port = port.ok_or("has no port")?;
    if let Some(number) = port.as_u64() {
        return sane(number).ok_or_else(|| format!("{number} is no port"));
    }
    let name = port.as_str().ok_or("its port is neither a number nor a name")?;
    let ports = container.get("ports").and_then(Value::as_sequence).map_or(&[][..], Vec::as_slice);
    let named = ports.iter().find(|port| port.get("name").and_then(Value::as_str) == Some(name));
    let number = named.and_then(|port| port.get("containerPort")).and_then(Value::as_u64);
    number
        .or_else(|| name.parse().ok())
        .and_then(sane)
        .ok_or_else(|| format!("the container has no port named `{name}`"))
}
