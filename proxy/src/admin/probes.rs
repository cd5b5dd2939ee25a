//! Asks the pod's other containers what the kubelet would have asked them, and passes the answer on.
//!
//! The kubelet has no certificate and may not reach the app's port; the sidecar stands beside the app. Only configured
//! probes are asked, for the time each may take; never verifies a certificate, for the kubelet does not either: what is
//! asked is whether somebody answers, not who.

mod grpc;
mod ready;
mod tls;

pub use ready::Prober;

use super::http::Reply;
use crate::config::{HttpProbe, ProbeAsk, Probes};
use crate::net::{connect_from, source_for};
use bytes::Bytes;
use http::header::{ACCEPT, HOST, HeaderValue, LOCATION, USER_AGENT};
use http::{Request, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use std::net::{IpAddr, SocketAddr};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

/// As the kubelet, which reads no more and logs less.
const BODY_BYTES_MAX: usize = 10 << 10;
/// As the kubelet's client.
const REDIRECTS_MAX: usize = 10;
const HEAD_BYTES_MAX: usize = 64 << 10;

/// What came back.
#[derive(Debug, PartialEq)]
struct Answer {
    status: u16,
    body: String,
}

/// Who is asked, and on whose behalf.
struct Visit<'a> {
    /// The pod's address: what the kubelet would have dialled, and named in `Host`.
    pod: IpAddr,
    /// What we dial instead.
    dial: IpAddr,
    agent: &'a str,
}

/// Answers `/app-health/<rest>`.
pub async fn answer(probes: &Probes, rest: &str, agent: Option<&str>, pod: IpAddr) -> Reply {
    let wanted = rest.split_once('/');
    let found = probes.apps.iter().find(|app| wanted == Some((app.container.as_str(), app.kind.name())));
    let Some(app) = found else {
        return Reply::text(404, "no such probe is configured: /app-health/<container>/{livez,readyz,startupz}\n");
    };
    let dial = probes.address.unwrap_or(pod);
    let visit = Visit { pod, dial, agent: agent.unwrap_or("outrider-probe") };
    match tokio::time::timeout(app.timeout, visit.ask(&app.ask)).await {
        Ok(Ok(answer)) => Reply::text(answer.status, &answer.body),
        Ok(Err(words)) => {
            tracing::debug!(container = app.container, probe = app.kind.name(), words, "a probe failed");
            Reply::text(503, &format!("the probe of `{}` failed: {words}\n", app.container))
        }
        Err(_) => {
            let words = format!("`{}` did not answer within {} s\n", app.container, app.timeout.as_secs_f64());
            Reply::text(504, &words)
        }
    }
}

impl Visit<'_> {
    async fn ask(&self, ask: &ProbeAsk) -> Result<Answer, String> {
        match ask {
            ProbeAsk::Http(probe) => self.http(probe).await,
            ProbeAsk::Tcp { host, port } => {
                self.connect(host.as_deref(), *port).await?;
                Ok(Answer { status: 200, body: "connected\n".into() })
            }
            ProbeAsk::Grpc { port, service } => {
                let tcp = self.connect(None, *port).await?;
                grpc::check(tcp, &authority(&self.pod.to_string(), *port), service, self.agent).await
            }
        }
    }

    /// Dials the app, or another host where the probe names one.
    async fn connect(&self, host: Option<&str>, port: u16) -> Result<TcpStream, String> {
        let to = match host {
            Some(host) => {
                let host = host.trim_start_matches('[').trim_end_matches(']');
                let found = tokio::net::lookup_host((host, port)).await;
                let mut found = found.map_err(|error| format!("{host}: {error}"))?;
                found.next().ok_or_else(|| format!("{host} has no address"))?
            }
            None => SocketAddr::new(self.dial, port),
        };
        let here = to.ip().is_loopback() || to.ip() == self.pod;
        // From this source the pod's redirect lets us pass to the app; any other host cannot answer to it.
        let source = here.then(|| source_for(to));
        let first = connect_from(source, to).await;
        let tcp = match first {
            // Without the redirect's IPv6 source there is no redirect to pass either.
            Err(error) if here && error.kind() == std::io::ErrorKind::AddrNotAvailable => connect_from(None, to).await,
            other => other,
        };
        tcp.map_err(|error| error.to_string())
    }

    /// GET, following redirects as the kubelet does: those to the same host; one elsewhere is an answer.
    async fn http(&self, probe: &HttpProbe) -> Result<Answer, String> {
        let host = probe.host.clone().unwrap_or_else(|| self.pod.to_string());
        let mut hop = Hop { https: probe.https, host, port: probe.port, path: probe.path.clone() };
        for _ in 0..=REDIRECTS_MAX {
            let tcp = self.connect(probe.host.as_deref(), hop.port).await?;
            let response = if hop.https {
                self.get(tls::connect(tcp, &hop.host).await?, &hop, probe).await?
            } else {
                self.get(tcp, &hop, probe).await?
            };
            let (response, _connection) = response;
            let status = response.status().as_u16();
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let redirected = matches!(status, 301 | 302 | 303 | 307 | 308);
            match location.filter(|_| redirected).and_then(|location| hop.follow(location)) {
                Some(next) if same_host(&hop.host, &next.host) => hop = next,
                // Without its location, so that the kubelet takes it for what it is: success with a warning.
                _ => return Ok(Answer { status, body: body(response.into_body()).await }),
            }
        }
        Err(format!("more than {REDIRECTS_MAX} redirects"))
    }

    /// Sends the request; the connection lives as long as what is returned beside the response.
    async fn get(
        &self,
        io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        hop: &Hop,
        probe: &HttpProbe,
    ) -> Result<(hyper::Response<Incoming>, AbortOnDropHandle<()>), String> {
        let handshake = hyper::client::conn::http1::Builder::new()
            .max_buf_size(HEAD_BYTES_MAX)
            .handshake::<_, Empty<Bytes>>(TokioIo::new(io));
        let (mut sender, connection) = handshake.await.map_err(plain)?;
        let connection = AbortOnDropHandle::new(tokio::spawn(async move { drop(connection.await) }));
        let mut request = Request::get(hop.path.as_str()).body(Empty::new()).map_err(|error| error.to_string())?;
        let headers = request.headers_mut();
        let value = |text: &str| HeaderValue::from_str(text).map_err(|_| "the host is no header value".to_owned());
        headers.insert(HOST, value(&hop.host_header())?);
        if let Ok(agent) = HeaderValue::from_str(self.agent) {
            headers.insert(USER_AGENT, agent);
        }
        headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        // First all of ours go that the probe has, then its own come: a name may be there twice. Kubernetes: an empty
        // `Accept` or `User-Agent` means none.
        for (name, _) in &probe.headers {
            headers.remove(name);
        }
        for (name, value) in &probe.headers {
            if !(value.is_empty() && (name == ACCEPT || name == USER_AGENT)) {
                headers.append(name, value.clone());
            }
        }
        let response = sender.send_request(request).await.map_err(plain)?;
        Ok((response, connection))
    }
}

fn same_host(one: &str, other: &str) -> bool {
    let name = |host: &str| host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    name(one) == name(other)
}

/// hyper's words with what is behind them.
fn plain(error: hyper::Error) -> String {
    match std::error::Error::source(&error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

async fn body(mut incoming: Incoming) -> String {
    let mut bytes = Vec::new();
    while bytes.len() < BODY_BYTES_MAX {
        // A body that breaks off is no failure: the status was there.
        let Some(Ok(frame)) = incoming.frame().await else { break };
        bytes.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
    }
    bytes.truncate(BODY_BYTES_MAX);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn authority(host: &str, port: u16) -> String {
    if host.contains(':') && !host.starts_with('[') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// One URL on the way.
#[derive(Clone, Debug, PartialEq)]
struct Hop {
    https: bool,
    host: String,
    port: u16,
    path: String,
}

impl Hop {
    fn host_header(&self) -> String {
        authority(&self.host, self.port)
    }

    /// RFC 3986 §5.2, as far as servers use it; `None` for what is no HTTP URL.
    fn follow(&self, location: &str) -> Option<Hop> {
        let location = location.split('#').next().unwrap_or_default();
        let absolute = match location.strip_prefix("//") {
            Some(rest) => format!("{}://{rest}", if self.https { "https" } else { "http" }),
            None => location.to_owned(),
        };
        if absolute.contains("://") {
            let uri: Uri = absolute.parse().ok()?;
            let https = match uri.scheme_str()? {
                "https" => true,
                "http" => false,
                _ => return None,
            };
            let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
            let path = uri.path_and_query().map_or("/", |path| path.as_str());
            return Some(Hop { https, host: uri.host()?.to_owned(), port, path: path.to_owned() });
        }
        let path = if absolute.starts_with('/') {
            absolute
        } else if absolute.is_empty() || absolute.starts_with('?') {
            format!("{}{absolute}", self.path.split('?').next().unwrap_or("/"))
        } else {
            let folder =
                self.path.split('?').next().and_then(|path| path.rsplit_once('/')).map_or("", |(folder, _)| folder);
            format!("{folder}/{absolute}")
        };
        path.parse::<Uri>().ok()?;
        Some(Hop { path, ..self.clone() })
    }
}

#[cfg(test)]
mod tests;
