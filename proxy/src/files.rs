//! Small files that matter: written whole or not at all, private to their owner, read within a bound.
//!
//! Never follows a half-way state: a writer renames a finished, synced file into place; a reader that must know of
//! changes compares [`Stamp`]s.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// What changes when a file does: a replaced file has another inode, a rewritten one another time or length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    inode: u64,
    bytes: u64,
    modified_nanoseconds: i128,
}

impl Stamp {
    /// Follows symbolic links: Kubernetes swaps a link, not the file.
    pub fn of(path: &Path) -> io::Result<Stamp> {
        let metadata = fs::metadata(path)?;
        let modified_nanoseconds = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
        Ok(Stamp { inode: metadata.ino(), bytes: metadata.len(), modified_nanoseconds })
    }
}

/// The whole file, or an error that says so if it has more than `bytes_max` bytes.
pub fn read_bounded(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {bytes_max} bytes")));
    }
    Ok(bytes)
}

/// Puts a file with these bytes and mode 0600 in place, atomically: readers see the old one or the new one, and so
/// does a machine that lost power.
pub fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
    let unique = COUNT.fetch_add(1, Ordering::Relaxed);
    let temporary = directory.join(format!(".{name}.{}.{unique}.tmp", std::process::id()));
    // A file of that name can only be left over from a process that was killed.
    let _ = fs::remove_file(&temporary);
    let written = write_synced(&temporary, bytes).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written?;
    // Without this the name may be lost while its bytes are safe.
    File::open(directory)?.sync_all()
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn is_a_file_replaced_whole_and_private() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        fs::write(&path, "old, and readable by all").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let before = Stamp::of(&path).unwrap();
        write_private(&path, b"new").unwrap();
        assert_eq!(read_bounded(&path, 3).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_ne!(Stamp::of(&path).unwrap(), before);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn what_happens_when_it_cannot() {
        let directory = tempfile::tempdir().unwrap();
        assert!(write_private(&directory.path().join("absent/token"), b"x").is_err());
        let path = directory.path().join("big");
        write_private(&path, b"1234").unwrap();
        assert_eq!(read_bounded(&path, 3).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        fs::create_dir(directory.path().join("folder")).unwrap();
        assert!(write_private(&directory.path().join("folder"), b"x").is_err());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2, "no temporary file is left");
    }
}
