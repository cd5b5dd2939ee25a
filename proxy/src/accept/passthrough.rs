//! Connections that speak no HTTP: bytes to where they were going, and back, as they are.
//!
//! Only where a redirect tells where that is, and only after policy, which sees no more than the connection, has agreed.

use super::connection::Connection;
use crate::net::connect_from;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Both ends of one pod: it is there at once or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The source that the redirect's rules let through to the application instead of back to us.
pub const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 6));

/// Bytes in and out, once either side has ended and the other has been told.
pub async fn pass(mut connection: Connection, to: SocketAddr) -> io::Result<(u64, u64)> {
    let connecting = tokio::time::timeout(CONNECT_TIMEOUT, connect_from(Some(SOURCE), to));
    let mut application = connecting.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    tokio::io::copy_bidirectional(&mut connection, &mut application).await
}
