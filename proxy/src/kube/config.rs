//! The sidecar's configuration for one pod.

use super::options::{Behind, Identity, Options, Tls};
use super::parts::{
    ADMIN_PORT, INBOUND_PORT, LABELS, LISTEN_PORT, POLICIES, SPIRE_SOCKET, TLS, TOKEN, TOKEN_ROOT, WORKER_SOCKET,
};
use super::yaml;
use serde_json::{Map, Value as Json, json};
use serde_yaml_ng::Value;

/// YAML, with the base configuration merged over what follows from the options and the pod.
pub fn render(options: &Options, pod: &Value, probes: Vec<Value>) -> Result<String, String> {
    let host = &options.listen_host;
    let mut config = Map::new();
    let port = if options.redirect.is_some() { INBOUND_PORT } else { LISTEN_PORT };
    config.insert("listen".into(), format!("{host}:{port}").into());
    if options.redirect.is_some() {
        config.insert("interception".into(), json!({"inbound": true}));
    }
    // The kubelet and Prometheus come from outside the pod; what else there is answers only to the loopback.
    config.insert("admin".into(), format!("{host}:{ADMIN_PORT}").into());
    config.insert("tls".into(), tls(options, pod));
    config.insert("auth".into(), json!({"methods": methods(options.tls())}));
    match options.behind() {
        Some(Behind::Worker { models, .. }) => {
            config.insert("worker".into(), json!({"socket": WORKER_SOCKET, "models": models}));
        }
        Some(Behind::Forward(to)) => drop(config.insert("forward".into(), json!({"to": to}))),
        None => {}
    }
    if options.policies.is_some() {
        // From the downward API: labels that a controller puts on the pod later count, too.
        let policy = json!({"folder": POLICIES, "namespace": options.namespace, "labels_file": LABELS});
        config.insert("policy".into(), policy);
    }
    if options.redirect.as_ref().is_some_and(|redirect| redirect.outbound) {
        config.insert("outbound".into(), json!({"listen": "127.0.0.1:15001", "interception": true}));
    }
    let mut config = serde_yaml_ng::to_value(config).map_err(|error| error.to_string())?;
    if let Some(base) = &options.base {
        merge(&mut config, base);
    }
    if !probes.is_empty() {
        // Behind a redirect the app's own port is dialled as the kubelet would. Without one, the app does best to
        // listen only on the loopback, where nobody can pass the sidecar by.
        let address = if options.redirect.is_some() { "pod" } else { "127.0.0.1" };
        let section = [("address", Value::from(address)), ("apps", probes.into())];
        config["probes"] = Value::Mapping(section.into_iter().map(|(key, value)| (key.into(), value)).collect());
    }
    Ok(yaml::write(&config))
}

fn methods(tls: Tls) -> Json {
    match tls {
        Tls::Strict => json!([{"mtls": {}}]),
        Tls::Permissive => json!([{"mtls": {}}, {"anonymous": {}}]),
        Tls::Disable => json!([{"anonymous": {}}]),
    }
}

fn tls(options: &Options, pod: &Value) -> Json {
    let mode = options.tls();
    let mut section = Map::new();
    section.insert("mode".into(), mode.name().into());
    if options.identity == Identity::None {
        return section.into();
    }
    section.insert("trust_domain".into(), options.trust_domain.as_str().into());
    match &options.identity {
        Identity::None => {}
        Identity::Istio => {
            let ca = json!({
                "address": "istiod.istio-system.svc:15012",
                "token": TOKEN,
                "root": TOKEN_ROOT,
                "cluster_id": "Kubernetes",
            });
            section.insert("istio_ca".into(), ca);
        }
        Identity::Spire => drop(section.insert("workload_api".into(), json!({"socket": SPIRE_SOCKET}))),
        Identity::Secret(_) => {
            for (key, file) in [("certificate", "tls.crt"), ("key", "tls.key"), ("trust_bundle", "ca.crt")] {
                section.insert(key.into(), format!("{TLS}/{file}").into());
            }
        }
        Identity::SelfSigned => {
            let account = pod.get("spec").and_then(|spec| spec.get("serviceAccountName")).and_then(Value::as_str);
            let account = account.unwrap_or("default");
            let id = format!("spiffe://{}/ns/{}/sa/{account}", options.trust_domain, options.namespace);
            section.insert("self_signed".into(), json!({"spiffe_id": id}));
        }
    }
    section.into()
}

/// Maps key by key; anything else is replaced.
fn merge(under: &mut Value, over: &Value) {
    match (under, over) {
        (Value::Mapping(under), Value::Mapping(over)) => {
            for (key, value) in over {
                match under.get_mut(key) {
                    Some(there) => merge(there, value),
                    None => drop(under.insert(key.clone(), value.clone())),
                }
            }
        }
        (under, over) => *under = over.clone(),
    }
}
