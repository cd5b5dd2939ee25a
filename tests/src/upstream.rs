//! Servers that stand behind a sidecar in tests: one that echoes what it saw, and one that keeps the very bytes.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, Response};
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio_stream::StreamExt;

/// Tells the kubelet that it serves. Else it gives back each body, piece by piece as it comes unless the path ends in
/// `/whole`, and each header of the request as `seen-<name>` of the answer; a
/// gRPC call ends in trailers. Speaks HTTP/1.1 and h2c. Ends with the runtime of the test.
pub struct Echo {
    pub address: String,
    accepting: tokio::task::AbortHandle,
}

impl Echo {
    pub async fn start() -> Echo {
        Self::start_on("127.0.0.1:0").await
    }

    pub async fn start_on(address: &str) -> Echo {
        let listener = TcpListener::bind(address).await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let accepting = tokio::spawn(async move {
            // Connections end with the echo itself.
            let mut open = tokio::task::JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                let _ = tcp.set_nodelay(true);
                open.spawn(echo(tcp));
            }
        });
        Echo { address, accepting: accepting.abort_handle() }
    }

    pub async fn start_unix(path: &Path) -> Echo {
        let listener = UnixListener::bind(path).expect("a socket");
        let accepting = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((unix, _)) = listener.accept().await {
                open.spawn(echo(unix));
            }
        });
        Echo { address: format!("unix:{}", path.display()), accepting: accepting.abort_handle() }
    }

    /// Ends it, and every connection it has.
    pub async fn stop(self) {
        self.accepting.abort();
        while !self.accepting.is_finished() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn echo<I: AsyncRead + AsyncWrite + Unpin + Send + 'static>(io: I) {
    let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    let _ = builder.serve_connection(TokioIo::new(io), service_fn(answer)).await;
}

async fn answer(request: Request<Incoming>) -> Result<Response<BoxBody<Bytes, hyper::Error>>, hyper::Error> {
    let (head, body) = request.into_parts();
    if head.uri.path() == "/slow" {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    // Most servers read a whole request before they answer it; others, streaming, answer as they read.
    let whole = head.uri.path().ends_with("/whole") || head.uri.path() == "/echo.Echo/Unary";
    let body = match whole {
        true => http_body_util::Full::new(body.collect().await?.to_bytes()).map_err(|never| match never {}).boxed(),
        false => body.boxed(),
    };
    let mut response = Response::builder();
    let headers = response.headers_mut().expect("nothing is wrong with an empty response");
    for (name, value) in &head.headers {
        let name = HeaderName::from_bytes(format!("seen-{name}").as_bytes()).expect("a longer name is a name");
        headers.append(name, value.clone());
    }
    headers.insert("seen-path", head.uri.path().parse().expect("a path is a value"));
    if !head.headers.get("content-type").is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
        return Ok(response.body(body).expect("a response"));
    }
    headers.insert("content-type", "application/grpc".parse().expect("a value"));
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().expect("a value"));
    trailers.insert("echo-trailer", "seen".parse().expect("a value"));
    if head.uri.path() == "/grpc.health.v1.Health/Check" {
        // A frame (not compressed, two bytes): field 1, SERVING.
        let serving = Frame::data(Bytes::from_static(&[0, 0, 0, 0, 2, 8, 1]));
        let stream = tokio_stream::iter([Ok(serving), Ok(Frame::trailers(trailers))]);
        return Ok(response.body(BodyExt::boxed(StreamBody::new(stream))).expect("a response"));
    }
    let pieces = body.into_data_stream().map(|piece| piece.map(Frame::data));
    let stream = pieces.chain(tokio_stream::once(Ok(Frame::trailers(trailers))));
    Ok(response.body(BodyExt::boxed(StreamBody::new(stream))).expect("a response"))
}

/// Keeps every byte of every connection, and answers each HTTP/1.1 request it can make out with `200 ok`.
///
/// Its reading of HTTP is strict and its own: where it and the sidecar disagree on where a request ends, the bytes show it.
pub struct Recorder {
    pub address: String,
    bytes: Arc<Mutex<Vec<u8>>>,
    answered: Arc<AtomicUsize>,
}

impl Recorder {
    pub async fn start() -> Recorder {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let answered = Arc::new(AtomicUsize::new(0));
        let (kept, count) = (bytes.clone(), answered.clone());
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                tokio::spawn(record(tcp, kept.clone(), count.clone()));
            }
        });
        Recorder { address, bytes, answered }
    }

    /// Whole requests since this was last asked.
    pub fn answered(&self) -> usize {
        self.answered.swap(0, Relaxed)
    }

    /// What came since this was last asked.
    pub fn take(&self) -> String {
        let bytes = std::mem::take(&mut *self.bytes.lock().expect("nothing panics while it holds the bytes"));
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

async fn record(mut tcp: TcpStream, kept: Arc<Mutex<Vec<u8>>>, answered: Arc<AtomicUsize>) {
    let (mut waiting, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        match tcp.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(count) => {
                kept.lock().expect("nothing panics while it holds the bytes").extend_from_slice(&buffer[..count]);
                waiting.extend_from_slice(&buffer[..count]);
            }
        }
        while let Some(length) = request_length(&waiting) {
            waiting.drain(..length);
            answered.fetch_add(1, Relaxed);
            if tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.is_err() {
                return;
            }
        }
    }
}

/// The length of the first request in `bytes`, if it is all there.
fn request_length(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    if value("transfer-encoding").is_some() {
        let end = bytes[head..].windows(5).position(|window| window == b"0\r\n\r\n")?;
        return Some(head + end + 5);
    }
    let body = value("content-length").map_or(0, |length| length.parse().unwrap_or(0));
    (bytes.len() >= head + body).then_some(head + body)
}

/// Servers in which the server speaks first, as databases do, or which go on in another protocol.
#[derive(Clone, Copy)]
pub enum Speaks {
    /// This at once, and then each byte back.
    First(&'static [u8]),
    /// After the head of a request that it switches protocols (RFC 9110 §7.8), and then each byte back.
    Upgraded,
}

impl Speaks {
    pub async fn start_on(self, address: &str) {
        let listener = TcpListener::bind(address).await.expect("a port");
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                tokio::spawn(self.speak(tcp));
            }
        });
    }

    async fn speak(self, mut tcp: TcpStream) {
        let word: &[u8] = match self {
            Speaks::First(word) => word,
            Speaks::Upgraded => {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match tcp.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => return,
                    }
                }
                b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
            }
        };
        if tcp.write_all(word).await.is_ok() {
            let (mut read, mut write) = tcp.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
        }
    }
}
