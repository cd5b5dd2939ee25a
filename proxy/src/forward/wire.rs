//! HTTP/1.1 as a server behind speaks it: the head of a request as bytes, the head of an answer read, and where its body
//! ends (RFC 9112 §6).
//!
//! Pure: no socket, no clock. Never guesses where an answer ends, and never lets a header through that is only about the
//! connection it came on.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, HOST, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TRANSFER_ENCODING,
    UPGRADE,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use httparse::Status;
use std::mem::MaybeUninit;

/// A head larger than this, or with more lines, is none that a caller could use.
const HEAD_BYTES_MAX: usize = 64 << 10;
const LINES_MAX: usize = 128;
/// The line before a chunk: its size and extensions that nobody reads.
const CHUNK_LINE_MAX: usize = 4 << 10;
/// More names than a `connection` header ever has in good faith.
const NOMINATIONS_MAX: usize = 32;

/// Headers that end with the connection they came on (RFC 9110 §7.6.1), whether or not `connection` names them.
const HOP_BY_HOP: [&str; 8] =
    ["connection", "transfer-encoding", "upgrade", "te", "trailer", "keep-alive", "proxy-connection", "http2-settings"];
/// Headers nobody may have taken away by naming them in `connection`: what they say is not the caller's to unsay.
const PROTECTED: [&str; 6] =
    ["host", "content-length", "authorization", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-client-cert"];

/// Why an answer is none.
pub type Nonsense = &'static str;

/// Takes away what is only about the connection a request came on; false if `connection` names what it may not.
pub fn cleanse_request(headers: &mut HeaderMap) -> bool {
    if headers.contains_key(CONNECTION) && !remove_nominated(headers) {
        return false;
    }
    remove_hop_by_hop(headers);
    headers.remove(PROXY_AUTHENTICATE);
    headers.remove(PROXY_AUTHORIZATION);
    true
}

/// Takes away what an answer says only about the connection it came on.
pub fn cleanse_answer(headers: &mut HeaderMap) {
    remove_hop_by_hop(headers);
}

/// Offers or takes another protocol on this connection (RFC 9110 §7.8).
pub fn set_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

/// HTTP/2 may cut cookies into several lines, which http/1 may not (RFC 9113 §8.2.3).
pub fn join_cookies(headers: &mut HeaderMap) {
    let mut lines = headers.get_all(COOKIE).iter();
    if let (Some(first), Some(_)) = (lines.next(), lines.next()) {
        let rest = headers.get_all(COOKIE).iter().skip(1);
        let joined = rest.fold(first.as_bytes().to_vec(), |joined, line| [&joined, line.as_bytes()].join(&b"; "[..]));
        let joined = HeaderValue::from_maybe_shared(Bytes::from(joined)).expect("its pieces were values");
        headers.insert(COOKIE, joined);
    }
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

fn remove_nominated(headers: &mut HeaderMap) -> bool {
    let lines: Vec<HeaderValue> = headers.get_all(CONNECTION).iter().cloned().collect();
    let names = lines.iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    let names = names.map(<[u8]>::trim_ascii).filter(|name| !name.is_empty());
    for (count, name) in names.enumerate() {
        let Ok(name) = HeaderName::from_bytes(name) else { return false };
        if count >= NOMINATIONS_MAX || PROTECTED.contains(&name.as_str()) {
            return false;
        }
        headers.remove(name);
    }
    true
}

/// The head of a request, but for its last, empty line.
pub fn write_head(out: &mut BytesMut, method: &Method, (path, query): (&str, Option<&str>), host: &[u8]) {
    out.put_slice(method.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(path.as_bytes());
    if let Some(query) = query {
        out.put_u8(b'?');
        out.put_slice(query.as_bytes());
    }
    out.put_slice(b" HTTP/1.1\r\nhost: ");
    out.put_slice(host);
    out.put_slice(b"\r\n");
}

/// The header lines, but for those that [`write_head`] and the framing write.
pub fn write_headers(out: &mut BytesMut, headers: &HeaderMap) {
    for (name, value) in headers.iter().filter(|(name, _)| **name != HOST) {
        write_line(out, name, value);
    }
}

pub fn write_line(out: &mut BytesMut, name: &HeaderName, value: &HeaderValue) {
    out.put_slice(name.as_str().as_bytes());
    out.put_slice(b": ");
    out.put_slice(value.as_bytes());
    out.put_slice(b"\r\n");
}

/// A piece of a body as one chunk (RFC 9112 §7.1).
pub fn write_chunk(out: &mut BytesMut, piece: &[u8]) {
    out.put_slice(format!("{:x}\r\n", piece.len()).as_bytes());
    out.put_slice(piece);
    out.put_slice(b"\r\n");
}

pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// The head of an answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    /// Without any that are about the connection.
    pub headers: HeaderMap,
    pub body: Body,
    /// Whether another request may follow on the connection.
    pub keep: bool,
}

/// Takes the head of an answer from `input`, if all of it is there. `head_only`: the request was a HEAD.
pub fn read_answer(input: &mut BytesMut, head_only: bool) -> Result<Option<Answer>, Nonsense> {
    let mut lines = [const { MaybeUninit::uninit() }; LINES_MAX];
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let read = config.parse_response_with_uninit_headers(&mut parsed, &input[..], &mut lines);
    let length = match read.map_err(|_| "the head of its answer is none")? {
        Status::Complete(length) => length,
        Status::Partial if input.len() > HEAD_BYTES_MAX => return Err("the head of its answer is too large"),
        Status::Partial => return Ok(None),
    };
    let status = StatusCode::from_u16(parsed.code.unwrap_or_default()).map_err(|_| "its status is none")?;
    let modern = parsed.version == Some(1);
    let start = input.as_ptr() as usize;
    let mut spans = [(0, 0, 0, 0); LINES_MAX];
    let count = parsed.headers.len();
    for (span, line) in spans.iter_mut().zip(parsed.headers.iter()) {
        let (name, value) = (line.name.as_ptr() as usize - start, line.value.as_ptr() as usize - start);
        *span = (name, name + line.name.len(), value, value + line.value.len());
    }
    // The values stay where they were read.
    let head = input.split_to(length).freeze();
    let mut headers = HeaderMap::with_capacity(count + 4);
    for (name, name_end, value, value_end) in &spans[..count] {
        let name = HeaderName::from_bytes(&head[*name..*name_end]).map_err(|_| "a header's name is none")?;
        let value = HeaderValue::from_maybe_shared(head.slice(*value..*value_end));
        headers.append(name, value.map_err(|_| "a header's value is none")?);
    }
    // The one answer whose `upgrade` is for the caller (RFC 9110 §7.8).
    let protocol = headers.get(UPGRADE).filter(|_| status == StatusCode::SWITCHING_PROTOCOLS).cloned();
    let (body, framed) = body_of(&headers, status, head_only)?;
    let keep = framed && modern && !says_close(&headers);
    if headers.contains_key(CONNECTION) && !remove_nominated(&mut headers) {
        return Err("its connection header makes no sense");
    }
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    }
    remove_hop_by_hop(&mut headers);
    if let Some(protocol) = protocol {
        set_upgrade(&mut headers, protocol);
    }
    Ok(Some(Answer { status, headers, body, keep }))
}

fn says_close(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(CONNECTION).iter();
    let mut words = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    words.any(|word| word.trim_ascii().eq_ignore_ascii_case(b"close"))
}

/// How the end of the body is known (RFC 9112 §6.3), and whether that is beyond doubt.
fn body_of(headers: &HeaderMap, status: StatusCode, head_only: bool) -> Result<(Body, bool), Nonsense> {
    let bodiless = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let length = match lengths.next() {
        None => None,
        Some(first) if lengths.all(|other| other == first) => Some(length_of(first).ok_or("its length is no number")?),
        Some(_) => return Err("it has two lengths"),
    };
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Ok((Body::UntilClose, false));
    }
    if head_only || bodiless || status.is_informational() {
        return Ok((Body::Length(0), true));
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next(), length) {
        (Some(only), None, length) if only.as_bytes().eq_ignore_ascii_case(b"chunked") => {
            Ok((Body::Chunked(Chunk::Size), length.is_none()))
        }
        (Some(_), _, _) => Err("its transfer-encoding is not chunked alone"),
        (None, _, Some(length)) => Ok((Body::Length(length), true)),
        (None, _, None) => Ok((Body::UntilClose, false)),
    }
}

fn length_of(value: &HeaderValue) -> Option<u64> {
    let digits = value.as_bytes();
    let sane = (1..=19).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    sane.then(|| value.to_str().ok()?.parse().ok()).flatten()
}

/// What is still to come of an answer's body.
#[derive(Debug, PartialEq)]
pub enum Body {
    Length(u64),
    Chunked(Chunk),
    UntilClose,
}

/// What of a chunk comes next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Chunk {
    Size,
    Data(u64),
    DataEnd,
    /// Lines that are not passed on, as nothing on http/1 waits for them; so many bytes so far.
    Trailers(usize),
    Done,
}

impl Body {
    /// Whether all of it was taken.
    pub fn is_done(&self) -> bool {
        matches!(self, Body::Length(0) | Body::Chunked(Chunk::Done))
    }

    /// The next piece of it in `input`; `None` if more must be read first, or nothing will come.
    pub fn take(&mut self, input: &mut BytesMut) -> Result<Option<Bytes>, Nonsense> {
        match self {
            Body::UntilClose => Ok((!input.is_empty()).then(|| input.split().freeze())),
            Body::Length(left) => Ok(some_of(left, input)),
            Body::Chunked(chunk) => take_chunk(chunk, input),
        }
    }
}

fn some_of(left: &mut u64, input: &mut BytesMut) -> Option<Bytes> {
    let count = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
    *left -= count as u64;
    (count > 0).then(|| input.split_to(count).freeze())
}

fn take_chunk(chunk: &mut Chunk, input: &mut BytesMut) -> Result<Option<Bytes>, Nonsense> {
    loop {
        match chunk {
            Chunk::Size => match httparse::parse_chunk_size(&input[..]).map_err(|_| "the size of a chunk is none")? {
                Status::Complete((length, size)) => {
                    input.advance(length);
                    *chunk = if size == 0 { Chunk::Trailers(0) } else { Chunk::Data(size) };
                }
                Status::Partial if input.len() > CHUNK_LINE_MAX => return Err("the size of a chunk does not end"),
                Status::Partial => return Ok(None),
            },
            Chunk::Data(0) => *chunk = Chunk::DataEnd,
            Chunk::Data(left) => return Ok(some_of(left, input)),
            Chunk::DataEnd if input.len() < 2 => return Ok(None),
            Chunk::DataEnd if input.starts_with(b"\r\n") => {
                input.advance(2);
                *chunk = Chunk::Size;
            }
            Chunk::DataEnd => return Err("a chunk does not end where it said"),
            Chunk::Trailers(before) => {
                let end = input.windows(2).position(|pair| pair == b"\r\n");
                let before = *before + end.unwrap_or(input.len());
                if before > HEAD_BYTES_MAX {
                    return Err("its trailers are too large");
                }
                let Some(end) = end else { return Ok(None) };
                input.advance(end + 2);
                *chunk = if end == 0 { Chunk::Done } else { Chunk::Trailers(before) };
            }
            Chunk::Done => return Ok(None),
        }
    }
}

#[cfg(test)]
mod tests;
