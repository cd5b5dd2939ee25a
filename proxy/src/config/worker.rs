//! The worker behind: where it is, how it is started and ended, and when it is awake.

use super::Worker;
use super::quantity::Quantity;
use super::raw::Problems;
use crate::admission::WeekTime;
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

/// What wakes a sleeper before a request does.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Waking {
    /// Times of the week.
    pub prewarm: Vec<WeekTime>,
    /// A caller that connects: who it is need not be known yet, and it may never ask anything.
    pub on_connection: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawWorker {
    socket: PathBuf,
    command: Option<Vec<String>>,
    target: Option<RawTarget>,
    models: Vec<String>,
    concurrency: Option<usize>,
    idle_timeout: Option<Quantity>,
    start_timeout: Option<Quantity>,
    #[serde(default)]
    prewarm: Vec<String>,
    wake_on: Option<String>,
}

/// Other ways to start and end it than a child process. Exactly one.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTarget {
    standby: RawStandby,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawStandby {
    control: PathBuf,
}

impl Waking {
    pub(super) fn parse(path: &str, prewarm: &[String], wake_on: Option<&str>, p: &mut Problems) -> Waking {
        let mut times = Vec::new();
        for (place, text) in prewarm.iter().enumerate() {
            match text.parse() {
                Ok(time) => times.push(time),
                Err(words) => p.add(&format!("{path}.prewarm[{place}]"), words),
            }
        }
        let on_connection = match wake_on {
            None | Some("request") => false,
            Some("connection") => true,
            Some(other) => {
                p.add(&format!("{path}.wake_on"), format!("`{other}` is none of request, connection"));
                false
            }
        };
        Waking { prewarm: times, on_connection }
    }

    pub(super) fn dump(&self) -> Value {
        let times: Vec<String> = self.prewarm.iter().map(ToString::to_string).collect();
        json!({"prewarm": times, "wake_on": if self.on_connection { "connection" } else { "request" }})
    }
}

impl RawWorker {
    pub(super) fn validate(self, base: &Path, p: &mut Problems) -> Worker {
        if self.models.is_empty() || self.models.iter().any(String::is_empty) {
            p.add("worker.models", "must name the worker's models, at least one");
        }
        if self.command.as_ref().is_some_and(Vec::is_empty) {
            p.add("worker.command", "must not be empty; leave it out if somebody else starts the worker");
        }
        if self.command.is_some() && self.target.is_some() {
            p.add("worker.target", "says how the worker is started, and so does worker.command; leave one out");
        }
        let ours = self.command.is_some() || self.target.is_some();
        let needs = "needs worker.command or worker.target: without them, nobody here can start or stop the worker";
        if !ours && self.idle_timeout.is_some() {
            p.add("worker.idle_timeout", needs);
        }
        if !ours && !self.prewarm.is_empty() {
            p.add("worker.prewarm", needs);
        }
        let control = self.target.map(|target| base.join(target.standby.control));
        // A minute of quiet is long against a cold start of less than a second, and short against a paid hour.
        let idle = ours.then_some(MINUTE);
        Worker {
            socket: p.socket("worker.socket", base.join(&self.socket)),
            standby: control.map(|control| p.socket("worker.target.standby.control", control)),
            models: self.models,
            concurrency: p.count("worker.concurrency", self.concurrency, 32),
            idle_timeout: p.optional("worker.idle_timeout", &self.idle_timeout, idle),
            start_timeout: p.duration("worker.start_timeout", &self.start_timeout, MINUTE),
            command: self.command,
            waking: Waking::parse("worker", &self.prewarm, self.wake_on.as_deref(), p),
        }
    }
}

impl Worker {
    pub(super) fn dump(&self) -> Value {
        let command = self.command.as_ref();
        let command =
            command.map(|words| json!({"program": words[0], "arguments": format!("{} not shown", words.len() - 1)}));
        let target = self.standby.as_ref().map(|control| json!({"standby": {"control": control}}));
        let mut dump = json!({
            "socket": self.socket,
            "command": command,
            "target": target,
            "models": self.models,
            "concurrency": self.concurrency,
            "idle_timeout_seconds": self.idle_timeout.map(|idle| idle.as_secs_f64()),
            "start_timeout_seconds": self.start_timeout.as_secs_f64(),
        });
        let waking = self.waking.dump();
        for (key, value) in waking.as_object().into_iter().flatten() {
            dump[key] = value.clone();
        }
        dump
    }
}
