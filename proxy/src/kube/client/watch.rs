//! A collection, followed: listed once, then watched from there, and listed again when the server has forgotten where
//! we were.
//!
//! One line of a watch is bounded, and so is its silence; the pause after a failure grows, and chance comes as an
//! argument. Never ends by itself.

use super::{ApiError, Client, Collection, refused};
use http_body_util::BodyExt;
use serde::Deserialize;
use serde_json::Value;
use std::convert::Infallible;
use std::time::Duration;

/// An object is at most 1.5 MiB in etcd, and a little more as JSON.
const LINE_BYTES_MAX: usize = 4 << 20;
/// After so long the server ends a watch, and we begin the next where it ended: a connection that died unnoticed is
/// noticed then at the latest.
const WATCH_SECONDS: u64 = 290;
const SILENCE_MAX: Duration = Duration::from_secs(WATCH_SECONDS + 30);
const PAUSE_MIN: Duration = Duration::from_millis(800);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// What became of a collection.
pub enum Change {
    /// These are all there are; what was known before and is not among them is gone.
    All(Vec<Value>),
    /// New, or other than before.
    Put(Value),
    Removed(Value),
    /// What was known stays in force; it is tried again.
    Failed(ApiError),
}

/// Without what the objects hold: they may be Secrets.
impl std::fmt::Debug for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Change::All(all) => write!(f, "All({} objects)", all.len()),
            Change::Put(object) => write!(f, "Put({})", object["metadata"]["name"]),
            Change::Removed(object) => write!(f, "Removed({})", object["metadata"]["name"]),
            Change::Failed(error) => write!(f, "Failed({error})"),
        }
    }
}

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    object: Value,
}

/// What a line of a watch means.
enum Line {
    Change(Change),
    /// Nothing changed up to here.
    Bookmark,
}

impl Client {
    /// Tells every change, for ever. `chance` gives numbers from 0 to 1, so that a fleet does not come back as one.
    pub async fn follow(
        &self,
        what: &Collection,
        chance: impl Fn() -> f64,
        mut told: impl FnMut(Change),
    ) -> Infallible {
        let mut failures = 0;
        let mut version = None;
        loop {
            let outcome = self.follow_once(what, &mut version, &mut told).await;
            match outcome {
                Ok(()) => failures = 0,
                Err(error) if error.is_gone() => {
                    // Not a failure; but a server that says so each time must not be asked without pause.
                    version = None;
                    failures += 1;
                }
                Err(error) => {
                    failures += 1;
                    told(Change::Failed(error));
                }
            }
            if failures > 0 {
                tokio::time::sleep(pause(failures, chance())).await;
            }
        }
    }

    /// One list, if it is needed, and one watch to its end.
    async fn follow_once(
        &self,
        what: &Collection,
        version: &mut Option<String>,
        told: &mut impl FnMut(Change),
    ) -> Result<(), ApiError> {
        if version.is_none() {
            let list = self.list(what).await?;
            told(Change::All(list.items));
            *version = Some(list.resource_version);
        }
        let from = version.clone().unwrap_or_default();
        let seconds = WATCH_SECONDS.to_string();
        let query = what.query(&[
            ("watch", "1"),
            ("allowWatchBookmarks", "true"),
            ("resourceVersion", &from),
            ("timeoutSeconds", &seconds),
        ]);
        let mut body = self.open(&query).await?.into_body();
        let mut lines = Lines::default();
        loop {
            let frame = tokio::time::timeout(SILENCE_MAX, body.frame()).await;
            let frame = frame.map_err(|_| ApiError::Fetch(crate::fetch::FetchError::Timeout(SILENCE_MAX)))?;
            let Some(frame) = frame else { return Ok(()) };
            let frame = frame.map_err(|error| crate::fetch::FetchError::Http(error.to_string()))?;
            for line in lines.push(frame.data_ref().map_or(&[][..], |data| data))? {
                let (line, at) = read(&line)?;
                if at.is_some() {
                    *version = at;
                }
                if let Line::Change(change) = line {
                    told(change);
                }
            }
        }
    }
}

/// Bytes as they come, as lines.
#[derive(Default)]
struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    fn push(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, ApiError> {
        self.rest.extend_from_slice(bytes);
        let mut lines = Vec::new();
        if let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') {
            let rest = self.rest.split_off(end + 1);
            let whole = std::mem::replace(&mut self.rest, rest);
            lines.extend(whole.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(<[u8]>::to_vec));
        }
        let long = lines.iter().chain([&self.rest]).any(|line| line.len() > LINE_BYTES_MAX);
        if long {
            return Err(ApiError::Nonsense(format!("a line of a watch has more than {LINE_BYTES_MAX} bytes")));
        }
        Ok(lines)
    }
}

/// The line, and the version it brings us to.
fn read(line: &[u8]) -> Result<(Line, Option<String>), ApiError> {
    let event: Event =
        serde_json::from_slice(line).map_err(|error| ApiError::Nonsense(format!("a line of a watch: {error}")))?;
    let version = event.object["metadata"]["resourceVersion"].as_str().map(str::to_owned);
    let line = match event.kind.as_str() {
        "ADDED" | "MODIFIED" => Line::Change(Change::Put(event.object)),
        "DELETED" => Line::Change(Change::Removed(event.object)),
        "BOOKMARK" => Line::Bookmark,
        "ERROR" => return Err(refused(500, event.object.to_string().as_bytes())),
        other => {
            let other: String = other.chars().take(32).collect();
            return Err(ApiError::Nonsense(format!("a watch tells of `{other}`")));
        }
    };
    Ok((line, version))
}

/// Doubles with each failure in a row, up to [`PAUSE_MAX`]; `chance` takes up to half of it away.
fn pause(failures: u32, chance: f64) -> Duration {
    let whole = PAUSE_MIN.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(PAUSE_MAX);
    whole.mul_f64(1.0 - chance.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn how_long_is_the_pause_after_failures() {
        for (failures, least, most) in [(1, 400, 800), (2, 800, 1600), (4, 3200, 6400), (6, 12_800, 25_600)] {
            let milliseconds = |chance| pause(failures, chance).as_millis();
            assert_eq!((milliseconds(1.0), milliseconds(0.0)), (least, most), "{failures}");
        }
        assert_eq!(pause(u32::MAX, 0.0), PAUSE_MAX);
    }

    #[test]
    fn what_does_a_line_mean() {
        let of = |line: &str| match read(line.as_bytes()) {
            Ok((Line::Change(Change::Put(_)), version)) => format!("put {version:?}"),
            Ok((Line::Change(Change::Removed(_)), version)) => format!("removed {version:?}"),
            Ok((Line::Change(other), _)) => format!("{other:?}"),
            Ok((Line::Bookmark, version)) => format!("bookmark {version:?}"),
            Err(error) => error.to_string(),
        };
        let object = r#""object":{"metadata":{"resourceVersion":"7"}}"#;
        assert_eq!(of(&format!(r#"{{"type":"ADDED",{object}}}"#)), r#"put Some("7")"#);
        assert_eq!(of(&format!(r#"{{"type":"DELETED",{object}}}"#)), r#"removed Some("7")"#);
        assert_eq!(of(&format!(r#"{{"type":"BOOKMARK",{object}}}"#)), r#"bookmark Some("7")"#);
        let gone = r#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old"}}"#;
        assert!(read(gone.as_bytes()).is_err_and(|error| error.is_gone()));
        for bad in ["", "[]", "{}", r#"{"type":"GREETING"}"#, "\u{0}"] {
            assert!(read(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn do_lines_survive_being_cut_anywhere(texts in proptest::collection::vec("[a-z]{1,9}", 0..9), cuts in any::<u64>()) {
            let whole: Vec<u8> = texts.iter().flat_map(|text| format!("{text}\n").into_bytes()).collect();
            let (mut lines, mut found) = (Lines::default(), Vec::new());
            let mut piece = Vec::new();
            for (at, byte) in whole.iter().enumerate() {
                piece.push(*byte);
                if cuts >> (at % 64) & 1 == 1 {
                    found.extend(lines.push(&std::mem::take(&mut piece)).unwrap());
                }
            }
            found.extend(lines.push(&piece).unwrap());
            let found: Vec<String> = found.into_iter().map(|line| String::from_utf8(line).unwrap()).collect();
            prop_assert_eq!(found, texts);
        }
    }

    #[test]
    fn is_an_endless_line_refused() {
        let mut lines = Lines::default();
        let piece = vec![b'x'; 1 << 20];
        assert!((0..5).any(|_| lines.push(&piece).is_err()));
    }
}
