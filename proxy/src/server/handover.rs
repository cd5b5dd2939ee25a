//! A newer server takes the listening sockets of an older one: nobody who connects meanwhile is refused, and what runs in
//! the older one ends there.
//!
//! Over a Unix socket that only our own user may use: its file has mode 0600 and the peer's credentials are looked at.
//! One message each way: the sockets with their names, and, once the newer one serves, one byte. Until that byte the
//! older one goes on as if nobody had come. Never hands over a connection, nor the worker.

use super::listeners;
use crate::config::Upgrade;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as StdStream;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::{UnixListener, UnixStream};

/// We have a handful of doors; the kernel passes at most 253 (SCM_MAX_FD).
const SOCKETS_MAX: usize = 32;
const NAMES_BYTES_MAX: usize = 2048;
/// Each step between two processes of one machine.
const TIMEOUT: Duration = Duration::from_secs(10);
const READY: u8 = b'r';

/// The doors of this server: each new, or taken from the one before.
pub struct Ports {
    upgrade: Option<Upgrade>,
    inherited: Vec<(String, TcpListener)>,
    /// Whom we succeed.
    older: Option<StdStream>,
    /// Copies for whoever succeeds us, by name.
    kept: Vec<(&'static str, TcpListener)>,
}

impl Ports {
    /// Asks an older server for its doors, if one answers.
    pub fn open(upgrade: Option<&Upgrade>) -> Result<Ports, super::Error> {
        let mut ports = Ports { upgrade: upgrade.cloned(), inherited: Vec::new(), older: None, kept: Vec::new() };
        let Some(upgrade) = upgrade else { return Ok(ports) };
        match inherit(upgrade) {
            Ok((older, inherited)) => {
                tracing::info!(sockets = inherited.len(), "taking over from an older server");
                (ports.older, ports.inherited) = (Some(older), inherited);
                Ok(ports)
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                Ok(ports)
            }
            Err(source) => Err(super::Error::Upgrade { path: upgrade.socket.clone(), source }),
        }
    }

    /// The door of this name at this address.
    pub fn listen(&mut self, path: &'static str, address: SocketAddr) -> Result<TcpListener, super::Error> {
        let same = |(name, listener): &(String, TcpListener)| {
            let there = listener.local_addr().ok();
            let port = |there: SocketAddr| address.port() == 0 || there.port() == address.port();
            name == path && there.is_some_and(|there| there.ip() == address.ip() && port(there))
        };
        let listener = match self.inherited.iter().position(same) {
            Some(at) => self.inherited.swap_remove(at).1,
            None => listeners::listen(path, address)?,
        };
        if self.upgrade.is_some() {
            self.kept.push((path, listener.try_clone()?));
        }
        Ok(listener)
    }

    /// We serve: the older one may go. From now on a newer one may ask us; resolves when one has taken over, with how long
    /// it lets us end what runs. Never, without `upgrade`.
    pub async fn succeeded(self) -> Duration {
        let Ports { upgrade, inherited, older, kept } = self;
        // Doors that our configuration does not have.
        drop(inherited);
        if let Some(mut older) = older
            && let Err(error) = older.write_all(&[READY])
        {
            tracing::warn!(%error, "the older server could not be told that it may go");
        }
        let Some(upgrade) = upgrade else { return std::future::pending().await };
        match bind(&upgrade) {
            Ok(listener) => {
                hand_over(&listener, &kept).await;
                upgrade.timeout
            }
            Err(error) => {
                tracing::error!(socket = %upgrade.socket.display(), %error, "no newer server will be able to take over");
                std::future::pending().await
            }
        }
    }
}

fn bind(upgrade: &Upgrade) -> io::Result<UnixListener> {
    // Whoever had it has given its doors away or is dead: we have just taken its ports.
    let _ = std::fs::remove_file(&upgrade.socket);
    let listener = UnixListener::bind(&upgrade.socket)?;
    // Between the two lines the file's mode is the umask's: whoever comes through is still asked who it is.
    std::fs::set_permissions(&upgrade.socket, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Until somebody has taken them and serves.
async fn hand_over(listener: &UnixListener, kept: &[(&'static str, TcpListener)]) {
    loop {
        let outcome = match listener.accept().await {
            Ok((stream, _)) => give(stream, kept).await,
            Err(error) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
                Err(error)
            }
        };
        match outcome {
            Ok(()) => return tracing::info!("a newer server has taken over"),
            Err(error) => tracing::warn!(%error, "a newer server did not take over; this one goes on"),
        }
    }
}

async fn give(mut stream: UnixStream, kept: &[(&'static str, TcpListener)]) -> io::Result<()> {
    let uid = stream.peer_cred()?.uid();
    if uid != rustix::process::geteuid().as_raw() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("user {uid} is not ours")));
    }
    let names = kept.iter().map(|(name, _)| *name).collect::<Vec<_>>().join("\n");
    let fds: Vec<BorrowedFd<'_>> = kept.iter().map(|(_, listener)| listener.as_fd()).collect();
    let sent = tokio::time::timeout(TIMEOUT, async {
        loop {
            stream.writable().await?;
            match stream.try_io(tokio::io::Interest::WRITABLE, || send(stream.as_fd(), names.as_bytes(), &fds)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => return sent,
            }
        }
    });
    sent.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    // It may load policies and fetch an identity first: as long as it lives, it is waited for.
    match stream.read_u8().await? {
        READY => Ok(()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn send(stream: BorrowedFd<'_>, names: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::other("more doors than can be handed over"));
    }
    // One byte at least, or there would be no message for them to travel with.
    let length = (names.len() as u32).to_be_bytes();
    rustix::net::sendmsg(stream, &[IoSlice::new(&length), IoSlice::new(names)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The sockets of the older server, and the line to it.
fn inherit(upgrade: &Upgrade) -> io::Result<(StdStream, Vec<(String, TcpListener)>)> {
    let mut stream = StdStream::connect(&upgrade.socket)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let mut length = [0; 4];
    let fds = receive(stream.as_fd(), &mut length)?;
    let length = u32::from_be_bytes(length) as usize;
    if length > NAMES_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "what it says is no list of doors"));
    }
    let mut names = vec![0; length];
    stream.read_exact(&mut names)?;
    let names = String::from_utf8_lossy(&names).into_owned();
    let listeners = names.lines().map(str::to_owned).zip(fds).map(|(name, fd)| {
        let listener = TcpListener::from(fd);
        listener.set_nonblocking(true).map(|()| (name, listener))
    });
    Ok((stream, listeners.collect::<io::Result<_>>()?))
}

/// Fills `length`, with whatever descriptors came beside it.
fn receive(stream: BorrowedFd<'_>, length: &mut [u8; 4]) -> io::Result<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(length)];
    let received = rustix::net::recvmsg(stream, &mut slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    if received.bytes < 4 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let rights = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    Ok(rights.flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upgrade(folder: &std::path::Path) -> Upgrade {
        Upgrade { socket: folder.join("upgrade.sock"), timeout: Duration::from_secs(7) }
    }

    async fn wait_for_socket(upgrade: &Upgrade) {
        while !upgrade.socket.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn does_the_newer_one_get_the_very_same_doors() {
        let folder = tempfile::tempdir().unwrap();
        let upgrade = upgrade(folder.path());
        let any = "127.0.0.1:0".parse().unwrap();
        let mut old = Ports::open(Some(&upgrade)).unwrap();
        let listen = old.listen("listen", any).unwrap().local_addr().unwrap();
        let admin = old.listen("admin", any).unwrap().local_addr().unwrap();
        let ended = tokio::spawn(old.succeeded());
        wait_for_socket(&upgrade).await;
        assert_eq!(std::fs::metadata(&upgrade.socket).unwrap().permissions().mode() & 0o777, 0o600);
        // One that fails on its way changes nothing.
        drop(tokio::task::block_in_place(|| Ports::open(Some(&upgrade)).unwrap()));
        let mut new = tokio::task::block_in_place(|| Ports::open(Some(&upgrade)).unwrap());
        assert_eq!(new.listen("admin", admin).unwrap().local_addr().unwrap(), admin);
        let door = new.listen("listen", listen).unwrap();
        assert_eq!(door.local_addr().unwrap(), listen);
        assert!(!ended.is_finished());
        let next = tokio::spawn(new.succeeded());
        assert_eq!(ended.await.unwrap(), Duration::from_secs(7));
        std::net::TcpStream::connect(listen).expect("the door was never closed");
        next.abort();
    }

    #[test]
    fn does_a_first_server_begin_without_an_older_one() {
        let folder = tempfile::tempdir().unwrap();
        let mut ports = Ports::open(Some(&upgrade(folder.path()))).unwrap();
        let taken = ports.listen("listen", "127.0.0.1:0".parse().unwrap()).unwrap();
        let words = ports.listen("admin", taken.local_addr().unwrap()).unwrap_err().to_string();
        assert!(words.contains("choose another port"), "{words}");
    }
}
