//! Areas under requests, and the bytes that Knative reads.

use super::*;
use proptest::prelude::*;

fn at(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

const BY: Reporting<'_> = Reporting {
    pod: "model-7d4b9c-x2x4z",
    uptime: Duration::from_millis(12_500),
    unix: Duration::from_secs(1_700_000_000),
};

#[test]
fn is_concurrency_weighed_by_time() {
    let enter = |proxied| (true, proxied);
    let leave = |proxied| (false, proxied);
    // Milliseconds and events; then concurrency, proxied concurrency, requests, proxied requests of the first second.
    type Row<'a> = (&'a str, &'a [(u64, (bool, bool))], [f64; 4]);
    let rows: &[Row<'_>] = &[
        ("nothing", &[], [0.0, 0.0, 0.0, 0.0]),
        ("one all the time", &[(0, enter(false))], [1.0, 0.0, 1.0, 0.0]),
        ("half of the time", &[(0, enter(false)), (500, leave(false))], [0.5, 0.0, 1.0, 0.0]),
        ("in and out at once", &[(0, enter(false)), (0, leave(false))], [0.0, 0.0, 1.0, 0.0]),
        (
            "two halves, one after the other",
            &[(0, enter(false)), (500, leave(false)), (500, enter(false)), (1000, leave(false))],
            [1.0, 0.0, 2.0, 0.0],
        ),
        (
            "two at once for half",
            &[(0, enter(false)), (0, enter(false)), (500, leave(false)), (500, leave(false))],
            [1.0, 0.0, 2.0, 0.0],
        ),
        ("one of two by way of a buffer", &[(0, enter(false)), (500, enter(true))], [1.5, 0.5, 2.0, 1.0]),
        ("a thread that is a moment late", &[(600, enter(false)), (500, enter(false))], [0.8, 0.0, 2.0, 0.0]),
    ];
    for (name, events, expected) in rows {
        let mut reporter = Reporter::new(at(0));
        for (when, (enters, proxied)) in *events {
            if *enters { reporter.enter(at(*when), *proxied) } else { reporter.leave(at(*when), *proxied) }
        }
        let report = reporter.report(at(1000));
        let got = [report.concurrency, report.proxied_concurrency, report.requests, report.proxied_requests];
        for (got, expected) in got.iter().zip(expected) {
            assert!((got - expected).abs() < 1e-6, "{name}: {report:?}");
        }
    }
}

#[test]
fn does_a_request_that_goes_on_count_in_the_next_period_but_not_as_a_new_one() {
    let mut reporter = Reporter::new(at(0));
    reporter.enter(at(0), true);
    reporter.report(at(1000));
    let next = reporter.report(at(2000));
    assert_eq!((next.concurrency, next.proxied_concurrency, next.requests, reporter.running()), (1.0, 1.0, 0.0, 1));
}

#[test]
fn does_a_clock_that_steps_back_lose_the_step_and_nothing_else() {
    let mut reporter = Reporter::new(at(100_000));
    reporter.enter(at(100_000), false);
    assert_eq!(reporter.report(at(40_000)).concurrency, 0.0, "no time has passed");
    assert_eq!(reporter.report(at(41_000)).concurrency, 1.0);
}

#[test]
fn is_the_wire_as_knative_reads_it() {
    let mut reporter = Reporter::new(at(0));
    reporter.enter(at(0), true);
    reporter.enter(at(500), false);
    let bytes = reporter.report(at(1000)).encode(&BY);
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    // Fields 1 to 7: a string, five little-endian doubles (1.5, 1, 2, 1, 12.5), a varint of milliseconds.
    let expected = concat!(
        "0a126d6f64656c2d3764346239632d783278347a",
        "11000000000000f83f",
        "19000000000000f03f",
        "210000000000000040",
        "29000000000000f03f",
        "310000000000002940",
        "3880d095ffbc31",
    );
    assert_eq!(hex, expected);
    let (report, uptime) = Report::decode(&bytes).unwrap();
    assert_eq!((report.concurrency, report.requests, uptime), (1.5, 2.0, BY.uptime));
}

#[test]
fn does_a_worker_without_a_cache_use_none_of_it() {
    for (blocks, expected) in [((0, 0), 0.0), ((5, 0), 0.0), ((0, 100), 0.0), ((25, 100), 0.25), ((200, 100), 1.0)] {
        let report = Report { concurrency: 2.0, ..Report::default() }.with_model(700, blocks);
        assert_eq!((report.concurrency, report.tokens_waiting, report.kv_used), (2.0, 700.0, expected), "{blocks:?}");
        let (read, _) = Report::decode(&report.encode(&BY)).unwrap();
        assert_eq!(read, report, "what is ours travels too");
    }
}

#[test]
fn is_every_answer_within_what_the_scraper_reads() {
    let most = Report {
        concurrency: f64::MAX,
        proxied_concurrency: f64::MAX,
        requests: f64::MAX,
        proxied_requests: f64::MAX,
        tokens_waiting: f64::MAX,
        kv_used: 1.0,
    };
    for pod in ["a".repeat(253), "é".repeat(400)] {
        let by = Reporting { pod: &pod, uptime: Duration::MAX, unix: Duration::MAX };
        let bytes = most.encode(&by);
        assert!(bytes.len() <= STAT_BYTES_MAX, "{} bytes", bytes.len());
        assert!(Report::decode(&bytes).is_ok());
    }
    assert!(Report::default().encode(&Reporting { pod: "p", ..BY }).len() < 30, "what is zero does not travel");
}

#[test]
fn is_the_first_request_of_an_idle_service_told_at_once_and_only_once() {
    let one = Some(Report { concurrency: 1.0, requests: 1.0, ..Report::default() });
    let mut announcer = Announcer::default();
    assert_eq!(announcer.report(at(0)), None, "nothing is said of nothing");
    assert_eq!(announcer.enter(at(0)), one);
    announcer.leave(at(200));
    let report = announcer.report(at(1000)).unwrap();
    assert_eq!((report.concurrency, report.requests), (0.0, 0.0), "told already");
    assert_eq!(announcer.report(at(2000)).map(|report| report.concurrency), Some(0.0), "once more, that it has ended");
    assert_eq!(announcer.report(at(3000)), None);
    assert_eq!(announcer.enter(at(3000)), one, "idle again, so told again");
    assert_eq!(announcer.enter(at(3000)), None);
    assert_eq!(announcer.report(at(4000)).unwrap().concurrency, 1.0, "the second of two");
    assert_eq!(announcer.report(at(5000)).unwrap().concurrency, 2.0);
}

proptest! {
    #[test]
    fn is_the_area_that_of_all_stays(stays in prop::collection::vec((0u64..1000, 0u64..1000, any::<bool>()), 0..40)) {
        let mut events: Vec<(u64, bool, bool)> = Vec::new();
        let (mut area, mut proxied_area) = (0.0, 0.0);
        for (begin, length, proxied) in &stays {
            events.push((*begin, true, *proxied));
            let end = (begin + length).min(1000);
            events.push((end, false, *proxied));
            area += (end - begin) as f64 / 1000.0;
            proxied_area += if *proxied { (end - begin) as f64 / 1000.0 } else { 0.0 };
        }
        events.sort_by_key(|(when, enters, _)| (*when, !enters));
        let mut reporter = Reporter::new(at(0));
        for (when, enters, proxied) in events {
            if enters { reporter.enter(at(when), proxied) } else { reporter.leave(at(when), proxied) }
        }
        let report = reporter.report(at(1000));
        prop_assert!((report.concurrency - area).abs() < 1e-6);
        prop_assert!((report.proxied_concurrency - proxied_area).abs() < 1e-6);
        prop_assert_eq!((report.requests, reporter.running()), (stays.len() as f64, 0));
    }

    #[test]
    fn does_no_bytes_of_a_stranger_break_the_reading(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        if let Ok((report, _)) = Report::decode(&bytes) {
            prop_assert!(report.concurrency.is_finite() && report.kv_used <= 1.0);
        }
    }
}
