//! `outrider proxy` with a configuration a test wrote, started for it and ended with it; and what it has in common with
//! `outrider up`.

use crate::netns::Namespace;
use crate::places::binary;
use crate::up::{PATIENCE, Up, send};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

/// User and group of a sidecar in a pod, as `outrider redirect` takes them to be.
const SIDECAR_ID: u32 = 1337;

/// A running sidecar, whoever started it.
pub trait Sidecar {
    /// `127.0.0.1:port` of the listener.
    fn address(&self) -> &str;
    fn admin_address(&self) -> &str;
    /// Everything logged so far.
    fn log(&self) -> String;
}

impl Sidecar for Up {
    fn address(&self) -> &str {
        Up::address(self)
    }

    fn admin_address(&self) -> &str {
        Up::admin_address(self)
    }

    fn log(&self) -> String {
        Up::log(self)
    }
}

impl<T: Sidecar> Sidecar for Arc<T> {
    fn address(&self) -> &str {
        T::address(self)
    }

    fn admin_address(&self) -> &str {
        T::admin_address(self)
    }

    fn log(&self) -> String {
        T::log(self)
    }
}

/// A running `outrider proxy`. Dropping it sends SIGTERM and waits.
pub struct Proxy {
    child: Child,
    folder: PathBuf,
    _own: Option<tempfile::TempDir>,
    address: String,
    admin: String,
}

impl Proxy {
    /// Starts with this configuration, its `listen` and `admin` aside, in a folder of its own that has these files.
    pub fn start(config: &str, files: &[(&str, &str)]) -> Proxy {
        let own = tempfile::tempdir().expect("a temporary folder");
        for (name, text) in files {
            std::fs::write(own.path().join(name), text).expect("the folder takes a file");
        }
        let mut proxy = Self::start_in(own.path(), config);
        proxy._own = Some(own);
        proxy
    }

    /// As [`Proxy::start`], in a folder that is the test's.
    pub fn start_in(folder: &Path, config: &str) -> Proxy {
        let ports = if config.contains("listen:") { "" } else { "listen: 127.0.0.1:0\n" };
        // Nobody sends callers here but the test: it need not be waited for those who still might.
        let drain = if config.contains("drain:") { "" } else { "drain: {quiet: 0s}\n" };
        let config = format!("{ports}admin: 127.0.0.1:0\n{drain}{config}");
        std::fs::write(folder.join("proxy.yaml"), &config).expect("the folder takes a configuration");
        Self::launch(folder, Command::new(binary("outrider")))
    }

    /// In this network, as the user whose connections no redirect takes, with its ports and all in `config`.
    pub fn start_inside(network: &Namespace, config: &str, files: &[(&str, &str)]) -> Proxy {
        use std::os::unix::fs::PermissionsExt;
        let own = tempfile::tempdir().expect("a temporary folder");
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(own.path(), open.clone()).expect("the folder is ours");
        for (name, text) in [files, &[("proxy.yaml", config)]].concat() {
            let path = own.path().join(name);
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder).expect("the folder takes a folder");
                std::fs::set_permissions(folder, open.clone()).expect("the folder is ours");
            }
            std::fs::write(&path, text).expect("the folder takes a file");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("the file is ours");
        }
        let command = network.command_as(SIDECAR_ID, &binary("outrider"), "outrider");
        let mut proxy = Self::launch(own.path(), command);
        proxy._own = Some(own);
        proxy
    }

    fn launch(folder: &Path, mut command: Command) -> Proxy {
        let log = folder.join("stderr.log");
        let mut child = command
            .args(["proxy", "--config"])
            .arg(folder.join("proxy.yaml"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log).expect("a log file"))
            .spawn()
            .expect("outrider can be run");
        let mut stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let mut line = String::new();
        while line.trim() != "ready" {
            line.clear();
            if stdout.read_line(&mut line).expect("stdout can be read") == 0 {
                let _ = child.wait();
                let log = std::fs::read_to_string(&log).unwrap_or_default();
                let config = std::fs::read_to_string(folder.join("proxy.yaml")).unwrap_or_default();
                panic!("`outrider proxy` did not get ready:\n{log}\n--- with\n{config}");
            }
        }
        let mut proxy =
            Proxy { child, folder: folder.into(), _own: None, address: String::new(), admin: String::new() };
        proxy.address = proxy.announced("listening");
        proxy.admin = proxy.announced("admin");
        proxy
    }

    fn announced(&self, what: &str) -> String {
        let log = self.log();
        let found = log.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(' '));
        found.unwrap_or_else(|| panic!("no line `{what} …`:\n{log}")).trim().to_owned()
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether the process is still there.
    pub fn lives(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_none()
    }
}

impl Sidecar for Proxy {
    fn address(&self) -> &str {
        &self.address
    }

    fn admin_address(&self) -> &str {
        &self.admin
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("stderr.log")).unwrap_or_default()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            eprintln!("--- log of outrider, last 60 lines ---");
            for line in log.lines().rev().take(60).collect::<Vec<_>>().into_iter().rev() {
                eprintln!("{line}");
            }
        }
        end(&mut self.child);
    }
}

/// SIGTERM, and after [`PATIENCE`] or in a failing test SIGKILL.
pub fn end(child: &mut Child) {
    send(child.id(), libc::SIGTERM);
    if std::thread::panicking() {
        let _ = child.kill();
    }
    let start = std::time::Instant::now();
    while matches!(child.try_wait(), Ok(None)) {
        if start.elapsed() > PATIENCE {
            let _ = child.kill();
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}
