//! The section `probes:`: what the kubelet may ask of the pod's other containers through the admin port.
//!
//! Written by the injector from the pod's own probes, and by hand for whoever wants it. Only what is listed here can be
//! asked: the admin port is no open proxy.

use super::quantity::Quantity;
use super::raw::Problems;
use http::header::{HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::{Value, json};
use std::net::IpAddr;
use std::time::Duration;

/// As many as a pod of a hundred containers could have.
const PROBES_MAX: usize = 300;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Probes {
    /// Which address the containers are dialled at; `None`: the pod's, which is where the kubelet came to.
    pub address: Option<IpAddr>,
    pub apps: Vec<AppProbe>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct AppProbe {
    pub container: String,
    pub kind: ProbeKind,
    pub ask: ProbeAsk,
    pub timeout: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeKind {
    Live,
    Ready,
    Startup,
}

impl ProbeKind {
    /// As Istio's agent spells it in paths, after the kubelet's own health endpoints.
    pub fn name(self) -> &'static str {
        match self {
            ProbeKind::Live => "livez",
            ProbeKind::Ready => "readyz",
            ProbeKind::Startup => "startupz",
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum ProbeAsk {
    Http(HttpProbe),
    /// Whether a connection is taken.
    Tcp {
        host: Option<String>,
        port: u16,
    },
    /// `grpc.health.v1.Health/Check`, in plaintext, as the kubelet asks it.
    Grpc {
        port: u16,
        service: String,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub struct HttpProbe {
    pub host: Option<String>,
    pub port: u16,
    /// With its query.
    pub path: String,
    /// The certificate is not verified, for the kubelet does not either: it only asks whether somebody is there.
    pub https: bool,
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawProbes {
    address: Option<String>,
    #[serde(default)]
    apps: Vec<RawApp>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawApp {
    container: String,
    probe: String,
    http: Option<RawHttp>,
    tcp: Option<RawTcp>,
    grpc: Option<RawGrpc>,
    timeout: Option<Quantity>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHttp {
    host: Option<String>,
    port: u16,
    path: Option<String>,
    scheme: Option<String>,
    #[serde(default)]
    headers: Vec<RawHeader>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHeader {
    name: String,
    #[serde(default)]
    value: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTcp {
    host: Option<String>,
    port: u16,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGrpc {
    port: u16,
    #[serde(default)]
    service: String,
}

impl RawProbes {
    pub(super) fn validate(self, p: &mut Problems) -> Probes {
        let address = match self.address.as_deref() {
            None | Some("pod") => None,
            Some(text) => match text.parse() {
                Ok(address) => Some(address),
                Err(_) => {
                    p.add("probes.address", format!("`{text}` is no address; write `pod` or `127.0.0.1`"));
                    None
                }
            },
        };
        if self.apps.len() > PROBES_MAX {
            p.add("probes.apps", format!("must be at most {PROBES_MAX}"));
        }
        let mut apps: Vec<AppProbe> = Vec::new();
        for (at, app) in self.apps.into_iter().enumerate() {
            let path = format!("probes.apps[{at}]");
            let Some(app) = app.validate(&path, p) else { continue };
            if apps.iter().any(|other| other.container == app.container && other.kind == app.kind) {
                p.add(&path, "is there twice: one container has one probe of each kind");
            }
            apps.push(app);
        }
        Probes { address, apps }
    }
}

impl RawApp {
    fn validate(self, path: &str, p: &mut Problems) -> Option<AppProbe> {
        // A DNS label, as Kubernetes wants it; it is part of a URL's path.
        let sane = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if self.container.is_empty() || self.container.len() > 63 || !self.container.bytes().all(sane) {
            p.add(&format!("{path}.container"), "is no name of a container (a-z 0-9 -)");
        }
        let kinds = [ProbeKind::Live, ProbeKind::Ready, ProbeKind::Startup];
        let kind = kinds.into_iter().find(|kind| kind.name() == self.probe);
        if kind.is_none() {
            p.add(&format!("{path}.probe"), format!("`{}` is none of livez, readyz, startupz", self.probe));
        }
        // The API's default.
        let timeout = p.duration(&format!("{path}.timeout"), &self.timeout, Duration::from_secs(1));
        let ask = match (self.http, self.tcp, self.grpc) {
            (Some(http), None, None) => http.validate(path, p),
            (None, Some(RawTcp { host, port }), None) => ProbeAsk::Tcp { host: host.filter(|h| !h.is_empty()), port },
            (None, None, Some(RawGrpc { port, service })) => ProbeAsk::Grpc { port, service },
            _ => {
                p.add(path, "must be exactly one of http, tcp, grpc");
                return None;
            }
        };
        Some(AppProbe { container: self.container, kind: kind?, ask, timeout })
    }
}

impl RawHttp {
    fn validate(self, path: &str, p: &mut Problems) -> ProbeAsk {
        let https = match self.scheme.as_deref().unwrap_or("HTTP") {
            "HTTP" => false,
            "HTTPS" => true,
            other => {
                p.add(&format!("{path}.http.scheme"), format!("`{other}` is none of HTTP, HTTPS"));
                false
            }
        };
        // The kubelet, too, takes a path that begins anywhere.
        let target = self.path.unwrap_or_default();
        let target = if target.starts_with('/') { target } else { format!("/{target}") };
        if target.parse::<http::Uri>().is_err() {
            p.add(&format!("{path}.http.path"), "is no path of a URL");
        }
        let mut headers = Vec::new();
        for (at, header) in self.headers.into_iter().enumerate() {
            match (header.name.parse::<HeaderName>(), header.value.parse::<HeaderValue>()) {
                (Ok(name), Ok(mut value)) => {
                    // Health endpoints behind a password are asked with it.
                    value.set_sensitive(true);
                    headers.push((name, value));
                }
                _ => p.add(&format!("{path}.http.headers[{at}]"), "is no header"),
            }
        }
        let host = self.host.filter(|host| !host.is_empty());
        ProbeAsk::Http(HttpProbe { host, port: self.port, path: target, https, headers })
    }
}

impl Probes {
    /// JSON, without the headers' values.
    pub(super) fn dump(&self) -> Value {
        let apps = self.apps.iter().map(|app| {
            let ask = app.ask.dump();
            let (container, timeout) = (&app.container, app.timeout.as_secs_f64());
            json!({"container": container, "probe": app.kind.name(), "ask": ask, "timeout_seconds": timeout})
        });
        let address = self.address.map_or("pod".into(), |address| address.to_string());
        json!({"address": address, "apps": apps.collect::<Vec<_>>()})
    }
}

impl ProbeAsk {
    /// JSON, without the headers' values.
    pub(super) fn dump(&self) -> Value {
        match self {
            ProbeAsk::Http(http) => {
                let names: Vec<&str> = http.headers.iter().map(|(name, _)| name.as_str()).collect();
                let scheme = if http.https { "HTTPS" } else { "HTTP" };
                json!({"http": {
                    "host": http.host, "port": http.port, "path": http.path, "scheme": scheme, "headers": names,
                }})
            }
            ProbeAsk::Tcp { host, port } => json!({"tcp": {"host": host, "port": port}}),
            ProbeAsk::Grpc { port, service } => json!({"grpc": {"port": port, "service": service}}),
        }
    }
}
