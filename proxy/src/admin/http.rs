//! The least HTTP/1.1 that curl, a browser, Prometheus and a kubelet need: one request, one answer, closed.
//!
//! Never reads more than a head and the small body of a POST; any other, should one come, is ignored with the
//! connection.

use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

const HEAD_BYTES_MAX: usize = 16 << 10;

#[derive(Debug, PartialEq)]
pub struct Request {
    pub method: String,
    /// Without the query.
    pub path: String,
    /// `user-agent`, which a probed app may want to know.
    pub agent: Option<String>,
    /// Empty where none is expected.
    pub body: Vec<u8>,
}

pub struct Reply {
    status: u16,
    media_type: &'static str,
    extra: String,
    body: Vec<u8>,
}

impl Reply {
    fn new(status: u16, media_type: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Reply { status, media_type, extra: String::new(), body: body.into() }
    }

    pub fn text(status: u16, body: &str) -> Self {
        Reply::new(status, "text/plain; charset=utf-8", body)
    }

    pub fn html(body: String) -> Self {
        Reply::new(200, "text/html; charset=utf-8", body)
    }

    /// Prometheus' text format.
    pub fn metrics(body: String) -> Self {
        Reply::new(200, "text/plain; version=0.0.4; charset=utf-8", body)
    }

    /// As it stands.
    pub fn document(body: Vec<u8>) -> Self {
        Reply::new(200, "application/json", body)
    }

    /// As Knative's autoscaler wants its stats.
    pub fn protobuf(body: Vec<u8>) -> Self {
        Reply::new(200, "application/protobuf", body)
    }

    pub fn json(status: u16, body: &Value) -> Self {
        Reply::new(status, "application/json", format!("{body:#}\n"))
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.extra.push_str(&format!("{name}: {value}\r\n"));
        self
    }

    #[cfg(test)]
    pub fn says(&self, words: &str) -> bool {
        String::from_utf8_lossy(&self.body).contains(words)
    }

    fn bytes(&self, head_only: bool) -> Vec<u8> {
        // Also whatever a probed app answered.
        let known = http::StatusCode::from_u16(self.status).ok();
        let reason = known.and_then(|status| status.canonical_reason()).unwrap_or("Unknown");
        // The page runs no scripts and is embedded nowhere.
        let text = format!(
            "HTTP/1.1 {} {reason}\r\nserver: outrider\r\ncontent-type: {}\r\ncontent-length: {}\r\n\
             cache-control: no-store\r\nx-content-type-options: nosniff\r\n\
             content-security-policy: default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'\r\n\
             connection: close\r\n{}\r\n",
            self.status,
            self.media_type,
            self.body.len(),
            self.extra
        );
        let mut bytes = text.into_bytes();
        if !head_only {
            bytes.extend_from_slice(&self.body);
        }
        bytes
    }
}

/// Attends to connections for ever, to so many at once; those beyond are closed unheard.
pub async fn attend_each<F>(listener: TcpListener, at_once: usize, attend: impl Fn(TcpStream, SocketAddr) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(at_once));
    loop {
        let Ok((tcp, peer)) = listener.accept().await else {
            // Mostly: out of file descriptors.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        let attended = attend(tcp, peer);
        tokio::spawn(async move {
            let _place = place;
            attended.await;
        });
    }
}

/// The largest body that anything here asks for.
const BODY_BYTES_MAX: usize = 8 << 10;

/// Reads one request: `None` if the connection ended before there was one, an error to send if it is none.
pub async fn read(tcp: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Option<Result<Request, Reply>>> {
    let mut head = Vec::with_capacity(1024);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() > HEAD_BYTES_MAX || tcp.read_buf(&mut head).await? == 0 {
            return Ok(None);
        }
    }
    let end = head.windows(4).position(|end| end == b"\r\n\r\n").unwrap_or(head.len()) + 4;
    let Some(mut request) = parse(&head[..end]) else {
        return Ok(Some(Err(Reply::text(400, "this is no HTTP/1 request\n"))));
    };
    if request.method == "POST" {
        let length = field(&head[..end], "content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
        if length > BODY_BYTES_MAX {
            return Ok(Some(Err(Reply::text(413, "nothing here takes so large a body\n"))));
        }
        request.body = head.split_off(end);
        while request.body.len() < length {
            if tcp.read_buf(&mut request.body).await? == 0 {
                return Ok(None);
            }
        }
        request.body.truncate(length);
    }
    Ok(Some(Ok(request)))
}

/// Sends the answer and closes.
pub async fn write(mut tcp: impl AsyncWrite + Unpin, reply: &Reply, head_only: bool) -> std::io::Result<()> {
    tcp.write_all(&reply.bytes(head_only)).await?;
    tcp.shutdown().await
}

fn parse(head: &[u8]) -> Option<Request> {
    let line = head.split(|byte| *byte == b'\r').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    let sane = words.next().is_none() && version.starts_with("HTTP/1.") && target.starts_with('/');
    let path = target.split('?').next()?.to_owned();
    sane.then(|| Request { method: method.to_owned(), path, agent: field(head, "user-agent"), body: Vec::new() })
}

fn field(head: &[u8], name: &str) -> Option<String> {
    let lines = std::str::from_utf8(head).ok()?.split("\r\n").skip(1);
    let mut fields = lines.filter_map(|line| line.split_once(':'));
    fields.find_map(|(known, value)| known.eq_ignore_ascii_case(name).then(|| value.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_request_lines_are_understood() {
        let parsed = |line: &str| parse(format!("{line}\r\nhost: x\r\n\r\n").as_bytes()).map(|r| (r.method, r.path));
        assert_eq!(parsed("GET /metrics?x=1 HTTP/1.1"), Some(("GET".into(), "/metrics".into())));
        for bad in
            ["", "GET", "GET /", "GET / HTTP/2", "GET http://x/ HTTP/1.1", "GET / HTTP/1.1 x", "\u{16}\u{3}\u{1}"]
        {
            assert_eq!(parsed(bad), None, "{bad}");
        }
        let request = parse(b"GET / HTTP/1.1\r\nhost: x\r\nUser-Agent:  kube-probe/1.33 \r\n\r\n").unwrap();
        assert_eq!(request.agent.as_deref(), Some("kube-probe/1.33"));
    }
}
