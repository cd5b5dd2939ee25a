//! What a passing answer costs: its tokens, read as it goes by, if a limit of tokens is there to be charged.

use super::usage::Reader;
use crate::error::Error;
use crate::exchange::Meter;
use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};

pub struct Gauge {
    meter: Meter,
    reader: Option<Reader>,
    /// Something may be said between two events.
    may_speak: bool,
    /// Its limit has nothing left; to be said.
    over: Option<Error>,
}

impl Gauge {
    pub fn new(meter: Meter) -> Gauge {
        Gauge { meter, reader: None, may_speak: false, over: None }
    }

    /// Whether the answer must come in a form that can be read.
    pub fn reads(&self) -> bool {
        self.meter.counts()
    }

    /// The answer begins. A failure costs nothing.
    pub fn begins(&mut self, status: u16, headers: &HeaderMap) {
        let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        if !self.meter.counts() || !(200..300).contains(&status) {
            return;
        }
        if headers.contains_key(CONTENT_ENCODING) {
            tracing::warn!(
                "the server behind compresses an answer that nobody asked it to; its tokens are not counted"
            );
            return;
        }
        self.reader = kind.and_then(Reader::of);
        self.may_speak = !headers.contains_key(CONTENT_LENGTH);
    }

    /// The headers that say where the caller stands.
    pub fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        self.meter.explain(&mut headers);
        headers
    }

    /// A piece passes. An error is to be said now, after this piece, and is the end.
    pub fn piece(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let Some(reader) = &mut self.reader else { return Ok(()) };
        reader.read(bytes);
        if let Err(error) = self.meter.flow(reader.flow()) {
            self.over = Some(error);
        }
        if !self.may_speak || !reader.is_between_events() {
            return Ok(());
        }
        self.over.take().map_or(Ok(()), Err)
    }

    /// LLM tokens so far, prompt and completion; `None` where nobody counts.
    pub fn usage(&self) -> Option<(u64, u64)> {
        let flow = self.reader.as_ref()?.flow();
        Some((flow.prompt.unwrap_or(0), flow.completion))
    }
}

impl Drop for Gauge {
    fn drop(&mut self) {
        if self.reader.as_ref().is_some_and(|reader| !reader.is_counted() && reader.flow().completion > 0) {
            self.meter.was_guessed();
        }
    }
}

/// A refusal's body as one event of a stream.
pub fn event(body: &[u8]) -> Bytes {
    let mut event = Vec::with_capacity(body.len() + 8);
    event.extend_from_slice(b"data: ");
    // A line's end within would end the event's data.
    event.extend(body.iter().filter(|byte| !matches!(byte, b'\n' | b'\r')));
    event.extend_from_slice(b"\n\n");
    event.into()
}
