//! The endpoints of a cluster at one moment, in tiers by nearness, each tier with its balancer. Pure.
//!
//! Immutable: what comes, goes, is ejected or comes back makes a new set. Never empty while any endpoint is known: if
//! all are ejected, all are used, for the fault is then hardly theirs.

use super::balancers::{Ask, Balancer, Make, Settings, within};
use super::endpoint::Endpoint;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// A tier takes all load as long as this many of a hundred of its endpoints, times 1.4, are usable: as Envoy does it,
/// so that one sick endpoint does not send traffic across zones.
const OVERPROVISION_PERCENT: f64 = 140.0;

pub struct Set {
    tiers: Vec<Tier>,
    /// Of all endpoints, ejected ones too.
    pub total: usize,
    pub usable: usize,
}

struct Tier {
    endpoints: Vec<Arc<Endpoint>>,
    balancer: Box<dyn Balancer>,
    /// Of a hundred requests that get as far as this tier, how many stay.
    keeps_percent: f64,
}

/// Where we are.
#[derive(Clone, Debug, Default)]
pub struct Place {
    pub zone: Option<String>,
    pub failover: Vec<String>,
}

impl Place {
    /// 0 is nearest.
    fn distance(&self, endpoint: &Endpoint, hinted: bool) -> usize {
        let Some(zone) = &self.zone else { return 0 };
        // Hints are the control plane's share-out of load over zones; they count only if every endpoint has them.
        if hinted {
            return usize::from(!endpoint.for_zones.contains(zone));
        }
        let Some(theirs) = &endpoint.zone else { return self.failover.len() + 1 };
        if theirs == zone {
            return 0;
        }
        self.failover.iter().position(|zone| zone == theirs).unwrap_or(self.failover.len()) + 1
    }
}

/// One request's question to a set.
pub struct Wish<'a> {
    pub key: Option<u64>,
    pub tried: &'a [SocketAddr],
    pub now: Duration,
    pub chance: &'a mut dyn FnMut() -> u64,
}

impl Set {
    pub fn new(
        all: &[Arc<Endpoint>],
        is_ejected: impl Fn(SocketAddr) -> bool,
        place: &Place,
        balancer: (Make, Settings),
    ) -> Set {
        let hinted = !all.is_empty() && all.iter().all(|endpoint| !endpoint.for_zones.is_empty());
        let mut tiers: Vec<(usize, Vec<Arc<Endpoint>>)> = Vec::new();
        for endpoint in all {
            let distance = place.distance(endpoint, hinted);
            match tiers.iter_mut().find(|(known, _)| *known == distance) {
                Some((_, members)) => members.push(endpoint.clone()),
                None => tiers.push((distance, vec![endpoint.clone()])),
            }
        }
        tiers.sort_by_key(|(distance, _)| *distance);
        let all_ejected = all.iter().all(|endpoint| is_ejected(endpoint.address));
        let tier = |(_, members): (usize, Vec<Arc<Endpoint>>)| {
            let count = members.len();
            let fine = |endpoint: &Arc<Endpoint>| all_ejected || !is_ejected(endpoint.address);
            let endpoints: Vec<Arc<Endpoint>> = members.into_iter().filter(fine).collect();
            let keeps_percent = endpoints.len() as f64 / count as f64 * OVERPROVISION_PERCENT;
            Tier { balancer: balancer.0(&endpoints, &balancer.1), endpoints, keeps_percent }
        };
        let tiers: Vec<Tier> = tiers.into_iter().map(tier).filter(|tier| !tier.endpoints.is_empty()).collect();
        Set { total: all.len(), usable: tiers.iter().map(|tier| tier.endpoints.len()).sum(), tiers }
    }

    pub fn pick(&self, wish: Wish<'_>) -> Option<Arc<Endpoint>> {
        let Wish { key, tried, now, chance } = wish;
        let fresh = |tier: &&Tier| tier.endpoints.iter().any(|endpoint| !tried.contains(&endpoint.address));
        let mut fallback = None;
        for tier in self.tiers.iter().filter(fresh) {
            if within(tier.keeps_percent, chance()) {
                return tier.pick(key, tried, now, chance);
            }
            fallback = fallback.or(Some(tier));
        }
        // Everybody passed it on, or everybody was tried: the nearest.
        fallback.or(self.tiers.first())?.pick(key, tried, now, chance)
    }

    /// All that are usable, for a look from outside.
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.tiers.iter().flat_map(|tier| &tier.endpoints)
    }
}

impl Tier {
    fn pick(
        &self,
        key: Option<u64>,
        tried: &[SocketAddr],
        now: Duration,
        chance: &mut dyn FnMut() -> u64,
    ) -> Option<Arc<Endpoint>> {
        let at = self.balancer.pick(&mut Ask { endpoints: &self.endpoints, key, tried, now, chance })?;
        Some(self.endpoints[at].clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::mix;
    use crate::outbound::balancers::BALANCERS;

    fn endpoints(zones: &[Option<&str>]) -> Vec<Arc<Endpoint>> {
        let one = |(at, zone): (usize, &Option<&str>)| {
            let address = SocketAddr::from(([10, 0, 0, at as u8], 80));
            Arc::new(Endpoint { zone: zone.map(String::from), ..Endpoint::new(address) })
        };
        zones.iter().enumerate().map(one).collect()
    }

    fn place(zone: &str, failover: &[&str]) -> Place {
        Place { zone: Some(zone.into()), failover: failover.iter().map(|zone| zone.to_string()).collect() }
    }

    /// How often each was picked, of 1000.
    fn spread(all: &[Arc<Endpoint>], ejected: &[usize], place: &Place) -> Vec<usize> {
        let is_ejected = |address| ejected.iter().any(|at| all[*at].address == address);
        let set = Set::new(all, is_ejected, place, (BALANCERS[3].1, Settings::default()));
        let mut state = 0u64;
        let mut chance = || {
            state += 1;
            mix(state)
        };
        let mut counts = vec![0; all.len()];
        for _ in 0..1000 {
            let wish = Wish { key: None, tried: &[], now: Duration::ZERO, chance: &mut chance };
            let picked = set.pick(wish).unwrap().address;
            counts[all.iter().position(|endpoint| endpoint.address == picked).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn who_is_near_and_who_takes_over() {
        let all = endpoints(&[Some("a"), Some("b"), Some("c"), None]);
        assert_eq!(spread(&all, &[], &place("a", &["c"])), [1000, 0, 0, 0]);
        assert_eq!(spread(&all, &[0], &place("a", &["c"])), [0, 0, 1000, 0]);
        assert_eq!(spread(&all, &[0, 2], &place("a", &["c"])), [0, 500, 0, 500]);
        assert_eq!(spread(&all, &[0, 1, 2, 3], &place("a", &["c"])), [1000, 0, 0, 0], "all ejected: all used");
        assert_eq!(spread(&all, &[], &Place::default()), [250; 4]);
    }

    #[test]
    fn does_a_half_sick_zone_send_some_away() {
        let all = endpoints(&[Some("a"), Some("a"), Some("a"), Some("a"), Some("b")]);
        let counts = spread(&all, &[0], &place("a", &[]));
        assert_eq!(counts[4], 0, "three of four are enough: {counts:?}");
        let counts = spread(&all, &[0, 1], &place("a", &[]));
        assert!((200..400).contains(&counts[4]), "half of them keep 70 of a hundred: {counts:?}");
    }

    #[test]
    fn do_hints_count_only_if_all_have_them() {
        let mut all = endpoints(&[Some("a"), Some("b")]);
        let hint = |endpoint: &Arc<Endpoint>, zone: &str| {
            Arc::new(Endpoint { for_zones: vec![zone.into()], ..(**endpoint).clone() })
        };
        all[1] = hint(&all[1], "a");
        assert_eq!(spread(&all, &[], &place("a", &[])), [1000, 0]);
        all[0] = hint(&all[0], "b");
        assert_eq!(spread(&all, &[], &place("a", &[])), [0, 1000]);
    }

    #[test]
    fn does_a_retry_leave_the_zone_when_all_of_it_was_tried() {
        let all = endpoints(&[Some("a"), Some("b")]);
        let set = Set::new(&all, |_| false, &place("a", &[]), (BALANCERS[1].1, Settings::default()));
        let wish = Wish { key: None, tried: &[all[0].address], now: Duration::ZERO, chance: &mut || 0 };
        assert_eq!(set.pick(wish).unwrap().address, all[1].address);
    }
}
