//! The end of the server, in order. Never ends what still answers a caller before its time.

use super::door::App;
use crate::exchange::Exchange;
use pingora_core::apps::HttpServerApp;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// What the end of the server takes.
pub struct Drain<'a> {
    pub exchange: &'a Exchange,
    pub apps: Vec<Arc<App>>,
    pub halt: watch::Sender<bool>,
    pub cut: &'a watch::Sender<bool>,
    pub timeout: Duration,
    /// Closed when the last caller is gone.
    pub all_gone: mpsc::Receiver<()>,
}

impl Drain<'_> {
    /// Waits for the first word to stop, then ends in order: nobody new, then everybody out, at last the stragglers.
    /// Gives the moment by which all must be over.
    pub async fn when_told(mut self, stop: &mut mpsc::UnboundedReceiver<()>) -> Instant {
        stop.recv().await;
        let deadline = Instant::now() + self.timeout;
        tracing::info!(timeout_seconds = self.timeout.as_secs_f64(), "draining");
        // Readiness goes with it.
        self.exchange.admission.drain();
        // Listeners close; HTTP/2 connections get a GOAWAY, http/1 answers say `connection: close` …
        self.halt.send_replace(true);
        // … and idle http/1 connections are closed now.
        for app in &self.apps {
            app.http_cleanup().await;
        }
        tokio::select! {
            _ = self.all_gone.recv() => return deadline,
            () = tokio::time::sleep_until(deadline) => tracing::warn!("the drain timed out; what still runs is cut"),
            _ = stop.recv() => tracing::warn!("told twice; what still runs is cut"),
        }
        self.cut.send_replace(true);
        let _ = tokio::time::timeout(Duration::from_secs(1), self.all_gone.recv()).await;
        Instant::now()
    }
}
