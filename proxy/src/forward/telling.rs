//! What both carriers do alike: how long either side may be silent, and what of an answer the caller is told.

use super::{Handover, Timeouts, WRITE_TIMEOUT, wire};
use crate::error::Error;
use http::header::{ACCEPT_ENCODING, CONTENT_LENGTH, HeaderName, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};
use pingora_core::protocols::http::{HttpTask, ServerSession};
use pingora_http::ResponseHeader;
use std::time::Duration;

impl Timeouts {
    /// For how long nothing may move; a side that is written to is given less than one that thinks.
    pub(super) fn silence_max(&self, writing: bool) -> Option<Duration> {
        match writing {
            true => Some(self.response.map_or(WRITE_TIMEOUT, |limit| limit.min(WRITE_TIMEOUT))),
            false => self.response,
        }
    }
}

/// Takes out of a request what is only about the connection it came on, and, where the answer is read, what would have it
/// come in a form that cannot be.
pub(super) fn cleanse(headers: &mut HeaderMap, reads: bool) -> Result<(), Error> {
    if reads {
        headers.remove(ACCEPT_ENCODING);
    }
    match wire::cleanse_request(headers) {
        true => Ok(()),
        false => Err(Error::invalid("a header that says how the request is to be passed on makes no sense")),
    }
}

impl Handover {
    /// The head of an answer for the caller; `framed`: where its body ends needs no words, or has them.
    pub(super) fn head_for(
        &mut self,
        version: Version,
        (status, mut headers): (StatusCode, HeaderMap),
        framed: bool,
    ) -> Result<ResponseHeader, Error> {
        let nonsense = |_| Error::WorkerNonsense { reason: "its head is none".into() };
        let framed = framed || self.head.method == Method::HEAD || headers.contains_key(CONTENT_LENGTH);
        if !framed && version == Version::HTTP_11 {
            // An http/1.0 caller is told the end by the close of the connection, and HTTP/2 has its own frames.
            headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        let mut response = ResponseHeader::build_no_case(status, Some(headers.len() + 4)).map_err(nonsense)?;
        let mut last: Option<HeaderName> = None;
        for (name, value) in headers {
            // Further lines of a header come without its name.
            last = name.or(last);
            if let Some(name) = &last {
                response.append_header(name, value).map_err(nonsense)?;
            }
        }
        self.answered(&mut response);
        Ok(response)
    }
}

/// Marks the last of the body's pieces as such, or adds one that is nothing but the end.
pub(super) fn end(tasks: &mut Vec<HttpTask>) {
    match tasks.last_mut() {
        Some(HttpTask::Body(_, end)) => *end = true,
        _ => tasks.push(HttpTask::Body(None, true)),
    }
}

/// Tells the caller; one who takes nothing for too long has left.
pub(super) async fn tell(caller: &mut ServerSession, tasks: Vec<HttpTask>) -> Result<(), Error> {
    match tokio::time::timeout(WRITE_TIMEOUT, caller.response_duplex_vec(tasks)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(Error::CallerLeft),
    }
}
