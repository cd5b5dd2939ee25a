//! A worker that is a child process. It says `ready` or `failed <reason>` on its standard output, and before that how far
//! it is.

use super::{Target, within};
use crate::scale::progress::{Progress, Told};
use crate::server::memory::huge_pages_again;
use async_trait::async_trait;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::{Mutex, oneshot, watch};

/// Between SIGTERM and SIGKILL.
const STOP_GRACE: Duration = Duration::from_secs(3);

pub struct Process {
    command: Vec<String>,
    start_timeout: Duration,
    running: Mutex<Option<Running>>,
    told: Told,
}

/// A child and the task that waits for it.
struct Running {
    /// How it ended, once it has.
    ended: watch::Receiver<Option<String>>,
    /// Dropping it ends the child.
    stop: oneshot::Sender<()>,
}

impl Process {
    /// `command`: program and arguments, not empty.
    pub fn new(command: Vec<String>, start_timeout: Duration) -> Self {
        assert!(!command.is_empty(), "the configuration refuses an empty command");
        Process { command, start_timeout, running: Mutex::new(None), told: Told::default() }
    }

    fn spawn(&self) -> Result<(Running, ChildStdout), String> {
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        // SAFETY: one system call, which may be made between `fork` and `exec`.
        unsafe {
            command.pre_exec(|| {
                huge_pages_again();
                Ok(())
            })
        };
        let mut child = command.spawn().map_err(|error| format!("{} could not be run: {error}", self.command[0]))?;
        let stdout = child.stdout.take().expect("stdout is piped");
        let (stop, stopped) = oneshot::channel();
        let (end, ended) = watch::channel(None);
        tokio::spawn(async move {
            let how = tend(child, stopped).await;
            end.send_replace(Some(how));
        });
        Ok((Running { ended, stop }, stdout))
    }
}

/// Waits for the child's end, or brings it about when told to.
async fn tend(mut child: Child, stopped: oneshot::Receiver<()>) -> String {
    let status = tokio::select! {
        status = child.wait() => status,
        _ = stopped => {
            if let Some(pid) = child.id() {
                // SAFETY: the child has not been waited for, so the number is still its own.
                unsafe { libc::kill(pid as libc::pid_t, libc::SIGTERM) };
            }
            match tokio::time::timeout(STOP_GRACE, child.wait()).await {
                Ok(status) => status,
                Err(_) => {
                    let _ = child.start_kill();
                    child.wait().await
                }
            }
        }
    };
    status.map_or_else(|error| format!("it could not be waited for: {error}"), describe)
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("the worker process ended with code {code}"),
        (_, Some(signal)) => format!("the worker process was ended by signal {signal}"),
        _ => "the worker process ended".into(),
    }
}

/// The child's first word: `ready`, or why not. Whatever it says later is read and dropped, so that it never blocks.
async fn first_word(stdout: ChildStdout, told: &Told) -> Result<(), Option<String>> {
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if line == "ready" {
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return Ok(());
        }
        if let Some(reason) = line.strip_prefix("failed ") {
            return Err(Some(reason.to_owned()));
        }
        if let Some(progress) = Progress::of_line(&line) {
            told.say(progress, Instant::now());
        }
    }
    Err(None)
}

async fn end_of(ended: &mut watch::Receiver<Option<String>>) -> String {
    match ended.wait_for(Option::is_some).await {
        Ok(how) => how.clone().expect("waited for it"),
        Err(_) => "the worker process ended".into(),
    }
}

#[async_trait]
impl Target for Process {
    async fn start(&self) -> Result<(), String> {
        // A worker whose connection broke may still be there: two must never share a socket.
        self.stop().await;
        let (mut running, stdout) = self.spawn()?;
        match within(&self.told, self.start_timeout, first_word(stdout, &self.told)).await {
            Some(Ok(())) => {
                *self.running.lock().await = Some(running);
                Ok(())
            }
            Some(Err(Some(reason))) => Err(reason),
            Some(Err(None)) => Err(end_of(&mut running.ended).await),
            None => {
                drop(running.stop);
                end_of(&mut running.ended).await;
                Err(format!("the worker was not ready within {} s", self.start_timeout.as_secs()))
            }
        }
    }

    async fn stop(&self) {
        if let Some(mut running) = self.running.lock().await.take() {
            drop(running.stop);
            end_of(&mut running.ended).await;
        }
    }

    async fn exited(&self) -> String {
        let ended = self.running.lock().await.as_ref().map(|running| running.ended.clone());
        match ended {
            Some(mut ended) => end_of(&mut ended).await,
            None => std::future::pending().await,
        }
    }

    fn told(&self) -> Option<&Told> {
        Some(&self.told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scale::progress::Stage;

    fn shell(script: &str) -> Process {
        Process::new(vec!["sh".into(), "-c".into(), script.into()], Duration::from_millis(500))
    }

    #[tokio::test]
    async fn what_does_a_start_say_when_it_fails() {
        for (script, expected) in [
            ("echo failed no such model; sleep 9", "no such model"),
            ("exit 3", "the worker process ended with code 3"),
            ("kill -9 $$", "the worker process was ended by signal 9"),
            ("exec sleep 9", "the worker was not ready within 0 s"),
        ] {
            assert_eq!(shell(script).start().await, Err(expected.to_owned()), "{script}");
        }
        let absent = Process::new(vec!["/no/such/worker".into()], Duration::from_secs(1));
        assert!(absent.start().await.unwrap_err().starts_with("/no/such/worker could not be run"));
    }

    #[tokio::test]
    async fn is_a_running_worker_stopped_and_a_crash_noticed() {
        let process = shell("echo progress weights 0.5; sleep 0.05; echo progress warming; echo ready; exec sleep 60");
        process.start().await.unwrap();
        let stages: Vec<Stage> = process.split().iter().map(|(stage, _)| *stage).collect();
        assert_eq!(stages, Stage::ALL[1..]);
        process.stop().await;
        assert!(process.running.lock().await.is_none());
        let process = shell("echo ready; sleep 0.05; exit 7");
        process.start().await.unwrap();
        assert_eq!(process.exited().await, "the worker process ended with code 7");
    }
}
