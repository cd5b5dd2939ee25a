//! The queue against an obvious one, and what it promises by name.

use super::reference::{Entry, Reference};
use super::*;
use proptest::prelude::*;
use std::collections::HashMap;

const NOW: Duration = Duration::ZERO;
const WIDE: QueueLimits = QueueLimits { requests_max: 10_000, bytes_max: 1 << 40, bands: 3 };

fn flow(flow: u64) -> Class {
    Class { flow, ..Class::default() }
}

fn push(queue: &mut Queue, class: Class, cost: u64) -> Place {
    queue.push(class, 1, cost, NOW).expect("there is room").place
}

#[test]
fn who_is_refused_when_one_flow_has_filled_it() {
    let mut queue = Queue::new(QueueLimits { requests_max: 2, bytes_max: 100, bands: 1 });
    assert!(queue.push(flow(1), 60, 1, NOW).is_ok());
    assert_eq!(queue.push(flow(1), 41, 1, NOW), Err(Full::Bytes));
    assert!(queue.push(flow(1), 40, 1, NOW).is_ok());
    assert_eq!(queue.push(flow(1), 0, 1, NOW), Err(Full::Requests));
    assert_eq!((queue.len(), queue.bytes(), queue.flows()), (2, 100, 1));
}

#[test]
fn who_goes_for_somebody_who_asks_little() {
    let mut queue = Queue::new(QueueLimits { requests_max: 4, bytes_max: 1000, bands: 1 });
    let places: Vec<u64> = (0..4).map(|_| push(&mut queue, flow(1), 1).number).collect();
    let joined = queue.push(flow(2), 1, 1, NOW).unwrap();
    assert_eq!(joined.displaced, [places[3]], "the newest of the flow that has most");
    let joined = queue.push(flow(2), 1, 1, NOW);
    assert_eq!(joined.map(|joined| joined.displaced), Ok(vec![places[2]]), "three against two: still more");
    assert_eq!(queue.push(flow(2), 1, 1, NOW), Err(Full::Requests), "two each");
    assert_eq!(queue.push(flow(1), 1, 1, NOW), Err(Full::Requests));
    let joined = queue.push(flow(3), 1, 1, NOW).unwrap();
    assert_eq!(joined.displaced.len(), 1);
    let heavy = Class { weight: 4, ..flow(4) };
    assert!(queue.push(heavy, 1, 1, NOW).is_ok() && queue.len() == 4);
}

#[test]
fn does_room_of_many_small_ones_make_room_for_a_large_one() {
    let mut queue = Queue::new(QueueLimits { requests_max: 100, bytes_max: 100, bands: 1 });
    for _ in 0..100 {
        push(&mut queue, flow(1), 1);
    }
    let joined = queue.push(flow(2), 20, 1, NOW).unwrap();
    assert_eq!((joined.displaced.len(), queue.bytes()), (20, 100));
    assert_eq!(queue.push(flow(2), 31, 1, NOW), Err(Full::Bytes), "51 of it would be more than its share");
    assert_eq!((queue.len(), queue.bytes()), (81, 100), "whoever was to go for it is still there");
    assert_eq!(queue.push(flow(3), 101, 1, NOW), Err(Full::Bytes), "it could never wait, and drives nobody out");
    assert_eq!(queue.len(), 81);
}

#[test]
fn do_higher_bands_go_first_and_leave_the_lowest_something() {
    let mut queue = Queue::new(QueueLimits { requests_max: 32, bytes_max: 1000, bands: 2 });
    let low = Class { band: 1, ..Class::default() };
    for _ in 0..32 {
        push(&mut queue, low, 1);
    }
    for _ in 0..30 {
        assert_eq!(queue.push(Class::default(), 1, 1, NOW).unwrap().displaced.len(), 1);
    }
    assert_eq!(queue.push(Class::default(), 1, 1, NOW), Err(Full::Requests), "two of 32 are reserved");
    assert_eq!(queue.depths()[..2], [30, 2]);
    let order: Vec<u8> = std::iter::from_fn(|| queue.pop()).map(|(place, _)| place.class.band).collect();
    let first_low = order.iter().position(|band| *band == 1).unwrap();
    assert_eq!(first_low as u32, PASSED_OVER_MAX);
    assert_eq!(order.iter().filter(|band| **band == 1).count(), 2);
}

#[test]
fn does_whoever_comes_back_go_before_all() {
    let mut queue = Queue::new(QueueLimits { requests_max: 2, bytes_max: 100, bands: 2 });
    let low = push(&mut queue, Class { band: 1, ..flow(1) }, 5);
    assert_eq!(queue.pop().unwrap().0, low);
    for _ in 0..2 {
        push(&mut queue, flow(2), 1);
    }
    queue.push_again(low, 1, NOW);
    assert_eq!((queue.len(), queue.depths()[..2].to_vec()), (3, vec![2, 1]), "not refused although the queue is full");
    let (first, waiting) = queue.pop().unwrap();
    assert_eq!((first, waiting.cost), (low, 5));
    queue.push_again(low, 1, NOW);
    assert!(queue.remove(low) && !queue.remove(low));
}

#[test]
fn does_nobody_wait_after_all_were_taken() {
    let mut queue = Queue::new(WIDE);
    let place = push(&mut queue, flow(1), 1);
    let all = queue.take();
    assert_eq!((all.len(), queue.len(), queue.bytes(), queue.flows()), (1, 0, 0, 0));
    assert!(!queue.remove(place));
    assert!(push(&mut queue, flow(1), 1).number > place.number);
}

#[test]
fn do_flows_that_always_wait_share_by_weight_whatever_their_costs() {
    // Long prompts, short ones, and a caller worth three.
    let flows = [(1u64, 1u32, 1000u64), (2, 1, 10), (3, 3, 100)];
    let mut queue = Queue::new(WIDE);
    let mut served: HashMap<u64, u64> = HashMap::new();
    let join = |queue: &mut Queue, (name, weight, cost): (u64, u32, u64)| {
        push(queue, Class { weight, ..flow(name) }, cost);
    };
    flows.iter().for_each(|it| join(&mut queue, *it));
    flows.iter().for_each(|it| join(&mut queue, *it));
    for _ in 0..20_000 {
        let (place, waiting) = queue.pop().unwrap();
        *served.entry(place.class.flow).or_default() += waiting.cost;
        join(&mut queue, flows[place.class.flow as usize - 1]);
        for (a, weight_a, cost_a) in flows {
            for (b, weight_b, cost_b) in flows {
                let by = |name, weight| *served.get(&name).unwrap_or(&0) as f64 / f64::from(weight);
                let bound = cost_a as f64 / f64::from(weight_a) + cost_b as f64 / f64::from(weight_b);
                let apart = (by(a, weight_a) - by(b, weight_b)).abs();
                assert!(apart <= bound + 1.0, "{a} and {b} are {apart} apart, more than {bound}");
            }
        }
    }
}

#[test]
fn does_a_large_request_get_its_turn_among_ever_new_small_ones() {
    let mut queue = Queue::new(WIDE);
    let large = push(&mut queue, flow(0), 1000);
    let turn = (1u64..5000).find(|name| {
        push(&mut queue, flow(*name), 1);
        queue.pop().unwrap().0 == large
    });
    assert!(turn.is_some_and(|turn| turn <= 1001), "{turn:?}: it waits for what it costs, not for ever");
}

#[derive(Clone, Debug)]
enum Step {
    Push { class: Class, bytes: usize, cost: u64 },
    Pop,
    Remove(usize),
    Again,
}

fn class(bands: u8) -> impl Strategy<Value = Class> {
    // A flow has one weight in one band, as names have.
    (0..bands, 0u64..5).prop_map(|(band, flow)| Class { band, flow, weight: 1 + flow as u32 % 3 })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (class(3), 0usize..60, 1u64..500).prop_map(|(class, bytes, cost)| Step::Push { class, bytes, cost }),
        4 => Just(Step::Pop),
        2 => (0usize..1000).prop_map(Step::Remove),
        1 => Just(Step::Again),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn is_it_what_the_obvious_queue_would_do(steps in prop::collection::vec(step(), 0..300)) {
        let limits = QueueLimits { requests_max: 20, bytes_max: 400, bands: 3 };
        let (mut queue, mut reference) = (Queue::new(limits), Reference::new(limits));
        let mut had_turn: Vec<Entry> = Vec::new();
        for step in steps {
            match step {
                Step::Push { class, bytes, cost } => {
                    let joined = queue.push(class, bytes, cost, NOW).map(|joined| joined.displaced);
                    prop_assert_eq!(joined, reference.push(class, bytes, cost));
                }
                Step::Pop => {
                    let expected = reference.pop();
                    let place = |entry: Entry| Place { number: entry.number, class: entry.class, cost: entry.cost };
                    prop_assert_eq!(queue.peek().map(|(place, _)| place), expected.map(place));
                    prop_assert_eq!(queue.pop().map(|(place, w)| (place, w.bytes)), expected.map(|e| (place(e), e.bytes)));
                    had_turn.extend(expected);
                }
                Step::Remove(at) => if !reference.entries.is_empty() {
                    let entry = reference.entries[at % reference.entries.len()];
                    let place = Place { number: entry.number, class: entry.class, cost: entry.cost };
                    reference.remove(entry.number);
                    prop_assert!(queue.remove(place));
                    prop_assert!(!queue.remove(place));
                }
                Step::Again => if let Some(entry) = had_turn.pop() {
                    let place = Place { number: entry.number, class: entry.class, cost: entry.cost };
                    reference.push_again(entry);
                    queue.push_again(place, entry.bytes, NOW);
                }
            }
            prop_assert_eq!(queue.len(), reference.entries.len());
            prop_assert_eq!(queue.bytes(), reference.entries.iter().map(|entry| entry.bytes).sum::<usize>());
            prop_assert_eq!(queue.is_empty(), queue.peek().is_none());
            prop_assert_eq!(queue.depths().iter().sum::<usize>(), queue.len());
        }
        let mut left: Vec<u64> = reference.entries.iter().map(|entry| entry.number).collect();
        let mut popped: Vec<u64> = std::iter::from_fn(|| queue.pop()).map(|(place, _)| place.number).collect();
        left.sort_unstable();
        popped.sort_unstable();
        prop_assert_eq!(left, popped, "nobody who waits is lost");
    }

    #[test]
    fn is_it_first_come_first_served_within_a_flow(steps in prop::collection::vec((class(2), 1u64..100, any::<bool>()), 1..200)) {
        let mut queue = Queue::new(WIDE);
        let mut last: HashMap<(u8, u64), u64> = HashMap::new();
        let mut turn = |queue: &mut Queue| {
            let Some((place, _)) = queue.pop() else { return true };
            last.insert((place.class.band, place.class.flow), place.number).is_none_or(|before| before < place.number)
        };
        for (class, cost, pop) in steps {
            push(&mut queue, class, cost);
            prop_assert!(!pop || turn(&mut queue));
        }
        while !queue.is_empty() {
            prop_assert!(turn(&mut queue));
        }
    }

    #[test]
    fn does_every_band_advance(arrivals in prop::collection::vec(0u8..3, 1..400)) {
        let mut queue = Queue::new(WIDE);
        let mut waited = [0u32; 3];
        for band in 0..3 {
            push(&mut queue, Class { band, ..Class::default() }, 1);
        }
        for band in arrivals {
            push(&mut queue, Class { band, ..Class::default() }, 1);
            let (place, _) = queue.pop().unwrap();
            for (band, waited) in waited.iter_mut().enumerate() {
                let waits = queue.depths()[band] > 0 && band != usize::from(place.class.band);
                *waited = if waits { *waited + 1 } else { 0 };
                prop_assert!(*waited <= PASSED_OVER_MAX + 2, "band {} waits for {} turns", band, waited);
            }
        }
    }
}
