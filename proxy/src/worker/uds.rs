//! The worker over its Unix socket.
//!
//! One HTTP/2 connection for each runtime thread, so that no request crosses threads; tonic reconnects by itself when a
//! new worker binds the socket.

use super::{Events, Worker};
use crate::dialects::{Ask, Event};
use crate::error::Error;
use async_trait::async_trait;
use futures_util::{StreamExt, future, stream};
use hyper_util::rt::TokioIo;
use outrider_protos::worker::v1;
use outrider_protos::worker::v1::worker_client::WorkerClient;
use std::cell::Cell;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;
use tokio::net::UnixStream;
use tonic::Status;
use tonic::transport::{Channel, Endpoint, Uri};

/// A tensor of sixteen million floats, or an embedding batch; matches the worker's own limit.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// Prompts of one [`Ask::GenerateMany`] that run at once: enough to fill a batch, not enough to starve everybody else.
const PROMPTS_AT_ONCE: usize = 8;
/// On one machine a connection is there at once or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

thread_local! {
    static SEAT: Cell<usize> = const { Cell::new(0) };
}

/// Tells which of the server's runtimes this thread runs, from 0. Called once by each thread at its start.
pub fn take_seat(seat: usize) {
    SEAT.with(|cell| cell.set(seat));
}

/// Which runtime this thread runs.
pub fn seat() -> usize {
    SEAT.with(Cell::get)
}

pub struct Uds {
    socket: PathBuf,
    /// By seat. A channel is bound to the runtime it was made in.
    clients: Box<[OnceLock<WorkerClient<Channel>>]>,
}

impl Uds {
    /// Connects when first asked. `seats`: runtimes that will ask.
    pub fn new(socket: PathBuf, seats: usize) -> Self {
        Uds { socket, clients: (0..seats.max(1)).map(|_| OnceLock::new()).collect() }
    }

    fn client(&self) -> WorkerClient<Channel> {
        let seat = seat().min(self.clients.len() - 1);
        self.clients[seat].get_or_init(|| connect(self.socket.clone())).clone()
    }
}

fn connect(socket: PathBuf) -> WorkerClient<Channel> {
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://worker.local")
        .connect_timeout(CONNECT_TIMEOUT)
        // A window smaller than a large tensor only adds round trips; memory is bounded by the message limit.
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(16 << 20)
        .connect_with_connector_lazy(connector);
    WorkerClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// What a gRPC status means: the worker's own words, or a connection that broke.
///
/// tonic gives a status a source when it made the status itself out of a transport's error, and never otherwise.
fn error_of(status: Status, started: bool) -> Error {
    match std::error::Error::source(&status) {
        Some(cause) => {
            tracing::debug!(started, %status, cause, "the connection to the worker broke");
            match started {
                true => Error::WorkerLost,
                false if was_absent(cause) => Error::WorkerAbsent,
                false => Error::WorkerGone,
            }
        }
        None => Error::Worker { code: status.code() as i32, message: status.message().to_owned() },
    }
}

/// Whether nobody took the connection, so that nothing of the request can have reached anybody.
fn was_absent(cause: &(dyn std::error::Error + 'static)) -> bool {
    let chain = std::iter::successors(Some(cause), |error| error.source());
    let mut kinds = chain.filter_map(|error| Some(error.downcast_ref::<std::io::Error>()?.kind()));
    kinds.any(|kind| matches!(kind, std::io::ErrorKind::ConnectionRefused | std::io::ErrorKind::NotFound))
}

fn before(status: Status) -> Error {
    error_of(status, false)
}

/// One prompt: its events, told apart by its place, without a `Done`.
fn generate(client: WorkerClient<Channel>, prompt: usize, request: v1::GenerateRequest) -> Events {
    let call = async move {
        let mut client = client;
        client.generate(request).await.map(tonic::Response::into_inner).map_err(before)
    };
    let events = stream::once(call).flat_map(move |answer| match answer {
        Err(error) => stream::once(future::ready(Err(error))).boxed(),
        Ok(events) => {
            let mut started = false;
            let tag = move |event: Result<v1::GenerateEvent, Status>| {
                let event = event.map_err(|status| error_of(status, started));
                started = true;
                event.map(|event| Event::Generate { prompt, event })
            };
            events.map(tag).boxed()
        }
    });
    Box::pin(events)
}

fn done() -> Events {
    Box::pin(stream::once(future::ready(Ok(Event::Done))))
}

/// One call with one answer.
fn unary(answer: impl Future<Output = Result<Event, Status>> + Send + 'static) -> Events {
    let answer = stream::once(async move { answer.await.map_err(before) });
    Box::pin(answer.chain(done()))
}

#[async_trait]
impl Worker for Uds {
    fn ask(&self, ask: Ask) -> Events {
        let mut client = self.client();
        match ask {
            Ask::Generate(request) => Box::pin(generate(client, 0, request).chain(done())),
            Ask::GenerateMany(requests) => {
                let calls = requests.into_iter().enumerate();
                let calls = stream::iter(calls.map(move |(at, request)| generate(client.clone(), at, request)));
                Box::pin(calls.flatten_unordered(PROMPTS_AT_ONCE).chain(done()))
            }
            Ask::Embed(request) => {
                unary(async move { client.embed(request).await.map(|r| Event::Embedded(r.into_inner())) })
            }
            Ask::Infer(request) => {
                unary(async move { client.infer(request).await.map(|r| Event::Inferred(r.into_inner())) })
            }
            Ask::Tokenize(request) => {
                unary(async move { client.tokenize(request).await.map(|r| Event::Tokenized(r.into_inner())) })
            }
            Ask::Detokenize(request) => {
                unary(async move { client.detokenize(request).await.map(|r| Event::Detokenized(r.into_inner())) })
            }
            Ask::About { .. } => done(),
        }
    }

    async fn models(&self) -> Result<Vec<v1::Model>, Error> {
        let request = v1::ModelInfoRequest { model: String::new() };
        Ok(self.client().model_info(request).await.map_err(before)?.into_inner().models)
    }

    async fn ready(&self) -> Result<v1::ReadyResponse, Error> {
        Ok(self.client().ready(v1::ReadyRequest {}).await.map_err(before)?.into_inner())
    }

    async fn lifecycle(&self, action: v1::lifecycle_request::Action) -> Result<v1::LifecycleResponse, Error> {
        let request = v1::LifecycleRequest { action: action as i32 };
        Ok(self.client().lifecycle(request).await.map_err(before)?.into_inner())
    }
}

#[cfg(test)]
mod tests;
