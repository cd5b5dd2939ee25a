//! Requests of one http/1 connection, one after the other. Between two of them nothing is kept but the connection:
//! pingora's future for a request and its buffer are four fifths of what an idle connection would weigh.

use super::Connection;
use pingora_core::apps::{HttpPersistentSettings, HttpServerApp};
use pingora_core::protocols::http::ServerSession;
use std::sync::Arc;
use tokio::sync::watch;

/// Nothing is held against a caller who is only idle: the accept loop ends those that are silent for too long.
const KEEP_ALIVE_SECONDS: u64 = 60;

/// Serves until the connection ends or is not to be used again.
///
/// `told` to go, it takes one request more, and says so in its answer: the caller may be sending that request at this very
/// moment, and a closed door would lose it.
pub async fn serve<A: HttpServerApp>(mut connection: Box<Connection>, app: &Arc<A>, told: &watch::Receiver<bool>) {
    let mut settings = None;
    loop {
        // Bytes of a request that was sent too early may already be in pingora's hands: then nothing may be waited for.
        if connection.facts().is_even() && !matches!(connection.arrival().await, Ok(true)) {
            return;
        }
        let mut session = ServerSession::new_http1(connection);
        match settings.take() {
            Some(settings) => HttpPersistentSettings::apply_to_session(settings, &mut session),
            None => session.set_keepalive(Some(KEEP_ALIVE_SECONDS)),
        }
        if *told.borrow() {
            session.set_keepalive(None);
        }
        let Some(reused) = app.process_new_http(session, told).await else { return };
        let (stream, kept) = reused.consume();
        settings = kept;
        // It gives back what it was given.
        let Ok(same) = stream.into_any().downcast::<Connection>() else { return };
        connection = same;
    }
}
