//! `outrider authorize` with a configuration a test wrote, started for it and ended with it.

use crate::places::binary;
use crate::proxy::end;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A running authorizer. Dropping it sends SIGTERM and waits.
pub struct Authorizer {
    child: Child,
    folder: tempfile::TempDir,
    said: String,
}

impl Authorizer {
    /// With this configuration, its addresses aside, in a folder that has these files.
    pub fn start(config: &str, files: &[(&str, &str)]) -> Authorizer {
        let started = Self::try_start(config, files);
        started.unwrap_or_else(|words| panic!("`outrider authorize` did not get ready:\n{words}\n--- with\n{config}"))
    }

    /// What it said, if it did not get ready.
    pub fn try_start(config: &str, files: &[(&str, &str)]) -> Result<Authorizer, String> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let doors = "admin: 127.0.0.1:0\next_authz_server: {grpc: '127.0.0.1:0', http: '127.0.0.1:0'}\n";
        for (name, text) in [files, &[("authorizer.yaml", &format!("{doors}{config}"))]].concat() {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a file is in a folder")).expect("the folder takes a folder");
            std::fs::write(path, text).expect("the folder takes a file");
        }
        let log = folder.path().join("stderr.log");
        let mut child = Command::new(binary("outrider"))
            .args(["authorize", "--config"])
            .arg(folder.path().join("authorizer.yaml"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log).expect("a log file"))
            .spawn()
            .expect("outrider can be run");
        let mut line = String::new();
        let read = BufReader::new(child.stdout.take().expect("stdout is piped")).read_line(&mut line);
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        if read.is_err() || line.trim() != "ready" {
            end(&mut child);
            return Err(said);
        }
        Ok(Authorizer { child, folder, said })
    }

    /// `127.0.0.1:port` of `grpc`, `http` or `admin`.
    pub fn address(&self, door: &str) -> String {
        let told = self.said.lines().find_map(|line| line.strip_prefix(door)?.strip_prefix(' '));
        told.unwrap_or_else(|| panic!("no word of `{door}`:\n{}", self.said)).to_owned()
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Authorizer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.folder.path().join("stderr.log")).unwrap_or_default();
            eprintln!("--- log of the authorizer ---\n{log}");
        }
        end(&mut self.child);
    }
}
