//! The section as `/config_dump` shows it: routes and clusters in brief, every default filled in.

use super::{Cluster, Origination, Outbound, Route, Source, Unknown};
use serde_json::{Value, json};
use std::time::Duration;

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

impl Outbound {
    pub fn dump(&self) -> Value {
        let routes: Vec<Value> = self.routes.iter().map(|route| self.route(route)).collect();
        json!({
            "listen": self.listen.to_string(),
            "interception": self.interception,
            "unknown": if self.unknown == Unknown::Passthrough { "passthrough" } else { "refuse" },
            "detect_timeout_seconds": seconds(self.detect_timeout),
            "opaque_ports": self.opaque_ports,
            "connections_max": self.connections_max,
            "drain_min_seconds": seconds(self.drain_min),
            "zone": self.zone,
            "failover": self.failover,
            "routes": routes,
            "clusters": self.clusters.iter().map(cluster).collect::<Vec<Value>>(),
        })
    }

    fn route(&self, route: &Route) -> Value {
        let name = |at: usize| self.clusters[at].name.clone();
        let targets = route.targets.iter().map(|(at, weight)| json!({"name": name(*at), "weight": weight}));
        json!({
            "hosts": route.hosts.iter().map(|host| format!("{host:?}")).collect::<Vec<String>>(),
            "ports": route.ports,
            "path_prefix": route.path_prefix,
            "headers": route.headers.iter().map(|(name, _)| name.clone()).collect::<Vec<String>>(),
            "clusters": targets.collect::<Vec<Value>>(),
            "timeout_seconds": route.timeout.map(seconds),
            "per_try_timeout_seconds": route.per_try_timeout.map(seconds),
            "idle_timeout_seconds": route.idle_timeout.map(seconds),
            "retries": {
                "attempts": route.retries.attempts,
                "on": route.retries.on.iter().map(|on| format!("{on:?}")).collect::<Vec<String>>(),
                "budget_percent": route.retries.budget_percent,
                "budget_min": route.retries.budget_min,
            },
            "fault": {"delay": route.fault.delay.is_some(), "abort": route.fault.abort.is_some()},
            "mirror": route.mirror.as_ref().map(|mirror| name(mirror.cluster)),
        })
    }
}

fn cluster(cluster: &Cluster) -> Value {
    let (limits, outlier) = (&cluster.limits, &cluster.outlier);
    json!({
        "name": cluster.name,
        "source": match &cluster.source {
            Source::Static(endpoints) => {
                json!(endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect::<Vec<String>>())
            }
            Source::Dns { name, port, refresh } => {
                json!({"dns": name, "port": port, "refresh_seconds": seconds(*refresh)})
            }
            Source::EndpointSlice { files, port } => json!({"files": files, "port": port}),
        },
        "tls": match &cluster.tls {
            Origination::Disable => json!("disable"),
            Origination::Simple { name, roots } => json!({"simple": {"name": name, "roots": roots}}),
            Origination::Mutual { expect, sni } => json!({"mutual": {"expect": format!("{expect:?}"), "sni": sni}}),
        },
        "protocol": format!("{:?}", cluster.protocol).to_lowercase(),
        "balancer": cluster.balancer.kind,
        "limits": {
            "connect_timeout_seconds": seconds(limits.connect_timeout),
            "connections_max": limits.connections_max,
            "pending_max": limits.pending_max,
            "requests_max": limits.requests_max,
            "idle_timeout_seconds": seconds(limits.idle_timeout),
            "connection_age_max_seconds": limits.connection_age_max.map(seconds),
            "stale_age_max_seconds": seconds(limits.stale_age_max),
        },
        "outlier": {
            "consecutive_5xx": outlier.consecutive_5xx,
            "consecutive_gateway": outlier.consecutive_gateway,
            "consecutive_local_origin": outlier.consecutive_local_origin,
            "interval_seconds": seconds(outlier.interval),
            "base_ejection_seconds": seconds(outlier.base_ejection),
            "max_ejection_seconds": seconds(outlier.max_ejection),
            "ejection_percent_max": outlier.ejection_percent_max,
        },
    })
}
