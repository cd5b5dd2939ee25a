//! One of the threads that serve callers, with a runtime of its own.
//!
//! Decides nothing: it accepts until it is told to halt, and ends when its callers have.

use super::door::App;
use super::memory;
use super::way_out::Door;
use crate::accept::Acceptor;
use crate::worker::take_seat;
use prometheus::IntGauge;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Builder;
use tokio::sync::{mpsc, watch};
use tokio_util::task::TaskTracker;

/// How long a stream that is cut may take to carry its error event.
const CUT_LINGER: Duration = Duration::from_millis(300);

/// One serving thread.
pub struct Seat {
    pub number: usize,
    pub listener: TcpListener,
    pub acceptor: Arc<Acceptor>,
    pub app: Arc<App>,
    pub halted: watch::Receiver<bool>,
    pub to_cut: watch::Receiver<bool>,
    pub door: Option<Door>,
    /// All there are.
    pub callers: IntGauge,
    /// Dropped when the last caller is gone.
    pub alive: mpsc::Sender<()>,
}

impl Seat {
    /// On a thread of its own; `seated` is dropped when that ends.
    pub fn begin(self, seated: mpsc::Sender<()>) -> std::io::Result<()> {
        let number = self.number;
        let begun = std::thread::Builder::new().name(format!("outrider-{number}")).spawn(move || {
            let _seated = seated;
            if let Err(error) = self.serve() {
                tracing::error!(number, %error, "a serving thread ended");
            }
        });
        begun.map(drop)
    }

    /// The thread's life: accept until halted, then wait for its connections, until cut.
    fn serve(self) -> std::io::Result<()> {
        let Seat { number, listener, acceptor, app, halted, mut to_cut, door, callers, alive } = self;
        take_seat(number);
        let runtime = Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let way_out = door.map(|door| tokio::spawn(door.serve()));
            tokio::spawn(memory::give_back(callers));
            let tracker = TaskTracker::new();
            acceptor.serve(listener, app, halted, tracker.clone()).await;
            tracker.close();
            tokio::select! {
                () = tracker.wait() => {}
                // Exchanges hear of it too: streams get their error event, and a moment to carry it.
                _ = to_cut.wait_for(|cut| *cut) => drop(tokio::time::timeout(CUT_LINGER, tracker.wait()).await),
            }
            drop(alive);
            match way_out {
                Some(way_out) => way_out.await.unwrap_or(Ok(())),
                None => Ok(()),
            }
        })
        // Dropping the runtime drops what still runs; each exchange writes its record as it goes.
    }
}
