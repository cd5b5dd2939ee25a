//! The state directory of a development server: where it is, who owns it now, and what its files are called.
//!
//! Never opens a directory that others could write to, and never lets two servers share one.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("no place for the state is known: neither XDG_STATE_HOME nor HOME is set; give --state-dir DIR")]
    NoPlace,
    #[error("cannot use the state directory {}: {error}; give another with --state-dir DIR", path.display())]
    Directory { path: PathBuf, error: io::Error },
    #[error("the state directory {} is open to others: {why}; mend that, or give another with --state-dir DIR", path.display())]
    Open { path: PathBuf, why: &'static str },
    #[error("another outrider uses this state dir ({}, pid {pid}); stop it, or give another with --state-dir DIR", path.display())]
    InUse { path: PathBuf, pid: String },
    #[error("cannot write {}: {error}", path.display())]
    Write { path: PathBuf, error: io::Error },
    #[error("there is no state in {} yet; run `outrider up` once, or give its --state-dir", path.display())]
    Empty { path: PathBuf },
}

/// An open state directory.
pub struct State {
    path: PathBuf,
}

/// Held while a server runs; given back when the process ends, however it ends.
#[must_use]
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl State {
    /// `--state-dir`, else where the XDG base directory specification puts state.
    pub fn place(given: Option<&Path>) -> Result<PathBuf, StateError> {
        // The specification: a relative XDG_STATE_HOME is to be ignored.
        let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let path = match given {
            Some(path) => path.to_path_buf(),
            None => variable("XDG_STATE_HOME")
                .or_else(|| variable("HOME").map(|home| home.join(".local/state")))
                .map(|home| home.join("outrider"))
                .ok_or(StateError::NoPlace)?,
        };
        std::path::absolute(&path).map_err(|error| StateError::Directory { path, error })
    }

    /// Makes the directory, mode 0700, if it is not there.
    pub fn open(path: PathBuf) -> Result<State, StateError> {
        let failed = |error| StateError::Directory { path: path.clone(), error };
        DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(failed)?;
        let metadata = fs::metadata(&path).map_err(failed)?;
        // SAFETY: geteuid only returns a number.
        if metadata.uid() != unsafe { libc::geteuid() } {
            return Err(StateError::Open { path, why: "it belongs to another user" });
        }
        if metadata.mode() & 0o077 != 0 {
            let empty = fs::read_dir(&path).map_err(failed)?.next().is_none();
            if empty {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).map_err(failed)?;
            } else if metadata.mode() & 0o022 != 0 {
                return Err(StateError::Open { path, why: "its group or everybody may write in it (chmod 700)" });
            }
        }
        Ok(State { path })
    }

    /// Opens a directory that a server has been run in.
    pub fn open_existing(path: PathBuf) -> Result<State, StateError> {
        if !path.join("ca.pem").exists() {
            return Err(StateError::Empty { path });
        }
        State::open(path)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StateError> {
        let path = self.file(name);
        crate::files::write_private(&path, bytes).map_err(|error| StateError::Write { path, error })
    }

    /// For the one server of this directory. Does not wait.
    pub fn lock(&self) -> Result<Lock, StateError> {
        let (path, mut file) = self.lock_file("lock")?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let pid = fs::read_to_string(&path).unwrap_or_default().trim().to_owned();
                return Err(StateError::InUse { path: self.path.clone(), pid });
            }
            Err(TryLockError::Error(error)) => return Err(StateError::Write { path, error }),
        }
        let noted = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        noted.map_err(|error| StateError::Write { path, error })?;
        Ok(Lock { _file: file })
    }

    /// For a short while, while files are made: `up`, `certs` and `token` may come at once. Waits.
    pub fn lock_making(&self) -> Result<Lock, StateError> {
        let (path, file) = self.lock_file("making.lock")?;
        file.lock().map_err(|error| StateError::Write { path, error })?;
        Ok(Lock { _file: file })
    }

    fn lock_file(&self, name: &str) -> Result<(PathBuf, File), StateError> {
        let path = self.file(name);
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        match opened {
            Ok(file) => Ok((path, file)),
            Err(error) => Err(StateError::Write { path, error }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn can_two_servers_share_a_directory() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(directory.path().join("a/b")).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(state.path()), 0o700);
        let lock = state.lock().unwrap();
        let refused = State::open(state.path().into()).unwrap().lock().unwrap_err().to_string();
        assert!(refused.contains(&format!("pid {}", std::process::id())), "{refused}");
        assert_eq!(mode(&state.file("lock")), 0o600);
        drop(lock);
        drop(state.lock().unwrap());
    }

    #[test]
    fn which_directories_are_taken() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let chmod = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        fs::create_dir(&path).unwrap();
        chmod(0o755);
        State::open(path.clone()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700, "an empty one is made private");
        fs::write(path.join("file"), "").unwrap();
        chmod(0o777);
        assert!(matches!(State::open(path.clone()), Err(StateError::Open { .. })));
        chmod(0o755);
        assert!(State::open(path.clone()).is_ok());
        assert!(matches!(State::open(path.join("file")), Err(StateError::Directory { .. })));
        assert!(matches!(State::open_existing(path.clone()), Err(StateError::Empty { .. })));
    }
}
