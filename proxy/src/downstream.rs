//! pingora's session as the exchange wants it: a [`Head`] and a body in, [`Part`]s out, and whether the caller is still
//! there.
//!
//! Never decides anything about a request beyond its form. With accept, server and forward the only pingora.

mod framing;
mod grpc;
mod path;

pub use grpc::{is_grpc, timeout_of};
pub use path::canonical;

use crate::accept::{Busy, Facts};
use crate::config::Limits;
use crate::error::Error;
use crate::message::{Head, Part};
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, SERVER, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};
use pingora_core::protocols::http::{HttpTask, ServerSession};
use pingora_core::{Error as PingoraError, ErrorType};
use pingora_http::ResponseHeader;
use std::time::Duration;

/// A caller's `x-request-id` longer than this is replaced by our own.
const REQUEST_ID_BYTES_MAX: usize = 128;
/// After a refusal that came before the body was read: how long the rest of it is read and thrown away, because closing
/// a socket with unread data resets it, and the reset can overtake the refusal. Many clients write a whole body before
/// they look for an answer, so this must cover any body sent in good faith; nothing of it is kept.
const LINGER: Duration = Duration::from_secs(5);
const LINGER_BYTES_MAX: usize = 256 << 20;

/// One request and the way back to its caller.
pub struct Downstream<'a> {
    session: &'a mut ServerSession,
    busy: Busy,
    limits: &'a Limits,
    method: Method,
    /// What is wrong with where the request ends.
    framing: Result<(), &'static str>,
    body_read: bool,
    head_sent: bool,
    ended: bool,
}

impl<'a> Downstream<'a> {
    /// `None` if the connection is not one of [`crate::accept`]'s.
    pub fn new(session: &'a mut ServerSession, limits: &'a Limits) -> Option<Self> {
        let digest = session.digest()?.proxy_digest.as_ref()?;
        let busy = digest.user_data.as_ref()?.downcast_ref::<std::sync::Arc<Facts>>()?.begin();
        // Without it, a client that pipelines would look like one that breaks the protocol, and be cut.
        session.set_pipelining_enabled(true);
        // Ours is over the whole body.
        session.set_read_timeout(None);
        let framing = match &*session {
            ServerSession::H1(h1) => framing::check(&h1.get_headers_raw_bytes()),
            _ => Ok(()),
        };
        if framing.is_err() {
            // What follows on the connection may be a request, or not.
            session.set_keepalive(None);
        }
        if let ServerSession::H1(h1) = &*session {
            busy.facts().requests(bytes_of(h1.get_headers_raw_bytes().len(), &session.req_header().headers));
        }
        let method = session.req_header().method.clone();
        Some(Downstream { session, busy, limits, method, framing, body_read: false, head_sent: false, ended: false })
    }

    pub fn facts(&self) -> &Facts {
        self.busy.facts()
    }

    pub fn busy(&self) -> &Busy {
        &self.busy
    }

    /// Gives the request up to whoever answers it instead, unread and unanswered.
    pub fn into_busy(self) -> Busy {
        self.busy
    }

    /// A header as it came, before anything is known to be sane.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.session.req_header().headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// All headers as they came.
    pub fn headers(&self) -> &HeaderMap {
        &self.session.req_header().headers
    }

    /// Whom the caller means to speak to: `:authority`, or Host.
    pub fn authority(&self) -> &str {
        let authority = self.session.req_header().uri.authority().map(|authority| authority.as_str());
        authority.or_else(|| self.header("host")).unwrap_or("")
    }

    /// The caller's own id for this request, if it is fit for headers and logs.
    pub fn sane_request_id(&self) -> Option<&str> {
        let sane =
            |id: &&str| (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic());
        self.header("x-request-id").filter(sane)
    }

    /// The head, with the canonical path. With an error, the path is the caller's own and only good for a log.
    pub fn head(&self, request_id: String, arrived_unix_seconds: u64) -> (Head, Result<(), Error>) {
        let header = self.session.req_header();
        let raw = std::str::from_utf8(header.raw_path()).unwrap_or("");
        let canonical = path::canonical(path::of_target(raw));
        let (path, sane) = match canonical {
            Ok(path) => (path, self.framing.map_err(Error::invalid)),
            Err(error) => (header.uri.path().chars().take(256).collect(), Err(error)),
        };
        let head = Head {
            method: self.method.clone(),
            path,
            query: header.uri.query().map(str::to_owned),
            headers: header.headers.clone(),
            version: header.version,
            request_id,
            arrived_unix_seconds,
        };
        (head, sane)
    }

    /// The whole body, bounded in bytes and in time.
    pub async fn body(&mut self) -> Result<Bytes, Error> {
        let limit = self.limits.body_bytes_max;
        let too_large = Error::BodyTooLarge { limit_bytes: limit };
        let announced = self.header("content-length").and_then(|text| text.trim().parse::<u64>().ok());
        // Refused before `100 Continue`: a polite client then never sends it.
        if announced.is_some_and(|bytes| bytes > limit as u64) {
            return Err(too_large);
        }
        let expects = self.header("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue"));
        if expects && !self.facts().h2 {
            self.session.write_continue_response().await.map_err(|_| Error::CallerLeft)?;
        }
        let read = async {
            // The first piece as it is: most bodies come in one.
            let Some(first) = self.session.read_request_body().await.map_err(|error| broken_body(&error))? else {
                return Ok(Bytes::new());
            };
            let mut rest = BytesMut::new();
            while let Some(piece) = self.session.read_request_body().await.map_err(|error| broken_body(&error))? {
                if rest.is_empty() {
                    rest.reserve(announced.map_or(first.len() + piece.len(), |bytes| bytes as usize).min(limit));
                    rest.extend_from_slice(&first);
                }
                if rest.len() + piece.len() > limit {
                    return Err(too_large.clone());
                }
                rest.extend_from_slice(&piece);
            }
            let whole = if rest.is_empty() { first } else { rest.freeze() };
            if whole.len() > limit { Err(too_large.clone()) } else { Ok(whole) }
        };
        let seconds = self.limits.body_timeout.as_secs();
        let body = tokio::time::timeout(self.limits.body_timeout, read).await;
        let body = body.unwrap_or(Err(Error::BodyTimeout { seconds }));
        match &body {
            Ok(_) => self.body_read = true,
            // Where the next request would begin, nobody knows.
            Err(_) => self.session.set_keepalive(None),
        }
        body
    }

    /// Resolves when the caller has left. Consumes nothing, and may be dropped and called again.
    pub async fn gone(&mut self) {
        if let Some(closed) = self.session.watch_h2_stream_close() {
            let _ = closed.await;
        } else if self.body_read {
            // Pends for ever once a pipelined request is seen; returns when the connection ends.
            let _ = self.session.read_body_or_idle(true).await;
        } else {
            // The body is in the socket, and so would be the end: only the kernel can tell without reading.
            self.facts().hung_up().await;
        }
    }

    /// Sends parts of the answer; waits while the caller's window is full, but not for ever.
    pub async fn send(&mut self, parts: Vec<Part>, request_id: &str) -> Result<(), Error> {
        let tasks = self.tasks(parts, request_id)?;
        if tasks.is_empty() {
            return Ok(());
        }
        let sent = self.session.response_duplex_vec(tasks);
        match tokio::time::timeout(self.limits.write_timeout, sent).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => {
                self.ended = false;
                Err(Error::CallerLeft)
            }
        }
    }

    fn tasks(&mut self, parts: Vec<Part>, request_id: &str) -> Result<Vec<HttpTask>, Error> {
        let mut tasks = Vec::with_capacity(parts.len());
        let mut parts = parts.into_iter().peekable();
        while let Some(part) = parts.next() {
            let last = matches!(parts.peek(), Some(Part::End(None)));
            match part {
                Part::Head { status, headers } => {
                    let header = self.response(status, headers, last, request_id)?;
                    tasks.push(HttpTask::Header(Box::new(header), last));
                    self.head_sent = true;
                }
                Part::Body(bytes) if bytes.is_empty() && !last => continue,
                Part::Body(_) if self.method == Method::HEAD => continue,
                Part::Body(bytes) => tasks.push(HttpTask::Body(Some(bytes), last)),
                Part::End(None) => match tasks.last() {
                    Some(HttpTask::Header(_, true) | HttpTask::Body(_, true)) => self.ended = true,
                    _ => {
                        tasks.push(HttpTask::Body(None, true));
                        self.ended = true;
                    }
                },
                Part::End(Some(trailers)) => {
                    tasks.push(HttpTask::Trailer(Some(Box::new(trailers))));
                    self.ended = true;
                }
            }
        }
        Ok(tasks)
    }

    fn response(
        &self,
        status: StatusCode,
        headers: HeaderMap,
        empty: bool,
        request_id: &str,
    ) -> Result<ResponseHeader, Error> {
        let nonsense = |_| Error::WorkerNonsense { reason: "a header that is none".into() };
        let mut header = ResponseHeader::build_no_case(status, Some(headers.len() + 4)).map_err(nonsense)?;
        let mut insert = |name: http::HeaderName, value: HeaderValue| header.insert_header(name, value);
        insert(SERVER, HeaderValue::from_static("outrider")).map_err(nonsense)?;
        if let Ok(id) = HeaderValue::from_str(request_id) {
            insert(http::HeaderName::from_static("x-request-id"), id).map_err(nonsense)?;
        }
        let framed = headers.contains_key(CONTENT_LENGTH) || status == StatusCode::NO_CONTENT;
        if !self.facts().h2 && !framed && empty {
            insert(CONTENT_LENGTH, HeaderValue::from_static("0")).map_err(nonsense)?;
        } else if !self.facts().h2 && !framed && self.session.req_header().version == Version::HTTP_11 {
            // An http/1.0 client is told the end by the close of the connection.
            insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked")).map_err(nonsense)?;
        }
        for (name, value) in &headers {
            header.append_header(name, value).map_err(nonsense)?;
        }
        Ok(header)
    }

    /// Whether an answer's head is out.
    pub fn head_sent(&self) -> bool {
        self.head_sent
    }

    /// Whether the answer was sent to its end.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Reads and throws away what the caller still sends after a refusal, for a moment.
    pub async fn linger(&mut self) {
        if self.facts().h2 || self.body_read || self.session.is_body_done() {
            return;
        }
        let drain = async {
            let mut drained = 0;
            while let Ok(Some(piece)) = self.session.read_request_body().await {
                drained += piece.len();
                if drained > LINGER_BYTES_MAX {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(LINGER, drain).await;
    }
}

/// Head and body of an http/1 request; `None` where only its end will tell how long it is.
fn bytes_of(head: usize, headers: &HeaderMap) -> Option<u64> {
    let body: u64 = match headers.get(CONTENT_LENGTH) {
        _ if headers.contains_key(TRANSFER_ENCODING) => return None,
        Some(length) => length.to_str().ok()?.trim().parse().ok()?,
        None => 0,
    };
    body.checked_add(head as u64)
}

/// A body that could not be read: the caller left, or sent what is no body.
fn broken_body(error: &PingoraError) -> Error {
    match error.etype() {
        ErrorType::Custom("InvalidChunk" | "InvalidTrailerEnd") => {
            Error::invalid("the body's chunked encoding is broken")
        }
        _ => Error::CallerLeft,
    }
}

/// A refusal for a caller whose dialect is unknown.
pub fn neutral_refusal(head: &Head, verdict: &crate::error::Verdict) -> Vec<Part> {
    if is_grpc(head) && head.version == Version::HTTP_2 {
        return grpc::refusal(verdict);
    }
    let body = serde_json::json!({"error": verdict.words}).to_string();
    let status = StatusCode::from_u16(verdict.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    Part::whole(status, "application/json", body)
}

/// gRPC needs trailers, which http/1 callers cannot be given.
pub fn must_not_be_grpc_on_h1(head: &Head) -> Result<(), Error> {
    if is_grpc(head) && head.version != Version::HTTP_2 {
        let got = head.header(CONTENT_TYPE.as_str()).unwrap_or_default().chars().take(64).collect();
        return Err(Error::UnsupportedMediaType { got, want: "gRPC over HTTP/2, or JSON" });
    }
    Ok(())
}
