//! Whom callers of a service reach: the activator while no pod is there or more may come at once than pods can take, the
//! pods themselves else. Said to Kubernetes by an EndpointSlice of ours, for a Service without a selector.
//!
//! Each activator has a slice of its own, by its name: together they are the Service's endpoints, and no two write the same
//! object. Never the Service whose slices list the pods, or pods would be found that are activators.

use super::service::{Service, Way};
use crate::config::activator::Publish;
use crate::kube::client::{Client, Patch};
use crate::percent;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// After a refusal of the API's.
const PAUSE: Duration = Duration::from_secs(1);
/// The API takes no slice with more.
const ENDPOINTS_MAX: usize = 1000;
const MANAGER: &str = "outrider-activator";

/// What there is to be, as server-side apply takes it.
pub fn slice(publish: &Publish, namespace: &str, way: Way, pods: &[SocketAddr]) -> Value {
    let own = publish.address;
    // One slice has one port and one kind of address.
    let port = pods.first().map_or(own.port(), SocketAddr::port);
    let fits = |pod: &&SocketAddr| pod.port() == port && pod.is_ipv4() == own.is_ipv4();
    let (addresses, port): (Vec<SocketAddr>, u16) = match way {
        Way::Through => (vec![own], own.port()),
        Way::Direct => (pods.iter().filter(fits).take(ENDPOINTS_MAX).copied().collect(), port),
    };
    let endpoint = |address: &SocketAddr| json!({"addresses": [address.ip()], "conditions": {"ready": true}});
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": publish.name,
            "namespace": namespace,
            "labels": {
                "kubernetes.io/service-name": publish.service,
                "endpointslice.kubernetes.io/managed-by": MANAGER,
            },
        },
        "addressType": if own.is_ipv4() { "IPv4" } else { "IPv6" },
        "ports": [{"name": publish.port_name, "port": port, "protocol": "TCP"}],
        "endpoints": addresses.iter().map(endpoint).collect::<Vec<Value>>(),
    })
}

/// Says it, and says it again whenever it changes, for ever.
pub async fn follow(service: Arc<Service>, client: Option<Client>) {
    let (Some(publish), Some(client)) = (service.config.publish.clone(), client) else { return };
    let namespace = service.config.namespace.clone();
    let path = format!(
        "/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices/{}?fieldManager={MANAGER}&force=true",
        percent::part(&namespace),
        percent::part(&publish.name),
    );
    let mut said = None;
    loop {
        let changed = service.changes();
        let (way, pods) = (service.way(), service.ready());
        let wanted = slice(&publish, &namespace, way, &pods);
        if said.as_ref() == Some(&wanted) {
            changed.await;
            continue;
        }
        match client.patch(&path, Patch::Apply, &wanted).await {
            Ok(_) => {
                tracing::info!(service = service.config.name, ?way, pods = pods.len(), "the service's endpoints said");
                service.said(way);
                said = Some(wanted);
            }
            Err(error) => {
                let advice = "the activator's service account needs create and patch on endpointslices";
                tracing::error!(service = service.config.name, %error, advice, "endpoints could not be said");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish() -> Publish {
        Publish {
            service: "llama".into(),
            name: "llama-a".into(),
            address: "10.9.0.1:8080".parse().unwrap(),
            port_name: "http".into(),
        }
    }

    #[test]
    fn whom_do_callers_reach() {
        let pods = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:81", "[fd00::1]:80"].map(|pod| pod.parse().unwrap());
        for (way, pods, port, want) in [
            (Way::Through, &pods[..], 8080, vec!["10.9.0.1"]),
            (Way::Direct, &pods[..], 80, vec!["10.0.0.1", "10.0.0.2"]),
            (Way::Direct, &pods[..0], 8080, vec![]),
        ] {
            let slice = slice(&publish(), "m", way, pods);
            let addresses: Vec<&str> = slice["endpoints"]
                .as_array()
                .unwrap()
                .iter()
                .map(|one| one["addresses"][0].as_str().unwrap())
                .collect();
            assert_eq!((addresses, slice["ports"][0]["port"].as_u64()), (want, Some(port)), "{way:?}");
            assert_eq!(slice["metadata"]["labels"]["kubernetes.io/service-name"], "llama");
        }
    }
}
