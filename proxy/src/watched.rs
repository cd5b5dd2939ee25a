//! Folders of YAML files that are reread whenever a file in them changes, and what was last good in them.
//!
//! Taken whole or not at all: one bad file leaves everything as it was, and says why in the log and in [`Watched`]. What
//! is made may depend on more than files; whoever brings the rest tells [`Outside`]. The folders' own links are
//! followed, so a mounted ConfigMap, which swaps one link for all files, is seen too.

use crate::files::{Stamp, read_bounded};
use crate::policy::Problem;
use arc_swap::ArcSwap;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// Changes are known this late at most.
pub const WATCH_PERIOD: Duration = Duration::from_secs(2);

pub(crate) const FILE_BYTES_MAX: u64 = 1 << 20;
/// A namespace has tens of policies; whoever names a wrong folder shall hear of it soon.
const FILES_MAX: usize = 1024;

/// A file's path and its text.
pub type File = (String, String);

/// Makes something of the files of each folder, in the order of the folders.
pub type Load<T> = Box<dyn Fn(&[Vec<File>]) -> Result<T, Vec<Problem>> + Send + Sync>;

/// What came into force may lack a part of what was asked for, and says why.
pub trait Lacks {
    fn lacks(&self) -> &[Problem] {
        &[]
    }
}

/// Tells of changes that no folder shows.
#[derive(Default)]
pub struct Outside {
    version: AtomicU64,
    failures: AtomicU64,
    told: Notify,
}

impl Outside {
    /// What is loaded would be another one now.
    pub fn changed(&self) {
        self.version.fetch_add(1, Ordering::Release);
        self.told.notify_one();
    }

    /// Whether there was a change cannot be known.
    pub fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }
}

/// Changes come in bursts: one look for all of them.
const SETTLE: Duration = Duration::from_millis(100);

/// Folders, and what was last good in them.
pub struct Watched<T> {
    folders: Vec<PathBuf>,
    /// For the log: `policies`.
    what: &'static str,
    load: Load<T>,
    in_force: ArcSwap<T>,
    /// What the folders were like at the last look, good or bad.
    known: Mutex<(Stamps, u64)>,
    outside: Arc<Outside>,
    problems: Mutex<Vec<Problem>>,
    generation: AtomicU64,
    reloads: AtomicU64,
    failures: AtomicU64,
}

/// By folder and file name.
type Stamps = BTreeMap<(usize, String), Option<Stamp>>;

impl<T: Lacks + Send + Sync + 'static> Watched<T> {
    /// Reads the folders for the first time.
    pub fn open(folders: Vec<PathBuf>, what: &'static str, load: Load<T>) -> Result<Watched<T>, Vec<Problem>> {
        Watched::open_with(folders, what, load, Arc::default())
    }

    /// The same, of something that depends on more than the folders, of which there may be none.
    pub fn open_with(
        folders: Vec<PathBuf>,
        what: &'static str,
        load: Load<T>,
        outside: Arc<Outside>,
    ) -> Result<Watched<T>, Vec<Problem>> {
        let version = outside.version.load(Ordering::Acquire);
        let stamps = stamps(&folders).map_err(|problem| vec![problem])?;
        let in_force = load(&read(&folders, &stamps)?)?;
        tracing::info!(generation = 1, "{what} in force");
        let problems = Mutex::new(in_force.lacks().to_vec());
        Ok(Watched {
            folders,
            what,
            load,
            in_force: ArcSwap::from_pointee(in_force),
            known: Mutex::new((stamps, version)),
            outside,
            problems,
            generation: AtomicU64::new(1),
            reloads: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        })
    }

    pub fn current(&self) -> Arc<T> {
        self.in_force.load_full()
    }

    /// Looks every period, for ever. Start it on one runtime only.
    pub async fn watch(self: Arc<Self>, period: Duration) {
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.outside.told.notified() => tokio::time::sleep(SETTLE).await,
            }
            let watched = self.clone();
            // A slow disk must not hold up the connections of this thread.
            let _ = tokio::task::spawn_blocking(move || watched.look()).await;
        }
    }

    /// Rereads the folders if anything in them, or outside, has changed since the last look.
    pub fn look(&self) {
        let mut known = lock(&self.known);
        let version = self.outside.version.load(Ordering::Acquire);
        let loaded = match stamps(&self.folders) {
            Ok(stamps) if stamps == known.0 && version == known.1 => return,
            Ok(before) => {
                let loaded = read(&self.folders, &before).and_then(|files| (self.load)(&files));
                // Changed while being read: files may be of two generations. The next look will find them at rest.
                if stamps(&self.folders).is_ok_and(|after| after != before) {
                    return;
                }
                *known = (before, version);
                loaded
            }
            // Not remembered as a state of the folder, so that its return is noticed; told once all the same.
            Err(problem) if lock(&self.problems).first() == Some(&problem) => return,
            Err(problem) => {
                known.0.clear();
                Err(vec![problem])
            }
        };
        match loaded {
            Ok(in_force) => {
                self.reloads.fetch_add(1, Ordering::Relaxed);
                let generation = self.generation.fetch_add(1, Ordering::Relaxed) + 1;
                tracing::info!(generation, "{} in force", self.what);
                let problems = in_force.lacks().to_vec();
                for problem in &problems {
                    tracing::error!(%problem, "{} in force without a part", self.what);
                }
                self.failures.fetch_add(u64::from(!problems.is_empty()), Ordering::Relaxed);
                self.in_force.store(Arc::new(in_force));
                *lock(&self.problems) = problems;
            }
            Err(problems) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                for problem in &problems {
                    tracing::error!(%problem, "{} not reloaded; the old ones stay", self.what);
                }
                *lock(&self.problems) = problems;
            }
        }
    }

    /// Why the folders as they are now are not in force; empty if they are.
    pub fn problems(&self) -> Vec<Problem> {
        lock(&self.problems).clone()
    }

    /// Counts up from 1 with every state that came into force.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    pub fn reloads(&self) -> u64 {
        self.reloads.load(Ordering::Relaxed)
    }

    /// Times that what is outside could not be asked.
    pub fn outside_failures(&self) -> u64 {
        self.outside.failures.load(Ordering::Relaxed)
    }

    /// Changes that were not taken, or not whole.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn problem(folder: &Path, name: &str, message: String) -> Problem {
    let file = folder.join(name).display().to_string();
    Problem { file, document: String::new(), path: String::new(), message }
}

/// Every YAML file and what it is like. Hidden ones are an editor's, or the halves of a ConfigMap's swap.
fn stamps(folders: &[PathBuf]) -> Result<Stamps, Problem> {
    let mut stamps = Stamps::new();
    for (at, folder) in folders.iter().enumerate() {
        let bad = |error: std::io::Error| problem(folder, "", format!("cannot be read: {error}"));
        for entry in std::fs::read_dir(folder).map_err(bad)? {
            let name = entry.map_err(bad)?.file_name();
            let Some(name) = name.to_str().filter(|name| !name.starts_with('.')) else { continue };
            if name.ends_with(".yaml") || name.ends_with(".yml") {
                stamps.insert((at, name.to_owned()), Stamp::of(&folder.join(name)).ok());
            }
            if stamps.len() > FILES_MAX {
                let words = format!("holds more than {FILES_MAX} YAML files; name a folder of its own");
                return Err(problem(folder, "", words));
            }
        }
    }
    Ok(stamps)
}

/// All files, or all that cannot be read.
fn read(folders: &[PathBuf], stamps: &Stamps) -> Result<Vec<Vec<File>>, Vec<Problem>> {
    let (mut files, mut problems) = (vec![Vec::new(); folders.len()], Vec::new());
    for (at, name) in stamps.keys() {
        let path = folders[*at].join(name);
        let bytes = read_bounded(&path, FILE_BYTES_MAX).map_err(|error| error.to_string());
        match bytes.and_then(|bytes| String::from_utf8(bytes).map_err(|_| "is not UTF-8".into())) {
            Ok(text) => files[*at].push((path.display().to_string(), text)),
            Err(message) => problems.push(problem(&folders[*at], name, message)),
        }
    }
    if problems.is_empty() { Ok(files) } else { Err(problems) }
}
