//! Weeks of traffic in seconds: services that sleep, wake, crash and are flooded, over the real rooms of admission and
//! autoscaling, in virtual time.
//!
//! A seed is a few services that may have 65 pods together, each with a week of its own: silence, bursts, floods, slow and
//! failing starts, workers that die, nodes that are lost, callers who leave, clocks that step both ways. That is some
//! thirty thousand requests and six hundred thousand events. After each of them:
//!
//! - permits in = permits out, and nobody runs whom the breaker does not count;
//! - no request is lost between "idle" and "stopped": whoever waits, waits for something that is under way, and a pod
//!   that was asked to go never is asked for anything more;
//! - never two starts of one worker;
//! - in-flight ≤ limit.
//!
//! At the end every request has come to exactly one end. `SEEDS=10000` for the long run, `SEED=17` for one again. Two
//! hundred seeds hold more than ten thousand pods, each service counted when it has most.

mod chance;
mod gate;
mod pod;
mod traffic;
mod world;

use chance::Chance;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use world::{Ends, World};

const SEEDS: u64 = 200;

/// All services of a seed, one after the other: they share nothing.
fn run(seed: u64) -> Ends {
    let mut chance = Chance::new(seed);
    let mut ends = Ends::default();
    let mut pods_left = 65;
    while pods_left > 0 {
        let pods = chance.from(1, 30).min(pods_left);
        pods_left -= pods;
        ends.add(&World::new(&mut chance, pods as u32).run());
    }
    ends
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// Runs seeds on all cores; the failed ones, by their numbers, with what they died of.
fn run_all(seeds: std::ops::Range<u64>) -> (Ends, Vec<(u64, String)>) {
    let (next, all) = (AtomicU64::new(seeds.start), Mutex::new((Ends::default(), Vec::new())));
    let work = || {
        loop {
            let seed = next.fetch_add(1, SeqCst);
            if seed >= seeds.end {
                return;
            }
            let outcome = catch_unwind(AssertUnwindSafe(|| run(seed)));
            let mut all = all.lock().expect("nothing panics under it");
            match outcome {
                Ok(ends) => all.0.add(&ends),
                Err(panic) => {
                    let words = panic.downcast_ref::<String>().cloned();
                    let words = words.or_else(|| panic.downcast_ref::<&str>().map(|words| words.to_string()));
                    all.1.push((seed, words.unwrap_or_default()));
                }
            }
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..cores).for_each(|_| drop(scope.spawn(work))));
    all.into_inner().expect("nothing panics under it")
}

#[test]
fn does_every_request_come_to_one_end_whatever_happens() {
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEEDS").unwrap_or(SEEDS),
    };
    let (ends, failed) = run_all(seeds.clone());
    println!("seeds {seeds:?}: {ends:?}");
    let words: Vec<String> =
        failed.iter().take(10).map(|(seed, words)| format!("SEED={seed} make simulation: {words}")).collect();
    assert!(failed.is_empty(), "{} of {seeds:?} failed:\n{}", failed.len(), words.join("\n"));
    if seeds.end - seeds.start >= SEEDS {
        // What never happened proves nothing.
        assert!(ends.peak >= 10_000, "{ends:?}");
        for (what, times) in ends.happened() {
            assert!(times > 0, "{what} never happened: {ends:?}");
        }
    }
}

#[test]
fn is_a_seed_the_same_again() {
    assert_eq!(run(3), run(3));
}
