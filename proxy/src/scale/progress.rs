//! What a start says of itself while it is under way, and how long each of its stages took. Pure: time is an argument.
//!
//! A worker says lines: `progress weights 0.4`. Lines it does not know are none of this room's business.

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Where a start stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Another model sleeps first: they share a device.
    Room,
    /// The process, the container or the pod is not there yet.
    Starting,
    /// Weights are read.
    Loading,
    /// All is there; the device is being prepared.
    Warming,
}

impl Stage {
    pub const ALL: [Stage; 4] = [Stage::Room, Stage::Starting, Stage::Loading, Stage::Warming];

    /// For metrics and events.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Room => "room",
            Stage::Starting => "starting",
            Stage::Loading => "loading",
            Stage::Warming => "warming",
        }
    }

    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            Stage::Room => "waiting for room on the device",
            Stage::Starting => "starting",
            Stage::Loading => "loading weights",
            Stage::Warming => "warming",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    pub stage: Stage,
    /// Of this stage, in [0, 1]; `None` where nobody knows.
    pub share: Option<f32>,
}

impl Progress {
    pub fn of(stage: Stage) -> Self {
        Progress { stage, share: None }
    }

    /// A line as workers say it; `None` if it is another.
    pub fn of_line(line: &str) -> Option<Progress> {
        let mut words = line.strip_prefix("progress ")?.split_ascii_whitespace();
        let stage = match words.next()? {
            "starting" => Stage::Starting,
            "weights" | "tokenizer" => Stage::Loading,
            "warming" => Stage::Warming,
            _ => return None,
        };
        let share = words.next().and_then(|word| word.parse::<f32>().ok()).filter(|share| (0.0..=1.0).contains(share));
        Some(Progress { stage, share: share.filter(|_| stage == Stage::Loading) })
    }
}

/// How long each stage took.
pub type Split = Vec<(Stage, Duration)>;

/// The story of one start after the other.
#[derive(Debug, Default)]
pub struct Told(Mutex<Story>);

#[derive(Debug, Default)]
struct Story {
    now: Option<(Progress, Instant)>,
    split: Split,
}

impl Story {
    fn leave(&mut self, at: Instant) {
        let Some((before, since)) = self.now.take() else { return };
        let spent = at.saturating_duration_since(since);
        match self.split.iter_mut().find(|(stage, _)| *stage == before.stage) {
            Some((_, sum)) => *sum += spent,
            None => self.split.push((before.stage, spent)),
        }
    }
}

impl Told {
    fn story(&self) -> MutexGuard<'_, Story> {
        self.0.lock().expect("nothing panics while it holds the story")
    }

    /// A start begins; what was said of another is forgotten.
    pub fn begin(&self, stage: Stage, at: Instant) {
        *self.story() = Story { now: Some((Progress::of(stage), at)), split: Split::new() };
    }

    /// It is there now.
    pub fn say(&self, progress: Progress, at: Instant) {
        let mut story = self.story();
        match &mut story.now {
            Some((before, _)) if before.stage == progress.stage => before.share = progress.share.or(before.share),
            _ => {
                story.leave(at);
                story.now = Some((progress, at));
            }
        }
    }

    /// It is over, however it went.
    pub fn end(&self, at: Instant) {
        self.story().leave(at);
    }

    /// Of the start under way.
    pub fn latest(&self) -> Option<Progress> {
        self.story().now.map(|(progress, _)| progress)
    }

    /// Of the last start.
    pub fn split(&self) -> Split {
        self.story().split.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn which_lines_tell_of_progress() {
        let loading = |share| Some(Progress { stage: Stage::Loading, share });
        for (line, expected) in [
            ("progress weights 0.4", loading(Some(0.4))),
            ("progress weights", loading(None)),
            ("progress tokenizer 1", loading(Some(1.0))),
            ("progress weights 7", loading(None)),
            ("progress weights NaN", loading(None)),
            ("progress warming 1", Some(Progress::of(Stage::Warming))),
            ("progress ", None),
            ("progress dancing 0.4", None),
            ("ready", None),
        ] {
            assert_eq!(Progress::of_line(line), expected, "{line}");
        }
    }

    #[test]
    fn is_the_time_of_a_start_split_by_stage() {
        let (told, begin) = (Told::default(), Instant::now());
        let at = |millis| begin + Duration::from_millis(millis);
        told.begin(Stage::Starting, at(0));
        assert_eq!(told.latest(), Some(Progress::of(Stage::Starting)));
        told.say(Progress { stage: Stage::Loading, share: Some(0.1) }, at(10));
        told.say(Progress { stage: Stage::Loading, share: Some(0.9) }, at(30));
        told.say(Progress::of(Stage::Warming), at(60));
        told.say(Progress { stage: Stage::Loading, share: Some(0.2) }, at(65));
        told.end(at(100));
        let millis: Vec<(Stage, u128)> = told.split().iter().map(|(stage, took)| (*stage, took.as_millis())).collect();
        assert_eq!(millis, [(Stage::Starting, 10), (Stage::Loading, 85), (Stage::Warming, 5)]);
        assert_eq!(told.latest(), None);
        told.begin(Stage::Starting, at(200));
        assert!(told.split().is_empty());
    }

    proptest! {
        #[test]
        fn is_any_line_harmless(line in "progress .{0,40}") {
            if let Some(Progress { share: Some(share), .. }) = Progress::of_line(&line) {
                prop_assert!((0.0..=1.0).contains(&share));
            }
        }
    }
}
