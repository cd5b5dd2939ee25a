//! The one place where pingora's proxy is instantiated: a door that leads each request to the exchange, and those that
//! the exchange hands over to whoever carries them: `forward`, or pingora where the server speaks HTTP/2 or upgrades.
//!
//! Small on purpose: everything generic over it is compiled anew whenever it changes.

use crate::config::Config;
use crate::downstream::Downstream;
use crate::exchange::{Exchange, Outcome};
use crate::forward::{Handover, Pool};
use crate::knative::{self, Knative};
use crate::message::Part;
use crate::record::draw_id;
use async_trait::async_trait;
use bytes::Bytes;
use http::Uri;
use http::header::{FORWARDED, HOST};
use pingora_core::apps::HttpServerOptions;
use pingora_core::modules::http::HttpModules;
use pingora_core::protocols::http::v2::server::default_h2_options;
use pingora_core::server::configuration::ServerConf;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, HttpProxy, ProxyHttp, ProxyWarnLogContext, Session};
use std::sync::Arc;
use std::time::Duration;

pub type App = HttpProxy<Door>;

pub struct Door {
    exchange: Arc<Exchange>,
    /// Connections to a foreign server that speaks HTTP/1.1.
    pool: Arc<Pool>,
    /// In a Knative pod.
    knative: Option<Arc<Knative>>,
}

/// Receive windows of one stream and of one connection. With h2's own 64 KiB for both, one stream whose body waits
/// starves all others of the connection.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// One for each serving thread: connections to a foreign server stay on the thread that opened them.
pub fn app(exchange: Arc<Exchange>, config: &Config, knative: Option<Arc<Knative>>) -> Arc<App> {
    let unused_max = config.forward().map_or(Duration::ZERO, |forward| forward.idle_timeout);
    // pingora speaks no TLS for us towards anybody, so it need not load the machine's authorities.
    let conf = ServerConf { threads: 1, ca_file: Some("/dev/null".into()), ..ServerConf::default() };
    let mut app = HttpProxy::new(Door { exchange, pool: Pool::new(unused_max), knative }, Arc::new(conf));
    app.handle_init_modules();
    let mut options = HttpServerOptions::default();
    // We have seen the preface ourselves; pingora's own look at it has no timeout.
    options.h2c = false;
    options.h2_idle_timeout = Some(config.limits.idle_timeout);
    app.server_options = Some(options);
    let mut h2 = default_h2_options();
    h2.initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(config.limits.streams_max);
    app.h2_options = Some(h2);
    Arc::new(app)
}

/// Set while a foreign server answers.
type Context = Option<Box<Handover>>;

fn handed(context: &mut Context) -> Result<&mut Handover> {
    // `request_filter` lets nothing pass without one.
    context.as_deref_mut().ok_or_else(|| Error::new(ErrorType::InternalError))
}

impl Door {
    /// Carries a request to its end; whether anything may follow on the connection is pingora's to say.
    async fn carry(&self, session: &mut Session, mut handover: Box<Handover>) -> Result<bool> {
        let limits = &self.exchange.limits;
        let carried = handover.carry(session.as_downstream_mut(), &self.pool, limits.body_bytes_max).await;
        let Err(error) = carried else { return Ok(true) };
        let sent = session.response_written().is_some_and(|head| !head.status.is_informational());
        if let Some(parts) = handover.refused(error, sent) {
            self.refuse(session, parts, &handover.record.request_id).await;
        }
        Err(Error::new(ErrorType::ConnectionClosed).into_down())
    }

    /// What Knative says to its sidecars is heard here, before anybody is asked who he is. Whether that was all.
    async fn hears(&self, knative: &Knative, session: &mut Session) -> Result<bool> {
        if let Some(words) = knative.answer(&session.req_header().headers).await {
            self.refuse(session, words.parts(), &draw_id()).await;
            return Ok(true);
        }
        let request = session.req_header_mut();
        let mut headers = request.headers.clone();
        let said = knative::prepare(&mut headers);
        if headers == request.headers {
            return Ok(false);
        }
        let gone: Vec<_> = request.headers.keys().filter(|name| !headers.contains_key(*name)).cloned().collect();
        for name in gone {
            request.remove_header(&name);
        }
        for name in [HOST, FORWARDED] {
            if let Some(value) = headers.get(&name) {
                request.insert_header(name, value)?;
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
        Ok(false)
    }

    async fn refuse(&self, session: &mut Session, parts: Vec<Part>, request_id: &str) {
        let caller = Downstream::new(session.as_downstream_mut(), &self.exchange.limits);
        if let Some(mut caller) = caller
            && caller.send(parts, request_id).await.is_ok()
        {
            caller.linger().await;
        }
    }
}

#[async_trait]
impl ProxyHttp for Door {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        None
    }

    /// None: by default a compression module would sit in every request.
    fn init_downstream_modules(&self, _: &mut HttpModules) {}

    async fn request_filter(&self, session: &mut Session, context: &mut Context) -> Result<bool> {
        if let Some(knative) = &self.knative
            && self.hears(knative, session).await?
        {
            return Ok(true);
        }
        let caller = Downstream::new(session.as_downstream_mut(), &self.exchange.limits);
        let Some(caller) = caller else { return Err(Error::new(ErrorType::InternalError)) };
        match self.exchange.serve(caller).await {
            Outcome::Answered { to_the_end: true } => Ok(true),
            // Dropping the session resets the stream or closes the connection: an end nobody takes for a clean one.
            Outcome::Answered { to_the_end: false } => Err(Error::new(ErrorType::ConnectionClosed).into_down()),
            Outcome::HandedOver(handover) if handover.is_plain() => self.carry(session, handover).await,
            Outcome::HandedOver(handover) => {
                *context = Some(handover);
                Ok(false)
            }
        }
    }

    async fn upstream_peer(&self, _: &mut Session, context: &mut Context) -> Result<Box<HttpPeer>> {
        let handover = handed(context)?;
        if let Err(why) = handover.settle().await {
            return Err(handover.stop(why));
        }
        Ok(Box::new(handover.peer()?))
    }

    fn fail_to_connect(
        &self,
        _: &mut Session,
        _: &HttpPeer,
        context: &mut Context,
        mut error: Box<Error>,
    ) -> Box<Error> {
        let again = context.as_deref_mut().is_some_and(Handover::may_wait);
        error.set_retry(again);
        error
    }

    async fn request_body_filter(
        &self,
        _: &mut Session,
        body: &mut Option<Bytes>,
        _: bool,
        context: &mut Context,
    ) -> Result<()> {
        let bytes = body.as_ref().map_or(0, Bytes::len);
        let handover = handed(context)?;
        handover.taken(bytes, self.exchange.limits.body_bytes_max).map_err(|why| handover.stop(why))
    }

    async fn upstream_request_filter(
        &self,
        _: &mut Session,
        request: &mut RequestHeader,
        context: &mut Context,
    ) -> Result<()> {
        handed(context)?.prepare(request)
    }

    async fn response_filter(
        &self,
        _: &mut Session,
        response: &mut ResponseHeader,
        context: &mut Context,
    ) -> Result<()> {
        handed(context)?.answered(response);
        Ok(())
    }

    fn response_body_filter(
        &self,
        _: &mut Session,
        body: &mut Option<Bytes>,
        _: bool,
        context: &mut Context,
    ) -> Result<Option<Duration>> {
        let handover = handed(context)?;
        handover.passes(body).map_err(|why| handover.stop(why))?;
        Ok(None)
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, context: &mut Context) -> FailToProxy {
        let sent = session.response_written().is_some();
        let refusal = context.as_deref_mut().and_then(|handover| Some((handover.failed(error, sent)?, handover)));
        if let Some((parts, handover)) = refusal {
            self.refuse(session, parts, &handover.record.request_id).await;
        }
        FailToProxy { error_code: 0, can_reuse_downstream: false }
    }

    /// The access log has it already, in our own words.
    fn suppress_error_log(&self, _: &Session, _: &Context, _: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(&self, _: &Session, _: &Context, _: &Error, _: ProxyWarnLogContext) -> bool {
        true
    }
}
