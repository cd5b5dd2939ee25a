//! Ends the process when its parent has ended: a worker without its sidecar is memory nobody can reach.
//!
//! Not PR_SET_PDEATHSIG: that signal comes when the parent's *thread* ends, and a sidecar's threads come and go.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Where the kernel cannot tell, the parent is asked for this often.
const POLL: Duration = Duration::from_millis(250);

/// Watches the parent from a thread; when it ends, removes `socket` and ends the process at once.
pub fn watch(socket: PathBuf) -> io::Result<()> {
    // SAFETY: getppid only reads a number of the process.
    let parent = unsafe { libc::getppid() };
    let work = move || {
        wait_for_end(parent);
        tracing::warn!(parent, "the parent process has ended; ending");
        let _ = std::fs::remove_file(&socket);
        std::process::exit(0);
    };
    std::thread::Builder::new().name("parent".into()).spawn(work).map(drop)
}

fn wait_for_end(parent: libc::pid_t) {
    // SAFETY: a system call without pointers; it returns a new descriptor or -1.
    #[cfg(target_os = "linux")]
    let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, parent, 0) } as libc::c_int;
    #[cfg(not(target_os = "linux"))]
    let descriptor: libc::c_int = -1;
    // Asked after the descriptor is open, so that it cannot stand for a later process of that number.
    // SAFETY: getppid only reads a number of the process.
    while unsafe { libc::getppid() } == parent {
        if descriptor < 0 {
            std::thread::sleep(POLL);
            continue;
        }
        let mut poll = libc::pollfd { fd: descriptor, events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd that outlives the call; the descriptor is ours and stays open.
        if unsafe { libc::poll(&mut poll, 1, -1) } < 0 {
            std::thread::sleep(POLL);
        }
    }
}
