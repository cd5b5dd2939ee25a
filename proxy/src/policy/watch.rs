//! A folder of policies, reread whenever a file in it changes.
//!
//! Policies and the tokens they speak of change only together.

use super::document::Problem;
use super::{Policies, Workload};
use crate::auth::barred::Barred;
use crate::auth::jwks_fetch::RemoteKeys;
use crate::auth::request::RequestAuthenticator;
use crate::watched::{self, File};
use std::path::Path;
use std::sync::Arc;

/// What is in force.
pub struct InForce {
    pub policies: Policies,
    pub requests: RequestAuthenticator,
}

impl watched::Lacks for InForce {}

/// A folder, and what was last good in it.
pub type Watched = watched::Watched<InForce>;

/// Reads the folder; an empty one means that there are no policies. Keys of issuers come from `keys`, which somebody
/// must run.
pub fn open(
    folder: &Path,
    workload: Workload,
    keys: Arc<RemoteKeys>,
    barred: Arc<Barred>,
) -> Result<Watched, Vec<Problem>> {
    let load = move |files: &[Vec<File>]| load(files.first().map_or(&[], Vec::as_slice), &workload, &keys, &barred);
    Watched::open(vec![folder.into()], "policies", Box::new(load))
}

fn load(files: &[File], workload: &Workload, keys: &RemoteKeys, barred: &Arc<Barred>) -> Result<InForce, Vec<Problem>> {
    let policies = Policies::parse(files, workload)?;
    let requests = RequestAuthenticator::new(policies.jwt_rules(), keys, barred.clone())?;
    let (count, jwt_rules) = (policies.count(), policies.jwt_rules().len());
    tracing::info!(authorization_policies = count, jwt_rules, "policies read");
    for note in policies.notes() {
        tracing::info!(%note, "policy document");
    }
    Ok(InForce { policies, requests })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watched::FILE_BYTES_MAX;
    use std::collections::BTreeMap;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::time::Duration;

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
        super::open(folder, workload(), Arc::new(RemoteKeys::new(None)), Arc::default())
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
