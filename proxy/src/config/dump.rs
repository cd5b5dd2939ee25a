//! The configuration as `/config_dump` shows it: what is in force, with every default filled in, and no secret.
//!
//! There are only paths to secrets in a [`Config`]; the worker's arguments might hold one, so only their number is shown.

use super::{Behind, Config, Destination, Forward, Limits, Method, Sleep, Worker};
use serde_json::{Value, json};
use std::time::Duration;

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

impl Config {
    /// JSON; durations in seconds, sizes in bytes.
    pub fn dump(&self) -> Value {
        let methods: Vec<Value> = self.auth.methods.iter().map(Method::dump).collect();
        json!({
            "listen": self.listen.to_string(),
            "admin": self.admin.to_string(),
            "threads": self.threads,
            "interception": {
                "inbound": self.interception.inbound,
                "detect_timeout_seconds": seconds(self.interception.detect_timeout),
            },
            "tls": self.tls.dump(),
            "auth": {"methods": methods, "authconfig": self.auth.authconfig.as_ref().map(|it| it.dump())},
            "policy": self.policy.as_ref().map(|policy| json!({
                "folder": policy.folder,
                "namespace": policy.namespace,
                "labels": policy.labels,
                "root_namespace": policy.root_namespace,
                "trust_domain_aliases": policy.trust_domain_aliases,
                "jwks_authorities": policy.jwks_authorities,
                "providers": policy.providers.iter().map(|(name, it)| (name.clone(), it.dump())).collect::<Value>(),
            })),
            "xfcc": self.xfcc.name(),
            "worker": self.worker().map(Worker::dump),
            "forward": self.forward().map(forward),
            "activator": match &self.behind {
                Behind::Pods(activator) => Some(activator.dump()),
                Behind::Worker(_) | Behind::Forward(_) => None,
            },
            "device": self.device.as_ref().map(|device| device.dump()),
            "queue": self.queue.dump(),
            "timeouts": self.timeouts.dump(),
            "limits": limits(&self.limits),
            "cold": self.cold.dump(),
            "rate_limits": self.rate_limits.dump(),
            "access_log": self.access_log,
            "audit": self.audit.as_ref().map(|audit| audit.dump()),
            "drain": self.drain.dump(),
            "probes": self.probes.dump(),
            "healthz": self.healthz.map(|address| address.to_string()),
            "outbound": self.outbound.as_ref().map(|outbound| outbound.dump()),
            "ext_authz_server": self.served.as_ref().map(|served| served.dump()),
            "readiness": self.readiness.as_ref().map(|readiness| readiness.dump()),
            "knative": self.knative.as_ref().map(|knative| knative.dump()),
            "upgrade": self.upgrade.as_ref().map(|upgrade| upgrade.dump()),
        })
    }
}

fn limits(limits: &Limits) -> Value {
    json!({
        "body_bytes_max": limits.body_bytes_max,
        "body_timeout_seconds": seconds(limits.body_timeout),
        "header_timeout_seconds": seconds(limits.header_timeout),
        "write_timeout_seconds": seconds(limits.write_timeout),
        "handshake_timeout_seconds": seconds(limits.handshake_timeout),
        "handshakes_max": limits.handshakes_max,
        "connections_max": limits.connections_max,
        "streams_max": limits.streams_max,
        "idle_timeout_seconds": seconds(limits.idle_timeout),
        "connection_age_max_seconds": limits.connection_age_max.map(seconds),
        "connection_age_grace_seconds": limits.connection_age_grace.map(seconds),
    })
}

fn forward(forward: &Forward) -> Value {
    let to = match &forward.to {
        Destination::Tcp(address) => address.to_string(),
        Destination::Unix(path) => format!("unix:{}", path.display()),
        Destination::Original(None) => "original".into(),
        Destination::Original(Some(host)) => format!("{host}:original"),
    };
    json!({
        "to": to,
        "protocol": forward.protocol.name(),
        "concurrency": forward.concurrency,
        "connect_timeout_seconds": seconds(forward.connect_timeout),
        "idle_timeout_seconds": seconds(forward.idle_timeout),
        "response_timeout_seconds": forward.response_timeout.map(seconds),
        "start_timeout_seconds": seconds(forward.start_timeout),
        "sleep": forward.sleep.as_ref().map(Sleep::dump),
    })
}
