//! What is known of a connection: who is there, where it was going, and how long it may go on.
//!
//! Every exchange on the connection finds it. Never touches the connection's bytes.

use crate::net::peer_has_closed;
use crate::policy::ConnectionAttributes;
use crate::tls::Peer;
use bytes::Bytes;
use http::HeaderValue;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

/// Where the caller was going.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its port is what policy sees; port and host are where `forward.to: original` goes.
    pub address: SocketAddr,
    /// A redirect brought it here; else it meant us.
    pub redirected: bool,
}

/// What we say of the caller to servers behind, made once for all requests of the connection.
#[derive(Debug)]
pub struct Said {
    /// Its IP address.
    pub address: HeaderValue,
    /// Our element of `x-forwarded-client-cert`.
    pub xfcc: Option<HeaderValue>,
}

impl Said {
    pub fn address_text(&self) -> &str {
        self.address.to_str().unwrap_or_default()
    }
}

#[derive(Debug)]
pub struct Facts {
    /// Shared: every record has it.
    pub peer: Arc<Peer>,
    pub h2: bool,
    pub target: Target,
    pub said: Said,
    /// Of the connection that has these facts.
    pub socket: Option<RawFd>,
    opened: Instant,
    /// Milliseconds after `opened` since when a head is awaited; [`BUSY`] while none is.
    awaits_head_since: AtomicU64,
    /// Bytes that were read, and bytes of the requests that began; [`UNKNOWN`] once a request did not say how long it is.
    read: AtomicU64,
    requested: AtomicU64,
    /// Bytes that came while a head was awaited.
    head_bytes: AtomicU64,
    /// Milliseconds after `opened` when bytes last came.
    heard_at: AtomicU64,
    /// The caller closed, or the network did.
    heard_end: AtomicBool,
    overstayed: watch::Sender<bool>,
}

/// A second look at the same socket, so that whoever reads it misses nothing.
fn look_at(socket: RawFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the connection is open as long as an exchange of it runs.
    let own = unsafe { BorrowedFd::borrow_raw(socket) }.try_clone_to_owned()?;
    // SAFETY: it is nobody else's, and stays open and itself until it is dropped.
    unsafe { AsyncFd::register_with_interest(own, Interest::READABLE) }.map_err(|refused| refused.into_parts().1)
}

/// How often a caller is looked after that cannot be watched.
const CLOSED_LOOK: Duration = Duration::from_secs(2);
const BUSY: u64 = u64::MAX;
const UNKNOWN: u64 = u64::MAX;
/// A head on http/1, and what came with it: the parser below us would keep 1 MiB of each caller's. HTTP/2 has a limit of
/// its own (SETTINGS_MAX_HEADER_LIST_SIZE).
const HEAD_BYTES_MAX: u64 = 64 << 10;

impl Facts {
    pub fn new(peer: Peer, h2: bool, target: Target) -> Facts {
        let address = peer.address.ip().to_canonical().to_string();
        let address = HeaderValue::from_maybe_shared(Bytes::from(address)).expect("an address is visible ASCII");
        Facts {
            peer: Arc::new(peer),
            h2,
            target,
            said: Said { address, xfcc: None },
            socket: None,
            opened: Instant::now(),
            awaits_head_since: AtomicU64::new(0),
            read: AtomicU64::new(0),
            requested: AtomicU64::new(0),
            head_bytes: AtomicU64::new(0),
            heard_at: AtomicU64::new(0),
            heard_end: AtomicBool::new(false),
            overstayed: watch::Sender::new(false),
        }
    }

    /// Resolves when the kernel knows that the caller, or the network, has closed; reads nothing. Only for an exchange of
    /// this connection, which keeps it open.
    pub async fn hung_up(&self) {
        // Facts that were made without a connection have none that could close.
        let Some(socket) = self.socket else { return std::future::pending().await };
        if let Ok(watched) = look_at(socket) {
            while let Ok(mut ready) = watched.readable().await {
                if ready.ready().is_read_closed() {
                    return;
                }
                // Bytes that nobody reads yet; the end is told when it comes.
                ready.clear_ready();
            }
        }
        // Nothing is left to watch it by: out of file descriptors.
        // SAFETY: the connection is open as long as an exchange of it runs.
        while !peer_has_closed(&unsafe { BorrowedFd::borrow_raw(socket) }) {
            tokio::time::sleep(CLOSED_LOOK).await;
        }
    }

    /// As policy sees the connection.
    pub fn attributes(&self) -> ConnectionAttributes<'_> {
        let source_ip = self.peer.address.ip().to_canonical();
        ConnectionAttributes {
            peer: self.peer.spiffe.as_ref(),
            source_ip,
            remote_ip: source_ip,
            destination_ip: self.target.address.ip().to_canonical(),
            destination_port: self.target.address.port(),
            sni: self.peer.sni.as_deref(),
        }
    }

    fn age_milliseconds(&self) -> u64 {
        self.opened.elapsed().as_millis() as u64
    }

    /// For metrics and logs.
    pub fn protocol(&self) -> &'static str {
        if self.h2 { "h2" } else { "h1" }
    }

    /// For metrics.
    pub fn tls_kind(&self) -> &'static str {
        match (self.peer.tls, self.peer.spiffe.is_some()) {
            (false, _) => "none",
            (true, false) => "tls",
            (true, true) => "mtls",
        }
    }

    /// A head has arrived; the guard lives as long as its exchange.
    pub fn begin(self: &Arc<Self>) -> Busy {
        self.awaits_head_since.store(BUSY, Ordering::Relaxed);
        self.head_bytes.store(0, Ordering::Relaxed);
        Busy(self.clone())
    }

    /// Bytes came, or the end.
    pub fn heard(&self, bytes: usize) {
        self.heard_at.store(self.age_milliseconds(), Ordering::Relaxed);
        self.read.fetch_add(bytes as u64, Ordering::Relaxed);
        if bytes == 0 {
            self.heard_end.store(true, Ordering::Relaxed);
        } else if self.awaits_head_since.load(Ordering::Relaxed) != BUSY {
            self.head_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }

    /// Whether an http/1 connection is between two requests.
    pub fn is_idle(&self) -> bool {
        let awaits = self.awaits_head_since.load(Ordering::Relaxed) != BUSY;
        !self.h2 && awaits && self.head_bytes.load(Ordering::Relaxed) == 0
    }

    /// A request begins that has so many bytes, head and body; `None` if only its end will tell.
    pub fn requests(&self, bytes: Option<u64>) {
        let before = self.requested.load(Ordering::Relaxed);
        let after = bytes.filter(|_| before != UNKNOWN).and_then(|bytes| before.checked_add(bytes));
        self.requested.store(after.unwrap_or(UNKNOWN), Ordering::Relaxed);
    }

    /// Whether certainly nothing was read beyond the requests that began.
    pub fn is_even(&self) -> bool {
        self.requested.load(Ordering::Relaxed) == self.read.load(Ordering::Relaxed)
    }

    /// Whether more came than any head has.
    pub fn head_is_too_large(&self) -> bool {
        !self.h2 && self.head_bytes.load(Ordering::Relaxed) > HEAD_BYTES_MAX
    }

    /// Why we ended a connection that its caller had not: it broke the protocol, for whatever is right is answered.
    /// `None` where the caller left, was silent for `idle`, or nothing was wrong.
    pub fn refused(&self, idle: Duration) -> Option<&'static str> {
        let silence = self.age_milliseconds().saturating_sub(self.heard_at.load(Ordering::Relaxed));
        if self.heard_end.load(Ordering::Relaxed) || Duration::from_millis(silence) >= idle {
            return None;
        }
        let awaits = self.awaits_head_since.load(Ordering::Relaxed) != BUSY;
        match (self.h2, awaits && self.head_bytes.load(Ordering::Relaxed) > 0) {
            (true, _) => Some("h2_refused"),
            (false, true) => Some("head_refused"),
            (false, false) => None,
        }
    }

    /// Resolves when a head has been awaited for longer than `limit`: a head that trickles in byte by byte resets
    /// pingora's own timeout with each byte, but not this one.
    pub async fn overdue(&self, limit: Duration) {
        loop {
            let left = match self.awaits_head_since.load(Ordering::Relaxed) {
                BUSY => limit,
                since => (Duration::from_millis(since) + limit).saturating_sub(self.opened.elapsed()),
            };
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
    }

    /// The connection was asked to go and did not: whatever still runs on it must end.
    pub fn overstay(&self) {
        self.overstayed.send_replace(true);
    }

    pub fn is_over(&self) -> bool {
        *self.overstayed.borrow()
    }

    /// Resolves once [`Facts::overstay`] was called.
    pub async fn overstayed(&self) {
        let mut over = self.overstayed.subscribe();
        // The sender is in `self`, so it outlives this wait.
        let _ = over.wait_for(|over| *over).await.map(drop);
    }
}

/// While one of these lives, no head is overdue on its connection.
#[derive(Debug)]
pub struct Busy(Arc<Facts>);

impl Busy {
    pub fn facts(&self) -> &Arc<Facts> {
        &self.0
    }
}

impl Drop for Busy {
    /// The answer is out; on http/1 the next head is awaited from now on. An HTTP/2 connection is watched by pingora's
    /// idle timeout instead, for its streams come and go side by side.
    fn drop(&mut self) {
        let facts = &self.0;
        if !facts.h2 {
            facts.awaits_head_since.store(facts.age_milliseconds(), Ordering::Relaxed);
        }
    }
}
