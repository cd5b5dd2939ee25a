//! Kubernetes EndpointSlice objects (discovery.k8s.io/v1), YAML or JSON, one or several, or a List of them → endpoints.
//! Pure. Never asks the API server, and never takes an endpoint that is not ready while another is.

use super::endpoint::Endpoint;
use serde::Deserialize;
use std::net::{IpAddr, SocketAddr};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Object {
    kind: Option<String>,
    address_type: Option<String>,
    #[serde(default)]
    endpoints: Option<Vec<Member>>,
    #[serde(default)]
    ports: Option<Vec<Port>>,
    #[serde(default)]
    items: Option<Vec<Object>>,
}

#[derive(Debug, Deserialize)]
struct Port {
    name: Option<String>,
    port: Option<u16>,
    protocol: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Member {
    #[serde(default)]
    addresses: Vec<String>,
    #[serde(default)]
    conditions: Conditions,
    zone: Option<String>,
    #[serde(default)]
    hints: Option<Hints>,
}

#[derive(Debug, Default, Deserialize)]
struct Conditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Hints {
    #[serde(default)]
    for_zones: Option<Vec<Zone>>,
}

#[derive(Debug, Deserialize)]
struct Zone {
    name: String,
}

/// Endpoints of one file's text; `port` by name, or the only one.
pub fn parse(text: &str, port: Option<&str>) -> Result<Slices, String> {
    let mut slices = Slices::default();
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        match Option::<Object>::deserialize(document).map_err(|error| error.to_string())? {
            Some(object) => slices.take(object, port)?,
            // An empty document, as after a last `---`.
            None => continue,
        }
    }
    Ok(slices)
}

#[derive(Debug, Default)]
pub struct Slices {
    ready: Vec<Endpoint>,
    /// Going away, but still answering: better than nobody.
    terminating: Vec<Endpoint>,
}

impl Slices {
    pub fn merge(&mut self, other: Slices) {
        self.ready.extend(other.ready);
        self.terminating.extend(other.terminating);
    }

    /// The ready ones; if there is none, those that still serve while they terminate (as kube-proxy does). An address
    /// that is in two slices, as may be for a moment, counts once.
    pub fn endpoints(self) -> Vec<Endpoint> {
        let mut endpoints = if self.ready.is_empty() { self.terminating } else { self.ready };
        endpoints.sort_by_key(|endpoint| endpoint.address);
        endpoints.dedup_by_key(|endpoint| endpoint.address);
        endpoints
    }

    fn take(&mut self, object: Object, port: Option<&str>) -> Result<(), String> {
        for item in object.items.into_iter().flatten() {
            self.take(item, port)?;
        }
        match object.kind.as_deref() {
            Some("EndpointSlice") => {}
            Some("List" | "EndpointSliceList") => return Ok(()),
            // Items of an EndpointSliceList have no kind of their own.
            None if object.address_type.is_some() => {}
            other => return Err(format!("this is a {}, not an EndpointSlice", other.unwrap_or("nameless object"))),
        }
        // FQDN is deprecated, and its meaning was never defined.
        if object.address_type.as_deref() == Some("FQDN") {
            return Ok(());
        }
        let ports: Vec<Port> = object.ports.unwrap_or_default();
        let Some(number) = choose(&ports, port)? else { return Ok(()) };
        for member in object.endpoints.into_iter().flatten() {
            self.member(member, number);
        }
        Ok(())
    }

    fn member(&mut self, member: Member, port: u16) {
        // Any of the addresses may be used, says the API; and all known sources give one.
        let Some(ip) = member.addresses.iter().find_map(|address| address.parse::<IpAddr>().ok()) else { return };
        let hints = member.hints.and_then(|hints| hints.for_zones).unwrap_or_default();
        let endpoint = Endpoint {
            zone: member.zone,
            for_zones: hints.into_iter().map(|zone| zone.name).collect(),
            ..Endpoint::new(SocketAddr::new(ip, port))
        };
        let Conditions { ready, serving, terminating } = member.conditions;
        // An absent `ready` means yes, an absent `serving` means as `ready`.
        if ready.unwrap_or(true) {
            self.ready.push(endpoint);
        } else if serving.unwrap_or(false) && terminating.unwrap_or(false) {
            self.terminating.push(endpoint);
        }
    }
}

fn choose(ports: &[Port], wanted: Option<&str>) -> Result<Option<u16>, String> {
    let tcp = |port: &&Port| matches!(port.protocol.as_deref(), None | Some("TCP"));
    let named = |port: &&Port| wanted.is_none_or(|wanted| port.name.as_deref().unwrap_or("") == wanted);
    let found: Vec<&Port> = ports.iter().filter(tcp).filter(named).collect();
    match found[..] {
        [] => Ok(None),
        [one] => Ok(one.port),
        _ => Err("the slice has several ports; name one with `endpoint_slice.port`".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TWO: &str = r#"
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: models-abc, labels: {kubernetes.io/service-name: models}}
addressType: IPv4
ports:
  - {name: http, port: 8080, protocol: TCP}
  - {name: metrics, port: 9090, protocol: TCP}
endpoints:
  - {addresses: [10.1.0.1], conditions: {ready: true}, zone: a, hints: {forZones: [{name: a}]}}
  - {addresses: [10.1.0.2], conditions: {ready: false, serving: true, terminating: true}}
  - {addresses: [10.1.0.3], conditions: {ready: false, serving: false}}
  - {addresses: [10.1.0.4], zone: b}
---
{"kind": "EndpointSlice", "addressType": "IPv6", "ports": [{"name": "http", "port": 8080}],
 "endpoints": [{"addresses": ["fd00::1"], "conditions": {}}]}
---
"#;

    fn addresses(text: &str, port: Option<&str>) -> Result<Vec<String>, String> {
        let endpoints = parse(text, port)?.endpoints();
        Ok(endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect())
    }

    #[test]
    fn which_endpoints_does_a_slice_have() {
        assert_eq!(addresses(TWO, Some("http")).unwrap(), ["10.1.0.1:8080", "10.1.0.4:8080", "[fd00::1]:8080"]);
        assert_eq!(addresses(TWO, Some("metrics")).unwrap(), ["10.1.0.1:9090", "10.1.0.4:9090"]);
        assert!(addresses(TWO, None).unwrap_err().contains("several ports"));
        let endpoints = parse(TWO, Some("http")).unwrap().endpoints();
        assert_eq!((endpoints[0].zone.as_deref(), &endpoints[0].for_zones[..]), (Some("a"), &["a".to_owned()][..]));
        let list = r#"{"kind":"EndpointSliceList","items":[{"addressType":"IPv4","ports":[{"port":1}],
            "endpoints":[{"addresses":["10.0.0.9"],"conditions":{"ready":false,"serving":true,"terminating":true}}]}]}"#;
        assert_eq!(addresses(list, None).unwrap(), ["10.0.0.9:1"], "terminating, for want of better");
        assert!(addresses("kind: Service", None).unwrap_err().contains("Service"));
        assert_eq!(addresses("", None).unwrap().len(), 0);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,200}") {
            let _ = parse(&text, None);
        }
    }
}
