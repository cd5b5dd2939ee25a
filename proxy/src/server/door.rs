//! The one place where pingora's proxy is instantiated: a door that hands each request to the exchange and forwards none.
//!
//! Small on purpose: everything generic over it is compiled anew whenever it changes.

use crate::config::Config;
use crate::downstream::Downstream;
use crate::exchange::Exchange;
use async_trait::async_trait;
use pingora_core::apps::HttpServerOptions;
use pingora_core::modules::http::HttpModules;
use pingora_core::protocols::http::v2::server::default_h2_options;
use pingora_core::server::configuration::ServerConf;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorType, Result};
use pingora_proxy::{FailToProxy, HttpProxy, ProxyHttp, Session};
use std::sync::Arc;

pub type App = HttpProxy<Door>;

pub struct Door(Arc<Exchange>);

/// Receive windows of one stream and of one connection. With h2's own 64 KiB for both, one stream whose body waits
/// starves all others of the connection.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 16 << 20;

pub fn app(exchange: Arc<Exchange>, config: &Config) -> Arc<App> {
    let conf = ServerConf { threads: config.threads, ..ServerConf::default() };
    let mut app = HttpProxy::new(Door(exchange), Arc::new(conf));
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

#[async_trait]
impl ProxyHttp for Door {
    type CTX = ();

    fn new_ctx(&self) {}

    /// None: by default a compression module would sit in every request.
    fn init_downstream_modules(&self, _: &mut HttpModules) {}

    async fn request_filter(&self, session: &mut Session, _: &mut ()) -> Result<bool> {
        let caller = Downstream::new(session.as_downstream_mut(), &self.0.limits);
        let Some(caller) = caller else { return Err(Error::new(ErrorType::InternalError)) };
        if self.0.serve(caller).await {
            return Ok(true);
        }
        // Dropping the session resets the stream or closes the connection: an end nobody takes for a clean one.
        Err(Error::new(ErrorType::ConnectionClosed).into_down())
    }

    async fn upstream_peer(&self, _: &mut Session, _: &mut ()) -> Result<Box<HttpPeer>> {
        // `request_filter` answers every request itself.
        Err(Error::new(ErrorType::InternalError))
    }

    async fn fail_to_proxy(&self, _: &mut Session, _: &Error, _: &mut ()) -> FailToProxy {
        FailToProxy { error_code: 0, can_reuse_downstream: false }
    }

    /// The access log has it already, in our own words.
    fn suppress_error_log(&self, _: &Session, _: &(), _: &Error) -> bool {
        true
    }
}
