//! The end of the server, in order: not ready any more, nobody new, everybody out, at last the stragglers.
//!
//! Never closes a door while callers may still be sent to it, and never ends what still answers one before its time.

use super::door::App;
use crate::config;
use crate::exchange::Exchange;
use crate::leaving::{Settle, Stage};
use crate::until::until;
use pingora_core::apps::HttpServerApp;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// How often it is looked who came.
const LOOK_PERIOD: Duration = Duration::from_millis(25);
/// What waits for the end is told before the process goes on to end.
const LAST_WORDS: Duration = Duration::from_millis(20);

/// What the end of the server takes.
pub struct Drain<'a> {
    pub exchange: &'a Exchange,
    pub apps: Vec<Arc<App>>,
    pub halt: watch::Sender<bool>,
    pub cut: &'a watch::Sender<bool>,
    pub config: &'a config::Drain,
    /// Closed when the last caller is gone.
    pub all_gone: mpsc::Receiver<()>,
}

/// Who wants it to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// A signal.
    Told,
    /// A hook of the pod; the signal is still to come.
    Asked,
    /// A newer server has the doors, and what runs here may take its time.
    Succeeded(Duration),
}

impl Drain<'_> {
    /// Waits for the first word to leave, then does, in order. Gives the moment by which all must be over.
    ///
    /// `succeeded` resolves when a newer server has taken over, with how long it waits for us.
    pub async fn when_told(
        mut self,
        stop: &mut mpsc::UnboundedReceiver<()>,
        succeeded: impl Future<Output = Duration>,
    ) -> Instant {
        let leaving = self.exchange.leaving.clone();
        let cause = tokio::select! {
            biased;
            _ = stop.recv() => Cause::Told,
            timeout = succeeded => Cause::Succeeded(timeout),
            () = leaving.reached(Stage::Settling) => Cause::Asked,
        };
        tracing::info!(?cause, "leaving");
        // Readiness goes with it.
        leaving.begin();
        let mut told = usize::from(cause == Cause::Told);
        if !matches!(cause, Cause::Succeeded(_)) {
            told = self.settle(stop, told).await;
        }
        let limit = match cause {
            Cause::Succeeded(timeout) => Some(timeout),
            _ => (told > 0).then_some(self.config.timeout),
        };
        let deadline = self.close(stop, told, limit).await;
        leaving.reach(Stage::Gone);
        match deadline {
            Some(deadline) => {
                tokio::time::sleep(LAST_WORDS).await;
                deadline
            }
            // The app may still need the way out, to say goodbye.
            None => {
                tracing::info!("drained; waiting to be ended");
                stop.recv().await;
                Instant::now() + self.config.timeout
            }
        }
    }

    /// Serves whoever still comes, until nobody does; gives how often it was told to end by then.
    async fn settle(&self, stop: &mut mpsc::UnboundedReceiver<()>, mut told: usize) -> usize {
        let began = Instant::now();
        let mut settle = Settle::new(self.config.quiet, self.config.settle_max);
        let leaving = &self.exchange.leaving;
        while told < 2 && !settle.is_over(began.elapsed(), leaving.arrivals(), leaving.is_forgotten()) {
            tokio::select! {
                () = tokio::time::sleep(LOOK_PERIOD) => {}
                _ = stop.recv() => told += 1,
            }
        }
        tracing::info!(seconds = began.elapsed().as_secs_f64(), arrivals = leaving.arrivals(), "settled");
        told
    }

    /// Nobody new, everybody out, at last the stragglers. `None`: it never was told to end.
    async fn close(
        &mut self,
        stop: &mut mpsc::UnboundedReceiver<()>,
        mut told: usize,
        limit: Option<Duration>,
    ) -> Option<Instant> {
        let mut deadline = limit.map(|limit| Instant::now() + limit);
        self.exchange.leaving.reach(Stage::Closing);
        // Listeners close; HTTP/2 connections get a GOAWAY, http/1 answers say `connection: close` …
        self.halt.send_replace(true);
        // … and http/1 connections that wait within pingora are closed now.
        for app in &self.apps {
            app.http_cleanup().await;
        }
        while told < 2 {
            tokio::select! {
                _ = self.all_gone.recv() => return deadline,
                () = until(deadline) => {
                    tracing::warn!("the drain timed out; what still runs is cut");
                    break;
                }
                _ = stop.recv() => {
                    told += 1;
                    let soon = Instant::now() + self.config.timeout;
                    deadline = Some(deadline.map_or(soon, |deadline| deadline.min(soon)));
                }
            }
        }
        self.cut.send_replace(true);
        let _ = tokio::time::timeout(Duration::from_secs(1), self.all_gone.recv()).await;
        Some(Instant::now())
    }
}
