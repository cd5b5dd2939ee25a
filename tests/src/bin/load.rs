//! What `make bench` loads proxies with: callers that show a client certificate (which h2load and wrk cannot), and the
//! echo that stands behind both proxies. One thread, so that it can be pinned; every answer is checked, gRPC by its trailer.
//! Never measures the proxy's CPU: whoever started the proxy does.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use outrider_tests::authority::{Authority, CALLER, SERVER};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

type Anyhow = Box<dyn std::error::Error + Send + Sync>;

const USAGE: &str = "outrider-load certs FOLDER
outrider-load echo --listen ADDRESS|unix:PATH
outrider-load drive --kind grpc|h1 --to ADDRESS --certs FOLDER --connections N --streams N --bytes N --seconds N [--token FILE]
outrider-load handshakes --to ADDRESS --certs FOLDER --parallel N --seconds N
outrider-load idle --to ADDRESS --certs FOLDER --connections N";

fn main() -> Result<(), Anyhow> {
    let mut arguments = std::env::args().skip(1);
    let command = arguments.next().ok_or(USAGE)?;
    let rest: Vec<String> = arguments.collect();
    if command == "certs" {
        return certs(Path::new(rest.first().ok_or(USAGE)?));
    }
    let options = Options::parse(&rest)?;
    raise_fd_limit();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let all = tokio::task::LocalSet::new();
    all.block_on(&runtime, async {
        match command.as_str() {
            "echo" => echo(&options).await,
            "drive" => drive(&options).await,
            "handshakes" => handshakes(&options).await,
            "idle" => idle(&options).await,
            _ => Err(USAGE.into()),
        }
    })
}

/// `--name value`, all of them.
struct Options(HashMap<String, String>);

impl Options {
    fn parse(arguments: &[String]) -> Result<Options, Anyhow> {
        let pairs = arguments.chunks(2).map(|pair| match pair {
            [name, value] => Ok((name.strip_prefix("--").ok_or(USAGE)?.to_owned(), value.clone())),
            _ => Err(USAGE.into()),
        });
        pairs.collect::<Result<_, Anyhow>>().map(Options)
    }

    fn text(&self, name: &str) -> Result<&str, Anyhow> {
        self.0.get(name).map(String::as_str).ok_or_else(|| format!("--{name} is needed\n{USAGE}").into())
    }

    fn number(&self, name: &str) -> Result<u64, Anyhow> {
        Ok(self.text(name)?.parse()?)
    }

    /// What callers over gRPC show, if a file of it is named.
    fn credential(&self) -> Result<Option<HeaderValue>, Anyhow> {
        let Some(path) = self.0.get("token") else { return Ok(None) };
        let mut value = HeaderValue::from_str(&format!("Bearer {}", std::fs::read_to_string(path)?.trim()))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    fn caller(&self, alpn: &str) -> Result<Caller, Anyhow> {
        let folder = PathBuf::from(self.text("certs")?);
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(folder.join("ca.pem"))?)?;
        let chain = CertificateDer::pem_file_iter(folder.join("caller.pem"))?.collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_file(folder.join("caller.key"))?;
        let mut config =
            rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_protocol_versions(&[&rustls::version::TLS13])?
                .with_root_certificates(roots)
                .with_client_auth_cert(chain, key)?;
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        // Each connection is a whole handshake: the sidecar resumes none, so a peer that would must not be allowed to.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Caller { to: self.text("to")?.to_owned(), connector: TlsConnector::from(Arc::new(config)) })
    }
}

#[derive(Clone)]
struct Caller {
    to: String,
    connector: TlsConnector,
}

impl Caller {
    async fn connect(&self) -> Result<TlsStream<TcpStream>, Anyhow> {
        let tcp = TcpStream::connect(&self.to).await?;
        tcp.set_nodelay(true)?;
        Ok(self.connector.connect(ServerName::try_from("localhost")?, tcp).await?)
    }

    async fn h1(&self) -> Result<hyper::client::conn::http1::SendRequest<Full<Bytes>>, Anyhow> {
        let (send, drive) = hyper::client::conn::http1::handshake(TokioIo::new(self.connect().await?)).await?;
        tokio::task::spawn_local(drive);
        Ok(send)
    }
}

/// An authority, a server and a caller, in files.
fn certs(folder: &Path) -> Result<(), Anyhow> {
    std::fs::create_dir_all(folder)?;
    let authority = Authority::new("bench");
    std::fs::write(folder.join("ca.pem"), &authority.root)?;
    authority.leaf(SERVER).write(folder, "server");
    authority.leaf(CALLER).write(folder, "caller");
    Ok(())
}

/// As many file descriptors as allowed: `idle` holds thousands.
fn raise_fd_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls take a pointer to a live rlimit.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
    }
}

// ---- the echo ----

type EchoBody = http_body_util::combinators::BoxBody<Bytes, Infallible>;

/// Gives back the body. Without the header by which a proxy says who called it refuses, so that no proxy is measured
/// that does less than the other.
async fn answer(request: Request<Incoming>) -> Result<Response<EchoBody>, hyper::Error> {
    let grpc = request.headers().get("content-type").is_some_and(|kind| kind == "application/grpc");
    let told = request.headers().contains_key("x-forwarded-client-cert");
    let body = request.into_body().collect().await?.to_bytes();
    let mut response = Response::builder();
    if !told {
        response = response.status(StatusCode::PRECONDITION_REQUIRED);
    }
    if !grpc {
        return Ok(response.body(Full::new(body).boxed()).expect("a response"));
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().expect("a value"));
    let frames = [Ok(Frame::data(body)), Ok(Frame::trailers(trailers))];
    let stream = StreamBody::new(tokio_stream::iter(frames));
    Ok(response.header("content-type", "application/grpc").body(BodyExt::boxed(stream)).expect("a response"))
}

fn tend<I>(io: I)
where
    I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    tokio::spawn(async move {
        let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
        builder.http2().max_concurrent_streams(1000);
        let _ = builder.serve_connection(TokioIo::new(io), service_fn(answer)).await;
    });
}

async fn echo(options: &Options) -> Result<(), Anyhow> {
    let listen = options.text("listen")?;
    if let Some(path) = listen.strip_prefix("unix:") {
        let listener = UnixListener::bind(path)?;
        println!("listening {path}");
        loop {
            tend(listener.accept().await?.0);
        }
    }
    let listener = TcpListener::bind(listen).await?;
    println!("listening {}", listener.local_addr()?);
    loop {
        let (tcp, _) = listener.accept().await?;
        tcp.set_nodelay(true)?;
        tend(tcp);
    }
}

// ---- load ----

/// What one caller saw.
#[derive(Default)]
struct Tally {
    latencies: Vec<u32>,
    errors: u64,
    last_error: Option<String>,
}

impl Tally {
    async fn add(&mut self, asked: impl Future<Output = Result<(), Anyhow>>) {
        let start = Instant::now();
        match asked.await {
            Ok(()) => self.latencies.push(start.elapsed().as_micros().min(u128::from(u32::MAX)) as u32),
            Err(error) => {
                self.errors += 1;
                self.last_error = Some(error.to_string());
                // A proxy that refuses at once must not be hammered.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }

    /// All callers' together, as one line of JSON.
    fn report(tallies: Vec<Tally>, seconds: f64) {
        let mut all = Tally::default();
        for tally in tallies {
            all.latencies.extend(tally.latencies);
            all.errors += tally.errors;
            all.last_error = all.last_error.or(tally.last_error);
        }
        all.latencies.sort_unstable();
        let count = all.latencies.len();
        let quantile = |q: f64| all.latencies.get(((count as f64 * q) as usize).min(count.saturating_sub(1)));
        let line = serde_json::json!({
            "requests": count, "errors": all.errors, "error": all.last_error, "seconds": seconds,
            "per_second": count as f64 / seconds, "p50_us": quantile(0.5), "p99_us": quantile(0.99),
        });
        println!("{line}");
    }
}

/// Runs these callers until the time is up, and reports.
async fn gather<F: Future<Output = Result<Tally, Anyhow>> + 'static>(callers: Vec<F>) -> Result<(), Anyhow> {
    let start = Instant::now();
    let running: Vec<_> = callers.into_iter().map(tokio::task::spawn_local).collect();
    let mut tallies = Vec::new();
    for caller in running {
        tallies.push(caller.await??);
    }
    Tally::report(tallies, start.elapsed().as_secs_f64());
    Ok(())
}

async fn drive(options: &Options) -> Result<(), Anyhow> {
    let (connections, streams) = (options.number("connections")?, options.number("streams")?);
    let payload = Bytes::from(vec![b'x'; options.number("bytes")? as usize]);
    let grpc = match options.text("kind")? {
        "grpc" => true,
        "h1" => false,
        other => return Err(format!("--kind {other} is neither grpc nor h1").into()),
    };
    let caller = options.caller(if grpc { "h2" } else { "http/1.1" })?;
    let duration = Duration::from_secs(options.number("seconds")?);
    let credential = options.credential()?;
    if grpc {
        let mut callers = Vec::new();
        for _ in 0..connections {
            let (send, drive) = h2::client::handshake(caller.connect().await?).await?;
            tokio::task::spawn_local(drive);
            callers
                .extend((0..streams).map(|_| unary_until(send.clone(), payload.clone(), credential.clone(), duration)));
        }
        return gather(callers).await;
    }
    let mut callers = Vec::new();
    for _ in 0..connections {
        callers.push(h1_until(caller.h1().await?, payload.clone(), duration));
    }
    gather(callers).await
}

async fn unary_until(
    mut send: h2::client::SendRequest<Bytes>,
    payload: Bytes,
    credential: Option<HeaderValue>,
    duration: Duration,
) -> Result<Tally, Anyhow> {
    // The 5 bytes before a gRPC message: not compressed, and its length.
    let message: Bytes = [&[0], &(payload.len() as u32).to_be_bytes()[..], &payload[..]].concat().into();
    let (start, mut tally) = (Instant::now(), Tally::default());
    while start.elapsed() < duration {
        tally.add(unary(&mut send, message.clone(), credential.clone())).await;
    }
    Ok(tally)
}

async fn unary(
    send: &mut h2::client::SendRequest<Bytes>,
    message: Bytes,
    credential: Option<HeaderValue>,
) -> Result<(), Anyhow> {
    let mut request = Request::builder()
        .method("POST")
        .uri("https://localhost/echo.Echo/Unary")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    request.headers_mut().extend(credential.map(|credential| (http::header::AUTHORIZATION, credential)));
    let mut ready = send.clone().ready().await?;
    let (response, mut body) = ready.send_request(request, false)?;
    body.send_data(message.clone(), true)?;
    let (head, mut incoming) = response.await?.into_parts();
    let mut length = 0;
    while let Some(data) = incoming.data().await {
        let data = data?;
        length += data.len();
        incoming.flow_control().release_capacity(data.len())?;
    }
    let trailers = incoming.trailers().await?;
    let status = trailers.as_ref().unwrap_or(&head.headers).get("grpc-status");
    if head.status != 200 || length != message.len() || status.is_none_or(|status| status != "0") {
        return Err(format!("{} with grpc-status {status:?} and {length} bytes", head.status).into());
    }
    Ok(())
}

async fn h1_until(
    mut send: hyper::client::conn::http1::SendRequest<Full<Bytes>>,
    payload: Bytes,
    duration: Duration,
) -> Result<Tally, Anyhow> {
    let (start, mut tally) = (Instant::now(), Tally::default());
    while start.elapsed() < duration {
        tally.add(post(&mut send, payload.clone())).await;
    }
    Ok(tally)
}

async fn post(send: &mut hyper::client::conn::http1::SendRequest<Full<Bytes>>, payload: Bytes) -> Result<(), Anyhow> {
    let request = Request::post("/echo").header("host", "localhost").body(Full::new(payload.clone()))?;
    send.ready().await?;
    let response = send.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    if status != 200 || body != payload {
        return Err(format!("{status} with {} bytes", body.len()).into());
    }
    Ok(())
}

/// A connection for each request, so many at once.
async fn handshakes(options: &Options) -> Result<(), Anyhow> {
    let duration = Duration::from_secs(options.number("seconds")?);
    let caller = Rc::new(options.caller("http/1.1")?);
    let callers = (0..options.number("parallel")?).map(|_| {
        let caller = caller.clone();
        async move {
            let (start, mut tally) = (Instant::now(), Tally::default());
            while start.elapsed() < duration {
                tally.add(async { post(&mut caller.h1().await?, Bytes::from_static(b"x")).await }).await;
            }
            Ok(tally)
        }
    });
    gather(callers.collect()).await
}

/// Connections that are opened, show who they are, ask once, and then do nothing until standard input ends.
async fn idle(options: &Options) -> Result<(), Anyhow> {
    let caller = options.caller("http/1.1")?;
    let turns = Arc::new(Semaphore::new(32));
    let opening: Vec<_> = (0..options.number("connections")?)
        .map(|_| {
            let (caller, turns) = (caller.clone(), turns.clone());
            tokio::task::spawn_local(async move {
                let _turn = turns.acquire().await?;
                let mut send = caller.h1().await?;
                post(&mut send, Bytes::from_static(b"x")).await?;
                Ok::<_, Anyhow>(send)
            })
        })
        .collect();
    let mut held = Vec::new();
    for one in opening {
        held.push(one.await??);
    }
    println!("held {}", held.len());
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    let alive = held.iter().filter(|send| !send.is_closed()).count();
    println!("alive {alive}");
    Ok(())
}
