//! Whether the app behind is ready, in the words of its own readiness probe; and Knative's view of it: the sections
//! `readiness` and `knative`.
//!
//! The probe is Kubernetes' `Probe`, as a mapping or as the JSON text of queue-proxy's `SERVING_READINESS_PROBE`.

use super::probes::{HttpProbe, ProbeAsk};
use super::raw::Problems;
use super::{Behind, Destination, Forward};
use http::header::{HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;

/// The app's own probe, asked by us.
#[derive(Clone, Debug, PartialEq)]
pub struct Readiness {
    pub ask: ProbeAsk,
    /// `None`, in Kubernetes' words a period of 0: asked again and again until it is ready, for a moment each time.
    pub timeout: Option<Duration>,
    /// So many in a row, where it is asked again and again.
    pub successes_min: u32,
}

/// What a Knative pod expects of its queue-proxy.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Knative {
    /// Its probes are answered on the serving port, and its headers are taken out.
    pub probes: bool,
    /// Where an autoscaler finds how much there is to do.
    pub stats: Option<SocketAddr>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawReadiness {
    probe: serde_yaml_ng::Value,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawKnative {
    probes: Option<bool>,
    stats: Option<String>,
}

/// Kubernetes' own shape; what the API may add to it is none of ours.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawProbe {
    http_get: Option<RawGet>,
    tcp_socket: Option<RawTcp>,
    grpc: Option<RawGrpc>,
    exec: Option<serde_yaml_ng::Value>,
    timeout_seconds: Option<u64>,
    period_seconds: Option<u64>,
    success_threshold: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawGet {
    path: Option<String>,
    #[serde(default)]
    port: RawPort,
    host: Option<String>,
    scheme: Option<String>,
    #[serde(default)]
    http_headers: Vec<RawHeader>,
}

#[derive(Debug, Deserialize)]
struct RawHeader {
    name: String,
    #[serde(default)]
    value: String,
}

#[derive(Debug, Deserialize)]
struct RawTcp {
    #[serde(default)]
    port: RawPort,
    host: Option<String>,
}

#[derive(Debug, Deserialize)]
struct RawGrpc {
    #[serde(default)]
    port: RawPort,
    service: Option<String>,
}

/// As Kubernetes' `IntOrString`; 0 or nothing is the app's own port.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum RawPort {
    Number(u16),
    Text(String),
}

impl Default for RawPort {
    fn default() -> Self {
        RawPort::Number(0)
    }
}

impl RawReadiness {
    /// `None` with a problem told.
    pub(super) fn validate(self, behind: &Behind, p: &mut Problems) -> Option<Readiness> {
        let parsed = match &self.probe {
            serde_yaml_ng::Value::String(text) => serde_json::from_str(text).map_err(|error| error.to_string()),
            mapping => serde_yaml_ng::from_value(mapping.clone()).map_err(|error| error.to_string()),
        };
        let app = match behind {
            Behind::Forward(Forward { to: Destination::Tcp(address), .. }) => Some(address.port()),
            _ => None,
        };
        let read = parsed.and_then(|raw: RawProbe| raw.read(app));
        read.map_err(|words| p.add("readiness.probe", words)).ok()
    }
}

impl RawProbe {
    /// `app`: the port of the app, where there is one.
    fn read(self, app: Option<u16>) -> Result<Readiness, String> {
        let port = |port: RawPort| {
            let number = match port {
                RawPort::Number(number) => number,
                RawPort::Text(text) => {
                    text.parse().map_err(|_| format!("`{text}` is no number: names of ports are not known here"))?
                }
            };
            let known = Some(number).filter(|number| *number != 0).or(app);
            known.ok_or_else(|| "has no port, and `forward.to` has none either".to_owned())
        };
        let ask = match (self.http_get, self.tcp_socket, self.grpc, self.exec) {
            (Some(get), None, None, None) => {
                let number = port(get.port)?;
                http_probe(get.path, (get.host, number), get.scheme, get.http_headers)?
            }
            (None, Some(tcp), None, None) => {
                ProbeAsk::Tcp { host: tcp.host.filter(|host| !host.is_empty()), port: port(tcp.port)? }
            }
            (None, None, Some(grpc), None) => {
                ProbeAsk::Grpc { port: port(grpc.port)?, service: grpc.service.unwrap_or_default() }
            }
            // A command can be run only in the app's own container; whether its port is open is what queue-proxy asks.
            (None, None, None, Some(_)) => ProbeAsk::Tcp { host: None, port: port(RawPort::default())? },
            _ => return Err("must have exactly one of httpGet, tcpSocket, grpc, exec".into()),
        };
        let aggressive = self.period_seconds == Some(0);
        let timeout = Duration::from_secs(self.timeout_seconds.unwrap_or(1).clamp(1, 3600));
        Ok(Readiness {
            ask,
            timeout: (!aggressive).then_some(timeout),
            successes_min: self.success_threshold.unwrap_or(1).max(1),
        })
    }
}

fn http_probe(
    path: Option<String>,
    (host, port): (Option<String>, u16),
    scheme: Option<String>,
    headers: Vec<RawHeader>,
) -> Result<ProbeAsk, String> {
    let https = match scheme.as_deref().filter(|scheme| !scheme.is_empty()).unwrap_or("HTTP") {
        "HTTP" => false,
        "HTTPS" => true,
        other => return Err(format!("httpGet.scheme: `{other}` is none of HTTP, HTTPS")),
    };
    let path = path.unwrap_or_default();
    let path = if path.starts_with('/') { path } else { format!("/{path}") };
    if path.parse::<http::Uri>().is_err() {
        return Err("httpGet.path is no path of a URL".into());
    }
    let header = |raw: RawHeader| match (raw.name.parse::<HeaderName>(), raw.value.parse::<HeaderValue>()) {
        (Ok(name), Ok(mut value)) => {
            // Health endpoints behind a password are asked with it.
            value.set_sensitive(true);
            Ok((name, value))
        }
        _ => Err("httpGet.httpHeaders has what is no header".to_owned()),
    };
    let headers = headers.into_iter().map(header).collect::<Result<_, _>>()?;
    let host = host.filter(|host| !host.is_empty());
    Ok(ProbeAsk::Http(HttpProbe { host, port, path, https, headers }))
}

impl RawKnative {
    pub(super) fn validate(self, p: &mut Problems) -> Knative {
        let stats = self.stats.as_ref().map(|_| p.address("knative.stats", &self.stats, ""));
        Knative { probes: self.probes.unwrap_or(true), stats }
    }
}

impl Readiness {
    pub(super) fn dump(&self) -> Value {
        json!({
            "ask": self.ask.dump(),
            "timeout_seconds": self.timeout.map(|timeout| timeout.as_secs_f64()),
            "successes_min": self.successes_min,
        })
    }
}

impl Knative {
    pub(super) fn dump(&self) -> Value {
        json!({"probes": self.probes, "stats": self.stats.map(|address| address.to_string())})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Readiness, String> {
        let raw: RawProbe = serde_json::from_str(json).map_err(|error| error.to_string())?;
        raw.read(Some(8080))
    }

    #[test]
    fn which_probes_of_kubernetes_are_understood() {
        let get = |port, path: &str, https| {
            ProbeAsk::Http(HttpProbe { host: None, port, path: path.into(), https, headers: Vec::new() })
        };
        let tcp = |port| ProbeAsk::Tcp { host: None, port };
        let second = Some(Duration::from_secs(1));
        let cases = [
            (r#"{"tcpSocket":{"port":0},"periodSeconds":0,"successThreshold":1}"#, tcp(8080), None, 1),
            (r#"{"tcpSocket":{"port":"9000"},"timeoutSeconds":0}"#, tcp(9000), second, 1),
            (r#"{"exec":{"command":["true"]},"timeoutSeconds":3}"#, tcp(8080), Some(Duration::from_secs(3)), 1),
            (r#"{"httpGet":{"path":"ok","port":8081,"scheme":"HTTP"}}"#, get(8081, "/ok", false), second, 1),
            (r#"{"httpGet":{"port":0,"scheme":"HTTPS"},"successThreshold":3}"#, get(8080, "/", true), second, 3),
            (r#"{"grpc":{"port":1,"service":"m"}}"#, ProbeAsk::Grpc { port: 1, service: "m".into() }, second, 1),
        ];
        for (json, ask, timeout, successes_min) in cases {
            assert_eq!(read(json), Ok(Readiness { ask, timeout, successes_min }), "{json}");
        }
        for bad in [
            "{}",
            r#"{"tcpSocket":{"port":"http"}}"#,
            r#"{"tcpSocket":{},"grpc":{"port":1}}"#,
            r#"{"httpGet":{"scheme":"FTP"}}"#,
            r#"{"httpGet":{"path":"a b"}}"#,
            r#"{"httpGet":{"httpHeaders":[{"name":"a b"}]}}"#,
            "[]",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
