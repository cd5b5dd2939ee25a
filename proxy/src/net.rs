//! What a connection's socket knows that tokio does not tell: where it was going before a redirect.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use tokio::net::{TcpSocket, TcpStream};

/// `linux/netfilter_ipv4.h` and `linux/netfilter_ipv6/ip6_tables.h` give both the number 80.
const SO_ORIGINAL_DST: libc::c_int = 80;

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

fn ask<T>(tcp: &TcpStream, level: libc::c_int, mut into: T) -> io::Result<T> {
    let mut bytes = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `bytes` bytes, the size of `into`, which is plain data.
    let failed =
        unsafe { libc::getsockopt(tcp.as_raw_fd(), level, SO_ORIGINAL_DST, (&raw mut into).cast(), &raw mut bytes) };
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
pub async fn connect_from(source: Option<IpAddr>, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(source) = source.filter(|source| source.is_ipv4() == to.is_ipv4()) {
        socket.bind((source, 0).into())?;
    }
    let tcp = socket.connect(to).await?;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}
