//! EndpointSlices of a Service (`discovery.k8s.io/v1`): which to follow, and what a mirror of them says.
//!
//! Pure. Tells of every endpoint what is said of it, ready or not; which of them gets a request is for others to choose.

use super::Collection;
use super::mirror::Mirror;
use crate::percent;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// Pods of one Service are hundreds; a slice has at most a thousand. What is beyond is left out.
const ENDPOINTS_MAX: usize = 10_000;

/// One pod behind a Service, at one port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub address: SocketAddr,
    /// It is to get requests.
    pub ready: bool,
    /// It could, though it may be about to end.
    pub serving: bool,
    pub terminating: bool,
    /// Of the pod, where the slice says so.
    pub pod: Option<String>,
    pub node: Option<String>,
    pub zone: Option<String>,
}

/// What to follow for a Service; by the label that every controller of slices sets.
pub fn of_service(namespace: &str, service: &str) -> Collection {
    Collection {
        path: format!("/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices", percent::part(namespace)),
        labels: format!("kubernetes.io/service-name={service}"),
        fields: String::new(),
    }
}

/// Which of a Service's ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Port {
    /// By its name in the Service; of a Service with one port it may be empty.
    Named(String),
    /// By its number at the pod.
    Number(u16),
    /// The first one: all that most Services have.
    Any,
}

/// All endpoints of some slices, by address, each once.
///
/// A pod may be in two slices while it moves between them: the better word counts, for the controller adds it to the
/// one before it is gone from the other.
pub fn endpoints(mirror: &Mirror, port: &Port) -> Vec<Endpoint> {
    let mut all: BTreeMap<SocketAddr, Endpoint> = BTreeMap::new();
    let told = mirror.objects().values().flat_map(|slice| of_slice(slice, port));
    for endpoint in told.take(ENDPOINTS_MAX) {
        let better = |known: &Endpoint| (endpoint.ready, endpoint.serving) > (known.ready, known.serving);
        if all.get(&endpoint.address).is_none_or(better) {
            all.insert(endpoint.address, endpoint);
        }
    }
    all.into_values().collect()
}

/// Names (`addressType: FQDN`) are none of ours: no controller makes them for pods.
fn of_slice(slice: &Value, port: &Port) -> Vec<Endpoint> {
    let list = |name: &str| slice[name].as_array().map_or(&[][..], Vec::as_slice);
    let Some(port) = list("ports").iter().find_map(|one| number(one, port)) else { return Vec::new() };
    list("endpoints").iter().filter_map(|one| endpoint(one, port)).collect()
}

fn number(given: &Value, wanted: &Port) -> Option<u16> {
    let number = given["port"].as_u64().and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0)?;
    let tcp = given["protocol"].as_str().is_none_or(|protocol| protocol == "TCP");
    let meant = match wanted {
        Port::Named(name) => given["name"].as_str().unwrap_or_default() == name,
        Port::Number(wanted) => *wanted == number,
        Port::Any => true,
    };
    (tcp && meant).then_some(number)
}

/// Of several addresses all are the same pod's, and the first is enough (KEP 752).
fn endpoint(given: &Value, port: u16) -> Option<Endpoint> {
    let address: IpAddr = given["addresses"][0].as_str()?.parse().ok()?;
    let condition = |name: &str| given["conditions"][name].as_bool();
    // What is not said: ready, serving as ready is, not terminating (the API's own words).
    let ready = condition("ready").unwrap_or(true);
    let text = |at: &str| given.pointer(at).and_then(Value::as_str).map(str::to_owned);
    Some(Endpoint {
        address: SocketAddr::new(address, port),
        ready,
        serving: condition("serving").unwrap_or(ready),
        terminating: condition("terminating").unwrap_or(false),
        pod: text("/targetRef/name").filter(|_| given["targetRef"]["kind"] == "Pod"),
        node: text("/nodeName"),
        zone: text("/zone"),
    })
}

#[cfg(test)]
mod tests {
    use super::super::Change;
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn slice(name: &str, ports: Value, endpoints: Value) -> Value {
        json!({"metadata": {"name": name, "namespace": "models"}, "addressType": "IPv4", "ports": ports, "endpoints": endpoints})
    }

    fn mirror(slices: Vec<Value>) -> Mirror {
        let mut mirror = Mirror::default();
        mirror.take(Change::All(slices));
        mirror
    }

    #[test]
    fn what_is_said_of_an_endpoint() {
        for (conditions, expected) in [
            (json!({}), (true, true, false)),
            (json!({"ready": false}), (false, false, false)),
            (json!({"ready": false, "serving": true, "terminating": true}), (false, true, true)),
            (json!({"ready": true, "serving": true, "terminating": false}), (true, true, false)),
            (json!({"ready": null, "serving": null}), (true, true, false)),
        ] {
            let one = json!({"addresses": ["10.0.0.1", "10.0.0.2"], "conditions": conditions, "nodeName": "n",
                "targetRef": {"kind": "Pod", "name": "llama-0"}});
            let found = endpoints(&mirror(vec![slice("a", json!([{"port": 80}]), json!([one]))]), &Port::Any);
            assert_eq!(found.len(), 1);
            assert_eq!((found[0].ready, found[0].serving, found[0].terminating), expected, "{conditions}");
            assert_eq!(found[0].address, "10.0.0.1:80".parse().unwrap());
            assert_eq!((found[0].pod.as_deref(), found[0].node.as_deref()), (Some("llama-0"), Some("n")));
        }
    }

    #[test]
    fn which_port_is_meant() {
        let ports = json!([{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "http", "port": 8080},
            {"name": "grpc", "port": 9000, "protocol": "TCP"}, {"name": "all", "port": null}]);
        let mirror = mirror(vec![slice("a", ports, json!([{"addresses": ["fd00::1"]}]))]);
        let of = |port: Port| endpoints(&mirror, &port).first().map(|endpoint| endpoint.address.port());
        for (port, expected) in [
            (Port::Any, Some(8080)),
            (Port::Named("grpc".into()), Some(9000)),
            (Port::Number(9000), Some(9000)),
            (Port::Named("dns".into()), None),
            (Port::Number(53), None),
            (Port::Named("all".into()), None),
            (Port::Named(String::new()), None),
        ] {
            assert_eq!(of(port.clone()), expected, "{port:?}");
        }
    }

    #[test]
    fn what_of_a_pod_in_two_slices() {
        let of = |ready: bool| json!([{"addresses": ["10.0.0.1"], "conditions": {"ready": ready}}]);
        let port = || json!([{"port": 80}]);
        for (first, second) in [(true, false), (false, true)] {
            let both = mirror(vec![slice("a", port(), of(first)), slice("b", port(), of(second))]);
            let found = endpoints(&both, &Port::Any);
            assert_eq!((found.len(), found[0].ready), (1, true));
        }
    }

    proptest! {
        #[test]
        fn is_nonsense_survived(text in "[\\[\\]{}\":,a-z0-9.]{0,64}", address in ".{0,20}") {
            let given = serde_json::from_str::<Value>(&text).unwrap_or(Value::Null);
            let one = json!([{"addresses": [address], "conditions": given}]);
            let slices = vec![slice("a", json!([{"port": 80}]), one), slice("b", given.clone(), given)];
            prop_assert!(endpoints(&mirror(slices), &Port::Any).len() <= 1);
        }
    }
}
