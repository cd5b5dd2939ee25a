//! A folder of policies, reread whenever a file in it changes.
//!
//! Taken whole or not at all: one bad file leaves everything as it was, and says why in the log and in [`Watched`]. The
//! folder's own links are followed, so a mounted ConfigMap, which swaps one link for all files, is seen too.

use super::document::Problem;
use super::{Policies, Workload};
use crate::auth::jwks_fetch::RemoteKeys;
use crate::auth::request::RequestAuthenticator;
use crate::files::{Stamp, read_bounded};
use arc_swap::ArcSwap;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Changes are known this late at most.
pub const WATCH_PERIOD: Duration = Duration::from_secs(2);

const FILE_BYTES_MAX: u64 = 1 << 20;
/// A namespace has tens of policies; whoever names a wrong folder shall hear of it soon.
const FILES_MAX: usize = 1024;

/// What is in force: policies and the tokens they speak of change only together.
pub struct InForce {
    pub policies: Policies,
    pub requests: RequestAuthenticator,
}

/// A folder, and what was last good in it.
pub struct Watched {
    folder: PathBuf,
    workload: Workload,
    keys: Arc<RemoteKeys>,
    in_force: ArcSwap<InForce>,
    /// What the folder was like at the last look, good or bad.
    known: Mutex<Stamps>,
    problems: Mutex<Vec<Problem>>,
    generation: AtomicU64,
    reloads: AtomicU64,
    failures: AtomicU64,
}

/// By file name.
type Stamps = BTreeMap<String, Option<Stamp>>;

impl Watched {
    /// Reads the folder; an empty one means that there are no policies. Keys of issuers come from `keys`, which
    /// somebody must run.
    pub fn open(folder: &Path, workload: Workload, keys: Arc<RemoteKeys>) -> Result<Watched, Vec<Problem>> {
        let stamps = stamps(folder).map_err(|problem| vec![problem])?;
        let in_force = load(folder, &stamps, &workload, &keys)?;
        tell(&in_force, 1);
        Ok(Watched {
            folder: folder.into(),
            workload,
            keys,
            in_force: ArcSwap::from_pointee(in_force),
            known: Mutex::new(stamps),
            problems: Mutex::default(),
            generation: AtomicU64::new(1),
            reloads: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        })
    }

    pub fn current(&self) -> Arc<InForce> {
        self.in_force.load_full()
    }

    /// Looks every period, for ever. Start it on one runtime only.
    pub async fn watch(self: Arc<Self>, period: Duration) {
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let watched = self.clone();
            // A slow disk must not hold up the connections of this thread.
            let _ = tokio::task::spawn_blocking(move || watched.look()).await;
        }
    }

    /// Rereads the folder if anything in it has changed since the last look.
    pub fn look(&self) {
        let mut known = lock(&self.known);
        let loaded = match stamps(&self.folder) {
            Ok(stamps) if stamps == *known => return,
            Ok(before) => {
                let loaded = load(&self.folder, &before, &self.workload, &self.keys);
                // Changed while being read: files may be of two generations. The next look will find them at rest.
                if stamps(&self.folder).is_ok_and(|after| after != before) {
                    return;
                }
                *known = before;
                loaded
            }
            // Not remembered as a state of the folder, so that its return is noticed; told once all the same.
            Err(problem) if lock(&self.problems).first() == Some(&problem) => return,
            Err(problem) => {
                known.clear();
                Err(vec![problem])
            }
        };
        match loaded {
            Ok(in_force) => {
                self.reloads.fetch_add(1, Ordering::Relaxed);
                tell(&in_force, self.generation.fetch_add(1, Ordering::Relaxed) + 1);
                self.in_force.store(Arc::new(in_force));
                lock(&self.problems).clear();
            }
            Err(problems) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                for problem in &problems {
                    tracing::error!(%problem, "policies not reloaded; the old ones stay");
                }
                *lock(&self.problems) = problems;
            }
        }
    }

    /// Why the folder as it is now is not in force; empty if it is.
    pub fn problems(&self) -> Vec<Problem> {
        lock(&self.problems).clone()
    }

    /// Counts up from 1 with every folder that came into force.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    pub fn reloads(&self) -> u64 {
        self.reloads.load(Ordering::Relaxed)
    }

    /// Changes that were not taken.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn tell(in_force: &InForce, generation: u64) {
    let policies = &in_force.policies;
    let (count, jwt_rules) = (policies.count(), policies.jwt_rules().len());
    tracing::info!(generation, authorization_policies = count, jwt_rules, "policies in force");
    for note in policies.notes() {
        tracing::info!(%note, "policy document");
    }
}

fn problem(folder: &Path, name: &str, message: String) -> Problem {
    let file = folder.join(name).display().to_string();
    Problem { file, document: String::new(), path: String::new(), message }
}

/// Every YAML file and what it is like. Hidden ones are an editor's, or the halves of a ConfigMap's swap.
fn stamps(folder: &Path) -> Result<Stamps, Problem> {
    let bad = |error: std::io::Error| problem(folder, "", format!("cannot be read: {error}"));
    let mut stamps = Stamps::new();
    for entry in std::fs::read_dir(folder).map_err(bad)? {
        let name = entry.map_err(bad)?.file_name();
        let Some(name) = name.to_str().filter(|name| !name.starts_with('.')) else { continue };
        if name.ends_with(".yaml") || name.ends_with(".yml") {
            stamps.insert(name.to_owned(), Stamp::of(&folder.join(name)).ok());
        }
        if stamps.len() > FILES_MAX {
            return Err(problem(
                folder,
                "",
                format!("holds more than {FILES_MAX} YAML files; name a folder of policies"),
            ));
        }
    }
    Ok(stamps)
}

fn load(folder: &Path, stamps: &Stamps, workload: &Workload, keys: &RemoteKeys) -> Result<InForce, Vec<Problem>> {
    let (mut files, mut problems) = (Vec::new(), Vec::new());
    for name in stamps.keys() {
        let bytes = read_bounded(&folder.join(name), FILE_BYTES_MAX).map_err(|error| error.to_string());
        match bytes.and_then(|bytes| String::from_utf8(bytes).map_err(|_| "is not UTF-8".into())) {
            Ok(text) => files.push((folder.join(name).display().to_string(), text)),
            Err(message) => problems.push(problem(folder, name, message)),
        }
    }
    let parsed = Policies::parse(&files, workload);
    let (policies, more) = parsed.map_or_else(|more| (Policies::empty(), more), |policies| (policies, Vec::new()));
    problems.extend(more);
    if !problems.is_empty() {
        return Err(problems);
    }
    let requests = RequestAuthenticator::new(policies.jwt_rules(), keys)?;
    Ok(InForce { policies, requests })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    const DENY: &str = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: NAME}\n\
                        spec: {action: DENY, rules: [{}]}\n";

    fn workload() -> Workload {
        Workload {
            namespace: "prod".into(),
            labels: BTreeMap::new(),
            root_namespace: "istio-system".into(),
            trust_domain: "td".into(),
            trust_domain_aliases: Vec::new(),
        }
    }

    fn open(folder: &Path) -> Result<Watched, Vec<Problem>> {
        Watched::open(folder, workload(), Arc::new(RemoteKeys::new(None)))
    }

    fn deny(name: &str) -> String {
        DENY.replace("NAME", name)
    }

    fn state(watched: &Watched) -> (usize, u64, u64, usize) {
        let count = watched.current().policies.count();
        (count, watched.generation(), watched.failures(), watched.problems().len())
    }

    #[test]
    fn what_happens_as_files_come_and_go() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        let watched = open(folder.path()).unwrap();
        assert_eq!(state(&watched), (0, 1, 0, 0));
        fs::write(file("a.yaml"), deny("a")).unwrap();
        fs::write(file("notes.txt"), "not yaml: [").unwrap();
        fs::write(file(".a.yaml.swp.yaml"), "not yaml: [").unwrap();
        watched.look();
        assert_eq!(state(&watched), (1, 2, 0, 0));
        watched.look();
        assert_eq!(state(&watched), (1, 2, 0, 0));
        fs::write(file("b.yml"), "kind: [").unwrap();
        for _ in 0..2 {
            watched.look();
            assert_eq!(state(&watched), (1, 2, 1, 1), "the old one stays, and the failure is counted once");
        }
        assert!(watched.problems()[0].to_string().contains("b.yml: document 1: is not YAML"));
        fs::write(file("b.yml"), deny("b")).unwrap();
        watched.look();
        assert_eq!(state(&watched), (2, 3, 1, 0));
        fs::write(file("c.yaml"), vec![b' '; FILE_BYTES_MAX as usize + 1]).unwrap();
        fs::write(file("d.yaml"), [0xff, 0xfe]).unwrap();
        watched.look();
        assert_eq!(state(&watched), (2, 3, 2, 2));
        for name in ["a.yaml", "b.yml", "c.yaml", "d.yaml"] {
            fs::remove_file(file(name)).unwrap();
        }
        watched.look();
        assert_eq!((state(&watched), watched.reloads()), ((0, 4, 2, 0), 3));
    }

    #[test]
    fn is_the_swap_of_a_config_map_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for (version, name) in [("..1", "one"), ("..2", "two")] {
            fs::create_dir(path(version)).unwrap();
            fs::write(path(version).join("p.yaml"), deny(name)).unwrap();
        }
        symlink("..1", path("..data")).unwrap();
        symlink("..data/p.yaml", path("p.yaml")).unwrap();
        let watched = open(folder.path()).unwrap();
        symlink("..2", path("..new")).unwrap();
        fs::rename(path("..new"), path("..data")).unwrap();
        watched.look();
        assert_eq!(state(&watched), (1, 2, 0, 0));
    }

    #[test]
    fn what_if_the_folder_is_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let absent = folder.path().join("absent");
        assert!(open(&absent).err().unwrap()[0].to_string().contains("cannot be read"));
        fs::create_dir(&absent).unwrap();
        fs::write(absent.join("a.yaml"), deny("a")).unwrap();
        let watched = open(&absent).unwrap();
        fs::rename(&absent, folder.path().join("away")).unwrap();
        for _ in 0..2 {
            watched.look();
            assert_eq!(state(&watched), (1, 1, 1, 1));
        }
        fs::rename(folder.path().join("away"), &absent).unwrap();
        watched.look();
        assert_eq!(state(&watched), (1, 2, 1, 0));
        fs::write(absent.join("b.yaml"), "spec: [").unwrap();
        assert!(open(&absent).is_err());
    }

    #[tokio::test]
    async fn does_the_watch_look_by_itself() {
        let folder = tempfile::tempdir().unwrap();
        let watched = Arc::new(open(folder.path()).unwrap());
        let task = tokio::spawn(watched.clone().watch(Duration::from_millis(5)));
        fs::write(folder.path().join("a.yaml"), deny("a")).unwrap();
        let waited = tokio::time::timeout(Duration::from_secs(20), async {
            while watched.current().policies.count() == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        waited.await.expect("the file is seen within the bound");
        task.abort();
    }
}
