//! Our accept loop: peek (TLS, h2c, http/1), handshake, and one task for each connection that outlives neither its
//! limits nor its age.
//!
//! pingora's listeners know neither plaintext and TLS on one port nor a limit on handshakes, and its own h2c detection
//! waits for 24 bytes without a timeout. Never reads a byte of a request.

mod connection;
mod facts;
mod handshakes;
mod keep_alive;
mod modes;
mod opening;
mod passthrough;

pub use connection::Connection;
pub use facts::{Busy, Facts, Target};
pub use modes::Modes;

use crate::admission::Admission;
use crate::auth::Authenticator;
use crate::config::{Interception, Limits, TlsMode, Xfcc};
use crate::metrics::Metrics;
use crate::net::{self, original_destination};
use crate::record::{Journal, unix_now};
use crate::tls::xfcc::{Details, made_from};
use crate::tls::{Alpn, Identity, Mode, Peer, handshake_reason, peer_of, server_config};
use crate::until::until;
use bytes::Bytes;
use futures_util::FutureExt;
use handshakes::Handshakes;
use http::HeaderValue;
use opening::Opening;
use pingora_core::apps::{HttpServerApp, ServerApp};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::task::TaskTracker;

/// After a connection is asked to go, streams that began meanwhile may still come; without end, though, it must not stay.
const CUT_LINGER: Duration = Duration::from_millis(300);

/// When the server ends, how long an idle http/1 connection may still bring one request.
const IDLE_LINGER: Duration = Duration::from_millis(300);

/// What all accept loops share.
pub struct Acceptor {
    modes: Modes,
    /// `None` where no port ever speaks TLS.
    tls: Option<Tls>,
    interception: Interception,
    xfcc: Xfcc,
    ports: Vec<u16>,
    authenticator: Arc<Authenticator>,
    limits: Limits,
    journal: Arc<Journal>,
    wakes: Option<Arc<Admission>>,
    handshakes: Handshakes,
    connections: Arc<Semaphore>,
}

/// The same identity, towards callers who must and who may show a certificate.
struct Tls {
    identity: Arc<Identity>,
    strict: TlsAcceptor,
    permissive: TlsAcceptor,
    simple: TlsAcceptor,
}

/// A connection whose protocol is known.
enum Opened {
    Http(Connection),
    Opaque(Connection),
}

/// Why a connection ended before its first request; a closed set, for the metric.
type Reason = &'static str;

/// What an acceptor is made of.
pub struct Entrance {
    pub modes: Modes,
    pub identity: Option<Arc<Identity>>,
    pub interception: Interception,
    pub xfcc: Xfcc,
    /// Those we listen on: nobody is redirected from them.
    pub ports: Vec<u16>,
    pub authenticator: Arc<Authenticator>,
    pub limits: Limits,
    pub journal: Arc<Journal>,
    /// What every connection wakes, if it is to.
    pub wakes: Option<Arc<Admission>>,
}

impl Acceptor {
    pub fn new(entrance: Entrance) -> Self {
        let Entrance { modes, identity, interception, xfcc, ports, authenticator, limits, journal, wakes } = entrance;
        let tls = |identity: Arc<Identity>| Tls {
            strict: server_config(Mode::Strict, identity.clone()).into(),
            permissive: server_config(Mode::Permissive, identity.clone()).into(),
            simple: server_config(Mode::Simple, identity.clone()).into(),
            identity,
        };
        let handshakes = Handshakes::new(limits.handshakes_max);
        let connections = Arc::new(Semaphore::new(limits.connections_max));
        let tls = identity.map(tls);
        Acceptor {
            modes,
            tls,
            interception,
            xfcc,
            ports,
            authenticator,
            limits,
            journal,
            wakes,
            handshakes,
            connections,
        }
    }

    fn metrics(&self) -> &Metrics {
        &self.journal.metrics
    }

    fn failed(&self, address: SocketAddr, reason: Reason) {
        // A probe that connects and leaves is no news; a handshake refused is.
        match reason {
            "transport" => tracing::debug!(%address, reason, "a connection ended before a request"),
            _ => tracing::info!(%address, reason, "a connection was refused"),
        }
        self.metrics().handshake_failures.with_label_values(&[reason]).inc();
    }

    /// Accepts until `stop` is true; then the listener is closed, and connections in `tracker` are asked to end.
    pub async fn serve<A: HttpServerApp + Send + Sync + 'static>(
        self: Arc<Self>,
        listener: TcpListener,
        app: Arc<A>,
        mut stop: watch::Receiver<bool>,
        tracker: TaskTracker,
    ) {
        while let Some(accepted) = net::next(&listener, &mut stop, "a caller").await {
            self.clone().begin(accepted, &app, &stop, &tracker);
        }
        // Whoever is connected but not accepted yet would be reset when the listener closes.
        while let Some(Ok(accepted)) = listener.accept().now_or_never() {
            self.clone().begin(accepted, &app, &stop, &tracker);
        }
    }

    /// One connection, in a task of its own.
    fn begin<A: HttpServerApp + Send + Sync + 'static>(
        self: Arc<Self>,
        (tcp, address): (TcpStream, SocketAddr),
        app: &Arc<A>,
        stop: &watch::Receiver<bool>,
        tracker: &TaskTracker,
    ) {
        // Who came by IPv4 to a listener of both families is written as such.
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        let Ok(place) = self.connections.clone().try_acquire_owned() else { return self.failed(address, "too_many") };
        let (app, stop) = (app.clone(), stop.clone());
        tracker.spawn(async move {
            let _place = place;
            let limit = self.limits.handshake_timeout;
            match tokio::time::timeout(limit, self.open(tcp, address)).await {
                Ok(Ok(Opened::Http(connection))) => {
                    // Where an operator wants it so: else only a well-formed question wakes a worker.
                    self.wakes.iter().for_each(|admission| drop(admission.wake()));
                    self.tend(connection, app, stop).await
                }
                Ok(Ok(Opened::Opaque(connection))) => self.pass(connection).await,
                Ok(Err(reason)) => self.failed(address, reason),
                Err(_) => self.failed(address, "timeout"),
            }
        });
    }

    /// Peeks, and shakes hands if that is TLS.
    async fn open(&self, tcp: TcpStream, address: SocketAddr) -> Result<Opened, Reason> {
        // Tokens are small packets: without this, Nagle and delayed ACKs make them arrive in pairs.
        tcp.set_nodelay(true).map_err(|_| "transport")?;
        let target = self.target(&tcp)?;
        let opening = match target.redirected {
            true => opening::of_anything(&tcp, self.interception.detect_timeout).await,
            false => opening::of_http(&tcp).await,
        };
        let mode = self.modes.of(target.address.port());
        match (opening.map_err(|_| "transport")?, mode, &self.tls) {
            (Opening::Tls, TlsMode::Strict, Some(tls)) => self.shake(&tls.strict, tcp, (address, target)).await,
            (Opening::Tls, TlsMode::Permissive, Some(tls)) => self.shake(&tls.permissive, tcp, (address, target)).await,
            (Opening::Tls, TlsMode::Simple, Some(tls)) => self.shake(&tls.simple, tcp, (address, target)).await,
            // The application's own TLS, if somebody else's pod is meant; ours speaks none.
            (Opening::Tls, _, _) if target.redirected => Ok(Opened::Opaque(plain(tcp, address, target, false))),
            (Opening::Tls, _, _) => Err("tls_disabled"),
            (_, TlsMode::Strict | TlsMode::Simple, _) => Err("plaintext"),
            (Opening::Opaque, _, _) => Ok(Opened::Opaque(plain(tcp, address, target, false))),
            (opening, _, _) => Ok(Opened::Http(plain(tcp, address, target, opening == Opening::H2c))),
        }
    }

    /// Where the caller was going.
    fn target(&self, tcp: &TcpStream) -> Result<Target, Reason> {
        let local = tcp.local_addr().map_err(|_| "transport")?;
        let meant = match self.interception.inbound {
            true => original_destination(tcp).map_err(|_| "transport")?,
            false => None,
        };
        // A connection to one of our own ports is none that we should pass on: it would come back.
        Ok(match meant.filter(|meant| !self.ports.contains(&meant.port())) {
            Some(address) => Target { address, redirected: true },
            None => Target { address: local, redirected: false },
        })
    }

    async fn shake(
        &self,
        tls: &TlsAcceptor,
        tcp: TcpStream,
        (address, target): (SocketAddr, Target),
    ) -> Result<Opened, Reason> {
        let turn = self.handshakes.enter(Instant::now());
        let mut stream = tokio::select! {
            shaken = tls.accept(tcp) => shaken.map_err(|error| handshake_reason(&error))?,
            () = turn.pushed_out() => return Err("too_slow"),
        };
        drop(turn);
        let name = stream.get_ref().1.alpn_protocol();
        let (opening, looked_at) = match Alpn::of(name) {
            Alpn::H2 => (Opening::H2c, Vec::new()),
            // Without a redirect only HTTP is served here.
            Alpn::Http1 if name.is_some() || !target.redirected => (Opening::H1, Vec::new()),
            Alpn::Http1 | Alpn::Opaque => {
                connection::look_within(&mut stream, self.interception.detect_timeout).await.map_err(|_| "transport")?
            }
        };
        let facts = self.facts(&stream, (address, target), opening == Opening::H2c);
        let connection = Connection::tls(stream, looked_at, facts);
        match (opening, target.redirected) {
            (Opening::Opaque, true) => Ok(Opened::Opaque(connection)),
            (Opening::Opaque, false) => Err("protocol"),
            _ => Ok(Opened::Http(connection)),
        }
    }

    fn facts(&self, stream: &TlsStream<TcpStream>, (address, target): (SocketAddr, Target), h2: bool) -> Facts {
        let session = stream.get_ref().1;
        let chain = session.peer_certificates().unwrap_or_default();
        let spiffe = chain.first().and_then(|leaf| peer_of(leaf));
        let sni = session.server_name().map(str::to_owned);
        let not_after_unix = chain.first().and_then(|leaf| crate::tls::material::not_after_unix(leaf));
        let peer = Peer { spiffe, tls: true, address, sni, not_after_unix };
        let mut facts = Facts::new(peer, h2, target);
        let tells = matches!(self.xfcc, Xfcc::SanitizeSet | Xfcc::AppendForward);
        if let Some(tls) = self.tls.as_ref().filter(|_| tells && facts.peer.spiffe.is_some()) {
            let own = tls.identity.load().and_then(|material| material.spiffe().map(ToString::to_string));
            let element = made_from(chain, own.as_deref(), Details::default()).map(|element| element.to_string());
            facts.said.xfcc = element.and_then(|element| HeaderValue::from_maybe_shared(Bytes::from(element)).ok());
        }
        facts
    }

    /// Serves a connection to its end.
    async fn tend<A: HttpServerApp + Send + Sync + 'static>(
        &self,
        connection: Connection,
        app: Arc<A>,
        mut stop: watch::Receiver<bool>,
    ) {
        let facts = connection.facts();
        let _open = Open::new(self.metrics(), [facts.protocol(), facts.tls_kind()]);
        // A watch of its own, so that age can end one connection: GOAWAY for HTTP/2, `connection: close` for http/1.
        let (bye, told) = watch::channel(false);
        let oldest = self.oldest(&facts);
        let grace = self.limits.connection_age_grace;
        let (mut over, mut halted, mut idle_until) = (None, false, None);
        let serving = async {
            match facts.h2 {
                true => drop(app.process_new(Box::new(connection), &told).await),
                false => keep_alive::serve(Box::new(connection), &app, &told).await,
            }
        };
        tokio::pin!(serving);
        loop {
            let told_already = *bye.borrow();
            tokio::select! {
                () = &mut serving => break,
                () = facts.overdue(self.limits.header_timeout) => return self.failed(facts.peer.address, "head_timeout"),
                true = told_to(&mut stop), if !halted => {
                    halted = true;
                    bye.send_replace(true);
                    // An idle connection would only be told in the answer to its next request, which may be on its way.
                    idle_until = Some(Instant::now() + IDLE_LINGER);
                }
                () = until(idle_until) => {
                    if facts.is_idle() {
                        return;
                    }
                    idle_until = None;
                }
                () = until(oldest), if !told_already => {
                    over = grace.map(|grace| Instant::now() + grace);
                    bye.send_replace(true);
                }
                () = until(over) => {
                    // Streams get their error event, and a moment to carry it.
                    facts.overstay();
                    let _ = tokio::time::timeout(CUT_LINGER, &mut serving).await;
                    return self.failed(facts.peer.address, "overstayed");
                }
            }
        }
        if let Some(reason) = facts.refused(self.limits.idle_timeout).filter(|_| !*bye.borrow()) {
            self.failed(facts.peer.address, reason);
        }
    }

    /// When a connection is asked to go: at its greatest age, or when the caller's certificate ends.
    fn oldest(&self, facts: &Facts) -> Option<Instant> {
        let ends = facts.peer.not_after_unix.and_then(|unix| u64::try_from(unix).ok());
        let left = ends.map(|unix| Duration::from_secs(unix).saturating_sub(unix_now()));
        let age = [self.limits.connection_age_max, left].into_iter().flatten().min()?;
        Instant::now().checked_add(age)
    }
}

fn plain(tcp: TcpStream, address: SocketAddr, target: Target, h2: bool) -> Connection {
    Connection::plain(tcp, Facts::new(Peer::plaintext(address), h2, target))
}

/// Resolves when it is time to stop.
async fn told_to(stop: &mut watch::Receiver<bool>) -> bool {
    stop.wait_for(|stop| *stop).await.is_ok()
}

/// Counts a connection while it is open.
struct Open<'a> {
    metrics: &'a Metrics,
    labels: [&'static str; 2],
}

impl<'a> Open<'a> {
    fn new(metrics: &'a Metrics, labels: [&'static str; 2]) -> Self {
        metrics.connections.with_label_values(&labels).inc();
        metrics.connections_open.with_label_values(&labels).inc();
        Open { metrics, labels }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.metrics.connections_open.with_label_values(&self.labels).dec();
    }
}
