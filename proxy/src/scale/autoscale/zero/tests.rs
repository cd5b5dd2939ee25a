//! Rows and sequences with the numbers of Knative's own tests.

use super::Activity::{Activating, Active, Inactive};
use super::*;
use proptest::prelude::*;

const NOW: Duration = Duration::from_secs(1_000_000);
const SECOND: Duration = Duration::from_secs(1);
/// As Knative's own tests have them.
const WINDOW: Duration = Duration::from_secs(300);
const GRACE: Duration = Duration::from_secs(60);
const DEADLINE: Duration = Duration::from_secs(121);
const PATIENCE: Duration = Duration::from_secs(151);

fn settings() -> Settings {
    Settings { window: WINDOW, scale_to_zero_grace_period: GRACE, progress_deadline: DEADLINE, ..Settings::default() }
}

struct Row {
    name: &'static str,
    /// What it is, and for how long.
    is: (Activity, Duration),
    initialized: bool,
    want: Option<u32>,
    tune: fn(&mut Settings),
    path: Path,
    /// The scale to be, whether it is applied, whether somebody looks again, whether somebody probes.
    expected: (Option<u32>, bool, bool, bool),
}

const PROVED: Path = Path { proved: true, buffered_for: None };

fn row(name: &'static str, is: (Activity, Duration), want: Option<u32>) -> Row {
    let expected = (Some(0), false, false, false);
    Row { name, is, initialized: true, want, tune: |_| {}, path: PROVED, expected }
}

const ONE_LATER: (Option<u32>, bool, bool, bool) = (Some(1), true, true, false);
const NOT_YET: (Option<u32>, bool, bool, bool) = (Some(0), false, true, false);
const NOT_NOW: (Option<u32>, bool, bool, bool) = (Some(0), false, false, false);
const NONE: (Option<u32>, bool, bool, bool) = (Some(0), true, false, false);
const UNKNOWN: (Option<u32>, bool, bool, bool) = (None, false, false, false);

fn to(want: u32) -> (Option<u32>, bool, bool, bool) {
    (Some(want), true, false, false)
}

fn active_rows() -> Vec<Row> {
    let own = Duration::from_secs(45);
    let window = |s: &mut Settings| s.window = Duration::from_secs(45);
    let buffered = Path { buffered_for: Some(SECOND), ..PROVED };
    vec![
        Row { expected: ONE_LATER, ..row("just before the window is over", (Active, WINDOW - SECOND), Some(0)) },
        Row { expected: ONE_LATER, tune: window, ..row("its own window", (Active, own - SECOND), Some(0)) },
        Row { tune: window, ..row("its own window is over", (Active, own), Some(0)) },
        Row { expected: NOT_NOW, ..row("after the window it becomes inactive", (Active, WINDOW), Some(0)) },
        Row { expected: NOT_YET, path: buffered, ..row("buffered already", (Active, WINDOW), Some(0)) },
        Row { expected: to(10), ..row("up", (Active, SECOND), Some(10)) },
        Row { expected: to(8), tune: |s| s.max_scale = 8, ..row("up to its maximum", (Active, SECOND), Some(10)) },
        Row { expected: UNKNOWN, ..row("nobody knows", (Active, Duration::ZERO), None) },
        Row {
            expected: ONE_LATER,
            tune: |s| s.initial_scale = 2,
            ..row("the first scale was reached, and is over", (Active, 120 * SECOND), Some(0))
        },
        Row {
            expected: ONE_LATER,
            initialized: false,
            tune: |s| (s.initial_scale, s.reachable) = (2, false),
            ..row("no first scale where no route leads", (Active, 120 * SECOND), Some(0))
        },
        Row {
            expected: to(1),
            tune: |s| s.enable_scale_to_zero = false,
            ..row("none is not allowed", (Active, WINDOW), Some(0))
        },
    ]
}

fn inactive_rows() -> Vec<Row> {
    let twice = |s: &mut Settings| s.scale_to_zero_pod_retention_period = 2 * GRACE;
    let short = Path { buffered_for: Some(GRACE - SECOND), ..PROVED };
    let long = Path { buffered_for: Some(GRACE), ..PROVED };
    let inactive = |name, since| row(name, (Inactive, since), Some(0));
    let unproved = Path::default();
    vec![
        Row { expected: NONE, ..inactive("grace is over", GRACE) },
        Row { expected: NOT_YET, tune: twice, ..inactive("the last pod is retained", GRACE) },
        Row {
            expected: NONE,
            tune: |s| s.scale_to_zero_pod_retention_period = GRACE,
            ..inactive("grace and retention are over", GRACE)
        },
        Row { expected: NOT_YET, ..inactive("just before grace is over", GRACE - SECOND) },
        Row { expected: NOT_YET, path: short, ..inactive("buffered as long", GRACE - SECOND) },
        Row {
            expected: NONE,
            path: long,
            tune: |s| s.scale_to_zero_pod_retention_period = 42 * SECOND,
            ..inactive("buffered for longer, retention is over", GRACE - SECOND)
        },
        Row { expected: NONE, path: long, ..inactive("buffered for longer", GRACE - SECOND) },
        Row {
            expected: NONE,
            path: unproved,
            tune: |s| s.target_burst_capacity = -1.0,
            ..inactive("a burst without end needs no proof", GRACE)
        },
        Row { expected: (Some(0), false, false, true), path: unproved, ..inactive("the buffer is not there", GRACE) },
        Row {
            expected: to(2),
            tune: |s| s.min_scale = 2,
            ..inactive("down to its minimum before grace is over", GRACE - SECOND)
        },
        Row { expected: to(2), tune: |s| s.min_scale = 2, ..inactive("down to its minimum", GRACE) },
        Row {
            expected: NONE,
            tune: |s| (s.scale_to_zero_pod_retention_period, s.reachable) = (10 * GRACE, false),
            ..inactive("no retention where no route leads", GRACE)
        },
        Row {
            expected: NOT_YET,
            tune: |s| (s.scale_to_zero_pod_retention_period, s.reachable) = (10 * GRACE, false),
            ..inactive("grace where no route leads", GRACE - SECOND)
        },
        Row {
            expected: NONE,
            tune: |s| (s.min_scale, s.reachable) = (2, false),
            ..inactive("no minimum where no route leads", GRACE)
        },
        Row { expected: to(10), ..row("up from inactive", (Inactive, GRACE / 2), Some(10)) },
        Row { expected: UNKNOWN, ..row("nobody knows, so none stays none", (Inactive, Duration::ZERO), None) },
        Row {
            expected: NOT_YET,
            tune: |s| (s.initial_scale, s.allow_zero_initial_scale) = (0, true),
            ..inactive("begins with none", Duration::ZERO)
        },
    ]
}

fn activating_rows() -> Vec<Row> {
    let later = (None, false, true, false);
    let first = |count: fn(&mut Settings)| Row {
        initialized: false,
        tune: count,
        ..row("the first scale", (Activating, Duration::ZERO), Some(1))
    };
    vec![
        Row { expected: later, ..row("half of its time is over", (Activating, PATIENCE / 2), Some(0)) },
        Row { expected: NONE, ..row("its time is over", (Activating, PATIENCE + SECOND), Some(0)) },
        Row {
            expected: NONE,
            tune: |s| s.progress_deadline = 5 * SECOND,
            ..row("its own time is over", (Activating, 36 * SECOND), Some(0))
        },
        Row { expected: to(2), ..first(|s| s.initial_scale = 2) },
        Row { expected: to(5), ..first(|s| s.initial_scale = 5) },
        Row { expected: to(1), ..row("to one", (Activating, Duration::ZERO), Some(1)) },
        Row { expected: later, ..row("nobody knows while it comes", (Activating, SECOND), None) },
    ]
}

#[test]
fn when_does_the_last_pod_go() {
    for row in active_rows().into_iter().chain(inactive_rows()).chain(activating_rows()) {
        let mut settings = settings();
        (row.tune)(&mut settings);
        let zero = Zero { activity: row.is.0, since: NOW - row.is.1, initialized: row.initialized, timed_out: false };
        let step = zero.step(NOW, row.want, &settings, row.path);
        assert_eq!((step.want, step.apply, step.again.is_some(), step.probe), row.expected, "{}", row.name);
    }
}

#[test]
fn what_is_it_next() {
    // Wanted, ready, minimum, what it was; what it is.
    let rows = [
        (Some(0), 0, 0, Active, Inactive),
        (Some(0), 5, 0, Activating, Inactive),
        (Some(2), 1, 2, Active, Activating),
        (Some(2), 0, 0, Inactive, Activating),
        (Some(2), 2, 2, Activating, Active),
        (None, 0, 0, Inactive, Inactive),
        (None, 0, 0, Activating, Activating),
        (None, 0, 0, Active, Activating),
        (None, 1, 1, Inactive, Inactive),
        (None, 1, 1, Activating, Active),
        (None, 1, 1, Active, Active),
    ];
    for (want, ready, min_scale, was, expected) in rows {
        let settings = Settings { min_scale, ..settings() };
        let mut zero = Zero { activity: was, since: NOW - SECOND, initialized: true, timed_out: false };
        zero.settle(NOW, want, ready, &settings);
        assert_eq!(zero.activity, expected, "{want:?} {ready} {min_scale} {was:?}");
        assert_eq!(zero.since, if was == expected { NOW - SECOND } else { NOW });
        assert_eq!(zero.timed_out, was == Activating && expected == Inactive);
    }
    let none = Settings { initial_scale: 0, allow_zero_initial_scale: true, ..settings() };
    for was in [Activating, Active] {
        let mut zero = Zero { activity: was, since: NOW, initialized: false, timed_out: false };
        zero.settle(NOW, None, 0, &none);
        assert_eq!((zero.activity, zero.timed_out), (Inactive, false), "begins with none");
    }
}

#[test]
fn is_it_sixty_to_ninety_seconds_from_the_last_request_to_none() {
    let settings = Settings::default();
    let mut zero = Zero::new(&settings, 1, 1, NOW);
    let (mut buffered, mut gone) = (None, None);
    for second in 0..200u32 {
        let now = NOW + SECOND * second;
        let want = if second < 60 { 1 } else { 0 };
        let path = Path { proved: buffered.is_some(), buffered_for: buffered.map(|since| now - since) };
        let step = zero.step(now, Some(want), &settings, path);
        zero.settle(now, step.want, 1, &settings);
        if step.want == Some(0) && buffered.is_none() {
            buffered = Some(now);
        }
        if step.apply && step.want == Some(0) && gone.is_none() {
            gone = Some(second);
            assert!(buffered.is_some_and(|since| now - since >= settings.scale_to_zero_grace_period));
        }
    }
    assert_eq!(gone, Some(90));
}

proptest! {
    #[test]
    fn does_the_last_pod_never_go_unbuffered(
        steps in prop::collection::vec((0u32..30, prop::option::of(0u32..3), 0u32..3, any::<bool>(), 0u32..60), 1..200),
    ) {
        let settings = Settings::default();
        let mut zero = Zero::new(&settings, 1, 1, NOW);
        let mut now = NOW;
        for (forward, want, ready, proved, buffered) in steps {
            now += SECOND * forward;
            let path = Path { proved, buffered_for: proved.then_some(SECOND * buffered) };
            let step = zero.step(now, want, &settings, path);
            if step.apply && step.want == Some(0) && zero.activity == Inactive {
                prop_assert!(proved);
                prop_assert!(now - zero.since >= settings.scale_to_zero_grace_period
                    || SECOND * buffered >= settings.scale_to_zero_grace_period);
            }
            prop_assert!(!(step.apply && step.want == Some(0) && zero.activity == Active), "inactive comes first");
            zero.settle(now, step.want, ready, &settings);
        }
    }
}
