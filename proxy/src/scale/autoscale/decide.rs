//! How many pods the load asks for: calmly over the long window, at once when the short one says that this is a surge.
//!
//! Never scales down while it panics, and never by more than the rates allow at once.

use super::burst;
use super::peak::Peak;
use super::signal::Load;
use std::time::Duration;

/// How often there is a decision: also the granularity of a delayed scale-down.
pub const TICK: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    pub target: f64,
    pub total: f64,
    pub target_burst_capacity: f64,
    pub max_scale_up_rate: f64,
    pub max_scale_down_rate: f64,
    /// Wanted over ready: from there on it is a surge.
    pub panic_threshold: f64,
    /// How long a panic lasts after its last cause.
    pub window: Duration,
    pub scale_down_delay: Duration,
    pub activation_scale: u32,
    pub reachable: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decision {
    /// Before minimum and maximum.
    pub want: u32,
    pub excess_burst_capacity: i64,
    pub panicking: bool,
    pub load: Load,
}

#[derive(Debug)]
pub struct Decider {
    spec: Spec,
    panic: Option<Panic>,
    delay: Option<Peak>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Panic {
    /// Its last cause.
    since: Duration,
    pods_max: u32,
}

impl Decider {
    /// Whoever finds more than one pod has forgotten why they are there, and so begins in panic: what is stays until a
    /// window has been seen.
    pub fn new(spec: Spec, ready: u32, now: Duration) -> Decider {
        let delay = delay(&spec);
        let panic = (ready > 1).then_some(Panic { since: now, pods_max: ready });
        Decider { spec, panic, delay }
    }

    pub fn change(&mut self, spec: Spec) {
        if spec.scale_down_delay != self.spec.scale_down_delay {
            self.delay = delay(&spec);
        }
        self.spec = spec;
    }

    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// `ready`: how many pods take requests, if anybody could count them. `None`: nothing is known, so nothing changes.
    pub fn decide(&mut self, now: Duration, ready: Option<u32>, load: Option<Load>) -> Option<Decision> {
        let (ready, load) = (ready?, load?);
        // With none there, the first must be allowed to come.
        let counted = f64::from(ready.max(1));
        let (stable, panic) = ((load.stable / self.spec.target).ceil(), (load.panic / self.spec.target).ceil());
        let (calm, hasty) = (self.limited(stable, counted), self.limited(panic, counted));
        let surge = panic / counted >= self.spec.panic_threshold;
        self.panic_or_not(now, surge);
        let mut want = calm;
        if let Some(panic) = &mut self.panic {
            panic.pods_max = panic.pods_max.max(calm).max(hasty);
            want = panic.pods_max;
        }
        if let Some(delay) = self.delay.as_mut().filter(|_| self.spec.reachable) {
            want = delay.record(now, want);
        }
        let spec = &self.spec;
        let excess = burst::excess(ready, spec.total, spec.target_burst_capacity, load.panic);
        Some(Decision { want, excess_burst_capacity: excess, panicking: self.panic.is_some(), load })
    }

    /// What is wanted, within what may change at once; and at least what an activation brings.
    fn limited(&self, wanted: f64, counted: f64) -> u32 {
        let spec = &self.spec;
        // Up to a whole pod, or 1.1 × 2 could never become 3.
        let most = (spec.max_scale_up_rate * counted).ceil();
        let least = if spec.reachable { (counted / spec.max_scale_down_rate).floor() } else { 0.0 };
        let pods = wanted.max(least).min(most) as u32;
        if spec.activation_scale > 1 && wanted > 0.0 { pods.max(spec.activation_scale) } else { pods }
    }

    fn panic_or_not(&mut self, now: Duration, surge: bool) {
        match &mut self.panic {
            Some(panic) if surge => panic.since = now,
            None if surge => self.panic = Some(Panic { since: now, pods_max: 0 }),
            Some(panic) if panic.since + self.spec.window < now => self.panic = None,
            _ => {}
        }
    }
}

fn delay(spec: &Spec) -> Option<Peak> {
    (!spec.scale_down_delay.is_zero()).then(|| Peak::new(spec.scale_down_delay, TICK))
}

#[cfg(test)]
mod tests;
