//! Those who share a device, as a folder that all of them see: a file for each, and one lock for whoever changes any.
//!
//! A member's file is locked for as long as it lives (flock(2)), and its child processes inherit that lock: the kernel
//! itself takes the place away, from a member that was killed too, and not before the worker that held the memory is gone.
//! Nothing is ever cleaned up: a file that nobody locks is nobody's.

use super::plan::{Hold, Member, Plan, plan};
use crate::config::Device;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Sidecars of one device.
const MEMBERS_MAX: usize = 64;
const FILE_BYTES_MAX: u64 = 4096;
/// Whoever holds the folder's lock has it for microseconds.
const LOCK_EVERY: Duration = Duration::from_millis(2);
const LOCK_TRIES: usize = 2500;
/// Between two looks of one who waits for room.
const LOOK_EVERY: Duration = Duration::from_millis(50);

pub struct Group {
    folder: PathBuf,
    memory: u64,
    needs: u64,
    wait: Duration,
    /// The number in its file's name.
    id: usize,
    own: File,
}

fn member_path(folder: &Path, id: usize) -> PathBuf {
    folder.join(format!("member-{id}"))
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

/// True if it is ours now; false if it is another's.
fn lock(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn read(mut file: &File) -> Option<Member> {
    let mut bytes = Vec::new();
    file.rewind().ok()?;
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}

fn write(mut file: &File, member: &Member) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(&serde_json::to_vec(member)?)
}

/// The lock of the folder: who has it may read and write all files.
struct Locked(#[allow(dead_code)] File);

impl Group {
    /// Takes a place among those who share.
    pub fn join(config: &Device) -> io::Result<Group> {
        std::fs::create_dir_all(&config.group)?;
        let gate = open(&config.group.join("lock"))?;
        let mut tries = 0;
        while !lock(&gate)? {
            tries += 1;
            if tries == LOCK_TRIES {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "its lock is never free; who holds it?"));
            }
            std::thread::sleep(LOCK_EVERY);
        }
        for id in 0..MEMBERS_MAX {
            let own = open(&member_path(&config.group, id))?;
            if lock(&own)? {
                // SAFETY: changes a flag of a descriptor that is ours: children keep it, and with it the lock.
                unsafe { libc::fcntl(own.as_raw_fd(), libc::F_SETFD, 0) };
                write(&own, &Member { needs: config.needs, hold: Hold::Nothing, asked: false })?;
                let (folder, memory, needs) = (config.group.clone(), config.memory, config.needs);
                return Ok(Group { folder, memory, needs, wait: config.wait, id, own });
            }
        }
        Err(io::Error::other(format!("{MEMBERS_MAX} share it already")))
    }

    async fn locked(&self) -> io::Result<Locked> {
        let gate = open(&self.folder.join("lock"))?;
        for _ in 0..LOCK_TRIES {
            if lock(&gate)? {
                return Ok(Locked(gate));
            }
            tokio::time::sleep(LOCK_EVERY).await;
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "its lock is never free; who holds it?"))
    }

    fn own(&self, _: &Locked) -> Member {
        read(&self.own).unwrap_or(Member { needs: self.needs, hold: Hold::Nothing, asked: false })
    }

    fn say(&self, _: &Locked, hold: Hold) -> io::Result<()> {
        write(&self.own, &Member { needs: self.needs, hold, asked: false })
    }

    /// Those who live, besides us.
    fn others(&self, _: &Locked) -> io::Result<Vec<(usize, Member)>> {
        let mut others = Vec::new();
        for id in (0..MEMBERS_MAX).filter(|id| *id != self.id) {
            let Ok(file) = File::open(member_path(&self.folder, id)) else { continue };
            // What is not locked is a dead one's.
            if !lock(&file)? {
                others.extend(read(&file).map(|member| (id, member)));
            }
        }
        Ok(others)
    }

    fn ask(&self, _: &Locked, id: usize, mut member: Member) -> io::Result<()> {
        member.asked = true;
        write(&open(&member_path(&self.folder, id))?, &member)
    }

    /// Waits for room, having idle ones sleep for it.
    ///
    /// # Errors
    /// Words for callers: there is none in time, there never will be, or the folder cannot be used.
    pub async fn take(&self, now_millis: u64) -> Result<(), String> {
        let mut busy = 0;
        let looking = async {
            while let Some(others) = self.try_take(now_millis).await? {
                busy = others;
                tokio::time::sleep(LOOK_EVERY).await;
            }
            Ok(())
        };
        let taken = tokio::time::timeout(self.wait, looking).await;
        let failed = match taken {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(words)) => words,
            Err(_) => {
                let seconds = self.wait.as_secs();
                format!("the device had no room within {seconds} s; {busy} other models have it and are busy")
            }
        };
        self.give_back().await;
        Err(failed)
    }

    /// `None`: taken. Else how many others have a part of it.
    async fn try_take(&self, since: u64) -> Result<Option<usize>, String> {
        let unusable = |error: io::Error| format!("the device group {} cannot be used: {error}", self.folder.display());
        let locked = self.locked().await.map_err(unusable)?;
        let others = self.others(&locked).map_err(unusable)?;
        match plan(self.memory, self.needs, (since, self.id), &others) {
            Plan::Take => {
                self.say(&locked, Hold::Busy).map_err(unusable)?;
                return Ok(None);
            }
            Plan::Never => return Err(format!("it needs {} bytes of a device with {}", self.needs, self.memory)),
            Plan::Wait => {}
            Plan::Ask(asked) => {
                for place in asked {
                    let (id, member) = &others[place];
                    self.ask(&locked, *id, member.clone()).map_err(unusable)?;
                }
            }
        }
        self.say(&locked, Hold::Waits { since }).map_err(unusable)?;
        Ok(Some(others.iter().filter(|(_, other)| matches!(other.hold, Hold::Busy | Hold::Idle { .. })).count()))
    }

    /// The memory is free again.
    pub async fn give_back(&self) {
        self.tell(|_| Some(Hold::Nothing)).await;
    }

    /// What has become of our part, given what was told of it, and looked at while nobody can change it; `None` if
    /// whoever changes it tells. Gives whether another asks for it.
    pub async fn tell(&self, hold: impl FnOnce(Hold) -> Option<Hold>) -> bool {
        let told = async {
            let locked = self.locked().await?;
            let own = self.own(&locked);
            let Some(hold) = hold(own.hold) else { return io::Result::Ok(false) };
            if own.asked || !same(own.hold, hold) {
                self.say(&locked, hold)?;
            }
            Ok(own.asked)
        };
        told.await.unwrap_or_else(|error| {
            tracing::error!(%error, folder = %self.folder.display(), "the device group cannot be told");
            false
        })
    }
}

/// Idle since the same moment, as far as two clocks agree on moments.
pub(super) fn same(before: Hold, now: Hold) -> bool {
    match (before, now) {
        (Hold::Idle { since: one }, Hold::Idle { since: other }) => one.abs_diff(other) < 50,
        _ => before == now,
    }
}
