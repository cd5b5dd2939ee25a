//! Connections as the kernel has them: the next one of a listener, where one was going before a redirect, and whether the
//! other end is still there. Never reads a byte of one.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;

/// `linux/netfilter_ipv4.h` and `linux/netfilter_ipv6/ip6_tables.h` give both the number 80.
const SO_ORIGINAL_DST: libc::c_int = 80;

/// `TCP_ESTABLISHED` of the kernel's `net/tcp_states.h`; `tcpi_state` is the first byte of `TCP_INFO`.
const TCP_ESTABLISHED: u8 = 1;

/// When no connection can be accepted, mostly because there are no file descriptors, the next try is so much later:
/// without it the loop around would spin until there are.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The next connection; `None` once `halted` is true. `whose`, for the log, while none can be accepted.
pub async fn next(
    listener: &TcpListener,
    halted: &mut watch::Receiver<bool>,
    whose: &str,
) -> Option<(TcpStream, SocketAddr)> {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = halted.wait_for(|halted| *halted) => return None,
        };
        match accepted {
            Ok(accepted) => return Some(accepted),
            Err(error) => {
                tracing::warn!(whose, %error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The source of connections to the application: the redirect's rules let it through instead of back to us. IPv6 has
/// one loopback address only, so `outrider redirect install` adds this one to `lo`.
pub fn source_for(to: SocketAddr) -> IpAddr {
    match to {
        SocketAddr::V4(_) => Ipv4Addr::new(127, 0, 0, 6).into(),
        SocketAddr::V6(_) => Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6).into(),
    }
}

/// Where a redirected connection was going; `None` if nobody redirected it.
pub fn original_destination(tcp: &TcpStream) -> io::Result<Option<SocketAddr>> {
    let v4 = matches!(tcp.local_addr()?.ip().to_canonical(), IpAddr::V4(_));
    let found = if v4 { ask_v4(tcp) } else { ask_v6(tcp) };
    match found {
        Ok(address) => Ok(Some(address)),
        // No entry in conntrack, or no conntrack at all.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOPROTOOPT)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether the other end has closed its side, or all of it, even while bytes it sent before lie unread. For a request
/// that is held with its body unread: nothing else would notice.
pub fn peer_has_closed(socket: &impl AsFd) -> bool {
    let state = ask_option(socket, (libc::IPPROTO_TCP, libc::TCP_INFO), 0u8);
    state.is_ok_and(|state| state != TCP_ESTABLISHED)
}

fn ask<T>(tcp: &TcpStream, level: libc::c_int, into: T) -> io::Result<T> {
    ask_option(tcp, (level, SO_ORIGINAL_DST), into)
}

/// `T` must be plain data, of which every value is one.
fn ask_option<T>(socket: &impl AsFd, (level, name): (libc::c_int, libc::c_int), mut into: T) -> io::Result<T> {
    let mut bytes = size_of::<T>() as libc::socklen_t;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel writes at most `bytes` bytes, the size of `into`, which is plain data.
    let failed = unsafe { libc::getsockopt(fd, level, name, (&raw mut into).cast(), &raw mut bytes) };
    if failed == 0 { Ok(into) } else { Err(io::Error::last_os_error()) }
}

fn ask_v4(tcp: &TcpStream) -> io::Result<SocketAddr> {
    // SAFETY: all zeroes is a value of this plain struct.
    let address: libc::sockaddr_in = ask(tcp, libc::SOL_IP, unsafe { std::mem::zeroed() })?;
    let ip = Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr));
    Ok((ip, u16::from_be(address.sin_port)).into())
}

fn ask_v6(tcp: &TcpStream) -> io::Result<SocketAddr> {
    // SAFETY: all zeroes is a value of this plain struct.
    let address: libc::sockaddr_in6 = ask(tcp, libc::SOL_IPV6, unsafe { std::mem::zeroed() })?;
    Ok((Ipv6Addr::from(address.sin6_addr.s6_addr), u16::from_be(address.sin6_port)).into())
}

/// Connects, from `source` where it is of the same family.
///
/// A source that this machine lacks is done without where `to` is loopback, which no rule sends back to us. Elsewhere it
/// is an error: without it our own connection would be redirected to us, and again, without end.
pub async fn connect_from(source: Option<IpAddr>, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(source) = source.filter(|source| source.is_ipv4() == to.is_ipv4()) {
        match socket.bind((source, 0).into()) {
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable && !to.ip().is_loopback() => {
                let words = format!("{source} is not an address of lo; `outrider redirect install` adds it");
                return Err(io::Error::new(error.kind(), words));
            }
            Err(error) if error.kind() != io::ErrorKind::AddrNotAvailable => return Err(error),
            _ => {}
        }
    }
    let tcp = socket.connect(to).await?;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    /// A connection of this machine to itself: client, then server.
    async fn pair(address: &str) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(address).await.unwrap();
        let to = listener.local_addr().unwrap();
        let client = connect_from(Some(source_for(to)), to).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn does_a_connection_that_nobody_redirected_have_no_other_destination() {
        let (_client, server) = pair("127.0.0.1:0").await;
        // With conntrack off the kernel says so at once; with it on, an entry without translation names the port itself.
        let meant = original_destination(&server).unwrap();
        assert!(meant.is_none() || meant == Some(server.local_addr().unwrap()), "{meant:?}");
    }

    #[tokio::test]
    async fn where_do_our_connections_come_from() {
        let (_client, server) = pair("127.0.0.1:0").await;
        assert_eq!(server.peer_addr().unwrap().ip().to_string(), "127.0.0.6");
        // 192.0.2.0/24 is for documentation: no machine has it.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let strange = Some("192.0.2.1".parse().unwrap());
        let client = connect_from(strange, listener.local_addr().unwrap()).await.unwrap();
        assert!(client.local_addr().unwrap().ip().is_loopback());
        let refused = connect_from(strange, "192.0.2.2:9".parse().unwrap()).await.unwrap_err();
        assert!(refused.to_string().contains("outrider redirect install"), "{refused}");
    }

    #[tokio::test]
    async fn is_a_caller_that_left_noticed_with_its_bytes_unread() {
        let (mut client, server) = pair("127.0.0.1:0").await;
        client.write_all(b"POST / HTTP/1.1").await.unwrap();
        assert!(!peer_has_closed(&server));
        drop(client);
        // The end is delivered in order on loopback; bounded, for a machine that is busy.
        for _ in 0..1000 {
            if peer_has_closed(&server) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        panic!("nobody noticed");
    }
}
