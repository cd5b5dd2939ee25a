//! The tables of Knative's throttler, and what ours does in their place.

use super::slicing;
use super::*;
use proptest::prelude::*;

const NOW: Duration = Duration::ZERO;

fn pod(number: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, number], 8080))
}

fn listed(numbers: impl IntoIterator<Item = u8>, ready: bool) -> Vec<Listed> {
    numbers.into_iter().map(|number| Listed { address: pod(number), ready }).collect()
}

fn throttle(concurrency: usize, pods: u8) -> Throttle {
    let mut throttle = Throttle::new(concurrency, 0);
    throttle.replace(&listed(0..pods, true));
    throttle
}

fn picks(throttle: &mut Throttle, count: usize) -> Vec<Pick> {
    (0..count).map(|_| throttle.pick(NOW, &mut || 0)).collect()
}

#[test]
fn how_much_may_go_at_once() {
    // Knative's rows without other activators are ours with any number of them.
    for (concurrency, pods, want) in [(10, 1, 10), (10, 10, 100), (10, 0, 0), (1, 5, 5), (0, 1, UNLIMITED), (0, 0, 0)] {
        assert_eq!(throttle(concurrency, pods).capacity(), want, "{concurrency} × {pods}");
    }
    assert_eq!(throttle(usize::MAX, 2).capacity(), UNLIMITED, "and never more than can be counted");
}

#[test]
fn what_would_knative_deal_out() {
    for (pods, activators, want) in [(1, 1, 10), (10, 1, 100), (10, 5, 20), (10, 200, 1), (0, 1, 0)] {
        assert_eq!(slicing::capacity(10, pods, activators), want, "{pods} pods, {activators} activators");
    }
    let slices = [(3, 2, 0, 10, 20), (3, 2, 1, 10, 10), (5, 2, 0, 1, 3), (5, 2, 1, 1, 2)];
    for (pods, activators, index, concurrency, want) in slices {
        assert_eq!(slicing::slice(pods, activators, index).len() * concurrency, want, "{pods} {activators} {index}");
    }
    let ranges = [
        (1, 1, 0, (0, 1, 0)),
        (1, 2, 1, (0, 1, 0)),
        (2, 3, 1, (1, 2, 0)),
        (2, 3, 2, (0, 1, 0)),
        (3, 3, 2, (2, 3, 0)),
        (10, 3, 0, (0, 3, 1)),
        (10, 3, 1, (3, 6, 1)),
        (10, 3, 2, (6, 9, 1)),
        (150, 5, 4, (120, 150, 0)),
    ];
    for (pods, activators, index, want) in ranges {
        assert_eq!(slicing::pick_indices(pods, activators, index), want, "{pods} {activators} {index}");
    }
}

/// knative/serving#13331: two activators, two pods, one request at a time, both requests at one activator.
#[test]
fn does_a_request_wait_while_a_pod_is_idle() {
    let own: Vec<usize> = slicing::slice(2, 2, 0);
    assert_eq!(own.len(), 1, "there the second request waits for the one pod of its activator");
    for offset in [0, 1] {
        let mut ours = throttle(1, 2);
        ours.next = offset;
        let (first, second) = (ours.pick(NOW, &mut || 0), ours.pick(NOW, &mut || 0));
        assert!(matches!((first, second), (Pick::Pod(a), Pick::Pod(b)) if a != b), "here it goes to the other");
        assert_eq!(ours.pick(NOW, &mut || 0), Pick::Busy(None));
    }
}

#[test]
fn which_pod_is_first() {
    assert_eq!(picks(&mut throttle(1, 2), 3), [Pick::Pod(pod(0)), Pick::Pod(pod(1)), Pick::Busy(None)]);
    let filled = picks(&mut throttle(3, 2), 4);
    assert_eq!(filled, [0, 0, 0, 1].map(|number| Pick::Pod(pod(number))), "few at once: one after the other");
    let turns = picks(&mut throttle(4, 3), 4);
    assert_eq!(turns, [1, 2, 0, 1].map(|number| Pick::Pod(pod(number))), "many at once: in turns");
    let mut full = throttle(4, 2);
    picks(&mut full, 8);
    full.release(pod(1));
    assert_eq!(picks(&mut full, 2), [Pick::Pod(pod(1)), Pick::Busy(None)], "the full ones are passed over");
    assert_eq!(throttle(1, 0).pick(NOW, &mut || 0), Pick::Nobody);
}

#[test]
fn which_of_two_is_chosen_without_a_limit() {
    let mut throttle = throttle(0, 3);
    let mut numbers = [0u64, 0, 0, 0, 1, 1].into_iter();
    let mut chance = || numbers.next().unwrap();
    assert_eq!(throttle.pick(NOW, &mut chance), Pick::Pod(pod(0)), "0 and 1: the first of equals");
    assert_eq!(throttle.pick(NOW, &mut chance), Pick::Pod(pod(1)), "0 and 1: the lighter");
    assert_eq!(throttle.pick(NOW, &mut chance), Pick::Pod(pod(1)), "1 and 0 have as much: the first of them");
}

#[test]
fn when_is_a_pod_that_had_no_room_asked_again() {
    let at = Duration::from_millis;
    let mut throttle = throttle(1, 2);
    let refuse = |throttle: &mut Throttle, number: u8, now: u64| {
        assert_eq!(throttle.pick(at(now), &mut || 0), Pick::Pod(pod(number)), "at {now}");
        throttle.refused(pod(number), at(now));
        throttle.release(pod(number));
    };
    refuse(&mut throttle, 0, 0);
    refuse(&mut throttle, 1, 1);
    assert_eq!(throttle.pick(at(2), &mut || 0), Pick::Busy(Some(at(5))), "all are full elsewhere");
    refuse(&mut throttle, 0, 5);
    assert_eq!(throttle.pick(at(5), &mut || 0), Pick::Busy(Some(at(6))));
    refuse(&mut throttle, 1, 6);
    assert_eq!(throttle.pick(at(7), &mut || 0), Pick::Busy(Some(at(15))), "longer each time");
    for now in [100, 300, 500, 700] {
        refuse(&mut throttle, 0, now);
    }
    assert_eq!(throttle.pods[&pod(0)].rests_until, at(780), "but never for long");
    assert_eq!(throttle.pick(at(780), &mut || 0), Pick::Pod(pod(0)));
    throttle.took(pod(0));
    assert_eq!(throttle.pods[&pod(0)].rest, NOW);
}

#[test]
fn when_is_a_pod_in_use() {
    let mut throttle = Throttle::new(1, 0);
    throttle.replace(&listed([1], false));
    assert_eq!((throttle.state(pod(1)), throttle.to_probe()), (Some(State::Cold), vec![pod(1)]));
    assert_eq!(throttle.pick(NOW, &mut || 0), Pick::Nobody, "not before it answers");
    throttle.probed(pod(1), false);
    assert_eq!(throttle.capacity(), 0);
    throttle.probed(pod(1), true);
    assert_eq!((throttle.capacity(), throttle.to_probe()), (1, vec![]), "before anybody says it is ready");
    throttle.replace(&listed([1], true));
    throttle.replace(&listed([1], false));
    assert_eq!((throttle.capacity(), throttle.to_probe()), (1, vec![pod(1)]), "in use while it is asked");
    throttle.probed(pod(1), false);
    assert_eq!((throttle.capacity(), throttle.to_probe()), (0, vec![pod(1)]));
    throttle.replace(&listed([1], true));
    assert_eq!(throttle.pick(NOW, &mut || 0), Pick::Pod(pod(1)));
    throttle.failed(pod(1));
    assert_eq!((throttle.capacity(), throttle.to_probe()), (0, vec![pod(1)]), "it took no connection");
    throttle.replace(&[]);
    assert_eq!((throttle.state(pod(1)), throttle.census().in_flight), (Some(State::Gone), 1), "what it has, it ends");
    throttle.probed(pod(1), true);
    assert_eq!(throttle.capacity(), 0, "but it gets no more");
    throttle.release(pod(1));
    assert_eq!(throttle.state(pod(1)), None);
    throttle.replace(&[listed([1], false), listed([1], true)].concat());
    assert_eq!(throttle.capacity(), 1, "in two slices: as the better says");
}

proptest! {
    /// Whatever comes, goes, fails and refuses: no pod has more than its limit, a place is refused only if none is
    /// free, and what was taken and given back leaves nothing.
    #[test]
    fn does_no_pod_get_more_than_it_takes(
        concurrency in 0usize..6,
        steps in prop::collection::vec((0u8..7, 0u8..6, any::<u64>()), 0..200),
    ) {
        let mut throttle = Throttle::new(concurrency, 3);
        let (mut held, mut now) = (Vec::new(), NOW);
        for (what, number, random) in steps {
            now += Duration::from_millis(random % 7);
            match what {
                0 => throttle.replace(&listed((0..6).filter(|at| random >> at & 1 == 1), random >> 8 & 1 == 1)),
                1 => throttle.probed(pod(number), random & 1 == 1),
                2 => throttle.failed(pod(number)),
                3 => throttle.refused(pod(number), now),
                4 => if !held.is_empty() {
                    throttle.release(held.swap_remove(random as usize % held.len()));
                }
                _ => {
                    let mut state = random;
                    let mut chance = || { state = state.wrapping_mul(6364136223846793005).wrapping_add(1); state >> 33 };
                    let free = throttle.ready.iter().any(|address| {
                        throttle.has_room(address) && throttle.pod(address).rests_until <= now
                    });
                    match throttle.pick(now, &mut chance) {
                        Pick::Pod(address) => {
                            prop_assert!(free && throttle.state(address) == Some(State::Ready));
                            held.push(address);
                        }
                        Pick::Busy(until) => {
                            prop_assert!(!free && !throttle.ready.is_empty());
                            prop_assert!(until.is_none_or(|until| until > now));
                        }
                        Pick::Nobody => prop_assert!(throttle.ready.is_empty()),
                    }
                }
            }
            for (address, pod) in &throttle.pods {
                prop_assert!(concurrency == 0 || pod.in_flight <= concurrency);
                prop_assert_eq!(pod.in_flight, held.iter().filter(|held| *held == address).count());
            }
        }
        for address in held {
            throttle.release(address);
        }
        prop_assert_eq!(throttle.census().in_flight, 0);
    }
}
