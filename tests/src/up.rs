//! `outrider up`, started for a test and ended with it.

use crate::places::binary;
use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How long anything may take before a test gives up; nothing asserts that it is quick.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A running `outrider up`. Dropping it sends SIGTERM and waits.
pub struct Up {
    child: Child,
    stdout: BufReader<ChildStdout>,
    log: PathBuf,
    state: PathBuf,
    /// Removes the state when the test is over, if it was made for this one start.
    _own: Option<tempfile::TempDir>,
    env: HashMap<String, String>,
}

impl Up {
    /// Starts with `--state-dir` in a fresh place, free ports and these further arguments; returns when it is ready.
    pub fn start(arguments: &[&str]) -> Up {
        Self::try_start(arguments).unwrap_or_else(|log| panic!("`outrider up` did not get ready:\n{log}"))
    }

    /// As [`Up::start`], but gives the log when it ends before it is ready.
    pub fn try_start(arguments: &[&str]) -> Result<Up, String> {
        let own = tempfile::tempdir().expect("a temporary folder");
        let mut up = Self::try_start_in(own.path(), arguments)?;
        up._own = Some(own);
        Ok(up)
    }

    /// As [`Up::start`], with a state dir that outlives it.
    pub fn start_in(state: &Path, arguments: &[&str]) -> Up {
        Self::try_start_in(state, arguments).unwrap_or_else(|log| panic!("`outrider up` did not get ready:\n{log}"))
    }

    /// As [`Up::try_start`], with a state dir that outlives it.
    pub fn try_start_in(state: &Path, arguments: &[&str]) -> Result<Up, String> {
        static STARTS: AtomicUsize = AtomicUsize::new(0);
        let log = state.join(format!("stderr-{}.log", STARTS.fetch_add(1, Relaxed)));
        let stderr = std::fs::File::create(&log).expect("a log file");
        let mut child = Command::new(binary("outrider"))
            .arg("up")
            .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--device", "cpu"])
            .arg("--state-dir")
            .arg(state)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .expect("outrider can be run");
        let mut stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let mut line = String::new();
        while line.trim() != "ready" {
            line.clear();
            if stdout.read_line(&mut line).expect("stdout can be read") == 0 {
                let _ = child.wait();
                return Err(std::fs::read_to_string(log).unwrap_or_default());
            }
        }
        let env = read_env(&state.join("client.env"));
        Ok(Up { child, stdout, log, state: state.to_path_buf(), _own: None, env })
    }

    /// With SmolLM2 as `smollm2` and MiniLM as `minilm`.
    pub fn with_models(arguments: &[&str]) -> Up {
        let smollm2 = format!("smollm2={}", crate::places::smollm2().display());
        let minilm = format!("minilm={}", crate::places::minilm().display());
        Self::start(&[&["--model", &smollm2, "--model", &minilm], arguments].concat())
    }

    /// A variable of `client.env`.
    pub fn env(&self, name: &str) -> &str {
        self.env.get(name).unwrap_or_else(|| panic!("client.env lacks {name}"))
    }

    /// All of `client.env`.
    pub fn client_env(&self) -> &HashMap<String, String> {
        &self.env
    }

    pub fn state_dir(&self) -> &Path {
        &self.state
    }

    pub fn url(&self) -> &str {
        self.env("OUTRIDER_URL")
    }

    /// `127.0.0.1:port` of the listener.
    pub fn address(&self) -> &str {
        self.url().rsplit('/').next().expect("a URL has an authority")
    }

    pub fn admin_address(&self) -> &str {
        self.env("OUTRIDER_ADMIN_URL").rsplit('/').next().expect("a URL has an authority")
    }

    pub fn token(&self) -> &str {
        self.env("OUTRIDER_TOKEN")
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Process ids of its children: the worker, if one is awake.
    pub fn worker_pids(&self) -> Vec<u32> {
        children_of(self.pid())
    }

    /// Waits until the sidecar's worker processes satisfy `wanted`.
    pub fn wait_for_workers(&self, what: &str, wanted: impl Fn(&[u32]) -> bool) -> Vec<u32> {
        wait_until(what, || Some(self.worker_pids()).filter(|pids| wanted(pids)))
    }

    /// Sends a signal to the sidecar itself.
    pub fn signal(&self, signal: i32) {
        send(self.pid(), signal);
    }

    /// Waits for its end; gives the exit code and whatever else it said on stdout.
    pub fn wait(&mut self) -> (Option<i32>, Vec<String>) {
        let status = wait_until("the end of outrider", || self.child.try_wait().expect("a child can be waited for"));
        let rest = std::io::Read::by_ref(&mut self.stdout).lines().map_while(Result::ok).collect();
        (status.code(), rest)
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.signal(libc::SIGTERM);
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            eprintln!("--- log of outrider, last 60 lines ---");
            for line in log.lines().rev().take(60).collect::<Vec<_>>().into_iter().rev() {
                eprintln!("{line}");
            }
        }
    }
}

/// Sends a signal to a process this test started.
pub fn send(pid: u32, signal: i32) {
    // SAFETY: `kill` has no memory effects; the process is a descendant of this test.
    unsafe { libc::kill(pid as libc::pid_t, signal) };
}

/// Asks again and again until there is an answer, at most [`PATIENCE`].
pub fn wait_until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Resident memory of a process in bytes; 0 if it is gone.
pub fn rss_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Processes it started that are there.
pub fn children_of(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks
        .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|text| text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>())
        .collect()
}

/// Reads the file as a shell would, by asking one.
fn read_env(path: &Path) -> HashMap<String, String> {
    let script = format!("set -a; . '{}'; env -0", path.display());
    let out = Command::new("sh").args(["-c", &script]).env_clear().output().expect("a shell");
    assert!(out.status.success(), "client.env is no shell file: {}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8(out.stdout).expect("client.env is UTF-8");
    text.split('\0').filter_map(|entry| entry.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}
