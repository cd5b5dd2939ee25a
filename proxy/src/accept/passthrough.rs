//! Connections that speak no HTTP: bytes to where they were going, and back, as they are.
//!
//! Only where a redirect tells where that is, and only after policy, which sees no more than the connection, has agreed.

use super::connection::Connection;
use crate::net::{connect_from, source_for};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// Both ends of one pod: it is there at once or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes in and out, once either side has ended and the other has been told.
pub async fn pass(mut connection: Connection, to: SocketAddr) -> io::Result<(u64, u64)> {
    let connecting = tokio::time::timeout(CONNECT_TIMEOUT, connect_from(Some(source_for(to)), to));
    let mut application = connecting.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    tokio::io::copy_bidirectional(&mut connection, &mut application).await
}
