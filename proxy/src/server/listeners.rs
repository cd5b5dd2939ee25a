//! Ports and file descriptors.

use super::Error;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;

/// Connections the kernel holds until they are accepted; the kernel itself lowers it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// One socket, shared by all threads. Not SO_REUSEPORT: with it a second server on the same port would start happily
/// and take half of the connections.
pub fn listen(path: &'static str, address: SocketAddr) -> Result<TcpListener, Error> {
    let open = || {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        // SAFETY: a listening socket that is ours; listening again only changes the backlog.
        unsafe { libc::listen(listener.as_raw_fd(), BACKLOG) };
        Ok(listener)
    };
    open().map_err(|source: std::io::Error| {
        let advice = match source.kind() {
            ErrorKind::AddrInUse => "end what uses it, or choose another port (`:0` picks a free one)",
            ErrorKind::PermissionDenied => "ports below 1024 need privileges; choose a higher one",
            ErrorKind::AddrNotAvailable => "no interface of this machine has that address",
            _ => "choose another address",
        };
        Error::Listen { path, address, source, advice }
    })
}

/// As many file descriptors as we may have: each waiting caller holds one.
pub fn raise_fd_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls take a pointer to a live rlimit.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 && limit.rlim_cur < limit.rlim_max {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn does_a_port_in_use_name_its_address() {
        let first = listen("listen", "127.0.0.1:0".parse().unwrap()).unwrap();
        let address = first.local_addr().unwrap();
        let words = listen("listen", address).unwrap_err().to_string();
        assert!(words.contains(&address.to_string()) && words.contains("choose another port"), "{words}");
    }
}
