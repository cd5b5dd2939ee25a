//! Where lines of the access log and of the audit trail go: to stderr or a file through a thread of their own, so that
//! whoever reads them slowly, or not at all, never holds up a request.
//!
//! Lines are written whole and in order. What nobody takes in time is dropped and counted, never kept without bound.

use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Lines that wait to be written: some seconds of a busy server.
const BYTES_MAX: usize = 4 << 20;
/// Lines are gathered for so long, for a write costs as much as the line itself.
const GATHER: Duration = Duration::from_millis(5);
/// A second of them.
const FLUSH_LOOKS: usize = 200;

pub enum Lines {
    /// Nobody wants them.
    None,
    Written(Writer),
    /// For tests.
    Kept(Mutex<Vec<String>>),
}

impl Lines {
    pub fn stderr() -> Lines {
        Lines::Written(Writer::open(std::io::stderr()))
    }

    /// Appended to a file, which only we and our group can read where we are the ones to make it.
    pub fn file(path: &Path) -> std::io::Result<Lines> {
        use std::os::unix::fs::OpenOptionsExt;
        let file = std::fs::OpenOptions::new().create(true).append(true).mode(0o640).open(path)?;
        Ok(Lines::Written(Writer::open(file)))
    }

    /// Takes a line, without its end.
    pub fn write(&self, line: String) {
        match self {
            Lines::None => {}
            Lines::Written(writer) => writer.write(&line),
            Lines::Kept(kept) => kept.lock().unwrap_or_else(PoisonError::into_inner).push(line),
        }
    }

    /// Whether a line would go anywhere: making one costs more than writing it.
    pub fn wanted(&self) -> bool {
        !matches!(self, Lines::None)
    }

    /// Waits, not for ever, until what was written is out: for the end of the process.
    pub fn flush(&self) {
        let Lines::Written(writer) = self else { return };
        for _ in 0..FLUSH_LOOKS {
            if writer.desk.tray().written {
                return;
            }
            std::thread::sleep(GATHER);
        }
    }

    /// Lines that nobody took in time.
    pub fn dropped(&self) -> u64 {
        match self {
            Lines::Written(writer) => writer.desk.dropped.load(Ordering::Relaxed),
            Lines::None | Lines::Kept(_) => 0,
        }
    }
}

pub struct Writer {
    desk: Arc<Desk>,
    writer: Option<std::thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Desk {
    tray: Mutex<Tray>,
    filled: Condvar,
    dropped: AtomicU64,
}

#[derive(Default)]
struct Tray {
    bytes: Vec<u8>,
    /// Nothing is in the tray, nor in the writer's hands.
    written: bool,
    closed: bool,
}

impl Desk {
    fn tray(&self) -> MutexGuard<'_, Tray> {
        self.tray.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what comes until closed.
    fn serve(&self, mut to: impl Write) {
        let mut batch = Vec::new();
        loop {
            let mut tray = self.tray();
            tray.written = tray.bytes.is_empty();
            while tray.bytes.is_empty() && !tray.closed {
                tray = self.filled.wait(tray).unwrap_or_else(PoisonError::into_inner);
            }
            let closed = tray.closed;
            if !closed {
                drop(tray);
                std::thread::sleep(GATHER);
                tray = self.tray();
            }
            std::mem::swap(&mut batch, &mut tray.bytes);
            drop(tray);
            // Who closed our stderr does not want to hear of it; a full disk does not stop requests.
            let _ = to.write_all(&batch);
            batch.clear();
            if closed {
                return;
            }
        }
    }
}

impl Writer {
    fn open(to: impl Write + Send + 'static) -> Writer {
        let desk = Arc::new(Desk::default());
        let served = desk.clone();
        let writer = std::thread::Builder::new().name("outrider-log".into()).spawn(move || served.serve(to));
        if let Err(error) = &writer {
            tracing::error!(%error, "no thread for the log: it will be empty");
        }
        Writer { desk, writer: writer.ok() }
    }

    fn write(&self, line: &str) {
        let mut tray = self.desk.tray();
        if tray.bytes.len() + line.len() >= BYTES_MAX {
            self.desk.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let first = tray.bytes.is_empty();
        tray.bytes.extend_from_slice(line.as_bytes());
        tray.bytes.push(b'\n');
        tray.written = false;
        drop(tray);
        if first {
            self.desk.filled.notify_one();
        }
    }
}

impl Drop for Writer {
    /// What was written is out before the process ends.
    fn drop(&mut self) {
        self.desk.tray().closed = true;
        self.desk.filled.notify_one();
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reader that can be waited for.
    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn are_lines_written_whole_in_order_and_before_the_end() {
        let paper = Paper::default();
        let desk = Arc::new(Desk::default());
        let (served, to) = (desk.clone(), paper.clone());
        let writer = Some(std::thread::spawn(move || served.serve(to)));
        let lines = Writer { desk, writer };
        (0..1000).for_each(|number| lines.write(&format!("line {number}")));
        drop(lines);
        let text = String::from_utf8(paper.0.lock().unwrap().clone()).unwrap();
        assert!(text.lines().map(str::to_owned).eq((0..1000).map(|number| format!("line {number}"))));
    }

    #[test]
    fn is_a_file_appended_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        for line in ["one", "two"] {
            let lines = Lines::file(&path).unwrap();
            lines.write(line.into());
            lines.flush();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\n");
        assert!(Lines::file(&folder.path().join("nowhere/a")).is_err());
    }

    #[test]
    fn what_happens_when_nobody_reads() {
        let writer = Writer { desk: Arc::default(), writer: None };
        let line = "x".repeat(1 << 20);
        (0..6).for_each(|_| writer.write(&line));
        let lines = Lines::Written(writer);
        assert_eq!(lines.dropped(), 3);
    }
}
