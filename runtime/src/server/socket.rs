//! The Unix socket: bound so that no other user can ever connect, removed when its owner ends.
//!
//! Never serves: it hands out connections whose peer is this user.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};
use tokio_stream::{Stream, StreamExt};

/// Why there is no socket to serve on.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("another worker is serving on {}; stop it or give this one another `socket`", path.display())]
    Live { path: PathBuf },
    #[error("{} exists and is no socket; remove it or give another `socket`", path.display())]
    NotASocket { path: PathBuf },
    #[error("cannot serve on {}: {source}; its folder must exist and be writable", path.display())]
    Bind { path: PathBuf, source: io::Error },
}

/// A bound socket. Dropping it removes the file, unless another has taken its place.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    listener: UnixListener,
    /// Device and inode of the file.
    identity: (u64, u64),
}

impl Socket {
    /// Binds `path` with mode 0600; call before other threads run: it sets the umask for a moment.
    ///
    /// The socket is made under a temporary name and renamed, so that under its own name it never had another mode.
    ///
    /// # Errors
    /// A live worker answers there, something that is no socket lies there, or the folder does not allow it.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let failed = |source| SocketError::Bind { path: path.to_path_buf(), source };
        match std::fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(SocketError::NotASocket { path: path.to_path_buf() });
            }
            // Someone accepts: alive. Refused: its owner is gone, and the rename below replaces it.
            Ok(_) if StdStream::connect(path).is_ok() => return Err(SocketError::Live { path: path.to_path_buf() }),
            Ok(_) => tracing::info!(socket = %path.display(), "replacing a stale socket"),
            Err(_) => {}
        }
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(format!(".{}", std::process::id()));
        let temporary = PathBuf::from(temporary);
        let _ = std::fs::remove_file(&temporary);
        // SAFETY: umask only swaps a number of the process; no other thread creates files yet.
        let before = unsafe { libc::umask(0o177) };
        let bound = StdListener::bind(&temporary);
        // SAFETY: as above.
        unsafe { libc::umask(before) };
        let listener = bound.map_err(failed)?;
        let finish = || -> io::Result<Socket> {
            std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(0o600))?;
            listener.set_nonblocking(true)?;
            std::fs::rename(&temporary, path)?;
            let metadata = std::fs::symlink_metadata(path)?;
            let listener = UnixListener::from_std(listener)?;
            Ok(Socket { path: path.to_path_buf(), listener, identity: (metadata.dev(), metadata.ino()) })
        };
        finish().map_err(|source| {
            let _ = std::fs::remove_file(&temporary);
            failed(source)
        })
    }

    /// The next connection of this user; others are dropped.
    async fn accept(&self) -> io::Result<UnixStream> {
        // SAFETY: geteuid only reads a number of the process.
        let own = unsafe { libc::geteuid() };
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => match stream.peer_cred() {
                    Ok(peer) if peer.uid() == own => return Ok(stream),
                    Ok(peer) => tracing::warn!(uid = peer.uid(), "dropped a connection of another user"),
                    Err(error) => tracing::warn!(%error, "dropped a connection without credentials"),
                },
                // Out of descriptors: a pause lets connections end; giving up would end the worker.
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
            }
        }
    }

    /// Connections of this user, without end.
    pub fn connections(&self) -> impl Stream<Item = io::Result<UnixStream>> + '_ {
        tokio_stream::iter(std::iter::repeat(())).then(move |()| self.accept())
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path).is_ok_and(|m| (m.dev(), m.ino()) == self.identity);
        if ours {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
