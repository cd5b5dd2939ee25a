//! A worker in a container of its own, where a small parent process stays and starts and ends it at our word.
//!
//! Said to the parent over its control socket, in lines: `start` and `stop`; heard from it: `progress …`, `ready`,
//! `failed <reason>`, `ended <how>`, `asleep`. While it lives, the conversation that started it is kept: the parent ends
//! an engine that nobody talks about.

use super::{Target, within};
use crate::scale::progress::{Progress, Told};
use async_trait::async_trait;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Mutex;

/// The containers of a pod start in any order.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The parent kills what does not end within a few seconds.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
const GONE: &str = "the standby parent went away; its container is started again by whoever runs the pod";

pub struct Standby {
    control: PathBuf,
    start_timeout: Duration,
    talk: Mutex<Option<Talk>>,
    told: Told,
}

struct Talk {
    lines: Lines<BufReader<OwnedReadHalf>>,
    write: OwnedWriteHalf,
}

impl Talk {
    fn over(stream: UnixStream) -> Talk {
        let (read, write) = stream.into_split();
        Talk { lines: BufReader::new(read).lines(), write }
    }

    async fn say(&mut self, word: &str) -> Result<(), String> {
        self.write.write_all(format!("{word}\n").as_bytes()).await.map_err(|_| GONE.to_owned())
    }

    async fn hear(&mut self) -> Result<String, String> {
        self.lines.next_line().await.ok().flatten().ok_or_else(|| GONE.to_owned())
    }

    /// Until it is ready, or is not going to be.
    async fn becomes_ready(&mut self, told: &Told) -> Result<(), String> {
        loop {
            let line = self.hear().await?;
            match line.split_once(' ').unwrap_or((&line, "")) {
                ("ready", _) => return Ok(()),
                ("failed" | "ended", why) => return Err(why.to_owned()),
                ("asleep", _) => return Err("it was stopped while it started".into()),
                _ => Progress::of_line(&line).into_iter().for_each(|progress| told.say(progress, Instant::now())),
            }
        }
    }

    async fn becomes_asleep(&mut self) -> Result<(), String> {
        while self.hear().await? != "asleep" {}
        Ok(())
    }
}

impl Standby {
    pub fn new(control: PathBuf, start_timeout: Duration) -> Self {
        Standby { control, start_timeout, talk: Mutex::new(None), told: Told::default() }
    }

    async fn started(&self) -> Result<Talk, String> {
        let stream = loop {
            match UnixStream::connect(&self.control).await {
                Ok(stream) => break stream,
                Err(_) => tokio::time::sleep(LOOK_EVERY).await,
            }
        };
        let mut talk = Talk::over(stream);
        talk.say("start").await?;
        talk.becomes_ready(&self.told).await?;
        Ok(talk)
    }
}

#[async_trait]
impl Target for Standby {
    async fn start(&self) -> Result<(), String> {
        // An engine whose connection broke may still be there: it is not to be trusted with another request. One that a
        // sidecar before us had is as good as new.
        if self.talk.lock().await.is_some() {
            self.stop().await;
        }
        match within(&self.told, self.start_timeout, self.started()).await {
            Some(Ok(talk)) => {
                *self.talk.lock().await = Some(talk);
                Ok(())
            }
            Some(Err(why)) => Err(why),
            None => {
                self.stop().await;
                let (control, seconds) = (self.control.display(), self.start_timeout.as_secs());
                Err(format!("the worker was not ready within {seconds} s of asking at {control}"))
            }
        }
    }

    async fn stop(&self) {
        let mut kept = self.talk.lock().await;
        let talk = match kept.take() {
            Some(talk) => Some(talk),
            None => UnixStream::connect(&self.control).await.ok().map(Talk::over),
        };
        // Where no parent is, no engine is.
        let Some(mut talk) = talk else { return };
        let stopped = async {
            talk.say("stop").await?;
            talk.becomes_asleep().await
        };
        match tokio::time::timeout(STOP_TIMEOUT, stopped).await {
            Ok(Ok(())) => {}
            Ok(Err(why)) => tracing::warn!(why, "the standby parent did not say that the worker sleeps"),
            Err(_) => tracing::warn!(seconds = STOP_TIMEOUT.as_secs(), "the standby parent does not answer"),
        }
    }

    /// Who comes after us may have it already; if nobody does, the parent ends it.
    async fn leave(&self) {
        *self.talk.lock().await = None;
    }

    async fn exited(&self) -> String {
        let mut kept = self.talk.lock().await;
        let Some(talk) = kept.as_mut() else { return std::future::pending().await };
        loop {
            match talk.hear().await {
                Ok(line) => match line.split_once(' ').unwrap_or((&line, "")) {
                    ("ended" | "failed", how) => return how.to_owned(),
                    ("asleep", _) => return "somebody else put it to sleep".into(),
                    _ => {}
                },
                Err(gone) => return gone,
            }
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
    use tokio::net::UnixListener;

    /// A parent that answers each word with these lines, in any number of conversations.
    fn parent(folder: &tempfile::TempDir, to_start: &'static [&'static str]) -> PathBuf {
        let path = folder.path().join("control.sock");
        let listener = UnixListener::bind(&path).unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut talk = Talk::over(stream);
                    while let Ok(word) = talk.hear().await {
                        let answers = if word == "start" { to_start } else { &["stopping", "asleep"] };
                        for answer in answers {
                            if *answer == "(pause)" {
                                tokio::time::sleep(Duration::from_millis(30)).await;
                            } else if talk.say(answer).await.is_err() {
                                return;
                            }
                        }
                    }
                });
            }
        });
        path
    }

    #[tokio::test]
    async fn is_it_started_stopped_and_started_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = parent(&folder, &["starting", "progress weights 0.4", "progress warming", "ready"]);
        let standby = Standby::new(path, Duration::from_secs(5));
        for _ in 0..3 {
            standby.start().await.unwrap();
            let stages: Vec<Stage> = standby.split().iter().map(|(stage, _)| *stage).collect();
            assert_eq!(stages, Stage::ALL[1..]);
            standby.stop().await;
            assert!(standby.talk.lock().await.is_none());
        }
    }

    #[tokio::test]
    async fn is_what_a_sidecar_before_us_had_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = parent(&folder, &["ready"]);
        let (before, after) =
            (Standby::new(path.clone(), Duration::from_secs(5)), Standby::new(path, Duration::from_secs(5)));
        before.start().await.unwrap();
        after.start().await.unwrap();
        before.leave().await;
        assert!(after.talk.lock().await.is_some(), "it was neither asked to stop nor told that it did");
        let ended = tokio::time::timeout(Duration::from_millis(50), after.exited());
        assert!(ended.await.is_err());
    }

    #[tokio::test]
    async fn what_is_said_of_starts_that_fail_and_engines_that_end() {
        for (lines, expected) in [
            (&["starting", "failed no such model"][..], "no such model"),
            (&["ended the worker process ended with code 3"], "the worker process ended with code 3"),
            (&["asleep"], "it was stopped while it started"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let standby = Standby::new(parent(&folder, lines), Duration::from_secs(5));
            assert_eq!(standby.start().await, Err(expected.to_owned()), "{lines:?}");
        }
        let folder = tempfile::tempdir().unwrap();
        let silent = Standby::new(parent(&folder, &["starting"]), Duration::from_millis(100));
        assert!(silent.start().await.unwrap_err().contains("was not ready within 0 s"));
        let absent = Standby::new(folder.path().join("absent.sock"), Duration::from_millis(100));
        assert!(absent.start().await.unwrap_err().contains("absent.sock"));
        let folder = tempfile::tempdir().unwrap();
        let short = Standby::new(parent(&folder, &["ready", "(pause)", "ended by chance"]), Duration::from_secs(5));
        short.start().await.unwrap();
        assert_eq!(short.exited().await, "by chance");
    }
}
