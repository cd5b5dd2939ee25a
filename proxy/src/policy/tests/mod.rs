//! Which requests match which rules, which policies apply to whom, and what is refused.

mod files;
mod property;
mod rules;

use super::*;
use crate::tls::identity::SpiffeId;
use http::{HeaderMap, HeaderValue};
use serde_json::json;

pub fn workload() -> Workload {
    Workload {
        namespace: "prod".into(),
        labels: [("app", "model"), ("tier", "gpu")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        root_namespace: "istio-system".into(),
        trust_domain: "td".into(),
        trust_domain_aliases: vec!["old-td".into()],
    }
}

pub fn parse(text: &str) -> Result<Policies, Vec<Problem>> {
    Policies::parse(&[("test.yaml".into(), text.into())], &workload())
}

/// A policy of the workload's namespace; `spec` is YAML on one line.
pub fn policy(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{name: {name}, namespace: prod}}\nspec: {spec}\n"
    )
}

/// What [`Attributes`] borrow from.
#[derive(Debug)]
pub struct Request {
    pub peer: Option<SpiffeId>,
    pub source_ip: String,
    pub remote_ip: String,
    pub destination_ip: String,
    pub port: u16,
    pub sni: Option<String>,
    pub method: String,
    pub host: String,
    pub path: String,
    pub headers: HeaderMap,
    pub token: Option<RequestPrincipal>,
}

impl Request {
    pub fn base() -> Request {
        let mut headers = HeaderMap::new();
        for (name, value) in [("x-team", "red-1"), ("x-many", "a"), ("x-many", "b"), ("x-empty", "")] {
            headers.append(name, HeaderValue::from_static(value));
        }
        let claims = json!({
            "iss": "https://issuer.test/realms/x", "sub": "ada", "aud": ["api", "other"], "azp": "web",
            "role": "admin", "groups": ["a", "b"], "nested": {"level": "high", "deep": {"er": ["x"]}}, "number": 7,
            "flag": true, "https://names.test/kind": "robot",
        });
        Request {
            peer: Some(SpiffeId::parse("spiffe://td/ns/prod/sa/gateway").unwrap()),
            source_ip: "10.1.2.3".into(),
            remote_ip: "203.0.113.9".into(),
            destination_ip: "10.0.0.1".into(),
            port: 8080,
            sni: Some("model.prod.svc".into()),
            method: "POST".into(),
            host: "Model.prod:8080".into(),
            path: "/v1/chat/completions".into(),
            headers,
            token: Some(RequestPrincipal::of(Arc::new(claims), u64::MAX)),
        }
    }

    pub fn connection(&self) -> ConnectionAttributes<'_> {
        ConnectionAttributes {
            peer: self.peer.as_ref(),
            source_ip: self.source_ip.parse().unwrap(),
            remote_ip: self.remote_ip.parse().unwrap(),
            destination_ip: self.destination_ip.parse().unwrap(),
            destination_port: self.port,
            sni: self.sni.as_deref(),
        }
    }

    pub fn attributes(&self) -> Attributes<'_> {
        Attributes {
            connection: self.connection(),
            method: &self.method,
            host: &self.host,
            path: &self.path,
            headers: &self.headers,
            token: self.token.as_ref(),
        }
    }
}
