//! A folder of this process for what must be a file and is none: parts of a kubeconfig, the socket of the relay.
//!
//! Made when it is needed, for nobody else to look into, and gone with the process.

use crate::files::write_private;
use crate::kube::client::kubeconfig::Inline;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

pub struct Folder {
    path: PathBuf,
    made: bool,
}

impl Folder {
    /// Nothing is there yet.
    pub fn at(path: PathBuf) -> Folder {
        Folder { path, made: false }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Never one that somebody else made.
    pub fn make(&mut self) -> io::Result<()> {
        if !self.made {
            std::fs::DirBuilder::new().mode(0o700).create(&self.path)?;
            self.made = true;
        }
        Ok(())
    }

    /// Data written into a kubeconfig, where the client reads files.
    pub fn write(&mut self, inline: Inline) -> io::Result<()> {
        let parts = [
            ("ca.crt", inline.authorities),
            ("client.crt", inline.certificate),
            ("client.key", inline.key),
            ("token", inline.token),
        ];
        for (name, bytes) in parts {
            if let Some(bytes) = bytes {
                self.make()?;
                write_private(&self.path.join(name), &bytes)?;
            }
        }
        Ok(())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.made {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_what_a_kubeconfig_holds_gone_with_the_process() {
        let base = tempfile::tempdir().unwrap();
        let place = base.path().join("inline");
        let mut folder = Folder::at(place.clone());
        folder.write(Inline::default()).unwrap();
        assert!(!place.exists(), "nothing needs it");
        folder.write(Inline { token: Some(b"secret".to_vec()), ..Inline::default() }).unwrap();
        assert_eq!(std::fs::read(place.join("token")).unwrap(), b"secret");
        let mut second = Folder::at(place.clone());
        assert!(second.make().is_err(), "it is another's");
        drop(second);
        assert!(place.exists());
        drop(folder);
        assert!(!place.exists());
    }
}
