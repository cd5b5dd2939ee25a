//! TLS: who we are, whom we believe, and how both change while connections live.
//!
//! One [`Identity`] for the process holds one immutable [`Material`] at a time: certificate, key and trust bundles. A
//! source puts it there and rotation swaps it whole; servers and clients take what is there at each handshake. Opens
//! no socket but to where an identity comes from, and never uses another crypto provider than ring.

pub mod alpn;
pub mod identity;
pub mod live;
pub mod material;
pub mod originate;
pub mod pem;
pub mod refusal;
pub mod revocation;
pub mod rotate;
pub mod sources;
pub mod subject;
pub mod trust;
pub mod verify;
pub mod xfcc;

pub use alpn::Alpn;
pub use identity::{Peer, SpiffeId, peer_of};
pub use live::{Identity, Status};
pub use material::{Material, MaterialError};
pub use originate::{Expect, client_config, plain_client_config};
pub use refusal::{HANDSHAKE_REASONS, handshake_reason};
pub use trust::Trust;
pub use verify::{Mode, provider, server_config};

#[cfg(test)]
mod tests;
