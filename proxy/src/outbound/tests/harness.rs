//! What the tests stand on: servers that do as they are told, a way out, and an application.

use crate::config::Config;
use crate::metrics::Metrics;
use crate::outbound::origin::Ourselves;
use crate::outbound::{Original, Outbound, Seat, Surroundings};
use crate::record::{Journal, Lines};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

pub type Pipe = mpsc::Sender<Result<Frame<Bytes>, std::io::Error>>;

/// A body that is written from elsewhere; dropping the pipe ends it.
pub struct Piped(mpsc::Receiver<Result<Frame<Bytes>, std::io::Error>>);

pub fn piped() -> (Pipe, Piped) {
    let (pipe, body) = mpsc::channel(64);
    (pipe, Piped(body))
}

pub fn full(text: impl Into<Bytes>) -> Piped {
    let (pipe, body) = piped();
    let text: Bytes = text.into();
    if !text.is_empty() {
        pipe.try_send(Ok(Frame::data(text))).unwrap();
    }
    body
}

impl Body for Piped {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        self.0.poll_recv(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_closed() && self.0.is_empty()
    }
}

/// What a body held: its text and its trailers.
pub async fn read(mut body: Incoming) -> Result<(String, HeaderMap), hyper::Error> {
    let (mut text, mut trailers) = (Vec::new(), HeaderMap::new());
    while let Some(frame) = next(&mut body).await {
        match frame?.into_data() {
            Ok(data) => text.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().unwrap(),
        }
    }
    Ok((String::from_utf8(text).unwrap(), trailers))
}

pub async fn next(body: &mut Incoming) -> Option<Result<Frame<Bytes>, hyper::Error>> {
    let frame = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx));
    tokio::time::timeout(Duration::from_secs(10), frame).await.expect("a frame within ten seconds")
}

type Answering = Pin<Box<dyn Future<Output = Response<Piped>> + Send>>;
type Handler = Arc<dyn Fn(Request<Incoming>) -> Answering + Send + Sync>;

/// A server of either HTTP, with or without TLS.
pub struct Server {
    pub address: SocketAddr,
    pub connections: Arc<AtomicUsize>,
    pub requests: Arc<AtomicUsize>,
    /// The id each connection's client showed.
    pub peers: Arc<Mutex<Vec<Option<String>>>>,
}

impl Server {
    pub async fn start<F, R>(handler: F) -> Server
    where
        F: Fn(Request<Incoming>) -> R + Send + Sync + 'static,
        R: Future<Output = Response<Piped>> + Send + 'static,
    {
        Server::with(None, handler).await
    }

    pub async fn with<F, R>(tls: Option<Arc<rustls::ServerConfig>>, handler: F) -> Server
    where
        F: Fn(Request<Incoming>) -> R + Send + Sync + 'static,
        R: Future<Output = Response<Piped>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Server {
            address: listener.local_addr().unwrap(),
            connections: Arc::default(),
            requests: Arc::default(),
            peers: Arc::default(),
        };
        let (connections, peers, requests) =
            (server.connections.clone(), server.peers.clone(), server.requests.clone());
        let handler: Handler = Arc::new(move |request| {
            requests.fetch_add(1, SeqCst);
            Box::pin(handler(request))
        });
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                connections.fetch_add(1, SeqCst);
                let (handler, tls, peers) = (handler.clone(), tls.clone().map(TlsAcceptor::from), peers.clone());
                tokio::spawn(async move {
                    let Some(tls) = tls else {
                        let mut first = [0; 4];
                        while tcp.peek(&mut first).await.unwrap_or(4) < 4 {}
                        return talk(tcp, &first == b"PRI ", handler).await;
                    };
                    let Ok(stream) = tls.accept(tcp).await else { return };
                    let session = stream.get_ref().1;
                    let id = session.peer_certificates().and_then(|chain| crate::tls::peer_of(chain.first()?));
                    peers.lock().unwrap().push(id.map(|id| id.to_string()));
                    let h2 = session.alpn_protocol().is_some_and(|name| name.ends_with(b"h2"));
                    talk(stream, h2, handler).await;
                });
            }
        });
        server
    }

    pub fn count(&self) -> (usize, usize) {
        (self.connections.load(SeqCst), self.requests.load(SeqCst))
    }
}

async fn talk<S>(stream: S, h2: bool, handler: Handler)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let answering = handler(request);
        async move { Ok::<_, Infallible>(answering.await) }
    });
    let io = TokioIo::new(stream);
    let _ = if h2 {
        hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await
    } else {
        hyper::server::conn::http1::Builder::new().serve_connection(io, service).with_upgrades().await
    };
}

/// An address where nobody listens.
pub async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// A way out with one seat.
pub struct Way {
    pub address: SocketAddr,
    pub outbound: Arc<Outbound>,
    _stop: watch::Sender<bool>,
}

impl Way {
    /// `yaml`: what stands under `outbound:`, without `listen`.
    pub async fn open(yaml: &str) -> Way {
        Way::with(yaml, Ourselves::default(), Arc::new(|_| Ok(None))).await
    }

    pub async fn with(yaml: &str, ourselves: Ourselves, original: Original) -> Way {
        let tls = if ourselves.identity.is_some() {
            "{mode: permissive, trust_domain: outrider.local, certificate: a, key: b, trust_bundle: c}"
        } else {
            "{mode: disable}"
        };
        let text = format!(
            "tls: {tls}\nauth: {{methods: [{{anonymous: {{}}}}]}}\nworker: {{socket: w, models: [m]}}\n\
             outbound:\n  listen: 127.0.0.1:0\n{yaml}"
        );
        let config =
            Config::parse(&text, Path::new("/"), Path::new("c.yaml")).unwrap_or_else(|error| panic!("{error}"));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let journal = Arc::new(Journal { metrics: Metrics::new(), lines: Lines::Kept(Mutex::default()) });
        let around = Surroundings { ourselves, journal, original, listen: address, offset: 0 };
        let outbound = Outbound::open(config.outbound.unwrap(), around).unwrap_or_else(|error| panic!("{error}"));
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(outbound.clone().tend());
        tokio::spawn(Seat::new(outbound.clone(), TaskTracker::new()).serve(vec![listener], stopped));
        Way { address, outbound, _stop: stop }
    }

    /// One route for every host to one cluster called `c`, with these endpoints; `more` is spliced into either.
    pub fn yaml(endpoints: &[SocketAddr], route: &str, cluster: &str) -> String {
        let endpoints: Vec<String> = endpoints.iter().map(|endpoint| format!("'{endpoint}'")).collect();
        let comma = |more: &str| if more.is_empty() { String::new() } else { format!(", {more}") };
        format!(
            "  routes: [{{cluster: c{}}}]\n  clusters: [{{name: c, endpoints: [{}]{}}}]\n",
            comma(route),
            endpoints.join(", "),
            comma(cluster)
        )
    }

    pub async fn to(endpoints: &[SocketAddr], route: &str, cluster: &str) -> Way {
        Way::open(&Way::yaml(endpoints, route, cluster)).await
    }

    pub async fn h1(&self) -> http1::SendRequest<Piped> {
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(tcp)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        sender
    }

    pub async fn h2(&self) -> http2::SendRequest<Piped> {
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(tcp)).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    /// One GET over a connection of its own: status, `x-outrider-refused-by` or not, and text.
    pub async fn get(&self) -> (u16, bool, String) {
        self.ask(Request::get("/").header("host", "models").body(full("")).unwrap()).await
    }

    pub async fn ask(&self, request: Request<Piped>) -> (u16, bool, String) {
        let response = self.h1().await.send_request(request).await.unwrap();
        let (status, ours) = (response.status().as_u16(), response.headers().contains_key("x-outrider-refused-by"));
        (status, ours, read(response.into_body()).await.unwrap().0)
    }

    pub fn lines(&self) -> Vec<serde_json::Value> {
        let Lines::Kept(kept) = &self.outbound.journal.lines else { unreachable!() };
        kept.lock().unwrap().iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The lines, once there are so many.
    pub async fn await_lines(&self, count: usize) -> Vec<serde_json::Value> {
        for _ in 0..500 {
            if self.lines().len() >= count {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.lines()
    }
}
