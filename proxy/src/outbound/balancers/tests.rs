//! Fairness, weights, stickiness; for all of them: an answer whenever there is one, and never a tried endpoint in vain.

use super::*;
use crate::outbound::endpoint::InFlight;
use proptest::prelude::*;

fn endpoints(weights: &[u32]) -> Vec<Arc<Endpoint>> {
    let one = |(at, weight): (usize, &u32)| {
        let address = SocketAddr::from(([10, 0, (at >> 8) as u8, at as u8], 80));
        Arc::new(Endpoint { weight: *weight, ..Endpoint::new(address) })
    };
    weights.iter().enumerate().map(one).collect()
}

fn make(name: &str, endpoints: &[Arc<Endpoint>], settings: &Settings) -> Box<dyn Balancer> {
    BALANCERS.iter().find(|(known, _)| *known == name).unwrap().1(endpoints, settings)
}

/// A chance that looks like one.
fn dice(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed;
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(state)
    }
}

fn pick(
    balancer: &dyn Balancer,
    endpoints: &[Arc<Endpoint>],
    key: Option<u64>,
    chance: &mut dyn FnMut() -> u64,
) -> usize {
    balancer.pick(&mut Ask { endpoints, key, tried: &[], now: Duration::from_secs(1), chance }).unwrap()
}

#[test]
fn is_the_table_sorted_and_does_nobody_invent_an_endpoint() {
    assert!(BALANCERS.is_sorted_by_key(|(name, _)| *name));
    for (name, make) in BALANCERS {
        let mut ask = Ask { endpoints: &[], key: Some(1), tried: &[], now: Duration::ZERO, chance: &mut || 7 };
        assert_eq!(make(&[], &Settings::default()).pick(&mut ask), None, "{name}");
    }
}

#[test]
fn does_round_robin_spread_weights_evenly() {
    let members = endpoints(&[5, 1, 1]);
    let balancer = make("round_robin", &members, &Settings::default());
    let order: Vec<usize> = (0..7).map(|_| pick(&*balancer, &members, None, &mut || 0)).collect();
    assert_eq!(order, [0, 0, 1, 0, 2, 0, 0]);
}

#[test]
fn do_two_choices_avoid_the_busy_and_the_slow() {
    let members = endpoints(&[1, 1, 1, 1]);
    let _busy: Vec<InFlight> = (0..50).map(|_| InFlight::new(&members[2].stats)).collect();
    for endpoint in &members {
        let slow = if endpoint.address == members[1].address { 2000 } else { 10 };
        endpoint.stats.observe(Duration::from_millis(slow), Duration::from_secs(1));
    }
    for (name, avoided) in [("least_request", vec![2]), ("peak_ewma", vec![1, 2])] {
        let balancer = make(name, &members, &Settings::default());
        let mut chance = dice(1);
        let mut counts = [0; 4];
        (0..4000).for_each(|_| counts[pick(&*balancer, &members, None, &mut chance)] += 1);
        for (at, count) in counts.iter().enumerate() {
            // Two that are both avoided are still drawn together now and then.
            assert_eq!(*count < 1000, avoided.contains(&at), "{name}: {counts:?}");
        }
    }
}

#[test]
fn is_an_overloaded_endpoint_passed_over() {
    let members = endpoints(&[1, 1, 1]);
    let balancer = make("consistent_hash", &members, &Settings { overload_percent: Some(125), offset: 0 });
    let home = pick(&*balancer, &members, Some(42), &mut || 0);
    let mut held = Vec::new();
    for _ in 0..30 {
        let at = pick(&*balancer, &members, Some(42), &mut || 0);
        held.push(InFlight::new(&members[at].stats));
    }
    let load = |at: usize| members[at].stats.in_flight.load(std::sync::atomic::Ordering::Relaxed);
    assert!(load(home) <= 13 && (0..3).all(|at| load(at) >= 4), "{:?}", [load(0), load(1), load(2)]);
    drop(held);
    assert_eq!(pick(&*balancer, &members, Some(42), &mut || 0), home);
}

proptest! {
    #[test]
    fn does_each_round_give_everybody_its_weight(weights in proptest::collection::vec(1u32..20, 1..12)) {
        let members = endpoints(&weights);
        let balancer = make("round_robin", &members, &Settings::default());
        let divisor = (1..20).rev().find(|d| weights.iter().all(|weight| weight % d == 0)).unwrap();
        let mut counts = vec![0; weights.len()];
        (0..weights.iter().sum::<u32>() / divisor).for_each(|_| counts[pick(&*balancer, &members, None, &mut || 0)] += 1);
        let want: Vec<u32> = weights.iter().map(|weight| weight / divisor).collect();
        prop_assert_eq!(counts, want);
    }

    #[test]
    fn is_nobody_tried_twice_while_others_are_left(
        weights in proptest::collection::vec(1u32..9, 2..9), seed in any::<u64>(), key in any::<Option<u64>>(),
    ) {
        let members = endpoints(&weights);
        for (name, make) in BALANCERS {
            let balancer = make(&members, &Settings::default());
            let mut tried = Vec::new();
            for _ in 0..members.len() {
                let mut chance = dice(seed);
                let ask = &mut Ask { endpoints: &members, key, tried: &tried, now: Duration::ZERO, chance: &mut chance };
                let address = members[balancer.pick(ask).unwrap()].address;
                prop_assert!(!tried.contains(&address), "{}", name);
                tried.push(address);
            }
        }
    }

    #[test]
    fn do_only_the_keys_of_the_leaver_move(count in 2usize..20, leaver in any::<usize>()) {
        let before = endpoints(&vec![1; count]);
        let mut after = before.clone();
        let left = after.remove(leaver % count).address;
        let old = make("consistent_hash", &before, &Settings::default());
        let new = make("consistent_hash", &after, &Settings::default());
        for key in (0..500).map(mix) {
            let home = before[pick(&*old, &before, Some(key), &mut || 0)].address;
            let now = after[pick(&*new, &after, Some(key), &mut || 0)].address;
            prop_assert!(home == left || home == now);
        }
    }

    #[test]
    fn are_two_choices_fair_by_weight(seed in any::<u64>()) {
        let members = endpoints(&[1, 2, 1]);
        let balancer = make("least_request", &members, &Settings::default());
        let mut chance = dice(seed);
        let mut counts = [0f64; 3];
        // Nobody finishes: loads grow as weights say.
        let mut held = Vec::new();
        for _ in 0..400 {
            let at = pick(&*balancer, &members, None, &mut chance);
            counts[at] += 1.0;
            held.push(InFlight::new(&members[at].stats));
        }
        prop_assert!((90.0..110.0).contains(&counts[0]) && (185.0..215.0).contains(&counts[1]), "{:?}", counts);
    }
}
