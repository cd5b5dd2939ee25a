//! A file that is read again when it changes, and whose last good state outlives a bad one.
//!
//! Never makes a caller wait for a look that another is taking.

use crate::files::Stamp;
use arc_swap::{ArcSwap, Guard};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// A look costs one `stat`; two seconds is how long something revoked may live on.
const LOOK_EVERY_SECONDS: u64 = 2;

pub struct Reread<T> {
    path: PathBuf,
    load: fn(&Path) -> Result<T, String>,
    state: ArcSwap<T>,
    looked_at_unix: AtomicU64,
    stamp: Mutex<Option<Stamp>>,
}

impl<T> Reread<T> {
    /// Reads it for the first time; the error begins with the path.
    pub fn open(path: &Path, load: fn(&Path) -> Result<T, String>) -> Result<Reread<T>, String> {
        let stamp = Stamp::of(path).ok();
        let state = load(path).map_err(|reason| format!("{}: {reason}", path.display()))?;
        Ok(Reread {
            path: path.into(),
            load,
            state: ArcSwap::from_pointee(state),
            looked_at_unix: AtomicU64::new(0),
            stamp: Mutex::new(stamp),
        })
    }

    /// As it is now. Every two seconds one of the callers looks at the file first; the others never wait for it.
    pub fn current(&self, now_unix: u64) -> Guard<Arc<T>> {
        let looked = self.looked_at_unix.load(Ordering::Relaxed);
        let due = now_unix.abs_diff(looked) >= LOOK_EVERY_SECONDS;
        if due && self.looked_at_unix.compare_exchange(looked, now_unix, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.look();
        }
        self.state.load()
    }

    fn look(&self) {
        // Whoever finds it locked leaves the look to the one who holds it.
        let Ok(mut stamp) = self.stamp.try_lock() else { return };
        let now = Stamp::of(&self.path).ok();
        if now == *stamp {
            return;
        }
        *stamp = now;
        match (self.load)(&self.path) {
            Ok(state) => {
                tracing::info!(file = %self.path.display(), "reloaded");
                self.state.store(Arc::new(state));
            }
            // An outage of whoever writes the file must not become an outage of ours.
            Err(reason) => tracing::error!(file = %self.path.display(), %reason, "not reloaded; what was read stays"),
        }
    }
}
