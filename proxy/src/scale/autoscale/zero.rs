//! From one to none and back: a service is activating, active or inactive, and its last pod goes only when a buffer has
//! been proved to stand in the path for long enough.
//!
//! Route first, stop later: who asks in between is held by the buffer, never lost. Nothing is done here; a [`Step`] says
//! what is to be.

use super::settings::Settings;
use std::time::Duration;

/// Beyond the deadline for its progress, so that why a pod does not come is told before it goes.
const ACTIVATION_MORE: Duration = Duration::from_secs(30);
/// The path is the buffer's already, so nothing will change that would make anybody look again.
const LOOK_AGAIN: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// Pods are wanted and not there yet.
    Activating,
    Active,
    Inactive,
}

impl Activity {
    pub fn name(self) -> &'static str {
        match self {
            Activity::Activating => "activating",
            Activity::Active => "active",
            Activity::Inactive => "inactive",
        }
    }
}

/// Where requests go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Path {
    /// A probe through the service's address was answered by the buffer.
    pub proved: bool,
    /// How long the buffer has been in the path; `None`: it is not.
    pub buffered_for: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The scale to be; `None`: nobody knows.
    pub want: Option<u32>,
    /// Whether to change the scale now.
    pub apply: bool,
    /// When to look again at the latest, from now.
    pub again: Option<Duration>,
    /// Somebody should find out whether the buffer is in the path.
    pub probe: bool,
}

impl Step {
    fn apply(want: u32) -> Step {
        Step { want: Some(want), apply: true, again: None, probe: false }
    }

    fn none_yet(again: Option<Duration>) -> Step {
        Step { want: Some(0), apply: false, again, probe: false }
    }
}

#[derive(Clone, Debug)]
pub struct Zero {
    activity: Activity,
    since: Duration,
    /// The first scale was reached once.
    initialized: bool,
    timed_out: bool,
}

impl Zero {
    /// By what is found: `scale` is what is asked for, `ready` what is there.
    pub fn new(settings: &Settings, scale: u32, ready: u32, now: Duration) -> Zero {
        let activity = match (scale, ready) {
            (0, _) => Activity::Inactive,
            (_, 0) => Activity::Activating,
            _ => Activity::Active,
        };
        let mut zero = Zero { activity, since: now, initialized: scale == 0, timed_out: false };
        zero.initialized |= ready >= zero.threshold(settings);
        zero
    }

    pub fn activity(&self) -> Activity {
        self.activity
    }

    /// The last activation was given up.
    pub fn timed_out(&self) -> bool {
        self.timed_out
    }

    /// What to make of what is wanted.
    pub fn step(&self, now: Duration, want: Option<u32>, settings: &Settings, path: Path) -> Step {
        if want.is_none() && self.activity != Activity::Activating {
            return Step { want: None, apply: false, again: None, probe: false };
        }
        let bounded = self.bounded(want.unwrap_or(0), settings);
        if bounded != 0 { Step::apply(bounded) } else { self.to_zero(now, settings, path) }
    }

    fn bounded(&self, want: u32, settings: &Settings) -> u32 {
        let (mut min, max) = settings.bounds();
        if settings.initial_scale > 1 && !self.initialized && settings.reachable {
            min = min.max(settings.initial_scale);
        }
        if want < min {
            min
        } else if max != 0 {
            want.min(max)
        } else {
            want
        }
    }

    fn to_zero(&self, now: Duration, settings: &Settings, path: Path) -> Step {
        if !settings.enable_scale_to_zero {
            return Step::apply(1);
        }
        let so_long = now.saturating_sub(self.since);
        match self.activity {
            Activity::Activating => {
                let patience = settings.progress_deadline + ACTIVATION_MORE;
                if so_long > patience {
                    return Step::apply(0);
                }
                Step { want: None, apply: false, again: Some(patience), probe: false }
            }
            Activity::Active if so_long < settings.window => {
                Step { again: Some(settings.window - so_long), ..Step::apply(1) }
            }
            // Inactive first: the route changes, and the last pod stays.
            Activity::Active => Step::none_yet(path.buffered_for.map(|_| LOOK_AGAIN)),
            Activity::Inactive => last(so_long, settings, path),
        }
    }

    /// What the service is from now on.
    pub fn settle(&mut self, now: Duration, want: Option<u32>, ready: u32, settings: &Settings) {
        let threshold = self.threshold(settings);
        self.initialized |= ready >= threshold;
        let inactive = self.activity == Activity::Inactive;
        let next = match want {
            _ if threshold == 0 => Activity::Inactive,
            Some(0) => Activity::Inactive,
            None if inactive => Activity::Inactive,
            _ if ready < threshold => Activity::Activating,
            _ => Activity::Active,
        };
        if next != self.activity {
            self.timed_out = self.activity == Activity::Activating && next == Activity::Inactive && threshold > 0;
            (self.activity, self.since) = (next, now);
        }
    }

    /// So many make it active.
    fn threshold(&self, settings: &Settings) -> u32 {
        let (min, _) = settings.bounds();
        min.max(if self.initialized { 1 } else { settings.initial_scale })
    }
}

/// The last pod of an inactive service.
fn last(so_long: Duration, settings: &Settings, path: Path) -> Step {
    // With a burst without end the buffer always is in the path: no need to ask.
    if settings.target_burst_capacity != -1.0 && !path.proved {
        return Step { probe: true, ..Step::none_yet(None) };
    }
    let grace = settings.scale_to_zero_grace_period;
    let retention = if settings.reachable { settings.scale_to_zero_pod_retention_period } else { Duration::ZERO };
    if so_long >= grace.max(retention) {
        return Step::apply(0);
    }
    if so_long < retention {
        return Step::none_yet(Some(retention - so_long));
    }
    // The buffer may have been there since before.
    match grace.checked_sub(path.buffered_for.unwrap_or(Duration::ZERO)) {
        None | Some(Duration::ZERO) => Step::apply(0),
        more => Step::none_yet(more),
    }
}

#[cfg(test)]
mod tests;
