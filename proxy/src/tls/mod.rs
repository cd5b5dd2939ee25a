//! TLS: who we are, whom we believe, and how both change while connections live.
//!
//! One [`Material`] is an immutable snapshot of certificate, key and trust bundle; rotation swaps it whole.
//! Never opens a socket, and never uses another crypto provider than ring.

pub mod identity;
pub mod sources;
pub mod verify;

pub use identity::{Peer, SpiffeId, peer_of};
pub use verify::{Material, MaterialError, Mode, handshake_reason, provider, server_config};

#[cfg(test)]
mod tests;
