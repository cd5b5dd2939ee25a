//! The beginning of a request as a server behind that speaks HTTP/1.1 sees it: its head, and what of its body came with it.
//!
//! Never passes on what was only about the connection the request came on, but for an upgrade that we understand.

use super::failure::error_of;
use super::telling::cleanse;
use super::{Handover, wire};
use crate::error::Error;
use bytes::BytesMut;
use futures_util::FutureExt;
use http::HeaderValue;
use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING, UPGRADE};
use pingora_core::protocols::http::ServerSession;

impl Handover {
    /// The head as the server sees it, and whether the body goes in chunks.
    pub(super) fn request(&mut self, caller: &mut ServerSession) -> Result<(BytesMut, bool), Error> {
        let bodiless = caller.is_body_empty();
        let head = &mut self.head;
        let protocol =
            head.headers.get(UPGRADE).filter(|protocol| caller.is_upgrade_req() && !is_h2c(protocol)).cloned();
        // By the caller's framing: its length, unless it sends chunks.
        let by_length = !head.headers.contains_key(TRANSFER_ENCODING) && head.headers.contains_key(CONTENT_LENGTH);
        let chunked = !bodiless && !by_length;
        cleanse(&mut head.headers, self.gauge.reads())?;
        if let Some(protocol) = protocol {
            wire::set_upgrade(&mut head.headers, protocol);
        }
        for edit in std::mem::take(&mut self.edits) {
            edit.apply(&mut head.headers);
        }
        wire::join_cookies(&mut head.headers);
        // The authority of an absolute form, or of HTTP/2, says it better than any Host beside it (RFC 9112 §3.2.2).
        let authority = caller.req_header().uri.authority().map(|authority| authority.as_str().as_bytes());
        let host = authority.or_else(|| head.headers.get(HOST).map(HeaderValue::as_bytes)).unwrap_or_default();
        let mut out = BytesMut::with_capacity(4 << 10);
        wire::write_head(&mut out, &head.method, (&head.path, head.query.as_deref()), host);
        if chunked {
            head.headers.remove(CONTENT_LENGTH);
            wire::write_line(&mut out, &TRANSFER_ENCODING, &HeaderValue::from_static("chunked"));
        }
        wire::write_headers(&mut out, &head.headers);
        out.extend_from_slice(b"\r\n");
        Ok((out, chunked))
    }
}

/// HTTP/2 in the place of HTTP/1.1 (RFC 7540 §3.2, withdrawn by RFC 9113): a server that took it would hear requests from
/// then on that no policy has seen.
fn is_h2c(protocol: &HeaderValue) -> bool {
    let mut names = protocol.as_bytes().split(|byte| *byte == b',');
    names.any(|name| name.trim_ascii().eq_ignore_ascii_case(b"h2c"))
}

/// What of the body came with the head goes with the head. Returns whether that was all of it.
pub(super) fn take_what_is_there(
    handover: &mut Handover,
    caller: &mut ServerSession,
    (out, chunked): (&mut BytesMut, bool),
    body_bytes_max: usize,
) -> Result<bool, Error> {
    if caller.is_body_empty() {
        return Ok(true);
    }
    match caller.read_request_body().now_or_never() {
        Some(Ok(Some(piece))) => {
            let done = caller.is_body_done();
            handover.taken(piece.len(), body_bytes_max)?;
            frame(out, chunked, Some(&piece), done);
            Ok(done)
        }
        Some(Ok(None)) => {
            frame(out, chunked, None, true);
            Ok(true)
        }
        Some(Err(error)) => Err(error_of(&error, false)),
        None => Ok(false),
    }
}

/// A piece of the body, or its end, as the server wants it.
pub(super) fn frame(out: &mut BytesMut, chunked: bool, piece: Option<&[u8]>, done: bool) {
    match piece {
        // An empty chunk would be the last one.
        Some(piece) if chunked && !piece.is_empty() => wire::write_chunk(out, piece),
        Some(piece) => out.extend_from_slice(piece),
        None => {}
    }
    if chunked && done {
        out.extend_from_slice(wire::LAST_CHUNK);
    }
}
