//! The body of a request on its way out: streamed through, and kept within a bound so that it can be sent once more.
//!
//! Never waits for a body to end: a stream that both sides write at once would wait for ever.

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What is kept at most. A larger body can be sent only once.
pub const KEPT_BYTES_MAX: usize = 64 << 10;

/// Why a body stopped short.
#[derive(Debug, thiserror::Error)]
pub enum Cut {
    #[error("another try has taken over the body")]
    Superseded,
    #[error("the time for this exchange is over")]
    Overdue,
}

/// The one body of a request, of which each try gets a copy.
#[derive(Clone)]
pub struct Source(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Counts frames, for whoever watches that something moves.
    moved: AtomicU64,
    declared: Option<u64>,
}

struct State {
    incoming: Option<Incoming>,
    kept: Vec<Piece>,
    bytes: usize,
    bound: usize,
    overflowed: bool,
    /// The application broke off.
    broken: bool,
    /// Which copy may read.
    turn: u64,
}

#[derive(Clone)]
enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl Piece {
    fn into_frame(self) -> Frame<Bytes> {
        match self {
            Piece::Data(bytes) => Frame::data(bytes),
            Piece::Trailers(trailers) => Frame::trailers(trailers),
        }
    }
}

impl State {
    /// The next piece from the application; kept, if that is still within the bound.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Piece, hyper::Error>>> {
        let Some(incoming) = &mut self.incoming else { return Poll::Ready(None) };
        let frame = match ready!(Pin::new(incoming).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            end => {
                self.incoming = None;
                self.broken = end.is_some();
                return Poll::Ready(end.map(|end| end.map(|_| unreachable!("a frame was taken above"))));
            }
        };
        let piece = match frame.into_data() {
            Ok(bytes) => Piece::Data(bytes),
            Err(frame) => match frame.into_trailers() {
                Ok(trailers) => Piece::Trailers(trailers),
                // There are no other frames in HTTP as hyper speaks it.
                Err(_) => Piece::Data(Bytes::new()),
            },
        };
        if self.incoming.as_ref().is_some_and(Body::is_end_stream) {
            self.incoming = None;
        }
        self.bytes += if let Piece::Data(bytes) = &piece { bytes.len() } else { 0 };
        self.overflowed |= self.bytes > self.bound;
        Poll::Ready(Some(Ok(piece)))
    }

    fn ended(&self) -> bool {
        self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }
}

impl Source {
    /// `bound`: how many bytes are kept; 0 if there will be one try only.
    pub fn new(incoming: Incoming, bound: usize) -> Source {
        let declared = incoming.size_hint().exact();
        let incoming = Some(incoming).filter(|incoming| !incoming.is_end_stream());
        let state = State { incoming, kept: Vec::new(), bytes: 0, bound, overflowed: false, broken: false, turn: 0 };
        Source(Arc::new(Shared { state: Mutex::new(state), moved: AtomicU64::new(0), declared }))
    }

    /// One that is all here.
    pub fn of(bytes: Bytes) -> Source {
        let (declared, count) = (Some(bytes.len() as u64), bytes.len());
        let kept = if bytes.is_empty() { Vec::new() } else { vec![Piece::Data(bytes)] };
        let state =
            State { incoming: None, kept, bytes: count, bound: count, overflowed: false, broken: false, turn: 0 };
        Source(Arc::new(Shared { state: Mutex::new(state), moved: AtomicU64::new(0), declared }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().expect("nothing panics while it holds a body")
    }

    /// A body from the beginning; copies made before end with an error. Only if [`Source::repeatable`], or the first.
    pub fn copy(&self) -> Copy {
        let mut state = self.lock();
        state.turn += 1;
        Copy { shared: self.0.clone(), at: 0, turn: state.turn, left: self.0.declared }
    }

    /// Whether all that was read so far is still here.
    pub fn repeatable(&self) -> bool {
        let state = self.lock();
        !state.overflowed && !state.broken
    }

    /// Whether the application broke off: then no endpoint is to blame.
    pub fn broken(&self) -> bool {
        self.lock().broken
    }

    pub fn declared(&self) -> Option<u64> {
        self.0.declared
    }

    pub fn moved(&self) -> u64 {
        self.0.moved.load(Ordering::Relaxed)
    }

    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// Reads ahead until `enough` says so of the bytes so far (and whether they are all), or no more are kept.
    pub async fn read_ahead<T>(&self, mut enough: impl FnMut(&[u8], bool) -> Option<T>) -> Option<T> {
        let mut bytes = BytesMut::new();
        loop {
            let (ended, overflowed) = {
                let state = self.lock();
                (state.ended(), state.overflowed)
            };
            if let Some(found) = enough(&bytes, ended || overflowed) {
                return Some(found);
            }
            if ended || overflowed {
                return None;
            }
            let read = std::future::poll_fn(|cx| {
                let mut state = self.lock();
                let piece = ready!(state.poll(cx));
                if let Some(Ok(piece)) = &piece {
                    state.kept.push(piece.clone());
                }
                Poll::Ready(piece)
            });
            match read.await {
                Some(Ok(Piece::Data(data))) => bytes.extend_from_slice(&data),
                Some(Ok(Piece::Trailers(_))) | None => {}
                Some(Err(_)) => return None,
            }
        }
    }

    /// All of it, if it is here: what can be sent to somebody else too.
    pub fn whole(&self) -> Option<Bytes> {
        let state = self.lock();
        if state.overflowed || !state.ended() {
            return None;
        }
        let mut bytes = BytesMut::with_capacity(state.bytes);
        for piece in &state.kept {
            if let Piece::Data(data) = piece {
                bytes.extend_from_slice(data);
            }
        }
        Some(bytes.freeze())
    }
}

/// The body as one try sends it.
pub struct Copy {
    shared: Arc<Shared>,
    at: usize,
    turn: u64,
    left: Option<u64>,
}

impl Copy {
    fn take(&mut self, piece: Piece) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let (Piece::Data(bytes), Some(left)) = (&piece, &mut self.left) {
            *left = left.saturating_sub(bytes.len() as u64);
        }
        self.shared.moved.fetch_add(1, Ordering::Relaxed);
        Poll::Ready(Some(Ok(piece.into_frame())))
    }
}

impl Body for Copy {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let shared = self.shared.clone();
        let mut state = shared.state.lock().expect("nothing panics while it holds a body");
        if state.turn != self.turn {
            return Poll::Ready(Some(Err(Cut::Superseded.into())));
        }
        if let Some(piece) = state.kept.get(self.at).cloned() {
            self.at += 1;
            return self.take(piece);
        }
        let Some(piece) = ready!(state.poll(cx)).transpose()? else { return Poll::Ready(None) };
        if state.overflowed {
            // Nobody will ask for it again.
            state.kept = Vec::new();
            self.at = 0;
        } else {
            state.kept.push(piece.clone());
            self.at += 1;
        }
        self.take(piece)
    }

    fn is_end_stream(&self) -> bool {
        let state = self.shared.state.lock().expect("nothing panics while it holds a body");
        self.at >= state.kept.len() && state.ended()
    }

    fn size_hint(&self) -> SizeHint {
        match self.left {
            Some(left) => SizeHint::with_exact(left),
            None => SizeHint::default(),
        }
    }
}
