//! `outrider-worker --standby SOCKET`: the small parent that stays when the model goes.
//!
//! In a container of its own, where no sidecar can start a process: it holds a control socket, and starts and ends the
//! engine, which is this same program once more, when the sidecar says so. The engine ends as a process, so all its
//! memory, on the device too, is the driver's again. Never touches a device or a model itself.
//!
//! The conversation is lines. The sidecar says `start` or `stop`; from then on it is told where the engine stands, as
//! that changes: `starting`, `progress weights 0.4`, `ready`, `failed <reason>`, `ended <how>`, `stopping`, `asleep`. Who
//! is slow to read hears the newest only. Several may talk: while a sidecar is replaced by another, two do.

use std::ffi::OsString;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::{Stream, StreamExt};

/// Between SIGTERM and SIGKILL for an engine: it is told to end when nothing runs on it any more.
const STOP_GRACE: Duration = Duration::from_secs(3);
/// An engine that no sidecar talks about is memory nobody can reach. Long enough for one to be replaced by another.
const ALONE_GRACE: Duration = Duration::from_secs(5);
/// After SIGTERM the sidecar still lets its streams end; it says `stop` when they have.
const END_GRACE: Duration = Duration::from_secs(30);
/// Conversations at once.
const CALLERS_MAX: usize = 8;
/// Everything a sidecar ever says in one conversation.
const WORDS_BYTES_MAX: u64 = 1024;

const ASLEEP: &str = "asleep";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Start,
    Stop,
}

/// What an engine is: a program and its arguments.
#[derive(Clone, Debug)]
pub struct Engine {
    pub program: OsString,
    pub arguments: Vec<OsString>,
}

/// Serves until SIGTERM or SIGINT, then until nobody talks any more, or a second signal.
///
/// # Errors
/// Signals cannot be watched.
pub async fn serve(callers: impl Stream<Item = io::Result<UnixStream>>, engine: Engine) -> io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let signals = any_of(&mut terminate, &mut interrupt);
    serve_until(callers, engine, signals).await;
    Ok(())
}

/// A value for each signal.
fn any_of<'a>(
    terminate: &'a mut tokio::signal::unix::Signal,
    interrupt: &'a mut tokio::signal::unix::Signal,
) -> impl AsyncFnMut() + 'a {
    async move || {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
}

async fn serve_until(
    callers: impl Stream<Item = io::Result<UnixStream>>,
    engine: Engine,
    mut told_to_end: impl AsyncFnMut(),
) {
    let (wishes, wished) = mpsc::channel(CALLERS_MAX);
    let (say, said) = watch::channel(ASLEEP.to_owned());
    let keeper = tokio::spawn(keep(engine, wished, say));
    let mut conversations = JoinSet::new();
    let mut ending: Option<tokio::time::Instant> = None;
    tokio::pin!(callers);
    loop {
        if ending.is_some() && conversations.is_empty() {
            break;
        }
        let idle = said.borrow().as_str() == ASLEEP;
        let end = async { tokio::time::sleep_until(ending.expect("checked by the guard")).await };
        tokio::select! {
            Some(Ok(stream)) = callers.next(), if conversations.len() < CALLERS_MAX => {
                conversations.spawn(attend(stream, wishes.clone(), said.clone()));
            }
            Some(_) = conversations.join_next() => {}
            () = tokio::time::sleep(ALONE_GRACE), if conversations.is_empty() && !idle => {
                tracing::info!("no sidecar is there any more");
                let _ = wishes.send(Wish::Stop).await;
                tokio::time::sleep(STOP_GRACE).await;
            }
            () = told_to_end() => match ending {
                None => ending = Some(tokio::time::Instant::now() + END_GRACE),
                Some(_) => break,
            },
            () = end, if ending.is_some() => break,
        }
    }
    conversations.abort_all();
    drop(wishes);
    while conversations.join_next().await.is_some() {}
    let _ = keeper.await;
}

/// One conversation, until the other side ends it or says what nobody understands.
async fn attend(stream: UnixStream, wishes: mpsc::Sender<Wish>, mut said: watch::Receiver<String>) {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read.take(WORDS_BYTES_MAX)).lines();
    let mut follows = false;
    loop {
        tokio::select! {
            line = lines.next_line() => {
                let wish = match line.as_ref().map(|line| line.as_deref()) {
                    Ok(Some("start")) => Wish::Start,
                    Ok(Some("stop")) => Wish::Stop,
                    Ok(Some(_)) => {
                        let _ = write.write_all(b"failed to understand: say start or stop\n").await;
                        return;
                    }
                    Ok(None) | Err(_) => return,
                };
                // What was said before is an answer to somebody else.
                said.mark_unchanged();
                follows = true;
                if wishes.send(wish).await.is_err() {
                    return;
                }
            }
            changed = said.changed(), if follows => {
                let line = format!("{}\n", said.borrow_and_update().as_str());
                if changed.is_err() || write.write_all(line.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Starts and ends engines, one at a time, as it is wished; ends with the last who could wish.
async fn keep(engine: Engine, mut wishes: mpsc::Receiver<Wish>, say: watch::Sender<String>) {
    while let Some(wish) = wishes.recv().await {
        match wish {
            Wish::Stop => drop(say.send_replace(ASLEEP.into())),
            Wish::Start => run(&engine, &mut wishes, &say).await,
        }
    }
}

/// One engine's life.
async fn run(engine: &Engine, wishes: &mut mpsc::Receiver<Wish>, say: &watch::Sender<String>) {
    say.send_replace("starting".into());
    let mut command = Command::new(&engine.program);
    command.args(&engine.arguments).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            say.send_replace(format!("failed {}: {error}", engine.program.to_string_lossy()));
            return;
        }
    };
    tracing::info!(pid = child.id(), "the engine is started");
    let mut lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
    let (mut hears, mut failed) = (true, false);
    loop {
        tokio::select! {
            // In this order: what it said last is worth more than how it ended.
            biased;
            line = lines.next_line(), if hears => match line {
                Ok(Some(line)) => {
                    failed = failed || line.starts_with("failed ");
                    if ["progress ", "failed "].iter().any(|word| line.starts_with(word)) || line == "ready" {
                        say.send_replace(line);
                    }
                }
                Ok(None) | Err(_) => hears = false,
            },
            status = child.wait() => {
                let how = status.map_or_else(|error| error.to_string(), describe);
                tracing::warn!(how, "the engine is gone");
                if !failed {
                    say.send_replace(format!("ended {how}"));
                }
                return;
            }
            wish = wishes.recv() => match wish {
                // It is there or on its way: whoever asks again is told where it stands.
                Some(Wish::Start) => say.send_modify(|_| {}),
                Some(Wish::Stop) | None => {
                    say.send_replace("stopping".into());
                    end(&mut child).await;
                    say.send_replace(ASLEEP.into());
                    return;
                }
            },
        }
    }
}

/// Returns when the kernel has it back.
async fn end(child: &mut Child) {
    if let Some(pid) = child.id() {
        // SAFETY: the child has not been waited for, so the number is still its own.
        unsafe { libc::kill(pid as libc::pid_t, libc::SIGTERM) };
    }
    if tokio::time::timeout(STOP_GRACE, child.wait()).await.is_err() {
        tracing::warn!("the engine did not end when told to; it is killed");
        let _ = child.start_kill();
        let _ = child.wait().await;
    }
    tracing::info!("the engine is stopped");
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("the worker process ended with code {code}"),
        (_, Some(signal)) => format!("the worker process was ended by signal {signal}"),
        _ => "the worker process ended".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{Lines, ReadHalf, WriteHalf};
    use tokio::sync::Notify;

    struct Parent {
        callers: mpsc::UnboundedSender<io::Result<UnixStream>>,
        end: std::sync::Arc<Notify>,
        task: tokio::task::JoinHandle<()>,
    }

    struct Sidecar(Lines<BufReader<ReadHalf<UnixStream>>>, WriteHalf<UnixStream>);

    impl Parent {
        fn new(script: &str) -> Parent {
            let (callers, called) = mpsc::unbounded_channel();
            let engine = Engine { program: "sh".into(), arguments: vec!["-c".into(), script.into()] };
            let end = std::sync::Arc::new(Notify::new());
            let told = end.clone();
            let called = tokio_stream::wrappers::UnboundedReceiverStream::new(called);
            let task = tokio::spawn(serve_until(called, engine, async move || told.notified().await));
            Parent { callers, end, task }
        }

        fn caller(&self) -> Sidecar {
            let (ours, theirs) = UnixStream::pair().unwrap();
            self.callers.send(Ok(theirs)).unwrap();
            let (read, write) = tokio::io::split(ours);
            Sidecar(BufReader::new(read).lines(), write)
        }
    }

    impl Sidecar {
        async fn say(&mut self, line: &str) {
            self.1.write_all(format!("{line}\n").as_bytes()).await.unwrap();
        }

        /// Until a line that is none of these on the way.
        async fn hears(&mut self) -> Option<String> {
            loop {
                let line = self.0.next_line().await.unwrap()?;
                if !["starting", "stopping"].contains(&line.as_str()) && !line.starts_with("progress") {
                    return Some(line);
                }
            }
        }
    }

    #[tokio::test]
    async fn does_an_engine_start_stop_and_start_again() {
        let parent = Parent::new("echo chatter; echo progress weights 0.5; echo ready; exec sleep 60");
        let mut sidecar = parent.caller();
        for _ in 0..2 {
            sidecar.say("start").await;
            assert_eq!(sidecar.hears().await.as_deref(), Some("ready"));
            let mut another = parent.caller();
            another.say("start").await;
            assert_eq!(another.hears().await.as_deref(), Some("ready"), "there is one engine, and it is there");
            // The other's answer is heard by all.
            assert_eq!(sidecar.hears().await.as_deref(), Some("ready"));
            sidecar.say("stop").await;
            assert_eq!(sidecar.hears().await.as_deref(), Some(ASLEEP));
        }
        sidecar.say("stop").await;
        assert_eq!(sidecar.hears().await.as_deref(), Some(ASLEEP), "nothing to stop is no fault");
        sidecar.say("dance").await;
        assert!(sidecar.hears().await.unwrap().starts_with("failed"));
        assert_eq!(sidecar.hears().await, None);
    }

    #[tokio::test]
    async fn what_is_said_of_an_engine_that_fails_or_ends() {
        for (script, expected) in [
            ("echo failed no such model; exit 1", "failed no such model"),
            ("exit 3", "ended the worker process ended with code 3"),
            ("kill -9 $$", "ended the worker process was ended by signal 9"),
        ] {
            let parent = Parent::new(script);
            let mut sidecar = parent.caller();
            sidecar.say("start").await;
            assert_eq!(sidecar.hears().await.as_deref(), Some(expected), "{script}");
            sidecar.say("start").await;
            assert_eq!(sidecar.hears().await.as_deref(), Some(expected), "{script} again");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn is_an_engine_ended_that_nobody_talks_about() {
        let parent = Parent::new("echo ready; exec sleep 60");
        let mut sidecar = parent.caller();
        sidecar.say("start").await;
        assert_eq!(sidecar.hears().await.as_deref(), Some("ready"));
        drop(sidecar);
        tokio::time::sleep(ALONE_GRACE + STOP_GRACE + Duration::from_secs(1)).await;
        let mut next = parent.caller();
        next.say("stop").await;
        assert_eq!(next.hears().await.as_deref(), Some(ASLEEP));
    }

    #[tokio::test]
    async fn does_the_end_wait_for_those_who_talk() {
        let parent = Parent::new("echo ready; exec sleep 60");
        let mut sidecar = parent.caller();
        sidecar.say("start").await;
        assert_eq!(sidecar.hears().await.as_deref(), Some("ready"));
        parent.end.notify_one();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!parent.task.is_finished(), "its streams may still run");
        sidecar.say("stop").await;
        assert_eq!(sidecar.hears().await.as_deref(), Some(ASLEEP));
        drop(sidecar);
        parent.task.await.unwrap();
    }
}
