//! Rows and sequences with the numbers of Knative's own tests.

use super::*;
use proptest::prelude::*;

/// As Knative's own tests: three quarters of what a pod can have, ten times up or down, panic at twice.
fn spec(target: f64, burst: f64) -> Spec {
    Spec {
        target,
        total: target / 0.75,
        target_burst_capacity: burst,
        max_scale_up_rate: 10.0,
        max_scale_down_rate: 10.0,
        panic_threshold: 2.0,
        window: Duration::from_secs(60),
        scale_down_delay: Duration::ZERO,
        activation_scale: 1,
        reachable: true,
    }
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(1000 + seconds)
}

impl Decider {
    #[track_caller]
    fn tell(&mut self, second: u64, ready: u32, loads: (f64, f64)) -> (u32, i64) {
        let load = Load { stable: loads.0, panic: loads.1 };
        let decision = self.decide(at(second), Some(ready), Some(load)).expect("all is known");
        (decision.want, decision.excess_burst_capacity)
    }
}

fn tuned(mut spec: Spec, tune: fn(&mut Spec)) -> Spec {
    tune(&mut spec);
    spec
}

#[test]
fn what_is_wanted_and_how_much_burst_is_left() {
    let up = |spec: &mut Spec| spec.max_scale_up_rate = 1.1;
    let down = |spec: &mut Spec| spec.max_scale_down_rate = 1.1;
    let gone = |spec: &mut Spec| (spec.max_scale_down_rate, spec.reachable) = (1.1, false);
    let two = |spec: &mut Spec| spec.activation_scale = 2;
    // Target, burst; ready, load; panic; wanted, excess.
    type Row = (&'static str, Spec, u32, (f64, f64), Option<u32>, (u32, i64));
    let rows: [Row; 16] = [
        ("nothing asked", spec(10.0, 100.0), 1, (0.0, 0.0), None, (0, -87)),
        ("the buffer stays", spec(181.0, -1.0), 1, (21.0, 26.0), None, (1, -1)),
        ("no burst", spec(10.0, 0.0), 1, (50.0, 49.0), None, (5, 0)),
        ("five are wanted", spec(10.0, 100.0), 1, (50.0, 50.0), None, (5, -137)),
        ("five are there", spec(10.0, 100.0), 5, (50.0, 50.0), None, (5, -84)),
        ("a small rate up", tuned(spec(1.0, 1982.0), up), 2, (3.0, 3.1), None, (3, -1983)),
        ("a small rate down", tuned(spec(10.0, 1982.0), down), 100, (1.0, 1.0), None, (90, -650)),
        ("no route leads there", tuned(spec(10.0, 1982.0), gone), 100, (1.0, 1.0), None, (1, -650)),
        ("a surge", spec(10.0, 84.0), 1, (50.0, 100.0), None, (10, -171)),
        ("in panic, stable is more", spec(1.0, 100.0), 5, (50.0, 30.0), Some(5), (50, -124)),
        ("in panic, stable is less", spec(1.0, 100.0), 5, (20.0, 30.0), Some(5), (30, -124)),
        ("ten times up", spec(10.0, 61.0), 1, (1000.0, 1001.0), None, (10, -1049)),
        ("ten times up again", spec(10.0, 61.0), 10, (1000.0, 1001.0), None, (100, -929)),
        ("a tenth down", spec(10.0, 61.0), 100, (1.0, 1.0), None, (10, 1271)),
        ("none ready counts as one", spec(10.0, 81.0), 0, (1000.0, 888.0), None, (10, -969)),
        ("an activation of two", tuned(spec(10.0, 75.0), two), 1, (1.0, 0.0), None, (2, -62)),
    ];
    for (name, spec, ready, loads, panic, expected) in rows {
        let mut decider = Decider::new(spec, 0, at(0));
        decider.panic = panic.map(|pods_max| Panic { since: at(0), pods_max });
        assert_eq!(decider.tell(5, ready, loads), expected, "{name}");
    }
}

#[test]
fn does_panic_end_when_the_surge_has_reached_the_long_window() {
    let mut decider = Decider::new(spec(1.0, 98.0), 0, at(0));
    assert_eq!(decider.tell(0, 10, (11.0, 25.0)), (25, -110));
    assert_eq!(decider.tell(30, 40, (30.0, 41.0)), (41, -86));
    assert_eq!(decider.panic, Some(Panic { since: at(0), pods_max: 41 }), "no new cause");
    assert_eq!(decider.tell(62, 55, (50.0, 56.0)), (50, -81));
    assert_eq!(decider.panic, None);
}

#[test]
fn does_a_surge_that_goes_on_extend_the_panic() {
    let mut decider = Decider::new(spec(1.0, 98.0), 0, at(0));
    assert_eq!(decider.tell(0, 10, (11.0, 25.0)).0, 25);
    assert_eq!(decider.tell(30, 40, (30.0, 80.0)).0, 80);
    assert_eq!(decider.panic, Some(Panic { since: at(30), pods_max: 80 }));
}

#[test]
fn is_nothing_taken_away_in_panic_and_everything_after() {
    let mut decider = Decider::new(spec(10.0, 93.0), 0, at(0));
    assert_eq!(decider.tell(0, 1, (100.0, 100.0)), (10, -180));
    assert_eq!(decider.tell(0, 10, (100.0, 1000.0)), (100, -960));
    assert_eq!(decider.tell(30, 10, (1.0, 1.0)), (100, 39));
    assert_eq!(decider.tell(60, 10, (1.0, 1.0)), (100, 39), "a window, and not a moment more");
    assert_eq!(decider.tell(61, 10, (1.0, 1.0)), (1, 39));
}

#[test]
fn does_it_follow_exponential_growth() {
    let mut decider = Decider::new(spec(1.0, 101.0), 0, at(0));
    for (second, (ready, load)) in [(1, 6.0), (6, 36.0), (36, 216.0), (216, 1296.0), (1296, 1296.0)].iter().enumerate()
    {
        assert_eq!(decider.tell(second as u64, *ready, (*load, *load)).0, *load as u32);
    }
}

#[test]
fn is_a_scale_down_put_off() {
    let delayed = Spec { panic_threshold: 100.0, scale_down_delay: Duration::from_secs(300), ..spec(10.0, 0.0) };
    let mut decider = Decider::new(delayed.clone(), 0, Duration::ZERO);
    let mut tell = |second: u64, load: f64| {
        let load = Load { stable: load, panic: load };
        decider.decide(Duration::from_secs(second), Some(0), Some(load)).unwrap().want
    };
    let steps = [(2, 40.0, 4), (300, 0.0, 4), (302, 0.0, 0)];
    let gradual = [(540, 40.0, 4), (600, 30.0, 4), (660, 0.0, 4), (840, 0.0, 3), (900, 0.0, 0)];
    for (second, load, expected) in steps.into_iter().chain(gradual) {
        assert_eq!(tell(second, load), expected, "at {second} seconds");
    }
    assert_eq!(tell(1000, 40.0), 4);
    decider.change(Spec { reachable: false, ..delayed });
    let none = Load { stable: 0.0, panic: 0.0 };
    assert_eq!(decider.decide(at(2), Some(0), Some(none)).unwrap().want, 0, "not where no route leads any more");
}

#[test]
fn is_a_scale_down_without_delay_at_once() {
    let mut decider = Decider::new(Spec { panic_threshold: 100.0, ..spec(10.0, 0.0) }, 0, at(0));
    assert_eq!(decider.tell(0, 0, (40.0, 40.0)).0, 4);
    assert_eq!(decider.tell(0, 0, (20.0, 20.0)).0, 2);
}

#[test]
fn does_nothing_change_while_nothing_is_known() {
    let mut decider = Decider::new(spec(10.0, 81.0), 0, at(0));
    let load = Some(Load { stable: 1000.0, panic: 888.0 });
    assert_eq!(decider.decide(at(0), None, load), None, "nobody could count the pods");
    assert_eq!(decider.decide(at(0), Some(1), None), None, "nobody has measured anything");
    assert_eq!(decider.panic, None);
}

#[test]
fn does_a_new_autoscaler_keep_what_it_finds_for_a_window() {
    let mut decider = Decider::new(spec(10.0, 0.0), 7, at(0));
    assert_eq!(decider.tell(1, 7, (1.0, 1.0)).0, 7);
    assert_eq!(decider.tell(60, 7, (1.0, 1.0)).0, 7);
    assert_eq!(decider.tell(61, 7, (1.0, 1.0)).0, 1);
    let mut decider = Decider::new(spec(10.0, 0.0), 1, at(0));
    assert_eq!(decider.tell(1, 1, (0.0, 0.0)).0, 0, "one pod may go");
}

proptest! {
    #[test]
    fn does_a_decision_stay_within_the_rates_and_a_panic_never_take_away(
        steps in prop::collection::vec((0u64..40, 0u32..200, 0.0f64..5000.0, 0.0f64..5000.0), 1..60),
    ) {
        let mut decider = Decider::new(spec(10.0, 211.0), 0, at(0));
        let (mut now, mut before): (u64, Option<Decision>) = (0, None);
        for (forward, ready, stable, panic) in steps {
            now += forward;
            let decision = decider.decide(at(now), Some(ready), Some(Load { stable, panic })).unwrap();
            if let Some(before) = before.filter(|before| before.panicking && decision.panicking) {
                prop_assert!(decision.want >= before.want);
            }
            if !decision.panicking {
                prop_assert!(decision.want <= ready.max(1) * 10 && decision.want >= ready / 10);
            }
            before = Some(decision);
        }
    }
}
