//! Carries one request to a server behind that speaks HTTP/1.1, and its answer back, in one task: head and body leave
//! together, and an answer that came in one piece goes on in one. Where both agree on another protocol (WebSocket), bytes.
//!
//! Keeps at most one piece of each direction. Never sends a request again of which a byte was written, and never reuses a
//! connection on which an answer did not end as it said.

use super::asking::{frame, take_what_is_there};
use super::failure::error_of;
use super::pods::{Kept, is_refusal};
use super::pool::{Link, Pool};
use super::telling::{end, tell};
use super::wire::{self, Answer, Body};
use super::{Handover, WRITE_TIMEOUT};
use crate::error::Error;
use crate::until::until;
use bytes::{Buf, Bytes, BytesMut};
use http::{Method, StatusCode, Version};
use pingora_core::protocols::http::{HttpTask, ServerSession};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::time::Instant;

/// After an upgrade, a server that was told that the caller has said all may go on for so long without a byte.
const LAST_BYTES: Duration = Duration::from_secs(5);

/// One exchange with the server.
struct Carriage<'a> {
    caller: &'a mut ServerSession,
    handover: &'a mut Handover,
    body_bytes_max: usize,
    link: Link,
    /// Of the request: what waits to be written, whether its body is framed in chunks, and whether all was taken.
    out: BytesMut,
    chunked: bool,
    asked: bool,
    /// What may have to be sent again.
    kept: Kept,
    /// It was sent to a pod without room, and may go elsewhere.
    refused: bool,
    /// Of the answer: what is still to come, once its head was there, and whether the connection may be used again.
    body: Option<Body>,
    keep: bool,
    write_failed: bool,
    head_sent: bool,
    /// After an upgrade: the caller has said all, and the server was told.
    shut: bool,
    /// When a byte last moved in the direction that is waited for.
    moved: Instant,
}

/// What happened next.
enum Next {
    Read(usize),
    Wrote(usize),
    WriteFailed,
    Piece(Option<Bytes>),
}

impl Handover {
    /// The whole passage, until the caller has all of the answer.
    pub async fn carry(
        &mut self,
        caller: &mut ServerSession,
        pool: &Arc<Pool>,
        body_bytes_max: usize,
    ) -> Result<(), Error> {
        let again = self.may_go_elsewhere();
        let (mut out, chunked) = self.request(caller)?;
        let mut asked = take_what_is_there(self, caller, (&mut out, chunked), body_bytes_max)?;
        let mut kept = Kept::begin(&out, again);
        loop {
            let link = self.send(caller, pool, &mut out).await?;
            let mut carriage = Carriage {
                caller: &mut *caller,
                handover: &mut *self,
                body_bytes_max,
                link,
                out,
                kept,
                chunked,
                asked,
                body: None,
                keep: false,
                write_failed: false,
                refused: false,
                head_sent: false,
                shut: false,
                moved: Instant::now(),
            };
            carriage.run().await?;
            let sent = carriage.asked && carriage.out.is_empty() && !carriage.write_failed;
            let Carriage { link, keep, refused, .. } = carriage;
            (asked, kept) = (carriage.asked, carriage.kept);
            if keep && sent {
                pool.give_back(&self.upstream, link);
            }
            let Some(whole) = kept.whole().filter(|_| refused) else { return Ok(()) };
            out = whole.clone();
            self.turned_away();
            self.settle_while_there(caller).await?;
        }
    }

    /// Writes the beginning on a connection that takes it. One of which nothing was taken may be replaced.
    async fn send(&mut self, caller: &mut ServerSession, pool: &Arc<Pool>, out: &mut BytesMut) -> Result<Link, Error> {
        loop {
            self.settle_while_there(caller).await?;
            let mut link = match pool.lease(&self.upstream, self.timeouts.connect).await {
                Ok(link) => link,
                Err(_) if self.may_wait() => continue,
                Err(_) => return Err(Error::WorkerGone),
            };
            let first = poll_fn(|cx| link.poll_write(cx, out));
            match tokio::time::timeout(WRITE_TIMEOUT, first).await {
                Ok(Ok(count)) => {
                    out.advance(count);
                    return Ok(link);
                }
                Ok(Err(_)) if link.reused => {}
                Ok(Err(_)) => return Err(Error::WorkerLost),
                Err(_) => return Err(Error::UpstreamTimeout),
            }
        }
    }
}

impl Carriage<'_> {
    async fn run(&mut self) -> Result<(), Error> {
        loop {
            match self.next().await? {
                Next::Read(0) => return self.ended().await,
                Next::Read(_) => {
                    self.moved = Instant::now();
                    if self.relay().await? {
                        return Ok(());
                    }
                }
                Next::Wrote(count) => {
                    self.moved = Instant::now();
                    self.out.advance(count);
                }
                // It may have answered before it closed, and then that is the answer.
                Next::WriteFailed => {
                    self.out.clear();
                    // What may be sent elsewhere is still taken in.
                    self.asked |= self.kept.whole().is_none();
                    self.write_failed = true;
                }
                Next::Piece(piece) => self.pass_on(piece)?,
            }
            if self.asked && self.handover.upgraded && self.out.is_empty() && !self.shut {
                self.shut = true;
                self.link.shut().await;
            }
        }
    }

    async fn next(&mut self) -> Result<Next, Error> {
        let Carriage { caller, handover, link, out, asked, head_sent, shut, .. } = self;
        // After the end of an upgraded connection's one side there is nothing to be heard from there.
        let (may_take, head_sent, shut) = ((out.is_empty() || *asked) && !*shut, *head_sent, *shut);
        let writing = !out.is_empty();
        let limit = if shut && !writing { Some(LAST_BYTES) } else { handover.timeouts.silence_max(writing) };
        let late = until(limit.map(|limit| self.moved + limit));
        let moved = poll_fn(|cx| {
            link.poll_flush(cx);
            if let Poll::Ready(read) = link.poll_read(cx) {
                return Poll::Ready(read.map(Next::Read).map_err(|_| Error::WorkerLost));
            }
            if out.is_empty() {
                return Poll::Pending;
            }
            link.poll_write(cx, out).map(|wrote| Ok(wrote.map_or(Next::WriteFailed, Next::Wrote)))
        });
        tokio::select! {
            biased;
            moved = moved => moved,
            // Once all was asked, this only tells that the caller has left; after a failed write, what comes is dropped.
            piece = caller.read_body_or_idle(false), if may_take => {
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
        self.handover.taken(piece.as_ref().map_or(0, Bytes::len), self.body_bytes_max)?;
        let before = self.out.len();
        frame(&mut self.out, self.chunked, piece.as_deref(), self.asked);
        self.kept.push(&self.out[before..]);
        if self.write_failed {
            self.out.clear();
        }
        self.moved = Instant::now();
        Ok(())
    }

    /// Passes on what was read of the answer; true when that was all.
    async fn relay(&mut self) -> Result<bool, Error> {
        let mut tasks = Vec::with_capacity(2);
        while self.body.is_none() {
            let head_only = self.handover.head.method == Method::HEAD;
            let read = wire::read_answer(&mut self.link.input, head_only).map_err(|why| self.nonsense(why))?;
            let Some(answer) = read else { return Ok(false) };
            if self.kept.whole().is_some() && is_refusal(answer.status, &answer.headers) {
                return self.turned_away(answer);
            }
            let interim = answer.status.is_informational() && answer.status != StatusCode::SWITCHING_PROTOCOLS;
            if let Some(task) = self.head(answer)? {
                tasks.push(task);
            }
            if interim && !tasks.is_empty() {
                self.tell(std::mem::take(&mut tasks)).await?;
            }
        }
        let done = self.pieces(&mut tasks)?;
        if !tasks.is_empty() {
            self.tell(tasks).await?;
        }
        Ok(done)
    }

    /// The answer is nobody's: the request goes elsewhere.
    fn turned_away(&mut self, answer: Answer) -> Result<bool, Error> {
        let mut body = answer.body;
        while body.take(&mut self.link.input).map_err(|why| self.nonsense(why))?.is_some() {}
        (self.refused, self.keep) = (true, answer.keep && body.is_done());
        Ok(true)
    }

    /// The head of the answer for the caller; `None` for what it would not understand.
    fn head(&mut self, answer: Answer) -> Result<Option<HttpTask>, Error> {
        let Answer { status, headers, body, keep } = answer;
        let switches = status == StatusCode::SWITCHING_PROTOCOLS;
        if switches && !self.caller.is_upgrade_req() {
            return Err(self.nonsense("it switches to a protocol nobody asked for"));
        }
        let version = self.caller.req_header().version;
        let response = self.handover.head_for(version, (status, headers), switches || body.is_done())?;
        if status.is_informational() && !switches {
            return Ok((version == Version::HTTP_11).then(|| HttpTask::Header(Box::new(response), false)));
        }
        let done = body.is_done();
        (self.body, self.keep) = (Some(body), keep);
        if switches {
            // From now on whatever comes from either side is the other's, as it is.
            (self.handover.upgraded, self.asked, self.chunked) = (true, false, false);
        }
        Ok(Some(HttpTask::Header(Box::new(response), done)))
    }

    /// Turns what was read of the body into tasks; true if it is complete.
    fn pieces(&mut self, tasks: &mut Vec<HttpTask>) -> Result<bool, Error> {
        let Some(body) = &mut self.body else { return Ok(false) };
        let (ended_with_head, mut said) = (body.is_done(), false);
        while let Some(piece) = body.take(&mut self.link.input).map_err(|why| nonsense(why, self.head_sent))? {
            let mut piece = Some(piece);
            self.handover.passes(&mut piece)?;
            tasks.extend(piece.map(|piece| match self.handover.upgraded {
                true => HttpTask::UpgradedBody(Some(piece), false),
                false => HttpTask::Body(Some(piece), false),
            }));
            if self.handover.said {
                // The last word was ours: what the server still says is not heard.
                (said, self.keep) = (true, false);
                break;
            }
        }
        if !said && !body.is_done() {
            return Ok(false);
        }
        if !ended_with_head {
            end(tasks);
        }
        Ok(true)
    }

    /// The server closed. That may be the end of its answer.
    async fn ended(&mut self) -> Result<(), Error> {
        self.keep = false;
        if self.body != Some(Body::UntilClose) {
            return Err(Error::WorkerLost);
        }
        let end = match self.handover.upgraded {
            true => HttpTask::UpgradedBody(None, true),
            false => HttpTask::Body(None, true),
        };
        self.tell(vec![end]).await
    }

    async fn tell(&mut self, tasks: Vec<HttpTask>) -> Result<(), Error> {
        self.head_sent |= self.body.is_some();
        tell(self.caller, tasks).await?;
        self.moved = Instant::now();
        Ok(())
    }

    fn nonsense(&self, why: wire::Nonsense) -> Error {
        nonsense(why, self.head_sent)
    }
}

fn nonsense(why: wire::Nonsense, head_sent: bool) -> Error {
    if head_sent { Error::WorkerLost } else { Error::WorkerNonsense { reason: why.into() } }
}
