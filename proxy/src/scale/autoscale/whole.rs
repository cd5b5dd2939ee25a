//! One service's autoscaler: what was measured goes in, what is to be done comes out.

use super::burst::{self, Mode};
use super::decide::{Decider, Decision};
use super::settings::Settings;
use super::signal::Signal;
use super::steady::Steady;
use super::zero::{Activity, Path, Step, Zero};
use crate::scale::stats::Report;
use std::time::Duration;

#[derive(Debug)]
pub struct Autoscale {
    settings: Settings,
    steady: Steady,
    signal: Signal,
    decider: Decider,
    zero: Zero,
    /// What was last decided; a decision that could not be made changes nothing.
    decided: Option<Decision>,
    /// The scale to be, as far as anybody knows.
    want: Option<u32>,
}

/// What is there when it is time to decide.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Pods that take requests; `None`: nobody could count them.
    pub ready: Option<u32>,
    pub path: Path,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// `None`: nothing is known yet.
    pub decision: Option<Decision>,
    pub step: Step,
    pub activity: Activity,
    pub mode: Mode,
    /// How many buffers there should be.
    pub buffers: u32,
}

impl Autoscale {
    /// `scale` is what is asked for, `ready` what is there.
    pub fn new(settings: Settings, scale: u32, ready: u32, now: Duration) -> Autoscale {
        let mut steady = Steady::default();
        let now = steady.at(now);
        Autoscale {
            signal: Signal::new(&settings),
            decider: Decider::new(settings.decide(), ready, now),
            zero: Zero::new(&settings, scale, ready, now),
            steady,
            settings,
            decided: None,
            want: (scale == 0).then_some(0),
        }
    }

    pub fn change(&mut self, settings: Settings) {
        self.signal.change(&settings);
        self.decider.change(settings.decide());
        self.settings = settings;
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Of all pods together, or of one buffer. True: somebody waits and nothing is there, so decide now.
    pub fn observe(&mut self, now: Duration, report: &Report) -> bool {
        let now = self.steady.at(now);
        self.signal.record(now, report);
        self.want == Some(0) && report.concurrency > 0.0
    }

    pub fn tick(&mut self, now: Duration, around: Surroundings) -> Outcome {
        let now = self.steady.at(now);
        let ready = around.ready.unwrap_or(0);
        let decision = self.decider.decide(now, around.ready, self.signal.load(now));
        self.decided = decision.or(self.decided);
        // As in the first moments, what was decided before holds on while nothing is known.
        let wanted = self.decided.map(|decided| decided.want);
        let step = self.zero.step(now, wanted, &self.settings, around.path);
        self.want = step.want.or(self.want);
        if around.ready.is_some() {
            self.zero.settle(now, step.want, ready, &self.settings);
        }
        let spec = self.decider.spec();
        let excess = self.decided.map_or(-1, |decided| decided.excess_burst_capacity);
        Outcome {
            decision,
            step,
            activity: self.zero.activity(),
            mode: burst::mode(step.want, excess),
            buffers: burst::buffers(ready, spec.total, spec.target_burst_capacity, self.settings.activator_capacity),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(5000 + seconds)
    }

    fn report(concurrency: f64) -> Report {
        Report { concurrency, requests: concurrency, ..Report::default() }
    }

    fn around(ready: u32, path: Path) -> Surroundings {
        Surroundings { ready: Some(ready), path }
    }

    const BUFFERED: Path = Path { proved: true, buffered_for: Some(Duration::from_secs(60)) };

    #[test]
    fn does_the_first_request_wake_a_service_that_sleeps() {
        let mut autoscale = Autoscale::new(Settings::default(), 0, 0, at(0));
        let outcome = autoscale.tick(at(0), around(0, BUFFERED));
        assert_eq!((outcome.step.apply, outcome.activity, outcome.mode), (false, Activity::Inactive, Mode::Proxy));
        assert!(autoscale.observe(at(1), &report(1.0)), "decide now");
        let outcome = autoscale.tick(at(1), around(0, BUFFERED));
        assert_eq!((outcome.step.want, outcome.step.apply, outcome.activity), (Some(1), true, Activity::Activating));
        assert!(!autoscale.observe(at(2), &report(1.0)), "it is on its way");
        assert_eq!(autoscale.tick(at(3), around(1, BUFFERED)).activity, Activity::Active);
    }

    #[test]
    fn does_silence_change_nothing() {
        let mut autoscale = Autoscale::new(Settings::default(), 4, 4, at(0));
        let outcome = autoscale.tick(at(2), around(4, Path::default()));
        assert_eq!((outcome.decision, outcome.step.want, outcome.step.apply), (None, None, false));
        autoscale.observe(at(3), &report(350.0));
        assert_eq!(autoscale.tick(at(4), around(4, Path::default())).step.want, Some(5));
        let outcome = autoscale.tick(at(500), around(4, Path::default()));
        assert_eq!((outcome.decision, outcome.step.want), (None, Some(5)), "nobody has told anything since");
        let lost = Surroundings::default();
        assert_eq!(autoscale.tick(at(501), lost).activity, Activity::Active, "nobody could count the pods");
    }

    #[test]
    fn does_a_clock_that_steps_back_break_nothing() {
        let mut autoscale = Autoscale::new(Settings::default(), 1, 1, at(1000));
        for second in 0..30 {
            autoscale.observe(at(1000 + second), &report(140.0));
        }
        assert_eq!(autoscale.tick(at(1030), around(2, Path::default())).step.want, Some(2));
        for second in 0..70 {
            autoscale.observe(at(second), &report(280.0));
        }
        assert_eq!(autoscale.tick(at(70), around(2, Path::default())).step.want, Some(4), "what is new is heard");
    }

    #[test]
    fn does_it_go_from_one_to_none_in_its_order() {
        let mut autoscale = Autoscale::new(Settings::default(), 1, 1, at(0));
        autoscale.observe(at(0), &report(1.0));
        let (mut buffered, mut modes, mut gone) = (None, Vec::new(), None);
        for second in 1..300 {
            let now = at(second);
            autoscale.observe(now, &report(0.0));
            let path = Path { proved: buffered.is_some(), buffered_for: buffered.map(|since| now - since) };
            let outcome = autoscale.tick(now, around(u32::from(gone.is_none()), path));
            modes.push(outcome.activity);
            if outcome.step.want == Some(0) && buffered.is_none() {
                buffered = Some(now);
            }
            if outcome.step.apply && outcome.step.want == Some(0) && gone.is_none() {
                gone = Some(second);
            }
        }
        modes.dedup();
        assert_eq!(modes, [Activity::Active, Activity::Inactive]);
        assert!(gone.is_some_and(|second| (60..=95).contains(&second)), "{gone:?}");
    }
}
