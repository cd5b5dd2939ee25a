//! Two network namespaces joined by a cable: a pod, and somebody else. What runs in them sees no network but this one,
//! and rules written in them end with them.

use std::fs::File;
use std::future::Future;
use std::io::{BufRead, BufReader};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Programs that interception is made and tried with.
const PROGRAMS: &[&str] = &["ip", "iptables-restore", "ip6tables-restore", "nft", "python3"];

/// The pod and its neighbour. Dropping it takes both away.
pub struct Pair {
    pub pod: Namespace,
    pub other: Namespace,
}

/// One of the two: a name, and its addresses on the cable.
pub struct Namespace {
    name: String,
    pub v4: &'static str,
    pub v6: &'static str,
}

/// Whether this machine can have namespaces. Says loudly when it cannot, and fails where `OUTRIDER_REQUIRE_NETNS` is set.
pub fn available() -> bool {
    let lacking = lacking();
    if let Some(what) = &lacking {
        assert!(std::env::var_os("OUTRIDER_REQUIRE_NETNS").is_none(), "no network namespaces: {what}");
        eprintln!("SKIPPED: no network namespaces: {what}");
    }
    lacking.is_none()
}

fn lacking() -> Option<String> {
    // SAFETY: no memory is touched.
    if unsafe { libc::geteuid() } != 0 {
        return Some("only root can make them".into());
    }
    let absent = |program: &&&str| {
        let found = Command::new("sh").args(["-c", "command -v \"$0\"", program]).output().expect("a shell");
        !found.status.success()
    };
    if let Some(program) = PROGRAMS.iter().find(absent) {
        return Some(format!("{program} is absent (packages iproute2, iptables, nftables)"));
    }
    let trial = Namespace::new("trial", "", "");
    let made = ip(&["netns", "add", &trial.name]);
    made.err().map(|words| format!("`ip netns add` fails: {words}"))
}

impl Pair {
    /// Addresses are the same each time: namespaces do not see each other.
    pub fn new() -> Pair {
        let pod = Namespace::new("pod", "10.77.0.1", "fd77::1");
        let other = Namespace::new("other", "10.77.0.2", "fd77::2");
        for namespace in [&pod, &other] {
            must(&["netns", "add", &namespace.name]);
        }
        let ends = ["cable", "cable"];
        must(&[
            "link",
            "add",
            ends[0],
            "netns",
            &pod.name,
            "type",
            "veth",
            "peer",
            "name",
            ends[1],
            "netns",
            &other.name,
        ]);
        for namespace in [&pod, &other] {
            let inside = |words: &[&str]| must(&[&["-n", &namespace.name], words].concat());
            inside(&["link", "set", "lo", "up"]);
            inside(&["address", "add", &format!("{}/24", namespace.v4), "dev", "cable"]);
            // Without `nodad` the address could not be used at once.
            inside(&["address", "add", &format!("{}/64", namespace.v6), "dev", "cable", "nodad"]);
            inside(&["link", "set", "cable", "up"]);
        }
        // What goes further goes to the neighbour, so that there are addresses beyond the cable.
        for (namespace, gateway) in [(&pod, &other), (&other, &pod)] {
            must(&["-n", &namespace.name, "route", "add", "default", "via", gateway.v4]);
            must(&["-n", &namespace.name, "-6", "route", "add", "default", "via", gateway.v6]);
        }
        Pair { pod, other }
    }
}

impl Default for Pair {
    fn default() -> Self {
        Self::new()
    }
}

impl Namespace {
    fn new(role: &str, v4: &'static str, v6: &'static str) -> Namespace {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("outrider-{}-{}-{role}", std::process::id(), COUNT.fetch_add(1, Relaxed));
        Namespace { name, v4, v6 }
    }

    /// A command that will run inside, as this user and group and nobody else; its program may lie where they may not look.
    pub fn command_as(&self, id: u32, program: &Path, name: &str) -> Command {
        let mut command = self.command("python3");
        // Whatever Python has yet to load, it could not any more once it is somebody else.
        let script = "import os,sys; f=os.open(sys.argv[1],os.O_RDONLY|os.O_CLOEXEC); i=int(sys.argv[2]); \
            os.setgroups([]); os.setresgid(i,i,i); os.setresuid(i,i,i); os.execve(f,sys.argv[3:],{})";
        command.args(["-c", script]).arg(program).args([&id.to_string(), name]);
        command
    }

    /// A command that will run inside.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]).stdin(Stdio::null());
        command
    }

    /// Runs to its end, which must be a good one; gives what it printed.
    pub fn run(&self, words: &[&str]) -> String {
        self.try_run(words).unwrap_or_else(|complaint| panic!("{words:?} failed: {complaint}"))
    }

    /// As [`Namespace::run`], with its complaint when it fails.
    pub fn try_run(&self, words: &[&str]) -> Result<String, String> {
        output(self.command(words[0]).args(&words[1..]))
    }

    /// A Python program that runs until it is dropped; returns when it has printed its first line.
    pub fn python(&self, script: &str, arguments: &[&str]) -> Running {
        let mut command = self.command("python3");
        let mut child =
            command.args(["-c", script]).args(arguments).stdout(Stdio::piped()).spawn().expect("ip can be run");
        let mut lines = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let mut first = String::new();
        lines.read_line(&mut first).expect("stdout can be read");
        Running { child, _lines: lines }
    }

    /// A runtime whose threads are inside: what they connect and listen on is this network's.
    pub fn enter(&self) -> Inside {
        let path = format!("/run/netns/{}", self.name);
        let place = File::open(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let enter = move || {
            // SAFETY: no memory is touched; the descriptor is open.
            let moved = unsafe { libc::setns(place.as_raw_fd(), libc::CLONE_NEWNET) };
            assert_eq!(moved, 0, "root may enter what it made");
        };
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        Inside(builder.worker_threads(2).enable_all().on_thread_start(enter).build().expect("two threads"))
    }
}

/// Ends with all that was started on it.
pub struct Inside(tokio::runtime::Runtime);

impl Inside {
    /// To its end, on a thread inside: the one that asks is not.
    pub fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        match self.0.block_on(self.0.spawn(work)) {
            Ok(done) => done,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    pub fn start(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(work);
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = ip(&["netns", "delete", &self.name]);
    }
}

/// Ended when dropped.
pub struct Running {
    child: Child,
    _lines: BufReader<ChildStdout>,
}

impl Drop for Running {
    fn drop(&mut self) {
        // `ip netns exec` becomes the program itself: this is its process.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ip(words: &[&str]) -> Result<String, String> {
    output(Command::new("ip").args(words).stdin(Stdio::null()))
}

fn must(words: &[&str]) {
    ip(words).unwrap_or_else(|complaint| panic!("ip {words:?}: {complaint}"));
}

fn output(command: &mut Command) -> Result<String, String> {
    let out = command.output().map_err(|error| error.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if out.status.success() { Ok(text(&out.stdout)) } else { Err(text(&out.stderr)) }
}
