//! Three models with real processes, and a device for two.

use super::group::same;
use super::*;
use crate::admission::{Limits, QueueLimits, Ticket};
use crate::config::Device;
use crate::record::unix_now;
use crate::scale::targets::Process;
use std::path::Path;

const GIB: u64 = 1 << 30;

fn device(folder: &Path, wait: Duration) -> Device {
    Device { group: folder.to_path_buf(), memory: 20 * GIB, needs: 9 * GIB, wait }
}

const LIMITS: Limits = Limits {
    concurrency: 4,
    queue: QueueLimits { requests_max: 100, bytes_max: 1 << 20, bands: 1 },
    wait_max: Duration::from_secs(20),
    idle_timeout: None,
};

/// A sidecar, as far as it concerns the device; its worker writes its number down while it lives.
fn sidecar(folder: &Path, number: usize, wait: Duration) -> Arc<Admission> {
    let mark = folder.join(format!("alive-{number}"));
    let script =
        format!("trap 'rm {0}; exit' TERM; echo > {0}; echo ready; while :; do sleep 0.02; done", mark.display());
    let process = Process::new(vec!["sh".into(), "-c".into(), script], Duration::from_secs(10));
    let group = Group::join(&device(&folder.join("group"), wait)).unwrap();
    let target: Arc<dyn Target> = Arc::new(Shared::new(Arc::new(process), group, unix_now));
    let admission = Admission::new(LIMITS);
    let (group, clock) = target.group().unwrap();
    tokio::spawn(attend(admission.clone(), group, clock));
    tokio::spawn(admission.clone().run(target, std::future::pending()));
    admission
}

fn alive(folder: &Path) -> Vec<usize> {
    (0..3).filter(|number| folder.join(format!("alive-{number}")).exists()).collect()
}

/// One request of this one's, and until all see that it is idle again.
async fn ask(folder: &Path, all: &[Arc<Admission>], number: usize) {
    all[number].admit(Ticket::default()).await.map(drop).unwrap();
    loop {
        tokio::time::sleep(Duration::from_millis(5)).await;
        // They joined in order. Whoever writes may be in the middle of it.
        let text = std::fs::read(folder.join(format!("group/member-{number}"))).unwrap();
        let told = serde_json::from_slice::<super::plan::Member>(&text);
        let last = unix_now().as_millis() as u64 - all[number].idle().unwrap_or_default().as_millis() as u64;
        if told.is_ok_and(|told| same(told.hold, Hold::Idle { since: last })) {
            return;
        }
    }
}

#[tokio::test]
async fn does_the_least_recently_used_of_three_sleep_where_there_is_room_for_two() {
    let folder = tempfile::tempdir().unwrap();
    let all: Vec<_> = (0..3).map(|number| sidecar(folder.path(), number, Duration::from_secs(10))).collect();
    ask(folder.path(), &all, 0).await;
    ask(folder.path(), &all, 1).await;
    assert_eq!(alive(folder.path()), [0, 1]);
    ask(folder.path(), &all, 2).await;
    assert_eq!(alive(folder.path()), [1, 2], "the first was used least lately");
    ask(folder.path(), &all, 1).await;
    ask(folder.path(), &all, 0).await;
    assert_eq!(alive(folder.path()), [0, 1]);
    let split = all[0].wake_stages();
    assert_eq!(split[0].0, "room");
    assert_eq!(all.iter().map(|one| one.snapshot().starts).collect::<Vec<_>>(), [2, 1, 1]);
}

#[tokio::test]
async fn is_a_busy_one_left_alone_and_whoever_wants_its_room_told() {
    let folder = tempfile::tempdir().unwrap();
    let all: Vec<_> = (0..3).map(|number| sidecar(folder.path(), number, Duration::from_millis(400))).collect();
    let held = (all[0].admit(Ticket::default()).await.unwrap(), all[1].admit(Ticket::default()).await.unwrap());
    let refused = all[2].admit(Ticket::default()).await.map(drop).unwrap_err();
    assert!(refused.to_string().contains("2 other models have it and are busy"), "{refused}");
    assert_eq!(alive(folder.path()), [0, 1]);
    drop(held.0);
    // It waits before it tries again.
    while all[2].admit(Ticket::default()).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ask(folder.path(), &all, 2).await;
    assert_eq!(alive(folder.path()), [1, 2]);
}

#[tokio::test]
async fn is_one_whose_connection_was_lost_stopped_before_its_room_is_anothers() {
    let folder = tempfile::tempdir().unwrap();
    let all: Vec<_> = (0..3).map(|number| sidecar(folder.path(), number, Duration::from_secs(10))).collect();
    ask(folder.path(), &all, 0).await;
    ask(folder.path(), &all, 1).await;
    all[0].lost(1);
    assert_eq!(alive(folder.path()), [0, 1], "only the connection was lost");
    ask(folder.path(), &all, 2).await;
    assert_eq!(alive(folder.path()), [1, 2]);
}

#[tokio::test]
async fn do_many_who_want_it_at_once_all_have_their_turn() {
    let folder = tempfile::tempdir().unwrap();
    let all: Vec<_> = (0..3).map(|number| sidecar(folder.path(), number, Duration::from_secs(15))).collect();
    let path = folder.path().to_path_buf();
    let watch = tokio::spawn(async move {
        loop {
            assert!(alive(&path).len() <= 2, "{:?}", alive(&path));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let callers: Vec<_> = (0..12)
        .map(|number| {
            let admission = all[number % 3].clone();
            tokio::spawn(async move { admission.admit(Ticket::default()).await.map(drop) })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap().unwrap();
    }
    assert!(!watch.is_finished());
    watch.abort();
}

#[tokio::test]
async fn is_the_part_of_a_dead_member_free_only_when_its_child_is_gone_too() {
    let folder = tempfile::tempdir().unwrap();
    let config = Device { memory: 10 * GIB, ..device(folder.path(), Duration::from_millis(200)) };
    let dead = Group::join(&config).unwrap();
    dead.take(1).await.unwrap();
    // It inherits what is not marked to be closed, as every child does.
    let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    drop(dead);
    let other = Group::join(&config).unwrap();
    assert!(other.take(2).await.is_err(), "the worker of the dead one has the memory still");
    child.kill().unwrap();
    child.wait().unwrap();
    other.take(3).await.unwrap();
}
