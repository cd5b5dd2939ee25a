//! The body of an answer on its way to the application, and all that lives exactly as long: the record, the place in
//! the cluster, the clocks. Never touches the bytes.

use super::body::{BoxError, Cut, Source};
use super::cluster::{Cluster, Held};
use super::endpoint::{Endpoint, InFlight};
use super::outlier::Outcome;
use super::record::Record;
use super::refusal::http_of_grpc;
use super::seat::Seat;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};

pub struct Answer {
    bytes: Flow,
    open: Option<Box<Open>>,
}

enum Flow {
    Server(Incoming),
    Own(Option<Bytes>),
}

/// What an exchange holds while its answer is on the way.
pub struct Open {
    pub record: Record,
    pub source: Option<Source>,
    pub held: Places,
    pub clocks: Clocks,
    /// The answer is gRPC: its status comes last.
    pub grpc: bool,
    pub judge: Option<Judge>,
}

/// Dropped when the exchange is over, which makes room for others.
#[derive(Default)]
pub struct Places {
    pub active: Option<Held>,
    pub stream: Option<Held>,
    pub in_flight: Option<InFlight>,
}

/// Whom a late end is told.
pub struct Judge {
    pub seat: Arc<Seat>,
    pub cluster: Arc<Cluster>,
    pub endpoint: Arc<Endpoint>,
}

impl Judge {
    pub fn tell(&self, outcome: Outcome) {
        self.seat.judge(&self.cluster, &self.endpoint, outcome);
    }
}

#[derive(Default)]
pub struct Clocks {
    deadline: Option<Pin<Box<Sleep>>>,
    idle: Option<Idle>,
}

struct Idle {
    limit: Duration,
    /// As [`Source::moved`] was when the clock was last wound up.
    moved: u64,
    sleep: Pin<Box<Sleep>>,
}

impl Clocks {
    pub fn new(deadline: Option<Instant>, idle: Option<Duration>) -> Clocks {
        let after = |limit| Box::pin(sleep_until(Instant::now() + limit));
        Clocks {
            deadline: deadline.map(|deadline| Box::pin(sleep_until(deadline))),
            idle: idle.map(|limit| Idle { limit, moved: 0, sleep: after(limit) }),
        }
    }

    /// Whether time is over.
    fn poll(&mut self, source: Option<&Source>, cx: &mut Context<'_>) -> bool {
        if self.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready()) {
            return true;
        }
        let Some(idle) = &mut self.idle else { return false };
        while idle.sleep.as_mut().poll(cx).is_ready() {
            let moved = source.map_or(0, Source::moved);
            if moved == idle.moved {
                return true;
            }
            idle.moved = moved;
            idle.sleep.as_mut().reset(Instant::now() + idle.limit);
        }
        false
    }

    fn wind_up(&mut self) {
        if let Some(idle) = &mut self.idle {
            idle.sleep.as_mut().reset(Instant::now() + idle.limit);
        }
    }
}

impl Answer {
    pub fn of_server(incoming: Incoming, open: Open) -> Answer {
        let mut answer = Answer { bytes: Flow::Server(incoming), open: Some(Box::new(open)) };
        if answer.is_end_stream() {
            answer.end("ok");
        }
        answer
    }

    /// Our own words; the record is written when they have been taken.
    pub fn own(bytes: Bytes, record: Option<Record>) -> Answer {
        let open = record.map(|record| {
            let (held, clocks) = (Places::default(), Clocks::default());
            Box::new(Open { record, source: None, held, clocks, grpc: false, judge: None })
        });
        Answer { bytes: Flow::Own(Some(bytes).filter(|bytes| !bytes.is_empty())), open }
    }

    fn end(&mut self, label: &'static str) {
        if let Some(mut open) = self.open.take() {
            if open.record.label == "cut" {
                open.record.label = label;
            }
            if let (true, Some(judge)) = (label == "server_cut", &open.judge) {
                judge.tell(Outcome::Failed);
            }
        }
    }

    fn note_trailers(&mut self, trailers: &HeaderMap) {
        let Some(open) = self.open.as_mut().filter(|open| open.grpc) else { return };
        let status = trailers.get("grpc-status").and_then(|status| status.to_str().ok()?.parse().ok());
        open.record.grpc_status = status;
        if let (Some(judge), Some(status)) = (&open.judge, status) {
            judge.tell(Outcome::Answered(http_of_grpc(status)));
        }
    }

    /// Time is over in the midst of an answer: gRPC can still say so, HTTP can only stop.
    fn overdue(&mut self) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let grpc = self.open.as_ref().is_some_and(|open| open.grpc);
        self.end("timeout");
        self.bytes = Flow::Own(None);
        if !grpc {
            return Poll::Ready(Some(Err(Cut::Overdue.into())));
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("4"));
        trailers.insert("grpc-message", HeaderValue::from_static("the time for this exchange is over"));
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let polled = match &mut this.bytes {
            Flow::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Flow::Server(incoming) => Pin::new(incoming).poll_frame(cx),
        };
        match polled {
            Poll::Pending => {
                let Some(open) = &mut this.open else { return Poll::Pending };
                if open.clocks.poll(open.source.as_ref(), cx) { this.overdue() } else { Poll::Pending }
            }
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(open) = &mut this.open {
                    open.record.response_bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                    open.clocks.wind_up();
                }
                if let Some(trailers) = frame.trailers_ref() {
                    this.note_trailers(trailers);
                }
                if this.is_end_stream() {
                    this.end("ok");
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                this.end("server_cut");
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Ready(None) => {
                this.end("ok");
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.bytes {
            Flow::Own(bytes) => bytes.is_none(),
            Flow::Server(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.bytes {
            Flow::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Flow::Server(incoming) => incoming.size_hint(),
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(source) = &self.source {
            self.record.request_bytes = source.bytes() as u64;
        }
    }
}
