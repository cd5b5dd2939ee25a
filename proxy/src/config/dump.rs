//! The configuration as `/config_dump` shows it: what is in force, with every default filled in, and no secret.
//!
//! There are only paths to secrets in a [`Config`]; the worker's arguments might hold one, so only their number is shown.

use super::{Config, Method};
use serde_json::{Value, json};
use std::time::Duration;

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

impl Config {
    /// JSON; durations in seconds, sizes in bytes.
    pub fn dump(&self) -> Value {
        let methods: Vec<Value> = self.auth.methods.iter().map(method).collect();
        let command = self
            .worker
            .command
            .as_ref()
            .map(|command| json!({"program": command[0], "arguments": format!("{} not shown", command.len() - 1)}));
        let limits = &self.limits;
        json!({
            "listen": self.listen.to_string(),
            "admin": self.admin.to_string(),
            "threads": self.threads,
            "tls": self.tls.dump(),
            "auth": {"methods": methods},
            "worker": {
                "socket": self.worker.socket,
                "command": command,
                "models": self.worker.models,
                "concurrency": self.worker.concurrency,
                "idle_timeout_seconds": self.worker.idle_timeout.map(seconds),
                "start_timeout_seconds": seconds(self.worker.start_timeout),
            },
            "queue": {
                "requests_max": self.queue.requests_max,
                "bytes_max": self.queue.bytes_max,
                "wait_max_seconds": seconds(self.queue.wait_max),
            },
            "limits": {
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
            },
            "drain": {"timeout_seconds": seconds(self.drain.timeout)},
            "outbound": self.outbound.as_ref().map(|outbound| outbound.dump()),
        })
    }
}

fn method(method: &Method) -> Value {
    match method {
        Method::Jwt(jwt) => {
            json!({"jwt": {"issuer": jwt.issuer, "audience": jwt.audience, "jwks_file": jwt.jwks_file}})
        }
        Method::Anonymous => json!({"anonymous": {}}),
        Method::Mtls => json!({"mtls": {}}),
    }
}
