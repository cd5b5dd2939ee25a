//! What pingora leads each request to: the exchange, and those that the exchange hands over, to `forward`.
//!
//! pingora reads heads, frames bodies and keeps connections; nothing is decided here but whether a connection goes on.

use crate::config::Config;
use crate::downstream::Downstream;
use crate::exchange::{Exchange, Outcome};
use crate::forward::{Handover, Pool, Streams};
use crate::knative::{self, Knative};
use crate::message::Part;
use crate::record::draw_id;
use async_trait::async_trait;
use http::header::{FORWARDED, HOST};
use http::{Method, Uri};
use pingora_core::ErrorType;
use pingora_core::apps::{HttpPersistentSettings, HttpServerApp, HttpServerOptions, ReusedHttpStream};
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v2::server::{H2Options, default_h2_options};
use pingora_core::server::ShutdownWatch;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

pub struct App {
    exchange: Arc<Exchange>,
    /// Connections to a foreign server that speaks HTTP/1.1, and h2c.
    pool: Arc<Pool>,
    streams: Arc<Streams>,
    /// In a Knative pod.
    knative: Option<Arc<Knative>>,
    options: HttpServerOptions,
    h2: H2Options,
    /// Connections on which nothing has begun close.
    closing: CancellationToken,
}

/// Receive windows of one stream and of one connection. With h2's own 64 KiB for both, one stream whose body waits
/// starves all others of the connection.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 16 << 20;

impl App {
    /// One for each serving thread: connections to a foreign server stay on the thread that opened them.
    pub fn new(exchange: Arc<Exchange>, config: &Config, knative: Option<Arc<Knative>>) -> Arc<App> {
        let unused_max = config.unused_max();
        let mut options = HttpServerOptions::default();
        // We have seen the preface ourselves; pingora's own look at it has no timeout.
        options.h2c = false;
        options.h2_idle_timeout = Some(config.limits.idle_timeout);
        let mut h2 = default_h2_options();
        h2.initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(config.limits.streams_max);
        let (pool, streams) = (Pool::new(unused_max), Streams::new(unused_max));
        Arc::new(App { exchange, pool, streams, knative, options, h2, closing: CancellationToken::new() })
    }

    /// Waits for a head that can be read; `false` if none will come.
    async fn opens(&self, session: &mut ServerSession) -> bool {
        let read = tokio::select! {
            biased;
            read = session.read_request() => read,
            () = self.closing.cancelled() => return false,
        };
        match read {
            // Tunnels have no place for any of our stages.
            Ok(true) if session.req_header().method == Method::CONNECT => {
                let _ = session.respond_error(405).await;
                session.shutdown().await;
                false
            }
            Ok(more) => more,
            Err(error) => {
                if *error.etype() == ErrorType::InvalidHTTPHeader {
                    let _ = session.respond_error(400).await;
                }
                session.shutdown().await;
                false
            }
        }
    }

    /// From head to end; whether the answer reached it.
    async fn answer(&self, session: &mut ServerSession) -> bool {
        let mut _counted = None;
        if let Some(knative) = &self.knative {
            let Some(proxied) = self.hears(knative, session).await else { return true };
            _counted = knative.count(proxied);
        }
        let Some(caller) = Downstream::new(session, &self.exchange.limits) else { return false };
        match self.exchange.serve(caller).await {
            Outcome::Answered { to_the_end } => to_the_end,
            Outcome::HandedOver(handover) => self.carry(session, handover).await,
        }
    }

    async fn carry(&self, session: &mut ServerSession, mut handover: Box<Handover>) -> bool {
        let bytes_max = self.exchange.limits.body_bytes_max;
        let carried = match handover.is_h2c() {
            true => handover.carry_stream(session, &self.streams, bytes_max).await,
            false => handover.carry(session, &self.pool, bytes_max).await,
        };
        let Err(error) = carried else { return true };
        let sent = session.response_written().is_some_and(|head| !head.status.is_informational());
        if let Some(parts) = handover.refused(error, sent) {
            self.refuse(session, parts, &handover.record.request_id).await;
        }
        false
    }

    /// What Knative says to its sidecars is heard here, before anybody is asked who he is. `None` if that was
    /// all; else whether an activator passed the request on.
    async fn hears(&self, knative: &Knative, session: &mut ServerSession) -> Option<bool> {
        if !knative.probes {
            return Some(false);
        }
        if let Some(words) = knative.answer(&session.req_header().headers).await {
            self.refuse(session, words.parts(), &draw_id()).await;
            return None;
        }
        let request = session.req_header_mut();
        let mut headers = request.headers.clone();
        let said = knative::prepare(&mut headers);
        if headers == request.headers {
            return Some(said.proxied);
        }
        let gone: Vec<_> = request.headers.keys().filter(|name| !headers.contains_key(*name)).cloned().collect();
        for name in gone {
            request.remove_header(&name);
        }
        for name in [HOST, FORWARDED] {
            if let Some(value) = headers.get(&name) {
                let _ = request.insert_header(name, value);
            }
        }
        if let Some(host) = said.host.filter(|_| request.uri.authority().is_some()) {
            let mut parts = request.uri.clone().into_parts();
            parts.authority = Some(host);
            // A request line that made sense still does with another host in it.
            if let Ok(uri) = Uri::from_parts(parts) {
                request.set_uri(uri);
            }
        }
        Some(said.proxied)
    }

    async fn refuse(&self, session: &mut ServerSession, parts: Vec<Part>, request_id: &str) {
        if let Some(mut caller) = Downstream::new(session, &self.exchange.limits)
            && caller.send(parts, request_id).await.is_ok()
        {
            caller.linger().await;
        }
    }
}

#[async_trait]
impl HttpServerApp for App {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        if !self.opens(&mut session).await {
            return None;
        }
        if *shutdown.borrow() {
            session.set_keepalive(None);
        }
        // In a box of its own: connections that wait for a request have no room for one.
        if !Box::pin(self.answer(&mut session)).await {
            // Dropping the session resets the stream or closes the connection: an end nobody takes for a clean one.
            return None;
        }
        let settings = HttpPersistentSettings::for_session(&session);
        let reusable = session.finish().await.ok().flatten()?;
        Some(ReusedHttpStream::from_reusable_stream(reusable, settings))
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.options)
    }

    fn h2_options(&self) -> Option<H2Options> {
        Some(self.h2.clone())
    }

    async fn http_cleanup(&self) {
        self.closing.cancel();
    }
}
