//! `worker.v1` over the Unix socket: RPC ↔ engine mailbox. The only room that knows tonic.
//!
//! The socket is bound first and the models load behind it, so that Ready and Lifecycle always answer. Nothing that
//! computes runs on the reactor: tokenizing and templates go to blocking threads, programs to the engine's thread.

mod catalog;
mod embed;
mod generate;
mod infer;
mod lifecycle;
mod prompt;
mod service;
mod socket;
mod status;

use std::sync::Arc;
use std::time::Duration;

use outrider_protos::worker::v1::worker_server::WorkerServer;
use tokio::signal::unix::{SignalKind, signal};
use tonic::transport::Server;

use crate::config::Config;
use crate::error::StartError;
use lifecycle::{Lifecycle, Wish};
pub use socket::{Socket, SocketError};

/// Bytes of one message, either way.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// After a failed start the reason stays to be asked for this long.
const FAILED_LINGER: Duration = Duration::from_millis(500);
/// Aborted streams get this long to carry their last event.
const ABORT_LINGER: Duration = Duration::from_secs(2);
/// Connections get this long to close once nothing runs.
const CLOSE_LINGER: Duration = Duration::from_millis(500);

/// Serves until a signal or a Lifecycle call ends it. Needs a tokio runtime with time and IO.
///
/// # Errors
/// The socket cannot be bound, a model cannot be loaded, or an engine died.
pub async fn run(config: Config) -> Result<(), StartError> {
    let socket = Socket::bind(&config.socket)?;
    tracing::info!(socket = %config.socket.display(), "listening");
    let lifecycle = Arc::new(Lifecycle::new());
    let drain_max = Duration::from_secs(config.drain_seconds_max);
    let service = service::Service::new(Arc::clone(&lifecycle), config.limits);
    {
        let lifecycle = Arc::clone(&lifecycle);
        // A plain thread: it computes, and the process may end without it.
        let spawned =
            std::thread::Builder::new().name("loader".into()).spawn(move || catalog::load(&config, &lifecycle));
        spawned.map_err(StartError::Runtime)?;
    }
    listen_to_signals(Arc::clone(&lifecycle)).map_err(StartError::Runtime)?;

    let worker = WorkerServer::new(service)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let (closing, closed) = tokio::sync::oneshot::channel::<()>();
    let serving = Server::builder()
        // One sidecar holds one connection: let a large prompt or tensor through without waiting for updates.
        .initial_stream_window_size(Some(1 << 20))
        .initial_connection_window_size(Some(4 << 20))
        .serve_with_incoming_shutdown(worker, socket.connections(), async {
            let _ = closed.await;
        });
    tokio::pin!(serving);
    let outcome = tokio::select! {
        result = &mut serving => Err(StartError::Serve(result.err().map_or("no more connections".into(), |e| e.to_string()))),
        outcome = wind_down(&lifecycle, drain_max) => outcome,
    };
    if closing.send(()).is_ok() {
        let _ = tokio::time::timeout(CLOSE_LINGER, serving).await;
    }
    outcome
}

/// Waits for the wish to end, then for the work to end.
async fn wind_down(lifecycle: &Lifecycle, drain_max: Duration) -> Result<(), StartError> {
    let mut wishes = lifecycle.wishes();
    let ended = wishes.wait_for(|wish| !matches!(wish, Wish::Serve)).await;
    let wish = ended.map(|wish| wish.clone()).unwrap_or(Wish::Stop);
    match wish {
        Wish::Failed(error) => {
            tokio::time::sleep(FAILED_LINGER).await;
            return Err(StartError::Failed(error));
        }
        Wish::Drain => {
            tracing::info!(seconds_max = drain_max.as_secs(), "draining");
            lifecycle.drain_engines();
            tokio::select! {
                () = lifecycle.idle() => {}
                () = tokio::time::sleep(drain_max) => tracing::warn!("drain took too long; aborting what runs"),
                // A second signal, or ACTION_STOP.
                _ = wishes.wait_for(|wish| matches!(wish, Wish::Stop)) => {}
            }
        }
        Wish::Serve | Wish::Stop => {}
    }
    lifecycle.stop_engines();
    let _ = tokio::time::timeout(ABORT_LINGER, lifecycle.idle()).await;
    tracing::info!("ending");
    Ok(())
}

/// The first SIGTERM or SIGINT drains, the second stops.
fn listen_to_signals(lifecycle: Arc<Lifecycle>) -> std::io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            lifecycle.drain_or_stop();
        }
    });
    Ok(())
}
