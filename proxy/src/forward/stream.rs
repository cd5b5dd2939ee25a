//! Carries one request to a server behind that speaks HTTP/2 without TLS (h2c), and its answer back, in one task: pieces,
//! both ways, trailers included, as gRPC wants them.
//!
//! Keeps at most one piece of the request, and of the answer what came together. Never sends a request twice.

use super::Handover;
use super::failure::error_of;
use super::streams::{Lease, Streams};
use super::telling::{cleanse, end, tell};
use super::wire;
use crate::error::Error;
use crate::until::until;
use bytes::Bytes;
use futures_util::FutureExt;
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};
use http::header::{CONTENT_LENGTH, EXPECT, HOST, TE, TRANSFER_ENCODING};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Request, Response, Uri, Version};
use pingora_core::protocols::http::{HttpTask, ServerSession};
use pingora_http::ResponseHeader;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::time::Instant;

/// What comes together is passed on together, up to so many bytes.
const GATHERED_MAX: usize = 64 << 10;

/// One exchange with the server.
struct Carriage<'a> {
    caller: &'a mut ServerSession,
    handover: &'a mut Handover,
    body_bytes_max: usize,
    to: SendStream<Bytes>,
    from: Reading,
    /// Of the request: what waits to be written, and whether all was taken.
    out: Bytes,
    asked: bool,
    head_sent: bool,
    /// Bytes of the answer that its server may send again once they are passed on.
    taken: usize,
    moved: Instant,
    /// Given back last.
    _lease: Lease,
}

/// How far the answer was read.
enum Reading {
    Head(ResponseFuture),
    Body(RecvStream),
}

/// What happened next.
enum Next {
    Head(Response<RecvStream>),
    Data(Bytes),
    End(Option<HeaderMap>),
    Wrote,
    WriteFailed,
    Piece(Option<Bytes>),
}

impl Handover {
    /// Whether the server is spoken to in HTTP/2.
    pub fn is_h2c(&self) -> bool {
        self.h2c
    }

    /// The whole passage, until the caller has all of the answer.
    pub async fn carry_stream(
        &mut self,
        caller: &mut ServerSession,
        streams: &Arc<Streams>,
        body_bytes_max: usize,
    ) -> Result<(), Error> {
        let request = self.stream_request(caller).await?;
        let bodiless = caller.is_body_empty();
        let first = if bodiless { None } else { first_piece(caller)? };
        let mut lease = self.stream(caller, streams).await?;
        let (from, to) = lease.send.send_request(request, bodiless).map_err(|error| fault(&error, false))?;
        let mut carriage = Carriage {
            caller,
            handover: self,
            body_bytes_max,
            to,
            from: Reading::Head(from),
            out: Bytes::new(),
            asked: bodiless,
            head_sent: false,
            taken: 0,
            moved: Instant::now(),
            _lease: lease,
        };
        if let Some(piece) = first {
            carriage.pass_on(piece)?;
        }
        carriage.run().await
    }

    /// The head as the server sees it.
    async fn stream_request(&mut self, caller: &mut ServerSession) -> Result<Request<()>, Error> {
        let kept = self.head.for_refusals();
        let authority = authority(caller);
        let mut head = std::mem::replace(&mut self.head, kept);
        let headers = &mut head.headers;
        if headers.contains_key(TRANSFER_ENCODING) {
            headers.remove(CONTENT_LENGTH);
        }
        let trailers = headers.get(TE).is_some_and(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"));
        cleanse(headers, self.gauge.reads())?;
        // The one that HTTP/2 knows (RFC 9113 §8.2.2); gRPC servers look for it.
        if trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
        headers.remove(HOST);
        let expects =
            headers.remove(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        if expects && head.version == Version::HTTP_11 {
            caller.write_continue_response().await.map_err(|_| Error::CallerLeft)?;
        }
        for edit in std::mem::take(&mut self.edits) {
            edit.apply(headers);
        }
        let target = match &head.query {
            Some(query) => PathAndQuery::from_maybe_shared(Bytes::from(format!("{}?{query}", head.path))),
            None => PathAndQuery::from_maybe_shared(Bytes::from(head.path)),
        };
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(Scheme::HTTP);
        uri.authority = Some(authority?);
        uri.path_and_query = Some(target.map_err(|_| Error::invalid("the request's path is none"))?);
        let mut request = Request::new(());
        *request.method_mut() = head.method;
        *request.uri_mut() = Uri::from_parts(uri).map_err(|_| Error::invalid("the request's target is none"))?;
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = head.headers;
        Ok(request)
    }

    /// A stream on a connection that takes it; while the server takes none, the request waits.
    async fn stream(&mut self, caller: &mut ServerSession, streams: &Arc<Streams>) -> Result<Lease, Error> {
        loop {
            self.settle_while_there(caller).await?;
            match streams.lease(&self.upstream, self.timeouts.connect).await {
                Ok(lease) => return Ok(lease),
                Err(_) if self.may_wait() => {}
                Err(_) => return Err(Error::WorkerGone),
            }
        }
    }
}

/// Whom the caller means. The authority of HTTP/2, or of an absolute form, says it better than any Host beside it
/// (RFC 9112 §3.2.2).
fn authority(caller: &ServerSession) -> Result<Authority, Error> {
    let header = caller.req_header();
    if let Some(authority) = header.uri.authority() {
        return Ok(authority.clone());
    }
    let host = header.headers.get(HOST).map_or(&b"localhost"[..], HeaderValue::as_bytes);
    Authority::try_from(host).map_err(|_| Error::invalid("the host header names no host"))
}

/// What of the body came with the head; `None` if nothing is there yet.
fn first_piece(caller: &mut ServerSession) -> Result<Option<Option<Bytes>>, Error> {
    match caller.read_request_body().now_or_never() {
        Some(piece) => piece.map(Some).map_err(|error| error_of(&error, false)),
        None => Ok(None),
    }
}

impl Reading {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Next, h2::Error>> {
        let body = match self {
            Reading::Head(future) => return future.poll_unpin(cx).map_ok(Next::Head),
            Reading::Body(body) => body,
        };
        match ready!(body.poll_data(cx)) {
            Some(data) => Poll::Ready(data.map(Next::Data)),
            None => body.poll_trailers(cx).map_ok(Next::End),
        }
    }
}

impl Carriage<'_> {
    async fn run(&mut self) -> Result<(), Error> {
        loop {
            match self.next().await? {
                Next::Wrote => self.moved = Instant::now(),
                // It may have answered before it stopped to listen, and then that is the answer.
                Next::WriteFailed => (self.asked, self.out) = (true, Bytes::new()),
                Next::Piece(piece) => self.pass_on(piece)?,
                answer => {
                    self.moved = Instant::now();
                    if self.relay(answer).await? {
                        return Ok(());
                    }
                }
            }
        }
    }

    async fn next(&mut self) -> Result<Next, Error> {
        let Carriage { caller, handover, to, from, out, asked, head_sent, .. } = self;
        let (may_take, head_sent, asked) = (out.is_empty() || *asked, *head_sent, *asked);
        let limit = handover.timeouts.silence_max(!out.is_empty());
        let late = until(limit.map(|limit| self.moved + limit));
        let moved = poll_fn(|cx| {
            if let Poll::Ready(read) = from.poll(cx) {
                return Poll::Ready(read.map_err(|error| fault(&error, head_sent)));
            }
            if out.is_empty() { Poll::Pending } else { poll_write(to, out, asked, cx).map(Ok) }
        });
        tokio::select! {
            biased;
            moved = moved => moved,
            // Once all was asked, this only tells that the caller has left.
            piece = caller.read_body_or_idle(asked), if may_take => {
                piece.map(Next::Piece).map_err(|error| error_of(&error, head_sent))
            }
            () = late => Err(Error::UpstreamTimeout),
            overdue = handover.deadlines.overdue() => Err(overdue),
        }
    }

    /// A piece of the request's body came, or its end.
    fn pass_on(&mut self, piece: Option<Bytes>) -> Result<(), Error> {
        if self.asked {
            return Ok(());
        }
        self.asked = piece.is_none() || self.caller.is_body_done();
        let piece = piece.unwrap_or_default();
        self.handover.taken(piece.len(), self.body_bytes_max)?;
        self.moved = Instant::now();
        if piece.len() <= self.to.capacity() || (piece.is_empty() && self.asked) {
            let _ = self.to.send_data(piece, self.asked);
        } else {
            self.to.reserve_capacity(piece.len());
            self.out = piece;
        }
        Ok(())
    }

    /// Passes on what came of the answer, and what else is there with it; true when that was all.
    async fn relay(&mut self, first: Next) -> Result<bool, Error> {
        let mut tasks = Vec::with_capacity(3);
        let mut ended = self.take(first, &mut tasks)?;
        while !ended && self.taken < GATHERED_MAX {
            let Some(next) = poll_fn(|cx| self.from.poll(cx)).now_or_never() else { break };
            match next {
                Ok(next) => ended = self.take(next, &mut tasks)?,
                // What came before it is passed on; it will be said again.
                Err(_) if !tasks.is_empty() => break,
                Err(error) => return Err(fault(&error, self.head_sent)),
            }
        }
        if !tasks.is_empty() {
            self.tell(tasks).await?;
        }
        let taken = std::mem::take(&mut self.taken);
        if let Reading::Body(body) = &mut self.from {
            let _ = body.flow_control().release_capacity(taken);
        }
        Ok(ended)
    }

    fn take(&mut self, next: Next, tasks: &mut Vec<HttpTask>) -> Result<bool, Error> {
        match next {
            Next::Head(response) => {
                let (parts, body) = response.into_parts();
                let ended = body.is_end_stream();
                tasks.push(HttpTask::Header(Box::new(self.head(parts, ended)?), ended));
                self.from = Reading::Body(body);
                Ok(ended)
            }
            Next::Data(data) => {
                self.taken += data.len();
                let mut piece = Some(data);
                self.handover.passes(&mut piece)?;
                tasks.extend(piece.map(|piece| HttpTask::Body(Some(piece), false)));
                // The last word was ours: what the server still says is not heard.
                let said = self.handover.said;
                if said {
                    end(tasks);
                }
                Ok(said)
            }
            Next::End(trailers) => {
                match trailers.filter(|_| self.caller.is_http2()) {
                    Some(trailers) => tasks.push(HttpTask::Trailer(Some(Box::new(trailers)))),
                    None => end(tasks),
                }
                Ok(true)
            }
            Next::Wrote | Next::WriteFailed | Next::Piece(_) => Ok(false),
        }
    }

    /// The head of the answer for the caller.
    fn head(&mut self, parts: http::response::Parts, ended: bool) -> Result<ResponseHeader, Error> {
        let mut headers = parts.headers;
        wire::cleanse_answer(&mut headers);
        let version = self.caller.req_header().version;
        self.handover.head_for(version, (parts.status, headers), ended)
    }

    async fn tell(&mut self, tasks: Vec<HttpTask>) -> Result<(), Error> {
        self.head_sent |= matches!(self.from, Reading::Body(_));
        tell(self.caller, tasks).await?;
        self.moved = Instant::now();
        Ok(())
    }
}

/// Writes as much as the server's windows have room for.
fn poll_write(to: &mut SendStream<Bytes>, out: &mut Bytes, last: bool, cx: &mut Context<'_>) -> Poll<Next> {
    match ready!(to.poll_capacity(cx)) {
        Some(Ok(room)) => {
            let piece = out.split_to(room.min(out.len()));
            let sent = to.send_data(piece, last && out.is_empty());
            Poll::Ready(if sent.is_ok() { Next::Wrote } else { Next::WriteFailed })
        }
        Some(Err(_)) | None => Poll::Ready(Next::WriteFailed),
    }
}

fn fault(error: &h2::Error, head_sent: bool) -> Error {
    // What the server itself resets, or breaks off, is its own doing; the rest is what we could make no sense of.
    let lost = head_sent || error.is_io() || error.is_go_away() || error.is_reset();
    match error.reason() {
        Some(Reason::PROTOCOL_ERROR | Reason::FRAME_SIZE_ERROR | Reason::COMPRESSION_ERROR) if !head_sent => {
            Error::WorkerNonsense { reason: "it broke the protocol".into() }
        }
        _ if lost => Error::WorkerLost,
        _ => Error::WorkerNonsense { reason: "it broke the protocol".into() },
    }
}
